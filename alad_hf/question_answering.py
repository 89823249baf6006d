"""Ask questions of a text: the call that `pipeline("question-answering")` was before transformers 5, and its score."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .data.question_answering import question_answering_features
from .data.sources import check_one_split
from .data.token_labels import check_positions, stated_length
from .evaluation.answer_extraction import answer_candidates, best_answers
from .evaluation.squad_score import squad_scores
from .hub.finished_models import load_finished
from .models.alad_construction import is_empty

Answer = dict[str, Any]
_TOKENIZING = Lock()
"""A fast tokenizer keeps the length it cuts to, which calls in other threads would change in between."""
USUAL_LENGTH = 384
"""Tokens of a window where the model does not hold fewer, as is usual for SQuAD."""
_HUB_OPTIONS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)


class QuestionAnswerer:
    """Finds answers as spans of a context.

    Args:
        model: A model whose output has `start_logits` and `end_logits` (B, T); it is put into evaluation mode.
        tokenizer: Its fast tokenizer.
        device: Where to move the model; None leaves it where it is.

    Example:
        >>> answerer = QuestionAnswerer.from_pretrained("my-org/my-model")  # doctest: +SKIP
        >>> answerer(question="Who wrote it?", context="Ada wrote it.")  # doctest: +SKIP
        {'answer': 'Ada', 'start': 0, 'end': 3, 'score': 0.98}
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: str | torch.device | None = None,
    ) -> None:
        torch.nn.Module.to(model, device)
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str,
        device: str | torch.device | None = None,
        **kwargs: Any,
    ) -> QuestionAnswerer:
        """Load a question-answering checkpoint with its tokenizer.

        Args:
            path_or_id: A folder or a Hub id.
            device: Where to move the model; None leaves it where it was loaded.
            **kwargs: For `AutoModelForQuestionAnswering.from_pretrained`; those that say where and how to fetch files
                (such as `revision`, `token`, `trust_remote_code`) go to the tokenizer as well.

        Returns:
            The answerer.

        Raises:
            ValueError: The checkpoint lacks weights or a tokenizer, or cannot be loaded without its own code.
        """
        kwargs.setdefault("trust_remote_code", False)
        hub_options = {name: value for name, value in kwargs.items() if name in _HUB_OPTIONS}
        tokenizer = AutoTokenizer.from_pretrained(path_or_id, **hub_options)
        if is_empty(tokenizer):
            raise ValueError(f"{path_or_id!r} holds no tokenizer: pass the model's own to QuestionAnswerer(...).")
        return cls(load_finished(AutoModelForQuestionAnswering, path_or_id, **kwargs), tokenizer, device)

    def __call__(
        self,
        question: str | list[str],
        context: str | list[str],
        *,
        top_k: int = 1,
        max_answer_length: int = 30,
        handle_impossible_answer: bool = False,
        max_length: int | None = None,
        overlap: int | None = None,
        batch_size: int = 8,
    ) -> Answer | list[Answer] | list[list[Answer]]:
        """Answer one question or several.

        Args:
            question: A question, or a list of them.
            context: The text that holds the answer: one for each question, or one for all.
            top_k: How many answers to return, best first; fewer where the context has fewer spans.
            max_answer_length: Most tokens of an answer.
            handle_impossible_answer: Whether "no answer" (the answer "", from 0 to 0) takes part.
            max_length: Most tokens of a window, see `question_answering_features`; by default 384, or as many as fit
                the model.
            overlap: Context tokens that consecutive windows of a long context share; by default a third of
                `max_length`, or half of what a long question leaves of it.
            batch_size: Windows a forward pass.

        Returns:
            `{"answer", "start", "end", "score"}`, where `context[start:end] == answer` and the score is the product of
            the start's and the end's probability over the context tokens of all windows. For `top_k` above 1 a list
            of these; for a list of questions a list of either.

        Raises:
            ValueError: If the numbers of questions and contexts differ, a text is empty, a question leaves no room
                for its context, or the model's output is not a number.
        """
        for name, value in (("top_k", top_k), ("max_answer_length", max_answer_length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value} must be 1 or more.")
        examples = _as_examples(question, context)
        if not examples["id"]:
            return []
        features = _windows(self.model, self.tokenizer, examples, max_length, overlap)
        start_logits, end_logits = _span_logits(self.model, self.tokenizer, features, batch_size)
        windows_of: dict[Any, list[int]] = {example: [] for example in examples["id"]}
        for window, example in enumerate(features["example_id"]):
            windows_of[example].append(window)
        answers = []
        for example, text in zip(examples["id"], examples["context"], strict=True):
            windows = windows_of[example]
            candidates, no_answer = answer_candidates(
                start_logits[windows],
                end_logits[windows],
                [features["offset_mapping"][window] for window in windows],
                [features["cls_index"][window] for window in windows],
                count=top_k,
                max_answer_length=max_answer_length,
                allow_no_answer=handle_impossible_answer,
            )
            ranked = sorted([*candidates, *([no_answer] if no_answer else [])], key=lambda span: -span.logit)[:top_k]
            if not ranked:
                raise ValueError(
                    f"The context of example {example!r} holds no character that the tokenizer keeps: {text[:60]!r}."
                )
            answers.append(
                [
                    {"answer": text[span.start : span.end], "start": span.start, "end": span.end, "score": span.score}
                    for span in ranked
                ]
            )
        shaped = answers if top_k > 1 else [ranked[0] for ranked in answers]
        return shaped[0] if isinstance(question, str) else shaped


def evaluate_question_answerer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset,
    *,
    max_answer_length: int = 30,
    max_length: int | None = None,
    overlap: int | None = None,
    batch_size: int = 32,
) -> dict[str, float]:
    """Score a model on every question of a data set, however long its contexts are.

    "No answer" takes part if a question of the data set has none (SQuAD 2.0).

    Args:
        model: A model whose output has `start_logits` and `end_logits`; it runs where it is, in evaluation mode.
        tokenizer: Its fast tokenizer.
        dataset: Columns `id`, `question`, `context` and `answers`, such as a split of `load_question_answering`.
        max_answer_length: Most tokens of an answer.
        max_length: Most tokens of a window; by default 384, or as many as fit the model.
        overlap: Context tokens that consecutive windows share; by default a third of `max_length`, or half of what a
            long question leaves of it.
        batch_size: Windows a forward pass.

    Returns:
        `exact_match` and `f1`, from 0 to 100, `total` and, if only some questions have an answer, the same for both
        kinds; see `squad_scores`.

    Raises:
        TypeError: The model has no question-answering head, or `dataset` holds several splits.
        ValueError: The data set has no rows, a question leaves no room for its context, or the model's output is not
            a number.
    """
    check_one_split(dataset)
    if not len(dataset):
        raise ValueError("The data set has no rows to score the model on.")
    examples = dataset.with_format(None)[:]
    features = _windows(model, tokenizer, examples, max_length, overlap)
    logits = _span_logits(model.eval(), tokenizer, features, batch_size)
    references = _rows(examples)
    answers = best_answers(
        *logits,
        _rows(features),
        references,
        max_answer_length=max_answer_length,
        version_2=any(not row["answers"]["text"] for row in references),
    )
    return squad_scores(answers, references)


