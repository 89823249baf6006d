"""What an error in a token's vector does to an encoder: the metric in which tables are better compressed.

A table's squared error counts all directions alike, an encoder does not: of some it makes much, of others nearly
nothing. Weighted least squares by the curvature of what is computed is old in pruning (Hassibi and Stork 1993) and in
rounding (Frantar et al. 2023, arXiv 2210.17323); of low-rank factors, Hsu et al. 2022 (arXiv 2207.00112) weight rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation_mode import evaluation_mode
from .calibration import CALIBRATION_TOKENS, CalibrationText
from .embeddings import embedding_table
from .importance import summed_loss

_RIDGE = 0.3


def embedding_metric(
    model: PreTrainedModel,
    texts: Iterable[str] | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    ridge: float = _RIDGE,
    max_tokens: int | None = CALIBRATION_TOKENS,
    seed: int = 0,
) -> torch.Tensor:
    """The matrix M (width, width) by which e @ M @ e says how much an error e of one token's vector matters.

    To first order, and up to a factor, that is the mean squared change of all last hidden states of a row when the
    vector of one of its tokens moves by e: M is the mean of J.T @ J over the tokens of the text, where J is the
    derivative of the states by the vector. It is estimated by gradients of states times random directions, in one
    backward pass a batch. No label is read, and no head.

    Args:
        model: An encoder, tagger or reader with an ordinary token embedding; it is not changed.
        texts: Text of the kind that it will read; see `CalibrationText`.
        tokenizer: The model's.
        ridge: Times the mean eigenvalue, added to all of them, since the text is finite and the table may be tuned
            afterwards; the larger, the more the directions count alike.
        max_tokens: Of the text, spread evenly over it; None: all.
        seed: Of the random directions.

    Returns:
        Symmetric, on the CPU, with a mean of 1 on its diagonal.

    Raises:
        ValueError: There is no text, the ridge is negative, or the embedding is none that can be compressed.
    """
    embedding_table(model)
    if not ridge >= 0:
        raise ValueError(f"ridge must be 0 or more, got {ridge!r}.")
    encoder = cast(PreTrainedModel, model.base_model)
    calibration = CalibrationText(encoder, texts, tokenizer, max_tokens=max_tokens)
    generator = torch.Generator().manual_seed(seed)
    vectors: list[torch.Tensor] = []

    def hook(module: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor:
        vectors.append(output.detach().requires_grad_())
        return vectors[-1]

    products: torch.Tensor | None = None
    handle = model.get_input_embeddings().register_forward_hook(hook)
    try:
        with evaluation_mode(encoder), torch.enable_grad():
            for batch in calibration.batches:
                loss = summed_loss(encoder, batch, labelled=False, generator=generator)
                (gradient,) = torch.autograd.grad(loss, vectors.pop())
                rows = gradient.flatten(0, 1).cpu().double()  # of padding zeros: no state of a token reads it
                products = rows.T @ rows if products is None else products.addmm_(rows.T, rows)
    finally:
        handle.remove()
    assert products is not None  # there is text
    metric = products / products.diagonal().mean()
    metric.diagonal().add_(ridge)
    return (metric / metric.diagonal().mean()).float()


__all__ = ["embedding_metric"]
