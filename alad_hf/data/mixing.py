"""Labelled and unlabelled rows in one training set."""

from __future__ import annotations

from datasets import Dataset, Features, concatenate_datasets

from ..models.modeling_alad import UNLABELLED

_LABEL_COLUMNS = ("labels", "start_positions", "end_positions")


def mix_rows(labelled: Dataset, unlabelled: Dataset, *, epochs: int = 1, unlabelled_epochs: int = 1) -> Dataset:
    """Put labelled and unlabelled rows together, so that every part of a training sees both.

    A student that reads the labels after the text forgets there what it learned of the teacher; on a mixture it does
    not. One pass over the result is `epochs` passes over the labels and `unlabelled_epochs` over the text. Nothing is
    copied: rows that occur several times are stored once.

    Args:
        labelled: Encoded rows with `labels` (tags) or `start_positions` and `end_positions` (answers).
        unlabelled: Encoded rows with the same columns but for these; they get -1, which AlAd models leave out of the
            task loss.
        epochs: How often each labelled row occurs.
        unlabelled_epochs: How often each unlabelled row occurs.

    Returns:
        A dataset with the columns of `labelled`, unlabelled rows last; the Trainer shuffles it.

    Raises:
        ValueError: `labelled` has no labels, or one side has a column that the other lacks: a batch could hold it for
            some rows only.
    """
    labels = [name for name in _LABEL_COLUMNS if name in labelled.column_names]
    if not labels:
        raise ValueError(f"The labelled rows have the columns {labelled.column_names}, but none of {_LABEL_COLUMNS}.")
    unlabelled = unlabelled.remove_columns([name for name in _LABEL_COLUMNS if name in unlabelled.column_names])
    odd = set(labelled.column_names).symmetric_difference([*unlabelled.column_names, *labels])
    if odd:
        raise ValueError(
            f"Only one of the two sides has the columns {sorted(odd)}. Encode both with the same tokenizer, and call "
            "cache_teacher_states on both or on neither."
        )
    formatting = labelled.format["type"]
    labelled, unlabelled = labelled.with_format(None), unlabelled.with_format(None)
    missing: dict[str, list] = {name: [UNLABELLED] * len(unlabelled) for name in labels if name != "labels"}
    if "labels" in labels:
        lengths = map(len, unlabelled["input_ids"])
        missing["labels"] = [[UNLABELLED] * length for length in lengths]
    features = Features({name: labelled.features[name] for name in missing})
    unlabelled = concatenate_datasets([unlabelled, Dataset.from_dict(missing, features=features)], axis=1)
    unlabelled = unlabelled.select_columns(labelled.column_names)
    mixed = concatenate_datasets([labelled] * epochs + [unlabelled] * unlabelled_epochs)
    return mixed.with_format(formatting)
