"""k-means on parts of rows: against Lloyd by hand, exact cases, and what more codes, weights and rotations must do."""

from __future__ import annotations

import pytest
import torch
from embedding_tables import power_law_table, squared_error

from alad_hf.compression import product_quantization
from alad_hf.compression.product_quantization import quantize_parts


def quantize(table, parts, **options):
    return quantize_parts(table, parts, **{"centroids": 16, "progress": False, **options})


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_is_lloyd_on_every_part(parts, monkeypatch):
    monkeypatch.setattr(product_quantization, "_DISTANCES_AT_ONCE", 50)  # slices of some rows, and a shorter last one
    table = power_law_table(60, 4)
    generator = torch.Generator().manual_seed(5)
    expected = []
    for part in table.split(4 // parts, dim=1):
        centroids = part[torch.randperm(60, generator=generator)[:3]]
        for _ in range(4):
            nearest = torch.cdist(part, centroids).argmin(dim=1)
            centroids = torch.stack([part[nearest == index].mean(dim=0) for index in range(3)])
        expected.append(centroids[torch.cdist(part, centroids).argmin(dim=1)])

    quantized = quantize(table, parts, centroids=3, iterations=4, seed=5)

    torch.testing.assert_close(quantized.dense(), torch.cat(expected, dim=1))
    assert quantized.codes.dtype == torch.uint8 and quantized.codes.shape == (60, parts)


def test_few_distinct_rows_are_kept_exactly():
    table = power_law_table(16).repeat(3, 1)[torch.randperm(48)]
    # Every distinct row among the first centroids, whichever are drawn: as many centroids as rows.
    torch.testing.assert_close(quantize(table, 4, centroids=48).dense(), table)


def test_error_falls_with_parts_centroids_and_iterations():
    table = power_law_table()

    def errors(name, values):
        return [squared_error(table, quantize(table, **{"parts": 4, name: value}).dense()) for value in values]

    for name, values in (("parts", (1, 2, 4, 8, 16)), ("centroids", (2, 8, 32, 128)), ("iterations", (0, 1, 4, 16))):
        falling = errors(name, values)
        assert falling == sorted(falling, reverse=True) and falling[-1] < 0.9 * falling[0], name


def test_rotation_is_orthogonal_and_helps_where_parts_depend_on_each_other():
    # Two columns of one part's length apart are nearly equal: a rotation brings their common part together.
    half = torch.randn(400, 4)
    table = torch.cat([half, half + 0.05 * torch.randn(400, 4)], dim=1)
    plain, rotated = quantize(table, 4, iterations=40), quantize(table, 4, iterations=40, rotations=8)

    torch.testing.assert_close(rotated.rotation @ rotated.rotation.T, torch.eye(8), atol=1e-5, rtol=0)
    assert squared_error(table, rotated.dense()) < 0.95 * squared_error(table, plain.dense())


def test_a_rotation_begins_with_parts_that_have_as_much_to_code():
    # Independent columns, the two that vary most in one part: each of them belongs beside one of the others.
    table = torch.randn(2000, 4) * torch.tensor([8.0, 8.0, 1.0, 1.0])
    mixed = table @ torch.linalg.qr(torch.randn(4, 4)).Q
    by_hand = squared_error(table[:, [0, 2, 1, 3]], quantize(table[:, [0, 2, 1, 3]], 2, iterations=40).dense())

    assert squared_error(table, quantize(table, 2, iterations=40).dense()) > 1.4 * by_hand
    for given in (table, mixed):
        rotated = quantize(given, 2, iterations=40, rotations=1)
        assert squared_error(given, rotated.dense()) < 1.1 * by_hand


def test_weighted_rows_say_which_columns_vary():
    table = torch.randn(2000, 4) * torch.tensor([8.0, 8.0, 1.0, 1.0])
    table[1000:] = table[1000:].flip(1)[:, [0, 2, 1, 3]]  # of these it would be right to leave the columns as they are
    weights = torch.cat([torch.ones(1000), torch.full((1000,), 1e-3)])
    heavy = [
        quantize(table, 2, iterations=40, row_weights=weights, **options).dense()[:1000]
        for options in ({}, {"rotations": 1})
    ]
    assert squared_error(table[:1000], heavy[1]) < 0.75 * squared_error(table[:1000], heavy[0])


def test_a_constant_table_can_be_rotated():
    table = torch.ones(20, 4)
    torch.testing.assert_close(quantize(table, 2, rotations=1, iterations=4).dense(), table)


def test_weighted_rows_are_nearer():
    table = power_law_table()
    weights = torch.ones(400)
    weights[:40] = 50.0
    errors = [
        squared_error(table[:40], quantize(table, 4, row_weights=chosen).dense()[:40]) for chosen in (None, weights)
    ]

    assert errors[1] < 0.7 * errors[0]


def test_seed_decides():
    table = power_law_table()

    assert torch.equal(quantize(table, 4, seed=1).codes, quantize(table, 4, seed=1).codes)
    assert not torch.equal(quantize(table, 4, seed=1).codes, quantize(table, 4, seed=2).codes)


@pytest.mark.parametrize(
    ("parts", "centroids", "message"),
    [(3, 16, "divide the 16 columns .* got 3"), (4, 257, "from 1 to 256, got 257"), (4, 0, "got 0")],
)
def test_refuses(parts, centroids, message):
    with pytest.raises(ValueError, match=message):
        quantize(power_law_table(), parts, centroids=centroids)
