"""Everything that has to do with the Hugging Face Hub: pretrained weights in, finished checkpoints out."""

from __future__ import annotations

from .pretrained_weights import resolve_pretrained

__all__ = ["resolve_pretrained"]
