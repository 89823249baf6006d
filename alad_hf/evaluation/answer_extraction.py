"""From start and end logits of context windows to answer texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AnswerSpan:
    """A candidate answer.

    Attributes:
        start: First character in the context.
        end: Character after the last; equal to `start` for "no answer".
        logit: Sum of the start and the end logit.
        score: Product of the start and the end probability.
    """

    start: int
    end: int
    logit: float
    score: float


def answer_candidates(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    offsets: Sequence[Sequence[tuple[int, int]]],
    cls_indices: Sequence[int],
    *,
    count: int = 1,
    max_answer_length: int = 30,
    allow_no_answer: bool = False,
) -> tuple[list[AnswerSpan], AnswerSpan | None]:
    """Find the spans of one context with the highest sums of start and end logit, over all of its windows.

    The search is exact: every span of at most `max_answer_length` context tokens is compared. A span that lies in
    several windows counts once, where it scores best. Probabilities are softmaxes over the context tokens of all
    windows together, so that windows without the answer are not each forced to be sure of one. "No answer" has the
    lowest CLS score of all windows (it must hold in each of them), and then that one CLS token joins the softmax.

    Args:
        start_logits: Start logits (W, T) of the context's W windows; T may exceed the windows' lengths (padding).
        end_logits: End logits (W, T).
        offsets: For each window its tokens' character offsets into the context, (-1, -1) for other tokens.
        cls_indices: The position of the CLS token in each window.
        count: How many spans to return at most.
        max_answer_length: Most tokens of an answer.
        allow_no_answer: Whether "no answer" takes part.

    Returns:
        The best spans, best first, and "no answer" (None if `allow_no_answer` is False).
    """
    start_logits, end_logits = (np.asarray(logits, dtype=np.float64) for logits in (start_logits, end_logits))
    spans = np.full((*start_logits.shape, 2), -1)
    for window, pairs in enumerate(offsets):
        spans[window, : len(pairs)] = pairs
    in_context = spans[..., 1] > spans[..., 0]
    start = np.where(in_context, start_logits, -np.inf)
    end = np.where(in_context, end_logits, -np.inf)

    null_logit = 0.0
    start_pool, end_pool = start[in_context], end[in_context]
    if allow_no_answer:
        windows = np.arange(len(cls_indices))
        start_null, end_null = start_logits[windows, cls_indices], end_logits[windows, cls_indices]
        weakest = int(np.argmin(start_null + end_null))
        null_logit = float(start_null[weakest] + end_null[weakest])
        start_pool, end_pool = np.append(start_pool, start_null[weakest]), np.append(end_pool, end_null[weakest])
    log_total = _log_sum_exp(start_pool) + _log_sum_exp(end_pool)

    candidates = [
        AnswerSpan(first, last, logit, float(np.exp(logit - log_total)))
        for first, last, logit in _best_spans(start, end, spans, count, max_answer_length)
    ]
    no_answer = AnswerSpan(0, 0, null_logit, float(np.exp(null_logit - log_total))) if allow_no_answer else None
    return candidates, no_answer


def best_answers(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    features: Iterable[Mapping[str, Any]],
    examples: Iterable[Mapping[str, Any]],
    *,
    max_answer_length: int = 30,
    null_threshold: float = 0.0,
    version_2: bool = False,
) -> list[dict[str, Any]]:
    """Choose one answer a question from a model's logits, ready for `SquadScore`.

    Args:
        start_logits: Start logits (N, T) of all N windows, as `Trainer.predict` returns them.
        end_logits: End logits (N, T).
        features: The N rows of `question_answering_features(..., for_training=False)`, in the order of the logits.
        examples: The rows with `id` and `context` that the features were made from.
        max_answer_length: Most tokens of an answer.
        null_threshold: How far the logit sum of "no answer" must exceed the best span's to be chosen.
        version_2: Whether questions may have no answer (SQuAD 2.0).

    Returns:
        `{"id", "prediction_text", "score"}` in the order of the examples. The text is cut from the context as it
        stands there, "" for no answer; the score is its probability (see `answer_candidates`).

    Raises:
        ValueError: If logits, features and examples do not belong together.
    """
    features, examples = list(features), list(examples)
    start_logits, end_logits = np.asarray(start_logits), np.asarray(end_logits)
    windows_of = _windows_by_example(start_logits, end_logits, features, examples)
    answers = []
    for example in examples:
        windows = windows_of[example["id"]]
        candidates, no_answer = answer_candidates(
            start_logits[windows],
            end_logits[windows],
            [features[window]["offset_mapping"] for window in windows],
            [features[window]["cls_index"] for window in windows],
            max_answer_length=max_answer_length,
            allow_no_answer=version_2,
        )
        best = candidates[0] if candidates else AnswerSpan(0, 0, -np.inf, 0.0)
        if no_answer is not None and no_answer.logit - best.logit > null_threshold:
            best = no_answer
        text = example["context"][best.start : best.end]
        answers.append({"id": example["id"], "prediction_text": text, "score": best.score})
    return answers


def _best_spans(
    start: np.ndarray, end: np.ndarray, spans: np.ndarray, count: int, max_answer_length: int
) -> list[tuple[int, int, float]]:
    width = start.shape[1]
    longest = max(1, min(max_answer_length, width))
    padded_end = np.pad(end, ((0, 0), (0, longest - 1)), constant_values=-np.inf)
    # (W, T, longest): the token where a span starts, by how many tokens further it ends.
    sums = start[:, :, None] + np.lib.stride_tricks.sliding_window_view(padded_end, longest, axis=1)
    flat = sums.reshape(-1)
    # Several of them can be the same characters (windows overlap), so no fixed number of the highest would do.
    order = np.argsort(-flat, kind="stable") if count > 1 else [flat.argmax()]
    best: dict[tuple[int, int], float] = {}
    for index in order:
        if len(best) == count or flat[index] == -np.inf:
            break
        window, first, further = np.unravel_index(index, sums.shape)
        characters = int(spans[window, first, 0]), int(spans[window, first + further, 1])
        best.setdefault(characters, float(flat[index]))
    return [(first, last, logit) for (first, last), logit in best.items()]


def _log_sum_exp(values: np.ndarray) -> float:
    if not values.size:
        return 0.0
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum()))


def _windows_by_example(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    features: Sequence[Mapping[str, Any]],
    examples: Sequence[Mapping[str, Any]],
) -> dict[Any, list[int]]:
    longest = max((len(feature["offset_mapping"]) for feature in features), default=0)
    shape = start_logits.shape
    if shape != end_logits.shape or len(shape) != 2 or shape[0] != len(features) or shape[1] < longest:
        raise ValueError(
            f"start_logits {shape} and end_logits {end_logits.shape} do not belong to {len(features)} features of up "
            f"to {longest} tokens: both must be (features, tokens). Predict on these very features, unshuffled."
        )
    if np.isnan(start_logits).any() or np.isnan(end_logits).any():
        raise ValueError("The logits contain NaN: the model has diverged, or its weights overflow in half precision.")
    windows_of: defaultdict[Any, list[int]] = defaultdict(list)
    for window, feature in enumerate(features):
        windows_of[feature["example_id"]].append(window)
    ids = [example["id"] for example in examples]
    if set(ids) != set(windows_of) or len(set(ids)) != len(ids):
        differing = sorted(map(str, set(ids) ^ set(windows_of)))[:3]
        raise ValueError(
            f"{len(examples)} examples and features of {len(windows_of)} examples do not match (differing ids: "
            f"{differing or 'none, but some repeat'}): make the features from exactly these examples, with unique "
            "ids, by `question_answering_features(..., for_training=False)`."
        )
    return windows_of
