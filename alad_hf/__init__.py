"""AlAd for transformers: alignment adapters that bring a compressed encoder close to its teacher."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForQuestionAnswering, AutoModelForTokenClassification

from .models.alignment_adapter import AlignmentAdapter
from .models.configuration_alad import AlAdConfig
from .models.modeling_alad import AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel

AutoConfig.register("alad", AlAdConfig)
AutoModel.register(AlAdConfig, AlAdModel)
AutoModelForTokenClassification.register(AlAdConfig, AlAdForTokenClassification)
AutoModelForQuestionAnswering.register(AlAdConfig, AlAdForQuestionAnswering)

# save_pretrained writes the modelling code beside the weights, so that a checkpoint is complete by itself.
AlAdConfig.register_for_auto_class()
AlAdModel.register_for_auto_class("AutoModel")
AlAdForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
AlAdForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")

__all__ = [
    "AlAdConfig",
    "AlAdForQuestionAnswering",
    "AlAdForTokenClassification",
    "AlAdModel",
    "AlignmentAdapter",
]
