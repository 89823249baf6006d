"""How far a table is from the one it stands for: by direction, by distance, and by which rows are neighbours."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class ReconstructionError:
    """Errors of a table against its original."""

    mean_cosine: float
    """Mean over rows of the cosine between the two."""
    weighted_cosine: float
    """The same with rows weighted; without weights equal to `mean_cosine`."""
    worst_cosine: float
    """Lowest cosine of a row."""
    rmse: float
    """Root of the mean squared difference of entries."""
    relative_error: float
    """Sum of squared differences over the sum of squared entries of the original."""
    norm_ratio: float
    """Mean over rows of the norm, over the original's."""
    neighbour_overlap: float
    """Share of a row's nearest rows by cosine that are nearest in the original too; mean over a sample of rows."""

    def as_dict(self) -> dict[str, float]:
        """Plain JSON."""
        return asdict(self)


def reconstruction_error(
    original: torch.Tensor,
    reconstructed: torch.Tensor,
    *,
    row_weights: torch.Tensor | None = None,
    neighbours: int = 10,
    sample: int = 1000,
    seed: int = 0,
) -> ReconstructionError:
    """Compare a table with its original.

    Rows of zeros in the original have no direction and no neighbours; they are left out of cosines and norm ratio.

    Args:
        original: (rows, columns).
        reconstructed: (rows, columns).
        row_weights: (rows,) for `weighted_cosine`, such as how often each token occurs.
        neighbours: How many nearest rows are compared.
        sample: Rows whose neighbours are looked up; all if there are fewer.
        seed: Draws the sample.

    Raises:
        ValueError: The tables differ in shape.
    """
    if original.shape != reconstructed.shape:
        raise ValueError(
            f"The tables must have one shape, got {tuple(original.shape)} and {tuple(reconstructed.shape)}."
        )
    difference = (reconstructed - original).double().square().sum()
    directed = original.norm(dim=1) > 0
    original, reconstructed = original[directed], reconstructed[directed]
    weights = torch.ones(len(original)) if row_weights is None else row_weights[directed].float()
    cosines = functional.cosine_similarity(original, reconstructed, dim=1)
    return ReconstructionError(
        mean_cosine=cosines.mean().item(),
        weighted_cosine=((weights * cosines).sum() / weights.sum()).item(),
        worst_cosine=cosines.min().item(),
        rmse=(difference / (len(directed) * original.shape[1])).sqrt().item(),
        relative_error=(difference / original.double().square().sum()).item(),
        norm_ratio=(reconstructed.norm(dim=1) / original.norm(dim=1)).mean().item(),
        neighbour_overlap=_overlap(original, reconstructed, neighbours, sample, seed),
    )


def _overlap(original: torch.Tensor, reconstructed: torch.Tensor, neighbours: int, sample: int, seed: int) -> float:
    rows = torch.randperm(len(original), generator=torch.Generator().manual_seed(seed))[:sample]
    neighbours = min(neighbours, len(original) - 1)
    if neighbours < 1:
        return 1.0
    nearest = []
    for table in (original, reconstructed):
        directions = functional.normalize(table, dim=1)
        cosines = directions[rows] @ directions.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf  # a row is no neighbour of itself
        nearest.append(cosines.topk(neighbours, dim=1).indices)
    common = (nearest[0].unsqueeze(2) == nearest[1].unsqueeze(1)).sum()
    return common.item() / (len(rows) * neighbours)
