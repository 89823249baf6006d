"""Batches of tokens, labels and teacher signals, padded together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..models.modeling_alad import UNLABELLED
from ..models.task_losses import IGNORED
from .token_alignment import TEACHER_COLUMNS

LENGTH_COLUMN = "length"
"""By this column the Trainer groups rows; it is no input of a model."""

_SIGNAL_COLUMNS = ("teacher_states", "teacher_logits", "teacher_mask")
_TEACHER_NAMES = frozenset((*_SIGNAL_COLUMNS, *TEACHER_COLUMNS))
_ANSWER_COLUMNS = ("start_positions", "end_positions")


@dataclass
class DataCollatorForAlignment:
    """Pad tokens, token labels and what a row brings of its teacher to the longest row of a batch.

    That is a cached signal on the student's tokens, or the teacher's own tokens, padded on the right with id 0 (the
    attention mask hides it), and their alignment to the student's.

    Rows without `labels` (and without answer positions) are unlabelled text, alone or beside labelled ones. Their real
    tokens get the label -1, which AlAd models leave out of the task loss and the Trainer counts; without it that would
    neither scale the loss right under gradient accumulation nor report an evaluation loss. So are rows whose labels
    are all -100, if they bring something of a teacher.

    Args:
        tokenizer: Decides the padding side and the padding ids.
        pad_to_multiple_of: Round the length up, for hardware that likes it.

    Example:
        >>> trainer = Trainer(model=model, data_collator=DataCollatorForAlignment(tokenizer), ...)
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate rows of a dataset.

        Returns:
            Token columns, `labels` and `teacher_mask` of shape (batch, tokens), `teacher_states` and `teacher_logits`
            of shape (batch, tokens, width), `teacher_input_ids`, `teacher_attention_mask` and `teacher_token_type_ids`
            of shape (batch, teacher tokens), `teacher_alignment` of shape (batch, tokens, teacher tokens), anything
            else as a tensor of shape (batch, ...). Answer positions count the padding on the left.

        Raises:
            ValueError: Some of the rows lack a column, other than `labels`, that others have.
        """
        rows = _complete(rows)
        inputs = [{name: row[name] for name in self.tokenizer.model_input_names if name in row} for row in rows]
        inputs = [{name: torch.as_tensor(value).tolist() for name, value in row.items()} for row in inputs]
        batch = dict(self.tokenizer.pad(inputs, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="pt"))
        tokens = batch["input_ids"].shape[1]
        left = self.tokenizer.padding_side == "left"
        starts = [tokens - len(row["input_ids"]) if left else 0 for row in inputs]
        for name in rows[0]:
            if name in batch or name == LENGTH_COLUMN or name in TEACHER_COLUMNS:
                continue
            values = [torch.as_tensor(row[name]) for row in rows]
            if name == "labels" and values[0].dim() == 1:
                batch[name] = _pad(values, starts, tokens, IGNORED)
            elif name in _SIGNAL_COLUMNS:
                batch[name] = _pad(values, starts, tokens, 0)
            elif name in _ANSWER_COLUMNS:
                pairs = zip(values, starts, strict=True)
                batch[name] = torch.stack([torch.where(value < 0, value, value + start) for value, start in pairs])
            else:
                batch[name] = torch.stack(values)
        if set(TEACHER_COLUMNS) & rows[0].keys():
            batch |= self._teacher_tokens(rows, starts, tokens)
        if "start_positions" in batch:
            return batch
        text = torch.where(batch["attention_mask"] == 1, UNLABELLED, IGNORED)
        if "labels" not in batch:
            batch["labels"] = text
        elif _TEACHER_NAMES & rows[0].keys() and batch["labels"].dim() == 2:
            is_text = (batch["labels"] == IGNORED).all(dim=1, keepdim=True)
            batch["labels"] = torch.where(is_text, text, batch["labels"])
        return batch

    def _teacher_tokens(
        self, rows: Sequence[Mapping[str, Any]], starts: list[int], tokens: int
    ) -> dict[str, torch.Tensor]:
        """The teacher's tokens padded to their own length, and the triples of each row's alignment as a matrix."""
        ids = [torch.as_tensor(row["teacher_input_ids"], dtype=torch.long) for row in rows]
        multiple = self.pad_to_multiple_of or 1
        # At least one, masked: models cannot read rows of no width, such as an empty text without special tokens.
        length = -(-max(1, *(len(row) for row in ids)) // multiple) * multiple
        at_left = [0] * len(rows)
        alignment = torch.zeros(len(rows), tokens, length)
        for row, start in enumerate(starts):
            triples = torch.as_tensor(rows[row]["teacher_alignment"], dtype=torch.float32).reshape(-1, 3)
            own, teacher = triples[:, :2].long().T
            alignment[row, own + start, teacher] = triples[:, 2]
        batch = {
            "teacher_input_ids": _pad(ids, at_left, length, 0),
            "teacher_attention_mask": _pad([torch.ones_like(row) for row in ids], at_left, length, 0),
            "teacher_alignment": alignment,
        }
        if "teacher_token_type_ids" in rows[0]:
            types = [torch.as_tensor(row["teacher_token_type_ids"], dtype=torch.long) for row in rows]
            batch["teacher_token_type_ids"] = _pad(types, at_left, length, 0)
        return batch


def _complete(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same columns: those that no row has anything in are left out, and text gets token labels."""
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    names = {name: value for row in kept for name, value in row.items()}
    for row in kept:
        missing = names.keys() - row.keys()
        if missing == {"labels"} and torch.as_tensor(names["labels"]).dim() == 1:
            row["labels"] = torch.full((len(row["input_ids"]),), UNLABELLED)
        elif missing:
            raise ValueError(
                f"Some rows of a batch have {', '.join(sorted(missing))} and others have not. Rows of different "
                "columns are mixed by alad_hf.data.mix_rows, which fills them."
            )
    return kept


def _pad(values: list[torch.Tensor], starts: list[int], length: int, filler: int) -> torch.Tensor:
    """Rows of (own length, ...) in one tensor (rows, `length`, ...), each from its start on."""
    padded = values[0].new_full((len(values), length, *values[0].shape[1:]), filler)
    for row, (value, start) in enumerate(zip(values, starts, strict=True)):
        padded[row, start : start + len(value)] = value
    return padded
