"""Ask questions of a text: the call that `pipeline("question-answering")` was before transformers 5."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .data.question_answering import question_answering_features
from .evaluation.answer_extraction import answer_candidates

Answer = dict[str, Any]
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
        """
        hub_options = {name: value for name, value in kwargs.items() if name in _HUB_OPTIONS}
        tokenizer = AutoTokenizer.from_pretrained(path_or_id, **hub_options)
        return cls(AutoModelForQuestionAnswering.from_pretrained(path_or_id, **kwargs), tokenizer, device)

    def __call__(
        self,
        question: str | list[str],
        context: str | list[str],
        *,
        top_k: int = 1,
        max_answer_length: int = 30,
        handle_impossible_answer: bool = False,
        max_length: int = 384,
        overlap: int = 128,
        batch_size: int = 8,
    ) -> Answer | list[Answer] | list[list[Answer]]:
        """Answer one question or several.

        Args:
            question: A question, or a list of them.
            context: The text that holds the answer: one for each question, or one for all.
            top_k: How many answers to return, best first; fewer where the context has fewer spans.
            max_answer_length: Most tokens of an answer.
            handle_impossible_answer: Whether "no answer" (the answer "", from 0 to 0) takes part.
            max_length: Most tokens of a window, see `question_answering_features`.
            overlap: Context tokens that consecutive windows of a long context share.
            batch_size: Windows a forward pass.

        Returns:
            `{"answer", "start", "end", "score"}`, where `context[start:end] == answer` and the score is the product of
            the start's and the end's probability over the context tokens of all windows. For `top_k` above 1 a list
            of these; for a list of questions a list of either.

        Raises:
            ValueError: If the numbers of questions and contexts differ, a text is empty, or a question leaves no room
                for its context.
        """
        for name, value in (("top_k", top_k), ("max_answer_length", max_answer_length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name}={value} must be 1 or more.")
        examples = _as_examples(question, context)
        if not examples["id"]:
            return []
        features = question_answering_features(
            examples, self.tokenizer, max_length=max_length, overlap=overlap, for_training=False
        )
        start_logits, end_logits = self._logits(features, batch_size)
        windows_of: dict[int, list[int]] = {example: [] for example in examples["id"]}
        for window, example in enumerate(features["example_id"]):
            windows_of[example].append(window)
        answers = []
        for example, text in enumerate(examples["context"]):
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
                    f"The context number {example} holds no character that the tokenizer keeps: {text!r}."
                )
            answers.append(
                [
                    {"answer": text[span.start : span.end], "start": span.start, "end": span.end, "score": span.score}
                    for span in ranked
                ]
            )
        shaped = answers if top_k > 1 else [ranked[0] for ranked in answers]
        return shaped[0] if isinstance(question, str) else shaped

    def _logits(self, features: dict[str, list[Any]], batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Run the model on all windows; returns start and end logits (N, T), zero where a window is shorter."""
        names = [name for name in self.tokenizer.model_input_names if name in features]
        lengths = [len(ids) for ids in features["input_ids"]]
        collate = DataCollatorWithPadding(self.tokenizer)
        device = self.model.device
        logits = np.zeros((2, len(lengths), max(lengths)))
        for begin in range(0, len(lengths), batch_size):
            rows = range(begin, min(begin + batch_size, len(lengths)))
            batch = collate([{name: features[name][row] for name in names} for row in rows])
            with torch.inference_mode():
                output = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
            if getattr(output, "start_logits", None) is None or getattr(output, "end_logits", None) is None:
                raise TypeError(
                    f"{type(self.model).__name__} returns no start_logits and end_logits: pass a model for question "
                    "answering, such as `AutoModelForQuestionAnswering.from_pretrained(...)` gives."
                )
            width = output.start_logits.shape[1]
            for part, values in enumerate((output.start_logits, output.end_logits)):
                logits[part, rows.start : rows.stop, :width] = values.float().cpu().numpy()
        return logits[0], logits[1]


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
    return {"id": list(range(len(questions))), "question": questions, "context": contexts}
