"""Losses of task heads: sums that are divided once, so that accumulated batches add up to what one batch gives."""

from __future__ import annotations

import torch
from torch.nn import functional

IGNORED = -100
"""Label of a token that neither carries a task loss nor is counted, as everywhere in transformers."""
_RULED_OUT = -1e30
"""A logit of no probability, also divided by a temperature below 1: the lowest float32 would become infinite."""


def at_least_one(items: torch.Tensor | int) -> torch.Tensor | int:
    """A divisor of sums over nothing, which are 0."""
    return items.clamp(min=1) if isinstance(items, torch.Tensor) else max(items, 1)


def token_items(
    labels: torch.Tensor | None, real: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor | int:
    """The divisor of a tagger's sums: labels that count; where there is none, real tokens, of which a teacher speaks.

    Args:
        labels: (batch, tokens), -100 where a label does not count.
        real: (batch, tokens), 1 for real tokens.
        num_items_in_batch: Labels that count in all accumulated batches; by default those of this one.
    """
    tokens = real.float().sum()  # a count in half precision would be rounded
    if num_items_in_batch is None:
        if labels is None:
            return tokens
        num_items_in_batch = (labels != IGNORED).sum()
    if isinstance(num_items_in_batch, torch.Tensor):
        return torch.where(num_items_in_batch > 0, num_items_in_batch, tokens)
    return num_items_in_batch or tokens


def token_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of the cross entropies of labelled tokens.

    Args:
        logits: (batch, tokens, classes).
        labels: (batch, tokens), negative where no loss is wanted.
    """
    classes = labels.masked_fill(labels < 0, IGNORED)
    return functional.cross_entropy(
        logits.float().flatten(0, 1), classes.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def token_loss(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
) -> torch.Tensor:
    """`token_sum` divided once, so that accumulated batches add up to one.

    Args:
        logits: (batch, tokens, classes).
        labels: (batch, tokens), -100 where no loss is wanted.
        num_items_in_batch: Labels that count in all accumulated batches; by default those of this one.

    Returns:
        A scalar; 0 where no label counts.
    """
    items = (labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
    return token_sum(logits, labels) / at_least_one(items)


def text_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str | None,
    num_items_in_batch: torch.Tensor | int | None,
) -> torch.Tensor:
    """Cross entropy, binary cross entropy or squared error of texts, a sum divided once like `token_loss`.

    Args:
        logits: (batch, classes).
        labels: (batch,), (batch, 1) or (batch, classes); see `MiniAlbertForSequenceClassification.forward`.
        problem_type: As in the configuration; None goes by the number of classes and the labels' type.
        num_items_in_batch: Labels that count in all accumulated batches; by default those of this one.

    Raises:
        ValueError: The labels' shape does not fit the problem.
    """
    if problem_type is None:
        is_class = not labels.is_floating_point() and labels.shape[1:] in ((), (1,))
        several = "single_label_classification" if is_class else "multi_label_classification"
        problem_type = "regression" if logits.shape[1] == 1 else several
    counts = labels != IGNORED
    items = at_least_one(counts.sum() if num_items_in_batch is None else num_items_in_batch)
    logits = logits.float()
    if problem_type == "single_label_classification":
        return functional.cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum") / items
    if labels.numel() != logits.numel():
        raise ValueError(
            f"labels of problem_type={problem_type!r} must have the logits' shape {tuple(logits.shape)}, got "
            f"{tuple(labels.shape)}."
        )
    targets, counts = labels.reshape(logits.shape).to(logits.dtype), counts.reshape(logits.shape)
    measure = functional.mse_loss if problem_type == "regression" else functional.binary_cross_entropy_with_logits
    return measure(logits[counts], targets[counts], reduction="sum") / items


def candidates(logits: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """(batch, tokens, 2) logits in float32 by which padding is neither start nor end; `real` is (batch, tokens)."""
    return logits.float().masked_fill((real == 0).unsqueeze(-1), _RULED_OUT)


def span_sum(
    logits: torch.Tensor, start_positions: torch.Tensor, end_positions: torch.Tensor, real: torch.Tensor
) -> torch.Tensor:
    """Sum over examples of half the cross entropies of start and end, over real tokens.

    Args:
        logits: (batch, tokens, 2).
        start_positions: (batch,); one that is not a real token carries no loss.
        end_positions: (batch,); likewise.
        real: (batch, tokens), 0 for padding.
    """
    tokens = logits.shape[1]
    positions = torch.stack([start_positions.flatten(), end_positions.flatten()], dim=-1)
    inside = (positions >= 0) & (positions < tokens)
    inside &= real.gather(1, positions.clamp(0, tokens - 1)) > 0
    targets = positions.masked_fill(~inside, IGNORED)
    scores = candidates(logits, real)
    return functional.cross_entropy(scores, targets, ignore_index=IGNORED, reduction="sum") / 2


def span_loss(
    logits: torch.Tensor,
    start_positions: torch.Tensor,
    end_positions: torch.Tensor,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor:
    """Mean of `span_sum` over examples; all tokens are real without `attention_mask` (batch, tokens)."""
    real = logits.new_ones(logits.shape[:2]) if attention_mask is None else attention_mask
    return span_sum(logits, start_positions, end_positions, real) / logits.shape[0]


__all__ = [
    "IGNORED",
    "at_least_one",
    "candidates",
    "span_loss",
    "span_sum",
    "text_loss",
    "token_items",
    "token_loss",
    "token_sum",
]
