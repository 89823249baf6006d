"""The teacher of a model: the one given, or the one attached, with its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.token_labels import longest_input, stated_length
from ..data.unlabelled_text import encode_text
from ..models.alad_construction import load_tokenizer
from ..models.teacher import load_teacher, moved_to, tokenizes_alike
from .teacher_cache import cache_teacher_states


class FoundTeacher(NamedTuple):
    """A teacher and what text must be encoded by, for it to read."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def max_length(self) -> int | None:
        """Tokens that fit into one input of the teacher; None where neither model nor tokenizer has a limit."""
        return stated_length(self.model.config, self.tokenizer)

    def longest_row(self, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
        """Tokens of one row that fit into the student and, where it reads the same tokens, into the teacher.

        Args:
            config: The student's.
            tokenizer: The student's.
        """
        limit = longest_input(config, tokenizer)
        if self.max_length is not None and tokenizes_alike(tokenizer, self.tokenizer):
            limit = min(limit, self.max_length)
        return limit

    def encode(
        self, texts: Iterable[str] | Dataset, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
    ) -> Dataset:
        """Tokenize text for a student and this teacher; see `encode_text`."""
        return encode_text(
            texts,
            tokenizer,
            max_length=self.longest_row(config, tokenizer),
            teacher_tokenizer=self.tokenizer,
            teacher_max_length=self.max_length,
        )

    def with_signal(
        self,
        rows: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        layers: Sequence[int] | None,
        cache_dir: str | os.PathLike | None = None,
        *,
        states: bool = True,
    ) -> Dataset:
        """Rows with this teacher's cached signal; see `cache_teacher_states`."""
        return cache_teacher_states(
            rows,
            self.model,
            tokenizer=tokenizer,
            teacher_tokenizer=self.tokenizer,
            layers=layers,
            states=states,
            cache_dir=cache_dir,
        )


def find_teacher(
    model: PreTrainedModel, teacher: str | PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None
) -> FoundTeacher:
    """Find the teacher of an AlAd model.

    Args:
        model: The AlAd model. An attached teacher, and one that is loaded here, follow it to its device.
        teacher: Folder, Hub id or model; by default the attached one.
        tokenizer: The teacher's; by default that of the attached teacher, or loaded from the teacher's name.

    Raises:
        ValueError: There is no teacher, or no tokenizer of it.
    """
    attached: Any = getattr(model, "teacher", None)
    if teacher is None and attached is None:
        raise ValueError(
            "Alignment needs a teacher: pass teacher=..., or call model.attach_teacher(...) first. Only fit_adapter "
            "also takes rows with teacher_states."
        )
    if teacher is None or teacher is attached:
        known: Any = model.teacher_tokenizer
        return FoundTeacher(moved_to(attached, model.device), tokenizer or known)
    name = teacher if isinstance(teacher, str) else teacher.name_or_path
    tokenizer = tokenizer or load_tokenizer(name, "teacher_tokenizer")
    if not isinstance(teacher, str):
        return FoundTeacher(teacher, tokenizer)
    return FoundTeacher(moved_to(load_teacher(teacher), model.device), tokenizer)
