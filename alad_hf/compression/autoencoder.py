"""A linear autoencoder of a table that looks at directions first (Banaei et al. 2021, arXiv 2106.08181)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from tqdm.auto import tqdm

from .low_rank import LowRankFactors, truncated_svd

COSINE_WEIGHT = 0.9975 / 5
POWER_WEIGHT = 0.0025
_OFFSET = 1e-10
_FLATTEST = 1e-4
"""Below this distance the slope of |e| ** alpha grows no more: at 1e-10 and alpha 0.1 it would be 1e8."""

Loss = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]


def train_autoencoder(
    matrix: torch.Tensor,
    rank: int,
    *,
    start: str = "random",
    epochs: int = 20,
    final_epochs: int = 10,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    row_weights: torch.Tensor | None = None,
    seed: int = 0,
    loss: Loss | None = None,
    progress: bool = True,
) -> LowRankFactors:
    """Train latent = W x + b and row = decoder @ latent + bias; the encoder W is thrown away.

    Published are the loss, Adam, its rate, which halves every four epochs, the batch of 32 rows and 20 + 10 epochs.

    Args:
        matrix: (rows, columns).
        rank: Width of the latents, at most the columns.
        start: "random": the default of `nn.Linear`. "svd": the right singular vectors, without biases.
        epochs: Passes while the power of the second part of the loss falls from 1.0 to 0.1.
        final_epochs: Passes with a power of 0.1 after them.
        batch_size: Rows a step.
        learning_rate: Of Adam, at the beginning.
        row_weights: (rows,) non-negative: rows are drawn as often as that, so that their losses count so much. None:
            each row once a pass, as published.
        seed: Of the random start and of the order of rows.
        loss: Another loss of (reconstructed, original, power); None: `direction_loss`.
        progress: Show a progress bar.

    Raises:
        ValueError: The rank or the start is none of those that are accepted.
    """
    rows, columns = matrix.shape
    if not 1 <= rank <= columns:
        raise ValueError(f"rank must be from 1 to the {columns} columns of the matrix, got {rank}.")
    if start not in ("random", "svd"):
        raise ValueError(f'start must be "random" or "svd", got {start!r}.')
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = _maps(matrix, rank, start, row_weights, generator)
    parameters = [*encoder, *decoder]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=4, gamma=0.5)
    with torch.enable_grad():
        for epoch in tqdm(range(epochs + final_epochs), desc="Autoencoder", disable=not progress):
            power = power_at(epoch, epochs)
            if row_weights is None:
                order = torch.randperm(rows, generator=generator)
            else:
                order = torch.multinomial(row_weights, rows, replacement=True, generator=generator)
            for batch in matrix[order].split(batch_size):
                reconstructed = functional.linear(functional.linear(batch, *encoder), *decoder)
                gradients = torch.autograd.grad((loss or direction_loss)(reconstructed, batch, power), parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
            schedule.step()
    with torch.no_grad():
        return LowRankFactors(functional.linear(matrix, *encoder), decoder[0].detach(), decoder[1].detach())


def direction_loss(reconstructed: torch.Tensor, original: torch.Tensor, power: float) -> torch.Tensor:
    """(0.9975 / 5) * mean(1 - cosine) + 0.0025 * mean((|difference| + 1e-10) ** power), a scalar.

    The second part holds the norms, which the cosine leaves free, and with a small power counts wrong entries. Its
    slope is that at a distance of 1e-4 for all smaller ones.

    Args:
        reconstructed: (rows, columns).
        original: (rows, columns).
        power: From 1.0 down to 0.1.
    """
    cosine = functional.cosine_similarity(reconstructed, original, dim=1, eps=1e-6)
    return COSINE_WEIGHT * (1 - cosine).mean() + POWER_WEIGHT * _power_of(reconstructed - original, power).mean()


def power_at(epoch: int, epochs: int = 20) -> float:
    """The power in an epoch counted from 0: linearly from 1.0 to 0.1 over `epochs`, then 0.1."""
    return 1.0 - 0.9 * min(epoch / epochs, 1.0) if epochs else 0.1


def _power_of(difference: torch.Tensor, power: float) -> torch.Tensor:
    distance = difference.abs()
    fixed = distance.detach() + _OFFSET
    slope = power * fixed.clamp(min=_FLATTEST) ** (power - 1)
    # The value of the power, with a gradient of `slope`.
    return fixed**power + slope * (distance - distance.detach())


def _maps(
    matrix: torch.Tensor, rank: int, start: str, row_weights: torch.Tensor | None, generator: torch.Generator
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weight and bias of the encoder and of the decoder, trainable."""
    columns = matrix.shape[1]
    if start == "svd":
        basis = truncated_svd(matrix, rank, row_weights=row_weights).decoder
        maps = [basis.T, matrix.new_zeros(rank), basis, matrix.new_zeros(columns)]
    else:
        maps = []
        for inputs, outputs in ((columns, rank), (rank, columns)):
            bound = inputs**-0.5  # what nn.Linear draws from, for weight and bias alike
            for shape in ((outputs, inputs), (outputs,)):
                maps.append((torch.rand(shape, generator=generator, dtype=matrix.dtype) * 2 - 1) * bound)
    trainable = [nn.Parameter(tensor.contiguous()) for tensor in maps]
    return trainable[:2], trainable[2:]
