"""Everything that has to do with the Hugging Face Hub: pretrained weights in, finished checkpoints out."""

from __future__ import annotations

from .model_card import write_model_card
from .pretrained_weights import resolve_pretrained

__all__ = ["resolve_pretrained", "write_model_card"]
