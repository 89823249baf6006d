"""LightToken (Wang et al., KDD 2023): a low-rank part and binary codes of what it leaves, in stages.

The paper's text says what is done but neither its formulas nor its sizes; those are a reconstruction. Beyond the paper
are the refinement of codes (`code_refinement`), its start without autoencoders, and weights of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from .code_refinement import fit_decoder, improve_bits, rotation_bits, transform_bits
from .low_rank import truncated_svd

STARTS = ("autoencoder", "rotation", "transform")
NORM_WEIGHT, ANGLE_WEIGHT = 1.0, 1.5
_FIRST_TEMPERATURE, _LAST_TEMPERATURE = 1.0, 0.05
_BATCH, _EPOCHS, _LEARNING_RATE = 256, 8, 3e-3
_DEAD_SHARE = 0.01
_NEAR_ENOUGH = 0.001
"""Relative squared error, a cosine of 0.9995, below which a row has no claim on balance."""
_LEAST_NORM = 0.01
"""Share of the mean square of a row that the smallest rows count as having."""


@dataclass(frozen=True)
class BinaryFactors:
    """Row = sum of the decoder's rows whose bit is set + bias + low_rank_decoder @ latent."""

    bits: torch.Tensor
    """(rows, bits) float, 0 or 1"""
    decoder: torch.Tensor
    """(bits, columns)"""
    bias: torch.Tensor
    """(columns,)"""
    latents: torch.Tensor
    """(rows, rank)"""
    low_rank_decoder: torch.Tensor
    """(columns, rank)"""
    errors: list[float] = field(default_factory=list)
    """Relative squared error with hard codes: of the low-rank part, after every stage, after the joint fit of all
    decoders, and after every round of refinement."""

    def dense(self) -> torch.Tensor:
        """The table (rows, columns) that they stand for."""
        return self.bits @ self.decoder + self.bias + self.latents @ self.low_rank_decoder.T

    @property
    def dead_bits(self) -> int:
        """Bits that are the same in more than 99 % of the rows: they say nothing."""
        share = self.bits.mean(dim=0)
        return int(((share < _DEAD_SHARE) | (share > 1 - _DEAD_SHARE)).sum())


def binary_factors(
    matrix: torch.Tensor,
    bits: int,
    *,
    rank: int = 0,
    stages: int = 1,
    start: str = "rotation",
    refinement: int = 8,
    row_weights: torch.Tensor | None = None,
    balance: float = 0.0,
    seed: int = 0,
    progress: bool = True,
) -> BinaryFactors:
    """Code a matrix.

    1. A low-rank part by singular value decomposition.
    2. Codes of the rest. "autoencoder" is the paper's way: `stages` residual binary autoencoders, each trained with a
       sigmoid that steepens until it is nearly a step, each on what the hard codes of those before it leave, its
       decoder then fitted to its hard codes by least squares. "rotation" and "transform" are `rotation_bits` and
       `transform_bits`.
    3. All decoders jointly by least squares on the hard codes.
    4. `refinement` rounds: every bit of every row in turn set to what is better under the decoders, the low-rank part
       fitted to what the codes leave, and the decoders to the codes.

    Args:
        matrix: (rows, columns).
        bits: Length of a code, at least 1.
        rank: Of the low-rank part, 0 for none.
        stages: Binary autoencoders, which share the bits; of the start "autoencoder" only.
        start: Where the codes come from.
        refinement: Rounds; 0 keeps the codes.
        row_weights: (rows,) non-negative; squared errors of rows count so much. None: all alike.
        balance: Power p of reweighting rows in refinement, before every fit of the decoders, by
            (squared error / squared norm + 0.001) ** p / squared norm: for rows that fare worst. 0: none. Without
            the constant, a few rows of a table that is all but exact would count for everything.
        seed: Of the autoencoders, rotations and orders.
        progress: Show a progress bar.

    Raises:
        ValueError: A number or the start is none of those that are accepted.
    """
    if bits < 1 or not 1 <= stages <= bits:
        raise ValueError(f"bits must be positive and stages from 1 to bits, got bits={bits} and stages={stages}.")
    if start not in STARTS:
        raise ValueError(f"start must be one of {STARTS}, got {start!r}.")
    generator = torch.Generator().manual_seed(seed)
    low_rank = truncated_svd(matrix, rank, row_weights=row_weights)
    approximation = low_rank.dense()
    errors = [_relative_error(matrix, approximation)]
    with tqdm(total=(stages if start == "autoencoder" else 1) + refinement, desc="Codes", disable=not progress) as bar:
        if start == "autoencoder":
            codes = []
            for size in _sizes(bits, stages):
                code = _train_stage(matrix, approximation, size, row_weights, generator)
                approximation = approximation + _decoded(code, *fit_decoder(code, matrix - approximation, row_weights))
                errors.append(_relative_error(matrix, approximation))
                codes.append(code)
                bar.update()
            code = torch.cat(codes, dim=1)
        else:
            rest = matrix - approximation
            code = rotation_bits(rest, bits, generator) if start == "rotation" else transform_bits(rest, bits)
            bar.update()
        weights = row_weights
        targets = matrix - low_rank.dense()
        decoder, bias = fit_decoder(code, targets, weights)
        approximation = matrix - targets + _decoded(code, decoder, bias)
        errors.append(_relative_error(matrix, approximation))
        for _ in range(refinement):
            code = improve_bits(code, targets, decoder, bias, generator)
            weights = _balanced(matrix, low_rank.dense() + _decoded(code, decoder, bias), row_weights, balance)
            if rank:
                low_rank = truncated_svd(matrix - _decoded(code, decoder, bias), rank, row_weights=weights)
                targets = matrix - low_rank.dense()
            decoder, bias = fit_decoder(code, targets, weights)
            errors.append(_relative_error(matrix, low_rank.dense() + _decoded(code, decoder, bias)))
            bar.update()
    return BinaryFactors(code, decoder, bias, low_rank.latents, low_rank.decoder, errors)


