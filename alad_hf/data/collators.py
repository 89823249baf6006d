"""Batches of tokens, labels and teacher signals, padded together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..models.modeling_alad import IGNORED, UNLABELLED

LENGTH_COLUMN = "length"
"""By this column the Trainer groups rows; it is no input of a model."""

_TEACHER_COLUMNS = ("teacher_states", "teacher_logits")


@dataclass
class DataCollatorForAlignment:
    """Pad tokens, token labels and cached teacher signals to the longest row of a batch.

    Rows without `labels` (and without answer positions) are unlabelled text: their real tokens get the label -1, which
    AlAd models leave out of the task loss and the Trainer counts. Without it the Trainer would neither scale the loss
    right under gradient accumulation nor report an evaluation loss.

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
            Token columns and `labels` of shape (batch, tokens), `teacher_states` and `teacher_logits` of shape
            (batch, tokens, width), anything else as a tensor of shape (batch, ...).
        """
        inputs = [{name: row[name] for name in self.tokenizer.model_input_names if name in row} for row in rows]
        inputs = [{name: torch.as_tensor(value).tolist() for name, value in row.items()} for row in inputs]
        batch = dict(self.tokenizer.pad(inputs, pad_to_multiple_of=self.pad_to_multiple_of, return_tensors="pt"))
        tokens = batch["input_ids"].shape[1]
        for name in rows[0]:
            if name in batch or name == LENGTH_COLUMN:
                continue
            values = [torch.as_tensor(row[name]) for row in rows]
            if name == "labels" and values[0].dim() == 1:
                batch[name] = self._pad(values, tokens, IGNORED)
            elif name in _TEACHER_COLUMNS:
                batch[name] = self._pad(values, tokens, 0)
            else:
                batch[name] = torch.stack(values)
        if not {"labels", "start_positions"} & batch.keys():
            batch["labels"] = torch.where(batch["attention_mask"] == 1, UNLABELLED, IGNORED)
        return batch

    def _pad(self, values: list[torch.Tensor], tokens: int, filler: int) -> torch.Tensor:
        padded = values[0].new_full((len(values), tokens, *values[0].shape[1:]), filler)
        for row, value in enumerate(values):
            start = tokens - len(value) if self.tokenizer.padding_side == "left" else 0
            padded[row, start : start + len(value)] = value
        return padded
