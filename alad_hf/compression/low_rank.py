"""Low-rank factors of a table by singular value decomposition: exact, and the baseline of every other method."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LowRankFactors:
    """Row = decoder @ latent + bias."""

    latents: torch.Tensor
    """(rows, rank)"""
    decoder: torch.Tensor
    """(columns, rank)"""
    bias: torch.Tensor | None = None
    """(columns,), or None: no bias."""

    def dense(self) -> torch.Tensor:
        """The table (rows, columns) that they stand for."""
        table = self.latents @ self.decoder.T
        return table if self.bias is None else table + self.bias


def truncated_svd(
    matrix: torch.Tensor, rank: int, *, centred: bool = False, row_weights: torch.Tensor | None = None
) -> LowRankFactors:
    """The factors of `rank` with the least squared error.

    From the eigenvectors of the Gram matrix (columns x columns) in float64, since float32 would square away half of
    the digits. The columns of the decoder are orthonormal, largest singular value first; their signs are arbitrary.

    Args:
        matrix: (rows, columns).
        rank: From 0 to the number of columns.
        centred: Take the mean row out first and keep it as a bias, as an autoencoder with biases does.
        row_weights: (rows,) non-negative; squared errors of rows count so much. None: all alike.

    Raises:
        ValueError: The rank is out of range.
    """
    rows, columns = matrix.shape
    if not 0 <= rank <= columns:
        raise ValueError(f"rank must be from 0 to the {columns} columns of the matrix, got {rank}.")
    wide = matrix.double()
    weights = torch.ones(rows, 1, dtype=wide.dtype) if row_weights is None else row_weights.double().unsqueeze(1)
    bias = (weights * wide).sum(dim=0) / weights.sum() if centred else None
    centred_rows = wide if bias is None else wide - bias
    _, vectors = torch.linalg.eigh(centred_rows.T @ (weights * centred_rows))
    decoder = vectors.flip(1)[:, :rank]
    return LowRankFactors(
        (centred_rows @ decoder).to(matrix.dtype),
        decoder.to(matrix.dtype),
        None if bias is None else bias.to(matrix.dtype),
    )