def default_start(bits: int, columns: int) -> str:
    """What refinement does most with: see the two functions in `code_refinement`."""
    return "rotation" if bits <= 2 * columns else "transform"


def default_refinement(bits: int, rows: int) -> int:
    """Rounds that take about a minute at most on an idle core, from 1 to 8: a round takes rows * bits ** 2."""
    return max(1, min(8, int(3e10 / (rows * bits**2))))


def upper_bound_loss(
    reconstructed: torch.Tensor,
    original: torch.Tensor,
    *,
    norm_weight: float = NORM_WEIGHT,
    angle_weight: float = ANGLE_WEIGHT,
) -> torch.Tensor:
    """norm_weight * (|x| - |y|) ** 2 + 2 * angle_weight * |x| |y| (1 - cosine), by row (rows,).

    With both weights 1 it is the squared distance, and with larger ones an upper bound of it; an angle weight above
    the norm weight makes directions count more. Nothing is divided by a norm.

    Args:
        reconstructed: (rows, columns), the whole row and not what a stage adds: angles of residuals mean nothing.
        original: (rows, columns).
        norm_weight: At least 1 for a bound.
        angle_weight: At least 1 for a bound.
    """
    # The root has no gradient at zero.
    norms = [(table.square().sum(dim=1) + 1e-12).sqrt() for table in (reconstructed, original)]
    product = (reconstructed * original).sum(dim=1)
    return norm_weight * (norms[0] - norms[1]).square() + 2 * angle_weight * (norms[0] * norms[1] - product)


def _train_stage(
    matrix: torch.Tensor,
    approximation: torch.Tensor,
    bits: int,
    row_weights: torch.Tensor | None,
    generator: torch.Generator,
) -> torch.Tensor:
    """Hard codes (rows, bits) of a binary autoencoder of what an approximation leaves."""
    rows, columns = matrix.shape
    residual = matrix - approximation
    # Of unit variance, so that sigmoids begin neither saturated nor blind; around zero and without thresholds, since
    # trained thresholds run away and leave nearly every bit dead: each bit goes on parting rows at their mean.
    inputs = (residual - residual.mean(dim=0)) / residual.std().clamp(min=1e-12)
    weights = torch.ones(rows) if row_weights is None else row_weights
    encoder = nn.Parameter(torch.randn(columns, bits, generator=generator) / columns**0.5)
    start = (inputs @ encoder > 0).float()
    decoder, bias = (nn.Parameter(tensor) for tensor in fit_decoder(start, residual, row_weights))
    parameters = [encoder, decoder, bias]
    groups: list[dict[str, Any]] = [
        {"params": [encoder]},
        {"params": [decoder, bias], "lr": _LEARNING_RATE * float(residual.std())},
    ]
    optimizer = torch.optim.Adam(
        groups,
        lr=_LEARNING_RATE,
        fused=True,
    )
    steps = _EPOCHS * -(-rows // _BATCH)
    step = 0
    with torch.enable_grad():
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(rows, generator=generator).split(_BATCH):
                temperature = _FIRST_TEMPERATURE * (_LAST_TEMPERATURE / _FIRST_TEMPERATURE) ** (step / steps)
                soft = torch.sigmoid(inputs[chosen] @ encoder / temperature)
                reconstructed = approximation[chosen] + torch.addmm(bias, soft, decoder)
                loss = (weights[chosen] * upper_bound_loss(reconstructed, matrix[chosen])).mean()
                gradients = torch.autograd.grad(loss, parameters)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                step += 1
    with torch.no_grad():
        return (inputs @ encoder > 0).to(matrix.dtype)


def _sizes(bits: int, stages: int) -> list[int]:
    """Bits of each stage, as even as can be."""
    return [bits * (stage + 1) // stages - bits * stage // stages for stage in range(stages)]


def _balanced(
    matrix: torch.Tensor, approximation: torch.Tensor, row_weights: torch.Tensor | None, balance: float
) -> torch.Tensor | None:
    if not balance:
        return row_weights
    norms = matrix.square().sum(dim=1)
    # A row of zeros, as of padding that was never trained, would otherwise count for all others.
    norms = norms.clamp(min=max(_LEAST_NORM * norms.mean().item(), 1e-12))
    weights = ((matrix - approximation).square().sum(dim=1) / norms + _NEAR_ENOUGH) ** balance / norms
    weights = weights if row_weights is None else weights * row_weights
    return weights / weights.mean()


def _decoded(code: torch.Tensor, decoder: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.addmm(bias, code, decoder)


def _relative_error(matrix: torch.Tensor, approximation: torch.Tensor) -> float:
    return ((matrix - approximation).square().sum() / matrix.square().sum()).item()
