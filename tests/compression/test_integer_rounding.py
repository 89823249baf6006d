"""Rounding by row against its own definition."""

from __future__ import annotations

import pytest
import torch
from embedding_tables import power_law_table, squared_error

from alad_hf.compression.integer_rounding import round_rows


@pytest.mark.parametrize(("bits", "largest"), [(8, 127), (4, 7)])
def test_no_entry_is_further_off_than_half_a_step(bits, largest):
    table = power_law_table()
    rounded = round_rows(table, bits, clipping=False)

    assert torch.equal(rounded.integers, rounded.integers.round())
    torch.testing.assert_close(rounded.integers.abs().amax(dim=1), torch.full((len(table),), float(largest)))
    steps = table.abs().amax(dim=1, keepdim=True) / largest
    assert ((rounded.dense() - table).abs() <= steps * 0.5001).all()


def test_clipping_is_never_worse_for_a_row_and_better_for_some():
    table = power_law_table()
    plain, clipped = ((round_rows(table, 4, clipping=c).dense() - table).norm(dim=1) for c in (False, True))

    assert (clipped <= plain + 1e-7).all()
    assert squared_error(round_rows(table, 4).dense(), table) < 0.95 * plain.square().sum()


def test_a_row_of_zeros_stays_one():
    assert not round_rows(torch.zeros(2, 8), 4).dense().any()


def test_refuses_other_bits():
    with pytest.raises(ValueError, match=r"\[4, 8\], got 3"):
        round_rows(torch.ones(2, 8), 3)
