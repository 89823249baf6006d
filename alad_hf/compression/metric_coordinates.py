"""Coordinates in which a metric's error is the plain squared one, so that any method can minimise it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_LEAST_EIGENVALUE = 1e-4
"""Of the mean; directions that count less would be blown up too far when they are brought back."""


@dataclass(frozen=True)
class Coordinates:
    """Those in which a metric's squared error is the plain one: rows @ root, and back by @ inverse."""

    root: torch.Tensor
    """(columns, columns), symmetric: the metric is root @ root."""
    inverse: torch.Tensor
    """(columns, columns)"""

    @classmethod
    def of(cls, metric: torch.Tensor, columns: int) -> Coordinates:
        """Those of a metric (columns, columns), which is scaled to a mean of 1 on its diagonal.

        Raises:
            ValueError: It is not symmetric and positive definite, by a margin, or of another size.
        """
        accepted = "embedding_metric makes one; with a larger ridge, directions count more alike."
        if not isinstance(metric, torch.Tensor):  # such as what --option made of it
            raise ValueError(f"metric must be a tensor, got {metric!r}. {accepted}")
        metric = metric.detach().cpu().double()
        if metric.shape != (columns, columns) or not metric.isfinite().all():
            raise ValueError(
                f"metric must be {columns} x {columns} finite numbers, got shape {tuple(metric.shape)}. {accepted}"
            )
        if not torch.allclose(metric, metric.T, rtol=1e-4, atol=1e-6 * float(metric.abs().max())):
            raise ValueError(f"metric must be symmetric. {accepted}")
        mean = float(metric.diagonal().mean())
        values, basis = torch.linalg.eigh((metric + metric.T) / 2)
        if mean <= 0 or values[0] < _LEAST_EIGENVALUE * mean:
            raise ValueError(
                f"metric must be positive definite: its smallest eigenvalue is {values[0]:.3g}, "
                f"{_LEAST_EIGENVALUE} of the mean {mean:.3g} is the least. {accepted}"
            )
        roots = (values / mean).sqrt()
        return cls(((basis * roots) @ basis.T).float(), ((basis / roots) @ basis.T).float())
