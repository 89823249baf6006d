"""The direction-aware autoencoder: its loss and schedule by hand, its optimum against principal components."""

from __future__ import annotations

import pytest
import torch
from embedding_tables import power_law_table, squared_error
from torch.nn import functional

from alad_hf.compression.autoencoder import COSINE_WEIGHT, POWER_WEIGHT, direction_loss, power_at, train_autoencoder
from alad_hf.compression.low_rank import truncated_svd


def test_power_falls_from_one_to_a_tenth_and_stays():
    assert [power_at(epoch) for epoch in (0, 10, 20, 29)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


def test_loss_by_hand():
    original = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    reconstructed = torch.tensor([[4.0, 3.0], [1.0, 0.0]])
    cosine_part = ((1 - 24 / 25) + 0) / 2

    for power in (1.0, 0.55, 0.1):
        power_part = (2 * 1.0**power + 2 * 1e-10**power) / 4
        expected = 0.9975 / 5 * cosine_part + 0.0025 * power_part
        assert direction_loss(reconstructed, original, power).item() == pytest.approx(expected, rel=1e-5)


def test_cosine_part_does_not_see_length_and_the_floor_of_the_rest_is_not_zero():
    table = power_law_table()
    scaled = [direction_loss(scale * table, table, 1.0).item() for scale in (1.0, 2.0)]

    # Doubling adds the mean distance alone.
    assert scaled[1] - scaled[0] == pytest.approx(POWER_WEIGHT * table.abs().mean().item(), rel=1e-4)
    assert direction_loss(table, table, 0.1).item() == pytest.approx(POWER_WEIGHT * 0.1, rel=1e-3)


def test_gradient_is_that_of_the_power_and_bounded_near_zero():
    distance = torch.tensor([[0.5, 0.01, 1e-9, 0.0]], requires_grad=True)
    # Cosines against a constant row of other direction give their own gradient, taken out here.
    original = torch.zeros(1, 4)
    direction_loss(distance, original, 0.1).backward()

    slopes = distance.grad[0] / POWER_WEIGHT * 4
    assert slopes[0].item() == pytest.approx(0.1 * 0.5**-0.9, rel=1e-3)
    assert slopes[1].item() == pytest.approx(0.1 * 0.01**-0.9, rel=1e-3)
    assert slopes[2].item() == pytest.approx(0.1 * 1e-4**-0.9, rel=1e-3)
    assert distance.grad.isfinite().all()


def test_with_squared_error_it_finds_the_principal_components():
    # A gap after the third component: without one no amount of steps tells it from the fourth.
    table = torch.randn(256, 8) * torch.tensor([2.0, 1.5, 1.0, 0.2, 0.2, 0.2, 0.1, 0.1]) + 0.5
    factors = train_autoencoder(
        table,
        3,
        epochs=40,
        final_epochs=0,
        batch_size=4,
        learning_rate=0.1,
        loss=lambda reconstructed, original, power: functional.mse_loss(reconstructed, original),
        progress=False,
    )
    oracle = truncated_svd(table, 3, centred=True)

    error, best = (squared_error(table, each.dense()) for each in (factors, oracle))
    assert best <= error * (1 + 1e-6) and error < 1.002 * best
    basis, _ = torch.linalg.qr(factors.decoder)
    assert torch.linalg.svdvals(basis.T @ oracle.decoder).min() > 0.99


def test_published_loss_gives_better_directions_and_no_better_distance_than_svd():
    table = power_law_table() * torch.linspace(0.2, 3.0, 400).unsqueeze(1)
    svd = truncated_svd(table, 4)
    trained = train_autoencoder(table, 4, start="svd", epochs=10, final_epochs=2, progress=False)
    cosines = [functional.cosine_similarity(each.dense(), table).mean() for each in (svd, trained)]

    assert cosines[1] > cosines[0] + 0.005
    # One rank more pays for the bias, which the SVD does not have.
    assert squared_error(table, trained.dense()) >= squared_error(table, truncated_svd(table, 5).dense())


def test_svd_start_begins_at_the_svd():
    table = power_law_table()
    untrained = train_autoencoder(table, 4, start="svd", epochs=0, final_epochs=0, progress=False)

    torch.testing.assert_close(untrained.dense(), truncated_svd(table, 4).dense(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("start", ["random", "svd"])
def test_rows_that_weigh_more_get_better_directions(start):
    table, weights = power_law_table(), torch.ones(400)
    weights[:40] = 50.0
    cosines = []
    for given in (None, weights):
        factors = train_autoencoder(
            table, 4, start=start, batch_size=8, learning_rate=0.01, row_weights=given, progress=False
        )
        cosines.append(functional.cosine_similarity(factors.dense(), table))

    assert cosines[1][:40].mean() > cosines[0][:40].mean() + 0.03
    assert cosines[1][40:].mean() < cosines[0][40:].mean()


def test_rows_without_weight_are_never_read():
    table, weights = power_law_table(64), torch.ones(64)
    weights[32:] = 0.0
    other = torch.cat([table[:32], torch.randn(32, 16)])
    decoders = [
        train_autoencoder(each, 4, epochs=2, final_epochs=0, row_weights=weights, progress=False).decoder
        for each in (table, other)
    ]

    assert torch.equal(*decoders)


def test_seed_decides():
    def latents(seed):
        return train_autoencoder(power_law_table(64), 4, epochs=1, final_epochs=0, seed=seed, progress=False).latents

    assert torch.equal(latents(3), latents(3))
    assert not torch.equal(latents(3), latents(4))


@pytest.mark.parametrize(("rank", "start"), [(17, "svd"), (0, "random"), (4, "zeros")])
def test_refuses(rank, start):
    with pytest.raises(ValueError, match="got"):
        train_autoencoder(power_law_table(), rank, start=start)


def test_weights_are_the_published_ones():
    assert (pytest.approx(0.1995), 0.0025) == (COSINE_WEIGHT, POWER_WEIGHT)
