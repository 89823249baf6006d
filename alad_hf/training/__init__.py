"""Training by the stock Trainer."""

from __future__ import annotations

from .loss_logging import LossTermsCallback
from .stages import align, published_arguments, train

__all__ = ["LossTermsCallback", "align", "published_arguments", "train"]
