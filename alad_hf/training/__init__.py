"""Training by the stock Trainer."""

from __future__ import annotations

from .distillation_model import DistillationWeights
from .encoder_distillation import distill_encoder, published_distillation_arguments
from .linear_probe import fit_tagging_head
from .loss_logging import LossTermsCallback
from .stages import align, published_arguments, train

__all__ = [
    "DistillationWeights",
    "LossTermsCallback",
    "align",
    "distill_encoder",
    "fit_tagging_head",
    "published_arguments",
    "published_distillation_arguments",
    "train",
]
