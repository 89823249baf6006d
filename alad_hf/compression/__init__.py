"""Makers of students: a model in, a smaller model out."""

from __future__ import annotations

from .truncation import truncate_layers

__all__ = ["truncate_layers"]
