"""`compute_metrics` functions for the stock Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction

from .entity_f1 import check_iob2_tag, entity_scores
from .tagging_accuracy import tagging_scores

LabelNames = Sequence[str] | Mapping[int, str]


def predictions_to_tags(
    logits_or_ids: Any,  # noqa: ANN401
    labels: Any,  # noqa: ANN401
    label_names: LabelNames,
) -> tuple[list[list[str]], list[list[str]]]:
    """Turn a token classifier's output into tags, leaving out the positions that carry no label.

    Args:
        logits_or_ids: Logits (B, T, L), label ids (B, T), or a tuple whose first entry is one of these; numpy arrays
            or CPU tensors. Or a list of them, a batch each, as with `eval_do_concat_batches=False`.
        labels: Label ids (B, T), or a list of them likewise; a position whose id is negative (-100: special tokens,
            further subwords, padding) is left out.
        label_names: The name of each label id: a sequence of L names, or `model.config.id2label`.

    Returns:
        The predicted and the reference tags, one list a sentence each, of equal lengths.

    Raises:
        ValueError: If shapes disagree or an id has no name.

    Example:
        >>> predictions_to_tags([[0, 1, 1]], [[-100, 1, 0]], ["O", "B-PER"])
        ([['B-PER', 'B-PER']], [['B-PER', 'O']])
    """
    if isinstance(labels, list) and all(np.ndim(batch) == 2 for batch in labels):
        batches = [predictions_to_tags(*batch, label_names) for batch in zip(logits_or_ids, labels, strict=True)]
        predicted_tags, expected_tags = ([tags for batch in batches for tags in batch[side]] for side in (0, 1))
        return predicted_tags, expected_tags
    names = _ordered_names(label_names)
    predicted = np.asarray(logits_or_ids[0] if isinstance(logits_or_ids, tuple) else logits_or_ids)
    expected = np.asarray(labels)
    if predicted.ndim == 3:
        if predicted.shape[-1] != len(names):
            raise ValueError(
                f"The logits score {predicted.shape[-1]} labels, but {len(names)} label names were given: pass the "
                "names the model was built with (`model.config.id2label`)."
            )
        predicted = predicted.argmax(axis=-1)
    if predicted.shape != expected.shape or expected.ndim != 2:
        raise ValueError(
            f"Predictions of shape {predicted.shape} do not match labels of shape {expected.shape}: labels must be "
            "(B, T), and predictions logits (B, T, L) or ids (B, T) of the same batch."
        )
    kept = expected >= 0
    for what, ids in (("predicted", predicted[kept]), ("reference", expected[kept])):
        unnamed = ids[(ids < 0) | (ids >= len(names))]
        if unnamed.size:
            raise ValueError(
                f"The {what} label id {unnamed[0]} has no name: {len(names)} label names cover the ids 0 to "
                f"{len(names) - 1}. Pass every label of the data set, in the order of its ids."
            )
    return _named(predicted, kept, names), _named(expected, kept, names)


def entity_metrics(label_names: LabelNames) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics` for entity recognition.

    Args:
        label_names: The IOB2 tag of each label id: a sequence, or `model.config.id2label`.

    Returns:
        A function from an `EvalPrediction` (see `predictions_to_tags` for its arrays) to `precision`, `recall`,
        `f1`, `macro_f1`, `accuracy` and one `f1_TYPE` for each type that occurs, all from 0 to 1
        (see `entity_scores`).

    Raises:
        ValueError: If a label name is not an IOB2 tag.

    Example:
        `Trainer(..., compute_metrics=entity_metrics(["O", "B-PER", "I-PER"]))`, with
        `metric_for_best_model="f1"` in the arguments.
    """
    names = _ordered_names(label_names)
    # Found here, before training, rather than at the first evaluation.
    for label_id, name in enumerate(names):
        check_iob2_tag(name, f"label_names[{label_id}]")

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        tags = predictions_to_tags(prediction.predictions, prediction.label_ids, names)
        return _flat(entity_scores(*tags), "per_type")

    return compute_metrics


def tagging_metrics(label_names: LabelNames) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics` for part-of-speech and other token tagging.

    Args:
        label_names: The tag of each label id: a sequence, or `model.config.id2label`.

    Returns:
        A function from an `EvalPrediction` (see `predictions_to_tags` for its arrays) to `accuracy`, `macro_f1` and
        one `f1_TAG` for each tag that occurs, all from 0 to 1 (see `tagging_scores`).

    Example:
        `Trainer(..., compute_metrics=tagging_metrics(["NOUN", "VERB"]))`
    """
    names = _ordered_names(label_names)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        tags = predictions_to_tags(prediction.predictions, prediction.label_ids, names)
        return _flat(tagging_scores(*tags), "per_tag")

    return compute_metrics


def _ordered_names(label_names: LabelNames) -> list[str]:
    if not isinstance(label_names, Mapping):
        return list(label_names)
    if sorted(label_names) != list(range(len(label_names))):
        raise ValueError(
            f"label_names has the keys {list(label_names)[:5]}, but a mapping must go from the ids 0 to "
            f"{len(label_names) - 1} to names, as `model.config.id2label` does."
        )
    return [label_names[label_id] for label_id in range(len(label_names))]


def _named(ids: np.ndarray, kept: np.ndarray, names: list[str]) -> list[list[str]]:
    return [[names[label_id] for label_id in row[mask]] for row, mask in zip(ids, kept, strict=True)]


def _flat(scores: dict[str, Any], grouped: str) -> dict[str, float]:
    groups = scores.pop(grouped)
    return scores | {f"f1_{name}": row["f1"] for name, row in groups.items()}
