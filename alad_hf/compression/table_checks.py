"""What a table of token embeddings, and weights of its rows, must be to be compressed."""

from __future__ import annotations

import torch

_LARGEST_FLOAT16 = 65504.0


def check_table(table: torch.Tensor, factor_dtype: str) -> None:
    """Raise ValueError if a table is no matrix, has entries that are not finite, or does not fit the factors' type."""
    if table.dim() != 2 or not table.numel():
        raise ValueError(f"A table has rows and columns, got shape {tuple(table.shape)}.")
    wrong = ~table.isfinite().all(dim=1)
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} rows of the table, the first being {int(wrong.nonzero()[0])}, have entries that are "
            "not finite (NaN or infinite): repair the checkpoint, such as with table.nan_to_num_(0.0)."
        )
    longest = float(table.norm(dim=1).max())
    if not longest:
        raise ValueError("All entries of the table are zero: it has not been loaded or initialised.")
    if factor_dtype == "float16" and longest > _LARGEST_FLOAT16:
        raise ValueError(
            f'A row has norm {longest:.3g}, float16 goes to {_LARGEST_FLOAT16:.0f}: take factor_dtype="float32".'
        )


def checked_weights(weights: torch.Tensor, rows: int) -> torch.Tensor:
    """Row weights (rows,) on the CPU with a mean of 1; ValueError if they are none."""
    weights = weights.detach().float().cpu()
    if weights.shape != (rows,) or not weights.isfinite().all() or weights.min() < 0 or weights.sum() == 0:
        raise ValueError(
            f"row_weights must be {rows} finite numbers, none negative and not all zero, got shape "
            f"{tuple(weights.shape)} with {weights.min():.3g} to {weights.max():.3g}. token_weights makes them."
        )
    return weights / weights.mean()
