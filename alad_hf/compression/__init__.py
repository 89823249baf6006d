"""Makers of students: a model in, a smaller model out."""

from __future__ import annotations

from .embedding_metric import embedding_metric
from .embeddings import compress_embeddings, compress_table
from .grafting import graft_layers
from .published_minialbert import load_published_minialbert
from .recursive import make_recursive_student
from .row_weights import token_weights
from .truncation import truncate_layers
from .width_pruning import prune_width
from .wrapping import wrap_encoder

__all__ = [
    "compress_embeddings",
    "compress_table",
    "embedding_metric",
    "graft_layers",
    "load_published_minialbert",
    "make_recursive_student",
    "prune_width",
    "token_weights",
    "truncate_layers",
    "wrap_encoder",
]
