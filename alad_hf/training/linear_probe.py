"""A new tagging head, fitted while the encoder stands still: linear probing before fine-tuning (arXiv 2202.10054).

Most words of a text are no entity. Under a random head, the first thing that gradients teach an encoder is therefore
to say so of every token, by one shift that all states share. Where states differ little, as in encoders that were made
to embed whole sentences, this shift can drown what told the tokens apart, and the tagger finds nothing. A head that
knows what of the labels the states show already gives an encoder better things to learn.
"""

from __future__ import annotations

import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.collators import DataCollatorForAlignment
from ..evaluation_mode import evaluation_mode
from ..models.teacher import accepted_arguments, tagging_head

_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "labels")


def fit_tagging_head(
    model: PreTrainedModel,
    rows: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int = 20_000,
    penalty: float = 1e-2,
    batch_size: int = 32,
    seed: int = 0,
) -> float:
    """Fit a model's linear head to labels by logistic regression on its states; nothing else of the model changes.

    The states come from one forward pass in eval mode over rows drawn at random. The regression is convex: what the
    head was before does not matter.

    Args:
        model: A token-classification model, AlAd or not. Layers between encoder and linear head, such as
            ModernBERT's, stay as they are.
        rows: Encoded rows with `labels`, of which those below 0 are left out.
        tokenizer: The model's.
        tokens: About so many labelled ones are read.
        penalty: Of the head's squared entries, for states scaled to a deviation of 1, beside the mean cross entropy.
        batch_size: Rows of one forward pass.
        seed: Of the rows drawn.

    Returns:
        The mean cross entropy that the new head has on what it was fitted to.

    Raises:
        ValueError: The head is no linear layer, the rows have no labels, or a number is out of range.
    """
    if tokens < 1 or batch_size < 1 or penalty < 0:
        raise ValueError(
            f"tokens={tokens} and batch_size={batch_size} must be 1 or more, penalty={penalty} must not be negative."
        )
    head = tagging_head(model)
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"The head of a {type(model).__name__} is no linear layer: {head!r}. Train it from where it is."
        )
    if "labels" not in rows.column_names:
        raise ValueError(f"The rows have the columns {rows.column_names}; a head is fitted to `labels`.")
    states, labels = _labelled_states(model, head, rows, tokenizer, tokens, batch_size, seed)
    if not len(labels):
        raise ValueError("No token of the rows has a label of 0 or more: there is nothing to fit a head to.")
    centre = states.mean(dim=0) if head.bias is not None else torch.zeros_like(states[0])
    states -= centre
    scale = states.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
    states /= scale

    weight = states.new_zeros(head.weight.shape).requires_grad_()
    bias = states.new_zeros(head.out_features).requires_grad_(head.bias is not None)
    unknowns = [weight, bias] if head.bias is not None else [weight]
    solver = torch.optim.LBFGS(unknowns, max_iter=100, line_search_fn="strong_wolfe")

    def cross_entropy() -> torch.Tensor:
        return functional.cross_entropy(functional.linear(states, weight, bias), labels)

    def penalised() -> torch.Tensor:
        solver.zero_grad()
        loss = cross_entropy() + penalty * weight.square().sum()
        loss.backward()
        return loss

    # A line search compares losses that differ by less than what bfloat16 can tell.
    with torch.autocast(states.device.type, enabled=False):
        solver.step(penalised)
        with torch.no_grad():
            head.weight.copy_(weight / scale)
            if head.bias is not None:
                head.bias.copy_(bias - weight @ centre / scale)
            return cross_entropy().item()


@torch.no_grad()
def _labelled_states(
    model: PreTrainedModel,
    head: nn.Linear,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    tokens: int,
    batch_size: int,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the head reads of labelled tokens, float32 (tokens, width), and their labels (tokens,)."""
    accepted = accepted_arguments(model)
    rows = rows.select_columns([name for name in _MODEL_INPUTS if name in rows.column_names and name in accepted])
    rows = _draw(rows.with_format(None), tokens, seed)
    seen: list[torch.Tensor] = []
    watch = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    states, labels = [torch.empty(0, head.in_features, device=model.device)], []
    try:
        with evaluation_mode(model):
            loader = DataLoader(
                rows,
                batch_size,
                collate_fn=DataCollatorForAlignment(tokenizer),
                generator=torch.Generator(),  # or it would draw from the caller's random numbers
            )
            for batch in loader:
                labelled = batch.pop("labels")
                model(**{name: value.to(model.device) for name, value in batch.items() if name in accepted})
                states.append(seen.pop()[labelled.to(model.device) >= 0].float())
                labels.append(labelled[labelled >= 0].to(model.device))
    finally:
        watch.remove()
    return torch.cat(states), torch.cat([*labels, torch.empty(0, dtype=torch.long, device=model.device)])


def _draw(rows: Dataset, tokens: int, seed: int) -> Dataset:
    """Rows drawn at random until they hold so many labelled tokens, sorted by length to save padding."""
    drawn, held = [], 0
    for index in torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist():
        if held >= tokens:
            break
        labels = rows[index]["labels"]
        drawn.append((len(labels), index))
        held += sum(label >= 0 for label in labels)
    return rows.select([index for _, index in sorted(drawn)])
