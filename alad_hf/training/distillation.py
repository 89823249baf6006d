"""Stock taggers and question answerers that learn from a teacher under the stock Trainer, without an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput, TokenClassifierOutput

from ..models.alignment_loss import answering_sums, shared_by_tokens, squared_error, tagging_sums
from ..models.task_losses import at_least_one, token_items
from ..models.teacher import accepted_arguments

_OF_ACCELERATE = ("forward", "_original_forward", "_is_accelerate_prepared")
"""What accelerate sets on a model that it prepares. With the last still there it would not prepare the model again:
a second training in mixed precision would run in float32."""


@contextmanager
def distilling(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within the block, a model's loss also reads `teacher_logits` and, if there are some, `teacher_states`.

    The terms are those of `AlAdForTokenClassification` or `AlAdForQuestionAnswering` with weights of 1, the states'
    being the squared error of the model's own last states, which therefore have the teacher's width. Checkpoints
    written in the block are of the stock class.

    Args:
        model: A token classifier or question answerer of transformers.
    """
    stock = type(model)
    accepted = accepted_arguments(model)
    form = _DistillingAnswerer if "start_positions" in accepted else _DistillingTagger
    attributes = {"__module__": stock.__module__, "_stock_arguments": accepted}
    model.__class__ = type(stock.__name__, (form, stock), attributes)
    before = {name: model.__dict__[name] for name in _OF_ACCELERATE if name in model.__dict__}
    try:
        yield model
    finally:
        model.__class__ = stock
        # In mixed precision accelerate binds the forward that it found to the model, which is now another.
        for name in _OF_ACCELERATE:
            model.__dict__.pop(name, None)
        model.__dict__.update(before)


class Distilling(PreTrainedModel):
    """What stands in front of a stock model's own forward."""

    _stock_arguments: frozenset[str]

    def _run(self, inputs: dict[str, Any], with_states: bool) -> Any:  # noqa: ANN401
        known = {name: value for name, value in inputs.items() if value is not None and name in self._stock_arguments}
        return super().forward(**known, output_hidden_states=with_states)


class _DistillingTagger(Distilling):
    accepts_loss_kwargs = True  # also where the stock model's own loss cannot count labels

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
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids, **kwargs}
        outputs = self._run(inputs, teacher_states is not None)
        if labels is None:
            return outputs
        matched = attention_mask.float() if teacher_mask is None else attention_mask.float() * teacher_mask
        sums = tagging_sums(outputs.logits, labels, teacher_logits, matched)
        if teacher_states is not None:
            sums["states"] = squared_error(outputs.hidden_states[-1], teacher_states, matched)
        items = at_least_one(token_items(labels, attention_mask, num_items_in_batch))
        return TokenClassifierOutput(loss=sum(sums.values()) / items, logits=outputs.logits)


class _DistillingAnswerer(Distilling):
    accepts_loss_kwargs = False  # its items are examples, as those of AlAdForQuestionAnswering

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        teacher_states: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Means over examples; columns as in `AlAdForQuestionAnswering`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids, **kwargs}
        outputs = self._run(inputs, teacher_states is not None)
        if start_positions is None or end_positions is None:
            return outputs
        matched = attention_mask.float() if teacher_mask is None else attention_mask.float() * teacher_mask
        logits = torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
        sums = answering_sums(logits, (start_positions, end_positions), teacher_logits, attention_mask, matched)
        if teacher_states is not None:
            sums["states"] = squared_error(outputs.hidden_states[-1], teacher_states, shared_by_tokens(matched))
        return QuestionAnsweringModelOutput(
            loss=sum(sums.values()) / len(logits), start_logits=outputs.start_logits, end_logits=outputs.end_logits
        )
