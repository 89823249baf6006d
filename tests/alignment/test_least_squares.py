"""Least squares from moments against numpy, gradient descent and alternating least squares."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from alad_hf.alignment.least_squares import (
    AffineMap,
    AlignmentMoments,
    mean_squared_error,
    r_squared,
    reduced_rank,
    ridge,
)
from alad_hf.models.alignment_adapter import LinearAdapter, context_windows

STUDENT, TEACHER = 4, 6
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def text(batches: int = 4, noise: float = 0.5, dtype: torch.dtype = torch.float64) -> list[Batch]:
    """Batches of student states, teacher states and weights; the teacher depends on neighbours, and bends."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, STUDENT, TEACHER, generator=generator, dtype=torch.float64)
    result = []
    for _ in range(batches):
        states = torch.randn(5, 8, STUDENT, generator=generator, dtype=torch.float64)
        states = states @ torch.diag(torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=torch.float64)) + 1
        lengths = torch.randint(1, 9, (5, 1), generator=generator)
        weights = (torch.arange(8) < lengths).double()
        states = states * weights.unsqueeze(-1)
        targets = context_windows(states, 3) @ maps.flatten(0, 1) + states[..., :1].sin()
        targets += noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)
        result.append((states.to(dtype), targets.to(dtype), weights))
    return result


def moments_of(batches: list[Batch], window_size: int = 3) -> AlignmentMoments:
    moments = AlignmentMoments.zeros(window_size * STUDENT, TEACHER)
    for states, targets, weights in batches:
        moments.update(context_windows(states, window_size), targets, weights)
    return moments


