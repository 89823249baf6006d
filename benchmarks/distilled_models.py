"""The usual remedy, for comparison: stock BERT models whose loss adds the divergence from a teacher's logits.

Student, head and loss are those of the AlAd arms without the adapter and without the alignment of states.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import BertForQuestionAnswering, BertForTokenClassification
from transformers.modeling_outputs import QuestionAnsweringModelOutput, TokenClassifierOutput

from alad_hf.models.alignment_loss import distillation_divergence


class DistilledTagger(BertForTokenClassification):
    """A tagger that learns labels and a teacher's logits."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        teacher_mask: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> TokenClassifierOutput:
        """Sums over tokens, divided once, as in `AlAdForTokenClassification`."""
        logits = super().forward(input_ids, attention_mask, token_type_ids).logits
        if labels is None:
            return TokenClassifierOutput(logits=logits)
        classes = labels.masked_fill(labels < 0, -100)
        loss = functional.cross_entropy(logits.float().transpose(1, 2), classes, reduction="sum")
        if teacher_logits is not None:
            weights = attention_mask.float() if teacher_mask is None else attention_mask.float() * teacher_mask
            loss = loss + distillation_divergence(logits, teacher_logits, weights)
        items = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        return TokenClassifierOutput(loss=loss / items, logits=logits)


class DistilledReader(BertForQuestionAnswering):
    """A reader that learns answers and a teacher's start and end logits."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        teacher_logits: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> QuestionAnsweringModelOutput:
        """Means over examples, as in `AlAdForQuestionAnswering`."""
        outputs = super().forward(input_ids, attention_mask, token_type_ids)
        if not self.training:
            return outputs
        lowest = torch.finfo(torch.float32).min
        padding = attention_mask == 0
        sides = [side.float().masked_fill(padding, lowest) for side in (outputs.start_logits, outputs.end_logits)]
        batch = len(input_ids)
        loss = input_ids.new_zeros((), dtype=torch.float32)
        for position, side in enumerate(sides):
            answers = (start_positions, end_positions)[position]
            if answers is not None:
                answers = answers.masked_fill(answers < 0, -100)  # unlabelled rows
                loss = loss + functional.cross_entropy(side, answers, reduction="sum") / 2
            if teacher_logits is not None:
                target = teacher_logits[..., position].float().masked_fill(padding, lowest)
                loss = loss + distillation_divergence(side, target, side.new_full((batch,), 0.5))
        outputs.loss = loss / (batch if num_items_in_batch is None else num_items_in_batch)
        return outputs
