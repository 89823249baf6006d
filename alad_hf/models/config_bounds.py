"""Bounds of what a configuration may ask for, checked on its plain values: before anything is built or allocated.

A config.json comes from anywhere. Ten lines of it could ask for more memory or modules than any machine has, and
transformers would set out to make them, some already while it reads the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# No encoder in use comes near; what a student may have is limited by their product, see MAX_PARAMETERS.
MAX_INTEGER = 4_194_304
MAX_FREQUENCY = 1_000_000_000_000
MAX_PARAMETERS = 10_000_000_000
MAX_LAYERS = 1024
MAX_GROUPS = 64
MAX_LABELS = 100_000
MAX_DEPTH = 8

_WIDTH_NAMES = ("hidden_size", "dim", "d_model", "n_embd", "embed_dim", "emb_dim")
# Where the fields name none, the architecture's own default holds; these stand for it.
_USUAL_WIDTH, _USUAL_LAYERS = 1024, 24
# How fast positions rotate (rope_theta, rotary_emb_base, ...), and how far attention sees: nothing has such a size.
_FREQUENCY_NAMES = ("theta", "base", "freq")
_NO_SIZES = (*_FREQUENCY_NAMES, "window", "_id", "_token_index")
# Fields of CompressedEncoderConfig, which checks them itself; the last is a record from which nothing is built.
_CHECKED_ELSEWHERE = ("embedding", "layer_widths", "compression")


def check_size(fields: Mapping[str, Any], place: str) -> None:
    """Refuse a configuration that no machine should try to build.

    Args:
        fields: The configuration as a dictionary, with the dictionaries inside it.
        place: Its name for messages, such as "text_config".

    Raises:
        ValueError: A number is out of its bounds, the model would have more than `MAX_PARAMETERS` parameters, or
            dictionaries and lists are nested deeper than `MAX_DEPTH`.
    """
    for path, name, value in _integers(fields, place, 0):
        low, high = _bounds(name)
        if not low <= value <= high:
            raise ValueError(f"{path} must be an integer from {low} to {high}, got {value}.")
    for path, inner in _dictionaries(fields, place):
        count = _parameters(inner)
        if count > MAX_PARAMETERS:
            raise ValueError(
                f"{path} describes an encoder of about {count:.1e} parameters; it may have {MAX_PARAMETERS:.0e}."
            )


def check_labels(id2label: object, num_labels: object) -> None:
    """Refuse names of labels that do not belong to the ids 0, 1, 2 and so on, and numbers of labels out of bounds.

    Raises:
        ValueError: They are.
    """
    if num_labels is not None and (type(num_labels) is not int or not 1 <= num_labels <= MAX_LABELS):
        raise ValueError(f"num_labels must be an integer from 1 to {MAX_LABELS}, got {num_labels!r}.")
    if not id2label:
        return
    named = isinstance(id2label, Mapping) and all(isinstance(name, str) for name in id2label.values())
    if not named or {str(index) for index in id2label} != {str(index) for index in range(len(id2label))}:
        raise ValueError(
            f"id2label must name the labels 0, 1, 2 and so on, as {{0: 'O'}} does, got {str(id2label)[:99]}."
        )


def _integers(value: object, path: str, depth: int) -> Iterator[tuple[str, str, int]]:
    """Every integer with its place and the name of its field."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{path[:60]}... is nested deeper than {MAX_DEPTH}; no configuration of an encoder is.")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _CHECKED_ELSEWHERE:
                yield from _integers(inner, f"{path}.{name}", depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _integers(inner, path, depth + 1)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield path, path.rpartition(".")[2].lower(), value


def _dictionaries(fields: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, fields
    for name, inner in fields.items():
        if isinstance(inner, Mapping) and name not in _CHECKED_ELSEWHERE:
            yield from _dictionaries(inner, f"{path}.{name}")


def _bounds(name: str) -> tuple[int, int]:
    """By what the names of such fields have in common, since every architecture has its own."""
    if name.endswith(("groups", "group_num")):
        return 1, MAX_GROUPS
    if name.endswith("heads"):
        return 1, MAX_LAYERS
    if name.endswith(("vocab_size", *_WIDTH_NAMES)):
        return 0 if name == "type_vocab_size" else 1, MAX_INTEGER  # DeBERTa has no token types
    if _is_depth(name) or name.endswith("experts"):
        return 0 if name.startswith(("num_", "n_")) else -MAX_LAYERS, MAX_LAYERS
    if name.endswith(_FREQUENCY_NAMES):
        return -MAX_FREQUENCY, MAX_FREQUENCY
    return -MAX_INTEGER, MAX_INTEGER


def _is_depth(name: str) -> bool:
    """Whether a field counts layers, or names one, unlike a size of each layer (`vocab_size_per_layer_input`)."""
    return "layer" in name and not any(size in name for size in ("vocab_size", "hidden_size"))


def _parameters(fields: Mapping[str, Any]) -> int:
    """About how many parameters an encoder has: rows of tables times width, layers of attention and perceptron."""
    integers = {str(name).lower(): value for name, value in fields.items() if type(value) is int}
    integers = {name: value for name, value in integers.items() if not name.endswith(_NO_SIZES)}
    tables = {name for name in integers if "vocab" in name or "position" in name}
    layers = [value for name, value in integers.items() if _is_depth(name)]
    others = [value for name, value in integers.items() if name not in tables]
    width = next((integers[name] for name in _WIDTH_NAMES if name in integers), _USUAL_WIDTH)
    rows = sum(max(integers[name], 0) for name in tables)
    widest = max(others, default=4 * width)
    return rows * width + max(layers, default=_USUAL_LAYERS) * width * (4 * width + 3 * widest)


def adapter_parameters(window_size: int, student_size: int, adapter_size: int | None, aligned_size: int) -> int:
    """At most how many parameters an adapter has."""
    inner = adapter_size or aligned_size
    return math.prod((window_size, student_size, inner)) + (inner + student_size) * aligned_size


__all__ = ["MAX_PARAMETERS", "adapter_parameters", "check_labels", "check_size"]
