"""The `compute_metrics` function of extractive question answering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from .answer_extraction import best_answers
from .squad_score import squad_scores

_FILLER = -100
"""What the Trainer fills shorter batches up with."""


def question_answering_metrics(
    examples: Iterable[Mapping[str, Any]],
    features: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the Trainer's `compute_metrics` for extractive question answering.

    A Trainer that groups rows by length evaluates them in an order of its own, so every window's logits are found by
    its token ids: the Trainer's arguments need `include_for_metrics=["inputs"]`.

    Args:
        examples: The evaluated questions with `id`, `context` and `answers`.
        features: Their windows, as `question_answering_features(..., for_training=False)` gives them. The rows that
            the Trainer evaluates are the same windows with `for_training=True`.
        tokenizer: The tokenizer of the windows.

    Returns:
        A function to `exact_match` and `f1`, from 0 to 100, and the other scores of `squad_scores`. "No answer" takes
        part if a question has none.

    Example:
        `Trainer(..., args=TrainingArguments(include_for_metrics=["inputs"], metric_for_best_model="f1", ...))`
    """
    examples, features = list(examples), list(features)
    version_2 = any(not example["answers"]["text"] for example in examples)
    left_out = [_FILLER, tokenizer.pad_token_id]

    def key(ids: np.ndarray) -> bytes:
        return ids[~np.isin(ids, left_out)].astype(np.int64).tobytes()

    wanted = [key(np.asarray(feature["input_ids"])) for feature in features]

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        if prediction.inputs is None:
            raise ValueError(
                "The predictions came without the token ids that tell which window they are of: set "
                'include_for_metrics=["inputs"] in the TrainingArguments.'
            )
        row_of = {key(ids): row for row, ids in enumerate(np.asarray(prediction.inputs))}
        missing = sum(ids not in row_of for ids in wanted)
        if missing:
            raise ValueError(
                f"{missing} of {len(wanted)} windows were not evaluated: the Trainer's eval_dataset must be the "
                "windows of the same examples, made with the same max_length and overlap."
            )
        rows = [row_of[ids] for ids in wanted]
        start_logits, end_logits = (np.asarray(logits)[rows] for logits in prediction.predictions[:2])
        answers = best_answers(start_logits, end_logits, features, examples, version_2=version_2)
        return squad_scores(answers, examples)

    return compute_metrics