def rows_of(batches: list[Batch], window_size: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Windows and targets of the real tokens, one by one."""
    windows, targets = [], []
    radius = window_size // 2
    for states, batch_targets, weights in batches:
        for row, token in itertools.product(range(states.shape[0]), range(states.shape[1])):
            if weights[row, token] == 0:
                continue
            window = np.zeros((window_size, STUDENT))
            for offset in range(-radius, radius + 1):
                if 0 <= token + offset < states.shape[1]:
                    window[offset + radius] = states[row, token + offset].numpy()
            windows.append(window.ravel())
            targets.append(batch_targets[row, token].numpy())
    return np.stack(windows), np.stack(targets)


def close(one: torch.Tensor | np.ndarray, other: torch.Tensor | np.ndarray, tolerance: float = 1e-9) -> None:
    one, other = (torch.as_tensor(value) for value in (one, other))
    torch.testing.assert_close(one, other, atol=tolerance, rtol=0, check_dtype=False)


def same_moments(one: AlignmentMoments, other: AlignmentMoments) -> None:
    for name, value in vars(one).items():
        torch.testing.assert_close(getattr(other, name), value, atol=1e-9, rtol=1e-12, msg=name)


class TestMoments:
    def test_any_split_and_order_give_the_same(self) -> None:
        whole = moments_of(text())
        rows = [
            (states[row : row + 1], targets[row : row + 1], weights[row : row + 1])
            for states, targets, weights in reversed(text())
            for row in range(5)
        ]
        same_moments(moments_of(rows), whole)
        same_moments(moments_of(text()[:1]) + moments_of(text()[1:]), whole)

    def test_padding_and_what_stands_in_it_count_for_nothing(self) -> None:
        padded = []
        for states, targets, weights in text():
            targets = targets.masked_fill(weights.unsqueeze(-1) == 0, float("nan"))
            padded.append(
                (
                    functional.pad(states, (0, 0, 0, 3)),
                    functional.pad(targets, (0, 0, 0, 3), value=float("nan")),
                    functional.pad(weights, (0, 3)),
                )
            )
        same_moments(moments_of(padded), moments_of(text()))

    def test_a_weight_counts_like_repetition(self) -> None:
        doubled = [(states, targets, 2 * weights) for states, targets, weights in text()]
        same_moments(moments_of(doubled), moments_of(text() + text()))

    def test_float64_sums_survive_a_large_mean(self) -> None:
        """States near 10,000 with deviation 1, as outlier dimensions of encoders have: squares lose it in float32."""
        batches = [
            (states + 1e4 * weights.unsqueeze(-1).float(), targets, weights)
            for states, targets, weights in text(8, dtype=torch.float32)
        ]
        fitted = ridge(moments_of(batches, 1), regularisation=0)
        windows, targets = rows_of(batches, 1)
        weight = np.linalg.lstsq(windows - windows.mean(0), targets - targets.mean(0), rcond=None)[0].T
        close(fitted.weight, weight, 1e-5)

        single = moments_of(batches, 1)
        for name, value in vars(single).items():
            setattr(single, name, value.float().double())
        with pytest.raises(ValueError, match="linearly dependent"):
            ridge(single, regularisation=0)


class TestRidge:
    @pytest.mark.parametrize("window_size", [1, 3, 5])
    def test_is_least_squares_on_the_concatenated_windows(self, window_size: int) -> None:
        windows, targets = rows_of(text(), window_size)
        with_ones = np.concatenate([windows, np.ones((len(windows), 1))], axis=1)
        expected = np.linalg.lstsq(with_ones, targets, rcond=None)[0]
        moments = moments_of(text(), window_size)
        fitted = ridge(moments, regularisation=0)
        close(fitted.weight, expected[:-1].T)
        close(fitted.bias, expected[-1])
        error = np.square(with_ones @ expected - targets).mean()
        assert mean_squared_error(moments, fitted) == pytest.approx(error, rel=1e-9)
        variance = np.square(targets - targets.mean(0)).mean()
        assert r_squared(moments, fitted) == pytest.approx(1 - error / variance, rel=1e-9)

    def test_penalty_is_a_share_of_the_mean_variance_and_spares_the_bias(self) -> None:
        windows, targets = rows_of(text())
        centred = windows - windows.mean(0)
        penalty = 0.3 * np.square(centred).sum() / centred.shape[1]
        rows = np.concatenate([centred, np.sqrt(penalty) * np.eye(centred.shape[1])])
        right = np.concatenate([targets - targets.mean(0), np.zeros((centred.shape[1], TEACHER))])
        weight = np.linalg.lstsq(rows, right, rcond=None)[0].T
        fitted = ridge(moments_of(text()), regularisation=0.3)
        close(fitted.weight, weight)
        close(fitted.bias, targets.mean(0) - weight @ windows.mean(0))

    def test_a_wider_window_never_fits_worse(self) -> None:
        errors = []
        for window_size in (1, 3, 5):
            moments = moments_of(text(), window_size)
            errors.append(mean_squared_error(moments, ridge(moments, 0)))
        assert errors[0] > 2 * errors[1]
        assert errors[1] >= errors[2]

    def test_gradient_descent_gets_close_and_never_below(self) -> None:
        moments = moments_of(text())
        best = mean_squared_error(moments, ridge(moments, 0))
        adapter = LinearAdapter(STUDENT, TEACHER, 3, None).double()
        optimizer = torch.optim.LBFGS(adapter.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            error = measured(adapter)
            error.backward()
            return error

        def measured(adapter: LinearAdapter) -> torch.Tensor:
            errors = [
                (adapter(states) - targets)[weights > 0].square().mean(dim=-1) for states, targets, weights in text()
            ]
            return torch.cat(errors).mean()

        start = measured(adapter).item()
        untrained = AffineMap(adapter.linear.weight.data, adapter.linear.bias.data)
        assert mean_squared_error(moments, untrained) == pytest.approx(start, rel=1e-9)
        optimizer.step(loss)
        trained = measured(adapter).item()
        assert best * (1 - 1e-12) <= trained < best * (1 + 1e-4) < start / 3

    def test_dependent_features_are_refused_without_a_penalty(self) -> None:
        batches = [
            (torch.cat([states[..., :3], states[..., :1] - states[..., 1:2]], -1), targets, weights)
            for states, targets, weights in text()
        ]
        moments = moments_of(batches)
        with pytest.raises(ValueError, match=r"12 features are linearly dependent.*regularisation=0.*larger"):
            ridge(moments, regularisation=0)
        assert ridge(moments, regularisation=1e-4).weight.isfinite().all()

    def test_what_cannot_be_solved_is_named(self) -> None:
        with pytest.raises(ValueError, match="of no token"):
            ridge(AlignmentMoments.zeros(2, 3), 0.1)
        broken = moments_of(text())
        broken.update(torch.full((1, 12), float("nan")), torch.ones(1, TEACHER), torch.ones(1))
        with pytest.raises(ValueError, match="not finite"):
            ridge(broken, 0.1)
        for value in (-1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="regularisation must be finite and not negative"):
                ridge(moments_of(text()), value)


def alternating_least_squares(
    windows: np.ndarray, targets: np.ndarray, rank: int, metric: np.ndarray, seed: int
) -> float:
    """The error r^T M r of factors found by solving for one while the other is held, from a random start."""
    values, vectors = np.linalg.eigh(metric)
    root = vectors * np.sqrt(values) @ vectors.T
    windows, targets = windows - windows.mean(0), (targets - targets.mean(0)) @ root
    down = np.random.default_rng(seed).normal(size=(windows.shape[1], rank))
    for _ in range(500):
        up = np.linalg.lstsq(windows @ down, targets, rcond=None)[0]
        down = np.linalg.lstsq(windows, targets @ np.linalg.pinv(up), rcond=None)[0]
    return float(np.square(windows @ down @ up - targets).sum(axis=1).mean())


class TestReducedRank:
    def test_error_falls_with_the_rank_down_to_ridge(self) -> None:
        moments = moments_of(text())
        maps = [reduced_rank(moments, rank, regularisation=0) for rank in range(1, TEACHER + 1)]
        errors = [mean_squared_error(moments, fitted) for fitted in maps]
        assert all(before > after for before, after in itertools.pairwise(errors))
        assert [torch.linalg.matrix_rank(fitted.weight).item() for fitted in maps] == list(range(1, TEACHER + 1))
        full = ridge(moments, 0)
        close(maps[-1].weight, full.weight)
        close(maps[-1].bias, full.bias)

    @pytest.mark.parametrize("rank", [1, 2, 4])
    def test_is_the_optimum_of_alternating_least_squares_in_the_metric(self, rank: int) -> None:
        head = torch.randn(3, TEACHER, dtype=torch.float64)
        metric = head.T @ head + 1e-2 * torch.eye(TEACHER, dtype=torch.float64)
        moments = moments_of(text())
        fitted = reduced_rank(moments, rank, 0, metric)
        error = mean_squared_error(moments, fitted, metric)
        windows, targets = rows_of(text())
        residual = targets - windows @ fitted.weight.numpy().T - fitted.bias.numpy()
        assert error == pytest.approx(np.einsum("ni,ij,nj->n", residual, metric, residual).mean(), rel=1e-9)
        searched = [alternating_least_squares(windows, targets, rank, metric.numpy(), seed) for seed in range(3)]
        assert error == pytest.approx(min(searched), rel=1e-6)
        assert error < 0.99 * mean_squared_error(moments, reduced_rank(moments, rank, 0), metric)

    def test_plain_is_the_optimum_for_the_identity(self) -> None:
        windows, targets = rows_of(text())
        moments = moments_of(text())
        searched = alternating_least_squares(windows, targets, 2, np.eye(TEACHER), 0)
        error = mean_squared_error(moments, reduced_rank(moments, 2, 0)) * TEACHER
        assert error == pytest.approx(searched, rel=1e-6)

    def test_a_singular_metric_leaves_the_unseen_to_the_bias(self) -> None:
        metric = torch.diag(torch.tensor([1.0, 1, 1, 1, 0, 0]))
        moments = moments_of(text())
        fitted = reduced_rank(moments, TEACHER, 0, metric)
        full = ridge(moments, 0)
        close(fitted.weight[:4], full.weight[:4], 1e-8)
        assert not fitted.weight[4:].any()
        close(fitted.bias[4:], moments.covariances().target_mean[4:])

    def test_ranks_and_metrics_that_are_none(self) -> None:
        moments = moments_of(text())
        for rank in (0, TEACHER + 1):
            with pytest.raises(ValueError, match=f"rank must be from 1 to the number of targets, 6, got {rank}"):
                reduced_rank(moments, rank, 0)
        for metric in (torch.eye(5), torch.ones(TEACHER, TEACHER).triu()):
            with pytest.raises(ValueError, match=r"metric must be symmetric of shape \(6, 6\)"):
                reduced_rank(moments, 2, 0, metric)
        with pytest.raises(ValueError, match="metric must be positive semidefinite"):
            reduced_rank(moments, 2, 0, -torch.eye(TEACHER))
