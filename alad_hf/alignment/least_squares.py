"""Ridge and reduced-rank regression from second moments, which are gathered in one pass over any length of text.

Memory does not grow with the text, sums are in float64, and processes add theirs up. Ridge regression is of Hoerl and
Kennard (1970), reduced-rank regression of Izenman (1975).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import accelerate
import torch

SMALLEST_PIVOT = 1e-12
"""A feature of which the others leave no larger share unexplained counts as their linear combination."""


class AffineMap(NamedTuple):
    """f -> weight f + bias, in float64."""

    weight: torch.Tensor
    """(targets, features)."""
    bias: torch.Tensor
    """(targets,)."""


class LowRankMap(NamedTuple):
    """f -> up down f + bias, in float64."""

    down: torch.Tensor
    """(rank, features)."""
    up: torch.Tensor
    """(targets, rank)."""
    bias: torch.Tensor
    """(targets,)."""

    @property
    def weight(self) -> torch.Tensor:
        """The product of both factors, (targets, features)."""
        return self.up @ self.down


class Covariances(NamedTuple):
    """What the solvers read: means and covariances of features and targets."""

    feature_mean: torch.Tensor
    target_mean: torch.Tensor
    features: torch.Tensor
    """(features, features)."""
    cross: torch.Tensor
    """(features, targets)."""
    targets: torch.Tensor
    """(targets, targets)."""


@dataclass
class AlignmentMoments:
    """Weighted sums of features f, targets y and their products, in float64 on the CPU.

    Sums add up: any split of the text, into batches or between processes, gives the same moments.

    Example:
        >>> moments = AlignmentMoments.zeros(5 * 384, 384)
        >>> moments.update(context_windows(student_states, 5), teacher_states, attention_mask)
        >>> best = ridge(moments, regularisation=1e-4)
    """

    weight: torch.Tensor
    """(), the sum of the weights: of tokens, where each counts once."""
    feature_sum: torch.Tensor
    target_sum: torch.Tensor
    feature_products: torch.Tensor
    """(features, features), sum of w f f^T."""
    cross_products: torch.Tensor
    """(features, targets), sum of w f y^T."""
    target_products: torch.Tensor
    """(targets, targets), sum of w y y^T."""

    @classmethod
    def zeros(cls, num_features: int, num_targets: int) -> AlignmentMoments:
        """The moments of no text."""
        shapes = [(), (num_features,), (num_targets,)]
        shapes += [(num_features, num_features), (num_features, num_targets), (num_targets, num_targets)]
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))

    def update(self, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """Add tokens.

        Args:
            features: (..., features).
            targets: (..., targets).
            weights: (...) of the tokens; what stands where the weight is zero is not read, NaN included.
        """
        counted = weights != 0
        scale = weights[counted].cpu().double().unsqueeze(-1)
        features, targets = (values[counted].cpu().double() for values in (features, targets))
        scaled = features * scale
        self.weight += scale.sum()
        self.feature_sum += scaled.sum(dim=0)
        self.target_sum += (targets * scale).sum(dim=0)
        self.feature_products.addmm_(scaled.T, features)
        self.cross_products.addmm_(scaled.T, targets)
        self.target_products.addmm_((targets * scale).T, targets)

    def __add__(self, other: AlignmentMoments) -> AlignmentMoments:
        return AlignmentMoments(*(one + two for one, two in zip(self._sums(), other._sums(), strict=True)))

    def add_processes(self) -> None:
        """Replace the sums by those over all processes; nothing happens where there is one."""
        add_over_processes(*self._sums())

    def covariances(self) -> Covariances:
        """Means and covariances.

        Raises:
            ValueError: No token has weight, or a state is not finite.
        """
        if not self.weight > 0:
            raise ValueError("The moments are of no token: the text is empty, or all of its tokens have weight 0.")
        if not all(values.isfinite().all() for values in self._sums()):
            raise ValueError("A state of the student or the teacher is not finite (NaN or infinity).")
        feature_mean, target_mean = self.feature_sum / self.weight, self.target_sum / self.weight
        return Covariances(
            feature_mean,
            target_mean,
            self.feature_products / self.weight - torch.outer(feature_mean, feature_mean),
            self.cross_products / self.weight - torch.outer(feature_mean, target_mean),
            self.target_products / self.weight - torch.outer(target_mean, target_mean),
        )

    def _sums(self) -> list[torch.Tensor]:
        return list(vars(self).values())


def running_processes() -> accelerate.PartialState:
    """This process among those that `accelerate launch` or the Trainer started."""
    return accelerate.PartialState(cpu=accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU"))


def add_over_processes(*tensors: torch.Tensor) -> None:
    """Replace each tensor by its sum over all processes."""
    state = running_processes()
    if state.num_processes > 1:
        for tensor in tensors:
            total = tensor.to(state.device)  # NCCL adds on its own device only
            torch.distributed.all_reduce(total)
            tensor.copy_(total)


def ridge(moments: AlignmentMoments, regularisation: float) -> AffineMap:
    """The map W f + b of least mean |y - W f - b|^2 + penalty |W|^2; b is not penalised.

    Args:
        moments: Of features and targets.
        regularisation: The penalty as a share of the mean eigenvalue of the features' covariance, >= 0.

    Raises:
        ValueError: The features are linearly dependent and `regularisation` is too small to decide between the
            solutions, or it is negative.
    """
    covariances = moments.covariances()
    weight = solve(covariances.features, covariances.cross, regularisation).T
    return AffineMap(weight, covariances.target_mean - weight @ covariances.feature_mean)


def reduced_rank(
    moments: AlignmentMoments, rank: int, regularisation: float, metric: torch.Tensor | None = None
) -> LowRankMap:
    """The map of at most the given rank with the least mean r^T M r, r = y - W f - b (Izenman 1975).

    With M^(1/2) = R, R W is the projection of R times the ridge solution onto the leading eigenvectors of
    R S_yf (S_ff + penalty)^-1 S_fy R. What M does not see is left to the bias.

    Args:
        moments: Of features and targets.
        rank: From 1 to the number of targets.
        regularisation: As in `ridge`; the penalty is on R W.
        metric: M, (targets, targets), symmetric and positive semidefinite: how much an error matters. By default the
            identity. For a linear head H behind the states, H^T H is the squared error of its logits.

    Raises:
        ValueError: `rank` is out of range or `metric` is no metric, and what `ridge` raises.
    """
    covariances = moments.covariances()
    size = len(covariances.target_mean)
    if not 1 <= rank <= size:
        raise ValueError(f"rank must be from 1 to the number of targets, {size}, got {rank}.")
    coefficients = solve(covariances.features, covariances.cross, regularisation)
    root, inverse_root = symmetric_roots(torch.eye(size) if metric is None else metric, size)
    explained = root @ (covariances.cross.T @ coefficients) @ root
    leading = torch.linalg.eigh((explained + explained.T) / 2).eigenvectors[:, -rank:].flip(-1)
    down, up = leading.T @ root @ coefficients.T, inverse_root @ leading
    return LowRankMap(down, up, covariances.target_mean - up @ (down @ covariances.feature_mean))


def mean_squared_error(
    moments: AlignmentMoments, fitted: AffineMap | LowRankMap, metric: torch.Tensor | None = None
) -> float:
    """The weighted mean over tokens of a map's squared error, from the moments alone.

    Args:
        moments: Of the features that the map reads and the targets.
        fitted: Any map of them.
        metric: M of r^T M r, (targets, targets); by default the mean over the width, as in the alignment loss.
    """
    covariances = moments.covariances()
    weight = fitted.weight
    explained = weight @ covariances.cross
    offset = covariances.target_mean - weight @ covariances.feature_mean - fitted.bias
    residual = covariances.targets - explained - explained.T + weight @ covariances.features @ weight.T
    residual += torch.outer(offset, offset)
    if metric is None:
        error = residual.trace() / len(offset)
    else:
        error = (metric.cpu().double() * residual).sum()
    return max(error.item(), 0.0)


def r_squared(moments: AlignmentMoments, fitted: AffineMap | LowRankMap) -> float:
    """The share of the targets' variance, summed over the width, that a map explains; 1 is all of it."""
    variance = moments.covariances().targets.trace().item() / len(moments.target_sum)
    return 1 - mean_squared_error(moments, fitted) / variance if variance > 0 else math.nan


