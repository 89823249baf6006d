"""Accuracy and F1 of token tags that mark no spans, such as parts of speech."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

import datasets
import evaluate

from .tag_sequences import TagSequences, check_same_lengths, token_accuracy


def tagging_scores(predictions: TagSequences, references: TagSequences) -> dict[str, Any]:
    """Score predicted tags against reference tags, token by token.

    Args:
        predictions: Predicted tags, one list a sentence.
        references: Reference tags, in lists of the same lengths.

    Returns:
        `accuracy`, `macro_f1` (the plain mean over the tags that occur in either input), and `per_tag`, which maps
        each tag to its `precision`, `recall`, `f1` and `support` (number of reference tokens). Scores run from 0 to
        1; a score without any token to count is 0.0.

    Raises:
        ValueError: If lengths differ.

    Example:
        >>> tagging_scores([["NOUN", "VERB"]], [["NOUN", "NOUN"]])["accuracy"]
        0.5
    """
    check_same_lengths(predictions, references)
    flat_predictions = list(chain.from_iterable(predictions))
    flat_references = list(chain.from_iterable(references))
    predicted, expected = Counter(flat_predictions), Counter(flat_references)
    correct = Counter(
        tag for tag, reference in zip(flat_predictions, flat_references, strict=True) if tag == reference
    )
    per_tag = {
        tag: {
            "precision": correct[tag] / max(predicted[tag], 1),
            "recall": correct[tag] / max(expected[tag], 1),
            "f1": 2 * correct[tag] / (predicted[tag] + expected[tag]),
            "support": expected[tag],
        }
        for tag in sorted(predicted | expected)
    }
    return {
        "accuracy": token_accuracy(predictions, references),
        "macro_f1": sum(row["f1"] for row in per_tag.values()) / max(len(per_tag), 1),
        "per_tag": per_tag,
    }


class TaggingAccuracy(evaluate.Metric):
    """Accuracy, macro F1 and scores per tag as an `evaluate` metric that needs no network.

    `compute(predictions=..., references=...)` takes lists of lists of tags and returns what `tagging_scores` returns.

    Example:
        >>> TaggingAccuracy().compute(predictions=[["NOUN", "VERB"]], references=[["NOUN", "VERB"]])["accuracy"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Accuracy, macro F1 and scores per tag over tokens.",
            citation="",
            inputs_description="predictions, references: lists of lists of tags, one inner list a sentence.",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: TagSequences, references: TagSequences) -> dict[str, Any]:
        return tagging_scores(predictions, references)
