"""Checks and counts that the metrics over tag sequences share."""

from __future__ import annotations

from collections.abc import Sequence

TagSequences = Sequence[Sequence[str]]


def check_same_lengths(predictions: TagSequences, references: TagSequences) -> None:
    """Check that every sentence has as many predicted as reference tags.

    Args:
        predictions: Predicted tags, one list a sentence.
        references: Reference tags, one list a sentence.

    Raises:
        ValueError: If the number of sentences, or the number of tags in some sentence, differs.
    """
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predicted sentences but {len(references)} reference sentences: pass the same "
            "sentences, in the same order, as `predictions` and `references`."
        )
    for number, (predicted, expected) in enumerate(zip(predictions, references, strict=True)):
        if len(predicted) != len(expected):
            raise ValueError(
                f"Sentence {number} has {len(predicted)} predicted tags but {len(expected)} reference tags. Both need "
                "one tag a word: `predictions_to_tags(logits, labels, label_names)` drops special tokens and "
                "subwords (labelled -100) from both sides; for truncated sentences raise the tokenizer's `max_length`."
            )


def token_accuracy(predictions: TagSequences, references: TagSequences) -> float:
    """Share of tokens whose predicted tag equals the reference; 0.0 when there is no token.

    Args:
        predictions: Predicted tags, one list a sentence.
        references: Reference tags, in lists of the same lengths.

    Returns:
        The accuracy, from 0 to 1.
    """
    correct = sum(
        predicted == expected
        for sentence_pair in zip(predictions, references, strict=True)
        for predicted, expected in zip(*sentence_pair, strict=True)
    )
    total = sum(map(len, references))
    return correct / total if total else 0.0
