"""The command line `alad-hf`: every verb is one call that a Python user could make."""

from __future__ import annotations

from . import align, card, compress, demo, distill, evaluate, predict, publish, quickstart, train
from .application import app


def main() -> None:
    """Run the command line."""
    app(prog_name="alad-hf")


__all__ = [
    "align",
    "app",
    "card",
    "compress",
    "demo",
    "distill",
    "evaluate",
    "main",
    "predict",
    "publish",
    "quickstart",
    "train",
]
