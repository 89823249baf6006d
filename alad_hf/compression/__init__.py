"""Makers of students: a model in, a smaller model out."""

from __future__ import annotations

from .embeddings import compress_embeddings, compress_table
from .grafting import graft_layers
from .row_weights import token_weights
from .truncation import truncate_layers
from .width_pruning import prune_width

__all__ = ["compress_embeddings", "compress_table", "graft_layers", "prune_width", "token_weights", "truncate_layers"]
