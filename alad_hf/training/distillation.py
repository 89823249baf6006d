"""Stock taggers that learn from a teacher's states and logits under the stock Trainer, without an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from ..models.alignment_loss import distillation_divergence, squared_error
from ..models.task_losses import at_least_one
from ..models.teacher import accepted_arguments

_FORWARDS = ("forward", "_original_forward")


@contextmanager
def distilling(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within the block, a token classifier's loss also reads `teacher_states` and `teacher_logits`.

    The terms are those of `AlAdForTokenClassification` with weights of 1, the states' being the squared error of the
    model's own last states, which therefore have the teacher's width. Checkpoints written in the block are of the
    stock class.
    """
    stock = type(model)
    attributes = {"__module__": stock.__module__, "_stock_arguments": accepted_arguments(model)}
    model.__class__ = type(stock.__name__, (_Distilling, stock), attributes)
    before = {name: model.__dict__[name] for name in _FORWARDS if name in model.__dict__}
    try:
        yield model
    finally:
        model.__class__ = stock
        # In mixed precision accelerate binds the forward that it found to the model, which is now another.
        for name in _FORWARDS:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)


class _Distilling(PreTrainedModel):
    """The forward in front of a stock tagger's own."""

    _stock_arguments: frozenset[str]

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        teacher_states: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Sums over tokens, divided once; columns as in `AlAdForTokenClassification`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        known = {name: value for name, value in inputs.items() if value is not None and name in self._stock_arguments}
        outputs = super().forward(**known, **kwargs, output_hidden_states=teacher_states is not None)
        if labels is None:
            return outputs
        classes = labels.masked_fill(labels < 0, -100)
        loss = functional.cross_entropy(outputs.logits.float().transpose(1, 2), classes, reduction="sum")
        weights = attention_mask.float() if teacher_mask is None else attention_mask.float() * teacher_mask
        if teacher_states is not None:
            loss = loss + squared_error(outputs.hidden_states[-1], teacher_states, weights)
        if teacher_logits is not None:
            loss = loss + distillation_divergence(outputs.logits, teacher_logits, weights)
        items = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return TokenClassifierOutput(loss=loss / at_least_one(items), logits=outputs.logits)
