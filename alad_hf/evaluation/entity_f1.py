"""Entity-level precision, recall and F1, computed offline by seqeval."""

from __future__ import annotations

import re
from typing import Any

import datasets
import evaluate
from seqeval.metrics import classification_report

from .tag_sequences import TagSequences, check_same_lengths, token_accuracy

_IOB2_TAG = re.compile(r"O|[BI](-.+)?")


def entity_scores(predictions: TagSequences, references: TagSequences) -> dict[str, Any]:
    """Score predicted entities against reference entities.

    An entity counts as found only if its type and both of its boundaries agree. It begins at `B-X`, or at an `I-X`
    that continues no entity of type X, and goes on through the `I-X` that follow: the reading of conlleval and of
    seqeval's default mode, in which scores are commonly published.

    Args:
        predictions: Predicted tags, one list a sentence.
        references: Reference tags, in lists of the same lengths.

    Returns:
        `precision`, `recall` and `f1` over all entities (micro average), `macro_f1` (the plain mean over the types
        that occur in either input), token `accuracy`, and `per_type`, which maps each type to its `precision`,
        `recall`, `f1` and `support` (number of reference entities). Scores run from 0 to 1; a score without any
        entity to count is 0.0.

    Raises:
        ValueError: If lengths differ or a tag is not an IOB2 tag.

    Example:
        >>> entity_scores([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]])["recall"]
        0.5
    """
    check_same_lengths(predictions, references)
    for name, sequences in (("predictions", predictions), ("references", references)):
        _check_tags(name, sequences)

    scores: dict[str, Any] = dict.fromkeys(("precision", "recall", "f1", "macro_f1"), 0.0)
    scores["accuracy"] = token_accuracy(predictions, references)
    scores["per_type"] = {}
    # Without any entity seqeval averages over nothing: numpy warns, and the result is not a number.
    if not any(tag != "O" for sequences in (predictions, references) for tags in sequences for tag in tags):
        return scores

    report = classification_report(
        [list(tags) for tags in references],
        [list(tags) for tags in predictions],
        output_dict=True,
        zero_division=0,
    )
    averages = {name: report.pop(f"{name} avg") for name in ("micro", "macro", "weighted")}
    scores.update(_row(averages["micro"]))
    scores["macro_f1"] = float(averages["macro"]["f1-score"])
    scores["per_type"] = {
        entity_type: {**_row(row), "support": int(row["support"])} for entity_type, row in report.items()
    }
    return scores


class EntityF1(evaluate.Metric):
    """Entity-level precision, recall and F1 as an `evaluate` metric that needs no network.

    `compute(predictions=..., references=...)` takes lists of lists of IOB2 tags and returns what `entity_scores`
    returns.

    Example:
        >>> EntityF1().compute(predictions=[["B-PER", "O"]], references=[["B-PER", "O"]])["f1"]
        1.0
    """

    def _info(self) -> evaluate.MetricInfo:
        tags = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Precision, recall and F1 over entities, by seqeval.",
            citation="",
            inputs_description="predictions, references: lists of lists of IOB2 tags, one inner list a sentence.",
            features=datasets.Features({"predictions": tags, "references": tags}),
        )

    def _compute(self, predictions: TagSequences, references: TagSequences) -> dict[str, Any]:
        return entity_scores(predictions, references)


def check_iob2_tag(tag: str, place: str) -> None:
    """Check that a tag is `O`, `B-TYPE` or `I-TYPE` (or a bare `B` or `I`, whose type seqeval calls `_`).

    Args:
        tag: The tag.
        place: Where it stands, for the message.

    Raises:
        ValueError: If it is anything else.
    """
    if not _IOB2_TAG.fullmatch(tag):
        raise ValueError(
            f"{place} is {tag!r}, which is not an IOB2 tag: accepted are 'O', 'B-TYPE' and 'I-TYPE'. Convert other "
            "schemes (IO, IOBES, BILOU) to IOB2 first; for tags that mark no entities use TaggingAccuracy."
        )


def _check_tags(name: str, sequences: TagSequences) -> None:
    accepted: set[str] = set()
    for number, tags in enumerate(sequences):
        for position, tag in enumerate(tags):
            if tag not in accepted:
                check_iob2_tag(tag, f"{name}[{number}][{position}]")
                accepted.add(tag)


def _row(row: dict[str, Any]) -> dict[str, float]:
    return {"precision": float(row["precision"]), "recall": float(row["recall"]), "f1": float(row["f1-score"])}
