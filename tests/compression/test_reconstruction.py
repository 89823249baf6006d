"""The error report on tables whose errors are known."""

from __future__ import annotations

import pytest
import torch
from embedding_tables import power_law_table

from alad_hf.compression.reconstruction import reconstruction_error


def test_a_table_is_its_own_reconstruction():
    error = reconstruction_error(power_law_table(), power_law_table())

    assert (error.rmse, error.neighbour_overlap) == (0, 1)
    assert error.mean_cosine == pytest.approx(1) and error.worst_cosine == pytest.approx(1)


def test_known_errors():
    original = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    reconstructed = torch.tensor([[3.0, 4.0], [0.0, 2.0]])

    error = reconstruction_error(original, reconstructed, row_weights=torch.tensor([3.0, 1.0]))

    assert error.mean_cosine == pytest.approx(0.5)
    assert error.weighted_cosine == pytest.approx(0.75)
    assert error.worst_cosine == pytest.approx(0)
    assert error.rmse == pytest.approx((5 / 4) ** 0.5)
    assert error.relative_error == pytest.approx(5 / 26)
    assert error.norm_ratio == pytest.approx(1.5)


def test_neighbours_do_not_depend_on_length_or_rotation_and_are_lost_by_noise():
    table = power_law_table()
    rotation, _ = torch.linalg.qr(torch.randn(16, 16))

    assert reconstruction_error(table, 3 * table @ rotation).neighbour_overlap > 0.99
    assert reconstruction_error(table, power_law_table(seed=1)).neighbour_overlap < 0.1


def test_neighbour_overlap_counts_common_neighbours():
    # Directions by angle: the nearest row of the first is the second; in the other table it is the third.
    angles = torch.tensor([[0.0, 0.1, 1.0], [0.0, 1.0, 0.1]])
    original, other = (torch.stack([a.cos(), a.sin()], dim=1) for a in angles)

    # Rows 1 and 2 keep their neighbour (0 or each other): row 1's is 0, then 2; row 2's is 1, then 0.
    assert reconstruction_error(original, other, neighbours=1).neighbour_overlap == 0


def test_zero_rows_are_left_out_and_other_shapes_refused():
    table = torch.cat([torch.zeros(1, 4), torch.eye(4)])

    assert reconstruction_error(table, table).mean_cosine == pytest.approx(1)
    with pytest.raises(ValueError, match=r"one shape, got \(5, 4\) and \(4, 4\)"):
        reconstruction_error(table, torch.eye(4))