def penalised(matrix: torch.Tensor, regularisation: float) -> torch.Tensor:
    """Add a share of the mean eigenvalue to the diagonal of a symmetric matrix."""
    if not 0 <= regularisation < math.inf:
        raise ValueError(f"regularisation must be finite and not negative, got {regularisation}.")
    return matrix + regularisation * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)


def solve(matrix: torch.Tensor, right: torch.Tensor, regularisation: float) -> torch.Tensor:
    """The penalised matrix's inverse times `right`."""
    sum_of_both = penalised(matrix, regularisation)
    factor, failed = torch.linalg.cholesky_ex(sum_of_both)
    pivots = factor.diagonal().square() / sum_of_both.diagonal()
    if failed or not (pivots > SMALLEST_PIVOT).all():
        raise ValueError(
            f"The {len(matrix)} features are linearly dependent on this text, so that many maps fit it equally well "
            f"(regularisation={regularisation:g}). Pass a larger one, such as 1e-4, or more text."
        )
    return torch.cholesky_solve(right, factor)


def symmetric_roots(metric: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The symmetric square root of a metric and its pseudo-inverse."""
    metric = metric.cpu().double()
    if metric.shape != (size, size) or not torch.allclose(metric, metric.T):
        raise ValueError(f"metric must be symmetric of shape ({size}, {size}), got shape {tuple(metric.shape)}.")
    values, vectors = torch.linalg.eigh(metric)
    rounding = values[-1].abs() * size * torch.finfo(torch.float64).eps
    # A metric made in float32 may be off zero by as much as that precision.
    if not values[-1] > 0 or values[0] < -values[-1] * size * torch.finfo(torch.float32).eps:
        raise ValueError(f"metric must be positive semidefinite, its eigenvalues are {values[0]:g} to {values[-1]:g}.")
    seen = values > rounding
    roots = torch.where(seen, values, 0).sqrt()
    inverses = torch.where(seen, 1 / roots, 0)
    return vectors * roots @ vectors.T, vectors * inverses @ vectors.T
