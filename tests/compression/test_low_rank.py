"""Truncated SVD against torch's own, and the order of errors with and without a mean."""

from __future__ import annotations

import pytest
import torch
from embedding_tables import power_law_table, squared_error

from alad_hf.compression.low_rank import truncated_svd


@pytest.mark.parametrize("rank", [0, 1, 5, 16])
def test_is_the_best_approximation_of_its_rank(rank):
    table = power_law_table()
    left, values, right = torch.linalg.svd(table.double(), full_matrices=False)
    oracle = (left[:, :rank] * values[:rank]) @ right[:rank]

    factors = truncated_svd(table, rank)

    torch.testing.assert_close(factors.dense().double(), oracle, atol=1e-5, rtol=0)
    assert squared_error(table, factors.dense()) == pytest.approx(
        values[rank:].square().sum().item(), rel=1e-6, abs=1e-8
    )
    torch.testing.assert_close(factors.decoder.T @ factors.decoder, torch.eye(rank), atol=1e-5, rtol=0)


def test_small_singular_values_survive_the_gram_matrix():
    # In float32 the Gram matrix of these would have lost the second one: 1e-8 squared against 1.
    basis, _ = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64))
    rows, _ = torch.linalg.qr(torch.randn(50, 2, dtype=torch.float64))
    table = ((rows * torch.tensor([1.0, 1e-5])) @ basis[:2]).double()

    assert (truncated_svd(table, 2).dense() - table).norm() < 1e-9


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_a_mean_is_worth_at_most_one_rank(rank):
    table = power_law_table()
    errors = [
        squared_error(table, truncated_svd(table, size, centred=centred).dense())
        for size, centred in ((rank + 1, False), (rank, True), (rank, False))
    ]

    assert errors == sorted(errors)


def test_a_row_that_counts_for_all_is_kept():
    table = power_law_table()
    weights = torch.full((len(table),), 1e-9)
    weights[7] = 1.0

    errors = (truncated_svd(table, 1, row_weights=weights).dense() - table).norm(dim=1)

    assert errors[7] < 1e-3 < errors.median()


def test_refuses_a_rank_above_the_columns():
    with pytest.raises(ValueError, match="from 0 to the 16 columns .* got 17"):
        truncated_svd(power_law_table(), 17)
