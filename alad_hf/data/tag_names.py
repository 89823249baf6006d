"""Tags are the same where their names are, however the data and a tagger number them."""

from __future__ import annotations

from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List
from transformers import PreTrainedModel


def with_tags_of(tagger: PreTrainedModel, data: DatasetDict, *, called: str = "teacher") -> DatasetDict:
    """Give tagged data the tag ids of a tagger, by the tags' names.

    Args:
        tagger: A token classifier.
        data: Splits with the column `tags`.
        called: What the error calls it.

    Raises:
        ValueError: The data has tags that the tagger does not know.
    """
    id2label: Any = tagger.config.id2label
    names = [id2label[index] for index in sorted(id2label)]
    own = {split: rows.features["tags"].feature.names for split, rows in data.items()}
    missing = sorted({name for used in own.values() for name in used} - set(names))
    if missing:
        raise ValueError(
            f"The {called} does not know the tags {missing} of the data; it has {names}. Fine-tune the {called} on "
            f"this data first, or give it tags of the same names ({called}.config.id2label)."
        )
    return DatasetDict({split: _with_names(rows, names) for split, rows in data.items()})


def with_common_tags(data: DatasetDict) -> DatasetDict:
    """Give all splits the tag ids of the training split; tags that only other splits have come behind its own.

    Args:
        data: Splits with `train` and the column `tags`, each perhaps numbered by itself, as by `read_conll`.
    """
    own = [data[split].features["tags"].feature.names for split in ("train", *data)]
    names = list(dict.fromkeys(name for used in own for name in used))
    return DatasetDict({split: _with_names(rows, names) for split, rows in data.items()})


def _with_names(rows: Dataset, names: list[str]) -> Dataset:
    """Rows whose tags have the ids of `names`."""
    own = rows.features["tags"].feature.names
    if own == names:
        return rows
    ids = [names.index(name) for name in own]

    def convert(row: dict[str, list[int]]) -> dict[str, list[int]]:
        return {"tags": [ids[tag] if tag >= 0 else tag for tag in row["tags"]]}

    features = rows.features.copy()
    features["tags"] = List(ClassLabel(names=names))
    return rows.map(convert, features=features)