def window_sizes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    overlap: int | None = None,
) -> tuple[int, int]:
    """Decide how contexts are cut into windows, where a caller does not.

    Args:
        model: The model that will read them.
        tokenizer: Its tokenizer.
        max_length: Most tokens of a window; by default 384, or as many as fit the model.
        overlap: Context tokens that consecutive windows share; by default a third of `max_length`.

    Returns:
        `max_length` and `overlap`.

    Raises:
        ValueError: The model has fewer positions than `max_length`.
    """
    if max_length is None:
        max_length = min(USUAL_LENGTH, stated_length(model.config, tokenizer) or USUAL_LENGTH)
    check_positions(model, max_length)
    return max_length, max_length // 3 if overlap is None else overlap


def _windows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: dict[str, list[Any]],
    max_length: int | None,
    overlap: int | None,
) -> dict[str, list[Any]]:
    """Features of questions, each cut as it would be alone: a long one changes nothing for the others."""
    max_length, usual = window_sizes(model, tokenizer, max_length, overlap)
    with _TOKENIZING:
        return _windows_of_each(tokenizer, examples, max_length, usual, fixed=overlap is not None)


def _windows_of_each(
    tokenizer: PreTrainedTokenizerBase, examples: dict[str, list[Any]], max_length: int, usual: int, *, fixed: bool
) -> dict[str, list[Any]]:
    rows_by_overlap: dict[int, list[int]] = {}
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    questions = tokenizer(examples["question"], add_special_tokens=False, verbose=False)["input_ids"]
    for row, question in enumerate(questions):
        left = room - len(question)
        own = usual if fixed or usual < left else max(0, left // 2)
        rows_by_overlap.setdefault(own, []).append(row)
    parts = [
        question_answering_features(
            {name: [values[row] for row in rows] for name, values in examples.items()},
            tokenizer,
            max_length=max_length,
            overlap=own,
            for_training=False,
        )
        for own, rows in rows_by_overlap.items()
    ]
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _span_logits(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, features: dict[str, list[Any]], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run the model on all windows; returns start and end logits (N, T), zero where a window is shorter.

    Raises:
        ValueError: A logit is NaN or infinite; that of a token that a model rules out may be -inf.
    """
    names = [name for name in tokenizer.model_input_names if name in features]
    lengths = [len(ids) for ids in features["input_ids"]]
    collate = DataCollatorWithPadding(tokenizer)
    logits = np.zeros((2, len(lengths), max(lengths)))
    # Windows of like length share a batch; the longest first, so that a batch too large for the device fails at once.
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    for begin in range(0, len(order), batch_size):
        rows = order[begin : begin + batch_size]
        batch = collate([{name: features[name][row] for name in names} for row in rows])
        with torch.inference_mode():
            output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        if getattr(output, "start_logits", None) is None or getattr(output, "end_logits", None) is None:
            raise TypeError(
                f"{type(model).__name__} returns no start_logits and end_logits: pass a model for question "
                "answering, such as `AutoModelForQuestionAnswering.from_pretrained(...)` gives."
            )
        for part, values in enumerate((output.start_logits, output.end_logits)):
            for row, scores in zip(rows, values.float().cpu().numpy(), strict=True):
                logits[part, row, : lengths[row]] = scores[: lengths[row]]
    if not (logits < np.inf).all():  # NaN is not below it, either
        raise ValueError(
            "The logits contain NaN or infinity: the model has diverged, or its weights overflow in half precision."
        )
    return logits[0], logits[1]


def _rows(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _as_examples(question: str | list[str], context: str | list[str]) -> dict[str, list[Any]]:
    questions = [question] if isinstance(question, str) else list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise ValueError(
            f"{len(questions)} questions but {len(contexts)} contexts: pass one context for each question, or a "
            "single string for all of them."
        )
    for name, texts in (("question", questions), ("context", contexts)):
        empty = [number for number, text in enumerate(texts) if not text.strip()]
        if empty:
            raise ValueError(f"The {name} number {empty[0]} is empty: pass only non-empty texts.")
    # What errors call the examples: a single one by its question, since it has no number.
    ids = [question[:60]] if isinstance(question, str) else list(range(len(questions)))
    return {"id": ids, "question": questions, "context": contexts}
