"""Rounding to 8 or 4 bits with one scale a row: what anyone would try first."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Shares of a row's largest entry that are tried as the end of its range; clipping a few entries pays with 4 bits.
_CLIPPING = {8: (1.0,), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)}


@dataclass(frozen=True)
class RoundedRows:
    """Row = integers * scale."""

    integers: torch.Tensor
    """(rows, columns), from -(2 ** (bits - 1) - 1) to 2 ** (bits - 1) - 1."""
    row_scales: torch.Tensor
    """(rows,)"""

    def dense(self) -> torch.Tensor:
        """The table (rows, columns) that they stand for."""
        return self.integers * self.row_scales.unsqueeze(1)


def round_rows(matrix: torch.Tensor, bits: int, *, clipping: bool = True) -> RoundedRows:
    """Symmetric rounding by row.

    Args:
        matrix: (rows, columns).
        bits: 8 or 4.
        clipping: With 4 bits, let each row clip its largest entries where that lowers its squared error. False is
            plain rounding, with the largest entry at the end of the range.

    Raises:
        ValueError: Other bits.
    """
    if bits not in _CLIPPING:
        raise ValueError(f"bits must be one of {sorted(_CLIPPING)}, got {bits}.")
    largest = 2 ** (bits - 1) - 1
    # A row of zeros gets a scale too: any will do.
    peaks = matrix.abs().amax(dim=1).clamp(min=torch.finfo(matrix.dtype).tiny * largest)
    best: RoundedRows | None = None
    lowest = torch.full_like(peaks, torch.inf)
    for share in _CLIPPING[bits] if clipping else (1.0,):
        scales = peaks * (share / largest)
        integers = (matrix / scales.unsqueeze(1)).round().clamp(-largest, largest)
        errors = (integers * scales.unsqueeze(1) - matrix).square().sum(dim=1)
        if best is None:
            best, lowest = RoundedRows(integers, scales), errors
            continue
        better = errors < lowest
        lowest = torch.where(better, errors, lowest)
        best = RoundedRows(
            torch.where(better.unsqueeze(1), integers, best.integers), torch.where(better, scales, best.row_scales)
        )
    assert best is not None
    return best
