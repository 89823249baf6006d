"""A validation split for data that come without one."""

from __future__ import annotations

import logging
import random

from datasets import DatasetDict

logger = logging.getLogger(__name__)

SHARE = 0.1


def with_validation(data: DatasetDict, unit: str) -> DatasetDict:
    """Hold out a tenth of the training data for validation, unless there is a validation split.

    Rows with the same text stay together, so that no text is in both. The choice is always the same.

    Args:
        data: Splits with `train`.
        unit: Column with the text, such as `context`: all questions of a paragraph go the same way.

    Raises:
        ValueError: There is no training split, or it has fewer than two texts to divide.
    """
    if "train" not in data:
        raise ValueError(f"The data have the splits {sorted(data)}, but none to train on: name one of them 'train'.")
    if "validation" in data:
        return data
    train = data["train"]
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(train[unit]):
        rows_of.setdefault(str(text), []).append(row)
    if len(rows_of) < 2:
        raise ValueError(
            f"The data have no validation split, and the training split has {len(rows_of)} different {unit} to hold "
            "some out for it: pass a DatasetDict with 'train' and 'validation'."
        )
    groups = list(rows_of.values())
    random.Random(0).shuffle(groups)
    held_out = max(1, round(SHARE * len(groups)))
    validation, rest = (
        train.select(sorted(row for group in part for row in group)) for part in (groups[:held_out], groups[held_out:])
    )
    logger.warning(
        "The data have no validation split: %d of %d training rows are held out for it, by the column %s.",
        len(validation),
        len(train),
        unit,
    )
    return DatasetDict({**data, "train": rest, "validation": validation})
