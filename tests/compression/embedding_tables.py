"""Small tables for the tests of embedding compression."""

from __future__ import annotations

import torch


def power_law_table(rows: int = 400, columns: int = 16, seed: int = 0) -> torch.Tensor:
    """Normal rows in a random basis whose singular values fall, around a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, columns + 1).float() ** -0.5
    basis, _ = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
    return (torch.randn(rows, columns, generator=generator) * scales) @ basis + 0.3 * basis[0]


def squared_error(table: torch.Tensor, other: torch.Tensor) -> float:
    """Sum of squared differences."""
    return (table - other).double().square().sum().item()
