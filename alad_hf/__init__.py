"""AlAd for transformers: alignment adapters that bring a compressed encoder close to its teacher."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .models.alignment_adapter import AlignmentAdapter
from .models.configuration_alad import AlAdConfig
from .models.configuration_compressed_encoder import CompressedEncoderConfig
from .models.configuration_minialbert import MiniAlbertConfig
from .models.modeling_alad import AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel
from .models.modeling_compressed_encoder import (
    CompressedEncoderForQuestionAnswering,
    CompressedEncoderForTokenClassification,
    CompressedEncoderModel,
)
from .models.modeling_minialbert import (
    MiniAlbertForMaskedLM,
    MiniAlbertForQuestionAnswering,
    MiniAlbertForSequenceClassification,
    MiniAlbertForTokenClassification,
    MiniAlbertModel,
)

try:
    __version__ = version("alad_hf")
except PackageNotFoundError:  # on the path, but not installed
    __version__ = "unknown"

AutoConfig.register("alad", AlAdConfig)
AutoModel.register(AlAdConfig, AlAdModel)
AutoModelForTokenClassification.register(AlAdConfig, AlAdForTokenClassification)
AutoModelForQuestionAnswering.register(AlAdConfig, AlAdForQuestionAnswering)

AutoConfig.register("compressed_encoder", CompressedEncoderConfig)
AutoModel.register(CompressedEncoderConfig, CompressedEncoderModel)
AutoModelForTokenClassification.register(CompressedEncoderConfig, CompressedEncoderForTokenClassification)
AutoModelForQuestionAnswering.register(CompressedEncoderConfig, CompressedEncoderForQuestionAnswering)

AutoConfig.register("minialbert", MiniAlbertConfig)
AutoModel.register(MiniAlbertConfig, MiniAlbertModel)
AutoModelForMaskedLM.register(MiniAlbertConfig, MiniAlbertForMaskedLM)
AutoModelForSequenceClassification.register(MiniAlbertConfig, MiniAlbertForSequenceClassification)
AutoModelForTokenClassification.register(MiniAlbertConfig, MiniAlbertForTokenClassification)
AutoModelForQuestionAnswering.register(MiniAlbertConfig, MiniAlbertForQuestionAnswering)

# save_pretrained writes the modelling code beside the weights, so that a checkpoint is complete by itself.
AlAdConfig.register_for_auto_class()
AlAdModel.register_for_auto_class("AutoModel")
AlAdForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
AlAdForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")

CompressedEncoderConfig.register_for_auto_class()
CompressedEncoderModel.register_for_auto_class("AutoModel")
CompressedEncoderForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
CompressedEncoderForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")

MiniAlbertConfig.register_for_auto_class()
MiniAlbertModel.register_for_auto_class("AutoModel")
MiniAlbertForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
MiniAlbertForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
MiniAlbertForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
MiniAlbertForQuestionAnswering.register_for_auto_class("AutoModelForQuestionAnswering")

__all__ = [
    "__version__",
    "AlAdConfig",
    "AlAdForQuestionAnswering",
    "AlAdForTokenClassification",
    "AlAdModel",
    "AlignmentAdapter",
    "CompressedEncoderConfig",
    "CompressedEncoderForQuestionAnswering",
    "CompressedEncoderForTokenClassification",
    "CompressedEncoderModel",
    "MiniAlbertConfig",
    "MiniAlbertForMaskedLM",
    "MiniAlbertForQuestionAnswering",
    "MiniAlbertForSequenceClassification",
    "MiniAlbertForTokenClassification",
    "MiniAlbertModel",
]
