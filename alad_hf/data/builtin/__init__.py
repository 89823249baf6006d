"""The built-in corpus for named entity recognition; README.md beside this file is its data card."""

from __future__ import annotations

import json
from importlib.resources import files

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

BUILTIN_TAGS = (
    "O",
    "B-PER",
    "I-PER",
    "B-ORG",
    "I-ORG",
    "B-LOC",
    "I-LOC",
    "B-PROD",
    "I-PROD",
    "B-EVENT",
    "I-EVENT",
)

_SPLIT_FILES = {"train": "train.jsonl", "validation": "dev.jsonl", "test": "test.jsonl"}


def load_builtin_corpus() -> DatasetDict:
    """Load the corpus of English sentences with five entity types that is part of this package.

    Returns:
        The splits `train`, `validation` (from `dev.jsonl`) and `test`, which have no entity name in common. The
        columns are `tokens` (strings), `tags` (`ClassLabel` ids of `BUILTIN_TAGS`, IOB2) and `domain` (a string such
        as `"news"`). Consecutive rows come from different domains, so that the first rows of a split are a mixture.

    Example:
        >>> corpus = load_builtin_corpus()
        >>> corpus["train"].features["tags"].feature.names[:3]
        ['O', 'B-PER', 'I-PER']
    """
    features = Features(
        {
            "tokens": List(Value("string")),
            "tags": List(ClassLabel(names=list(BUILTIN_TAGS))),
            "domain": Value("string"),
        }
    )
    return DatasetDict(
        {split: Dataset.from_list(_read_rows(file), features=features) for split, file in _SPLIT_FILES.items()}
    )


def _read_rows(file_name: str) -> list[dict[str, object]]:
    text = files(__name__).joinpath(file_name).read_text(encoding="utf-8")
    # Not str.splitlines, which would also break at rare separators inside a token.
    return [json.loads(line) for line in text.split("\n") if line]
