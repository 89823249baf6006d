"""Everything that has to do with the Hugging Face Hub: pretrained weights in, finished checkpoints out."""

from __future__ import annotations

from .finished_models import load_finished
from .model_card import write_model_card
from .pretrained_weights import resolve_pretrained
from .push import push_checkpoint

__all__ = ["load_finished", "push_checkpoint", "resolve_pretrained", "write_model_card"]
