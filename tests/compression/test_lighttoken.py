"""LightToken: the loss's bound, hard errors that fall, and codes that are codes."""

from __future__ import annotations

import pytest
import torch
from embedding_tables import power_law_table, squared_error
from torch.nn import functional

from alad_hf.compression.lighttoken import (
    STARTS,
    binary_factors,
    default_refinement,
    default_start,
    upper_bound_loss,
)
from alad_hf.compression.low_rank import truncated_svd


def factors(table, bits, **options):
    return binary_factors(table, bits, **{"progress": False, **options})


class TestUpperBoundLoss:
    original, reconstructed = torch.randn(50, 8), torch.randn(50, 8)

    def test_equals_the_squared_distance_with_weights_of_one(self):
        distance = (self.original - self.reconstructed).square().sum(dim=1)
        loss = upper_bound_loss(self.reconstructed, self.original, norm_weight=1.0, angle_weight=1.0)
        torch.testing.assert_close(loss, distance, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("weights", [(1.0, 1.5), (2.0, 1.0), (3.0, 3.0)])
    def test_is_above_it_with_larger_ones(self, weights):
        distance = (self.original - self.reconstructed).square().sum(dim=1)
        norm_weight, angle_weight = weights
        loss = upper_bound_loss(self.reconstructed, self.original, norm_weight=norm_weight, angle_weight=angle_weight)
        assert (loss >= distance - 1e-4).all() and (loss > 1.01 * distance).any()

    def test_is_zero_for_equal_rows_alone(self):
        assert upper_bound_loss(self.original, self.original).abs().max() < 1e-4
        assert upper_bound_loss(1.1 * self.original, self.original).min() > 1e-3

    def test_an_angle_costs_more_than_the_same_distance_along_the_row(self):
        row = torch.tensor([[1.0, 0.0]])
        across, along = torch.tensor([[0.8, 0.6]]), torch.tensor([[1 - 0.4**0.5, 0.0]])
        assert (across - row).norm().item() == pytest.approx((along - row).norm().item(), rel=1e-4)
        assert upper_bound_loss(across, row) > 1.2 * upper_bound_loss(along, row)

    @pytest.mark.parametrize("point", ["zero", "equal"])
    def test_gradient_is_finite(self, point):
        start = torch.zeros(50, 8) if point == "zero" else self.original.clone()
        start.requires_grad_()
        upper_bound_loss(start, self.original).sum().backward()
        assert start.grad.isfinite().all()


@pytest.mark.parametrize("start", STARTS)
def test_codes_are_codes_and_the_reported_error_is_the_hard_one(start):
    table = power_law_table()
    made = factors(table, 24, rank=2, start=start, stages=3 if start == "autoencoder" else 1, refinement=2)

    assert made.bits.shape == (400, 24) and set(made.bits.unique().tolist()) <= {0.0, 1.0}
    dense = made.bits @ made.decoder + made.bias + made.latents @ made.low_rank_decoder.T
    torch.testing.assert_close(dense, made.dense())
    assert made.errors[-1] == pytest.approx(squared_error(table, dense) / table.square().sum().item(), rel=1e-4)
    # Of the low-rank part, a stage each, the joint fit, and a round each.
    assert len(made.errors) == 1 + (3 if start == "autoencoder" else 0) + 1 + 2
    assert made.errors == sorted(made.errors, reverse=True)
    low_rank = squared_error(table, truncated_svd(table, 2).dense()) / table.square().sum().item()
    assert made.errors[0] == pytest.approx(low_rank, rel=1e-4)


def test_stages_use_the_residual_of_hard_codes():
    """More stages with equal bits: the joint fit of the first two of three stages has the error after stage two."""
    table = power_law_table()
    three = factors(table, 24, start="autoencoder", stages=3, refinement=0)
    two = factors(table, 16, start="autoencoder", stages=2, refinement=0)

    torch.testing.assert_close(three.bits[:, :16], two.bits)
    assert three.errors[:3] == pytest.approx(two.errors[:3])


def test_error_falls_with_bits_and_rank():
    table = power_law_table()
    by_bits = [factors(table, bits).errors[-1] for bits in (8, 16, 32, 64)]
    by_rank = [factors(table, 16, rank=rank).errors[-1] for rank in (0, 4, 8, 16)]

    for errors in (by_bits, by_rank):
        assert errors == sorted(errors, reverse=True)
    assert by_rank[-1] < 1e-8  # of full rank


def test_is_far_below_the_svd_of_as_many_bytes():
    table = power_law_table(4000, 32)
    # A float16 latent takes 16 bits a row.
    assert factors(table, 64).errors[-1] < 0.6 * factors(table, 1, rank=4, refinement=0).errors[0]


def test_a_trained_stage_beats_random_planes():
    table = power_law_table(2000)
    trained = factors(table, 12, start="autoencoder", refinement=0).errors[-1]
    random = [factors(table, 12, start="rotation", refinement=0, seed=seed).errors[-1] for seed in range(3)]

    assert trained < min(random)


def test_stages_look_at_what_the_low_rank_part_leaves():
    """Two columns a hundred times as large as the others: codes of them would say nothing about the others."""
    table = torch.randn(1000, 16) * torch.tensor([100.0] * 2 + [1.0] * 14)
    made = factors(table, 28, rank=2, start="autoencoder", stages=2, refinement=0)

    assert made.errors[2] < 0.5 * made.errors[0]


def test_balance_and_weights_help_the_rows_that_they_are_for():
    generator = torch.Generator().manual_seed(1)
    common, odd = power_law_table(2000), torch.randn(40, 16, generator=generator) * torch.arange(16).flip(0) / 30
    table = torch.cat([common, odd])
    weights = torch.ones(len(table))
    weights[-40:] = 30.0

    def cosine_of_odd(**options):
        return functional.cosine_similarity(factors(table, 24, **options).dense()[-40:], odd).mean()

    plain = cosine_of_odd()
    assert cosine_of_odd(row_weights=weights) > plain + 0.05
    assert cosine_of_odd(balance=3.0) > plain + 0.02


def test_balance_spoils_nothing_where_all_rows_are_near():
    table = power_law_table()
    table[-3:] *= 8
    made = factors(table, 150, start="transform", refinement=1, balance=2.0).dense()

    assert ((made - table).square().sum(dim=1) / table.square().sum(dim=1)).max() < 0.01


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-3])
def test_a_row_of_almost_zeros_does_not_count_for_all_others(scale):
    """That of padding is one in a model that was trained from scratch."""
    table = power_law_table()
    others = functional.cosine_similarity(factors(table, 24, balance=2.0).dense(), table)[1:].mean()
    table[0] *= scale
    made = functional.cosine_similarity(factors(table, 24, balance=2.0).dense(), table)[1:].mean()

    assert made > others - 0.01


def test_dead_bits_are_counted():
    made = factors(power_law_table(), 24)
    assert made.dead_bits == 0
    made.bits[:, 3] = 1.0
    made.bits[:, 4] = 0.0
    assert made.dead_bits == 2


@pytest.mark.parametrize("start", STARTS)
def test_seed_decides(start):
    def codes(seed):
        return factors(power_law_table(), 20, start=start, refinement=1, seed=seed).bits

    assert torch.equal(codes(1), codes(1))
    if start != "transform":
        assert not torch.equal(codes(1), codes(2))


def test_defaults_follow_from_sizes_alone():
    assert (default_start(768, 384), default_start(769, 384)) == ("rotation", "transform")
    assert [default_refinement(bits, 30_522) for bits in (96, 200, 400, 4096)] == [8, 8, 6, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits=0"),
        ({"bits": 4, "stages": 5}, "stages=5"),
        ({"bits": 4, "start": "zeros"}, "got 'zeros'"),
        ({"bits": 4, "rank": 17}, "from 0 to the 16 columns .* got 17"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        factors(power_law_table(), options.pop("bits"), **options)
