"""Weights in several files: the index that names them must not lead out of the checkpoint's folder."""

from __future__ import annotations

import json
from pathlib import Path

INDEX_FILES = ("*.safetensors.index*.json", "*.bin.index*.json")
"""Of any name and variant; `variant="fp16"` reads model.safetensors.index.fp16.json."""


def check_shard_names(name_or_path: object, subfolder: str = "") -> None:
    """Refuse a local checkpoint with an index that names files elsewhere; of the Hub's, huggingface_hub refuses them.

    Args:
        name_or_path: What `from_pretrained` is given.
        subfolder: Likewise.

    Raises:
        ValueError: An index is no such file, or names a file outside its folder.
    """
    if not isinstance(name_or_path, (str, Path)):
        return
    folder = Path(name_or_path) / subfolder
    for index in sorted(path for pattern in INDEX_FILES for path in folder.glob(pattern)):
        _check_index(index)


def _check_index(index: Path) -> None:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        outside = sorted(name for name in set(names) if Path(name).name != name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is no index of weights: it needs a weight_map from tensors to files.") from error
    if outside:
        raise ValueError(f"{index} names {outside[0]!r}; weights are read only from the folder of the index.")


__all__ = ["check_shard_names"]
