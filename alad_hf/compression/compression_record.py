"""What a model's configuration says about how its layers were made: plain JSON, under `compression`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from .calibration import CalibrationText
from .refit import LayerFit


def record_compression(config: PreTrainedConfig, record: dict[str, Any]) -> None:
    """Write a record; layers are counted as in the model that was not compressed at all.

    What is known of a compressed embedding, which changed layers leave as it is, stays.

    Args:
        config: The configuration of the new model, still with the record of what it was made of, if there is one.
        record: With `layer_map`, for each layer those of the model before that it was made of, and perhaps `heads` and
            `neurons`, the numbers of neurons from each of them.
    """
    before = getattr(config, "compression", None) or {}
    if "embedding" in before:
        record = {"embedding": before["embedding"], **record}
    known = before.get("layer_map")
    if known is not None:
        groups = record["layer_map"]
        record = {**record, "made_of": before["method"]}
        origins = before.get("heads") or [None] * len(known)
        for name in ("layer_map", "stands_for"):
            if name in record:
                record[name] = [sorted(one for index in group for one in known[index]) for group in record[name]]
        if "heads" in record:
            record["heads"] = [[_origin(head, known, origins) for head in heads] for heads in record["heads"]]
            neurons = [
                _neurons(*row, known, before.get("neurons")) for row in zip(groups, record["neurons"], strict=True)
            ]
        elif before.get("heads"):  # layers that are left as they were
            record["heads"] = [origins[index] for (index,) in groups]
            neurons = [before["neurons"][index] if "neurons" in before else None for (index,) in groups]
        else:
            neurons = []
        record.pop("neurons", None)
        if neurons and None not in neurons:
            record["neurons"] = neurons
    config.compression = record


def _neurons(
    group: Sequence[int], counts: Sequence[int], known: Sequence[Sequence[int]], before: Sequence[Any] | None
) -> list[int] | None:
    """How many neurons came from each original layer; None where a merged layer gave only a part of its own."""
    found: list[tuple[int, int]] = []
    for index, count in zip(group, counts, strict=True):
        if len(known[index]) == 1:
            found.append((known[index][0], count))
        elif before is not None and sum(before[index]) == count:
            found += zip(known[index], before[index], strict=True)
        else:
            return None
    return [count for _, count in sorted(found)]


def _origin(head: Sequence[int], known: Sequence[Sequence[int]], origins: Sequence[Any]) -> list[int]:
    layer, index = head
    if origins[layer] is not None:
        return list(origins[layer][index])
    return [known[layer][-1], index]


def refit_record(fits: Sequence[LayerFit], text: CalibrationText) -> dict[str, Any]:
    """The errors of a refit, rounded."""
    errors = [[float(f"{error:.4g}") for error in (fit.before, fit.after)] for fit in fits]
    return {"tokens": text.num_tokens, "state_errors_before_and_after": errors}
