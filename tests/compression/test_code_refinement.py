"""Codes and decoders by turns: closed forms against solvers and exhaustive search."""

from __future__ import annotations

import itertools

import pytest
import torch
from embedding_tables import power_law_table, squared_error

from alad_hf.compression.code_refinement import fit_decoder, improve_bits, rotation_bits, transform_bits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_bits(rows=400, length=8):
    return (torch.rand(rows, length, generator=generator()) > 0.5).float()


def by_row(targets, bits, decoder, bias):
    return (targets - bias - bits @ decoder).square().sum(dim=1)


def test_decoder_is_weighted_least_squares():
    table, bits = power_law_table(), random_bits()
    weights = torch.rand(400, generator=generator()) + 0.1
    inputs = torch.cat([bits, torch.ones(400, 1)], dim=1) * weights.sqrt().unsqueeze(1)
    oracle = torch.linalg.lstsq(inputs, table * weights.sqrt().unsqueeze(1)).solution

    decoder, bias = fit_decoder(bits, table, weights)

    torch.testing.assert_close(torch.cat([decoder, bias.unsqueeze(0)]), oracle, atol=1e-4, rtol=0)


def test_bits_that_never_change_do_no_harm():
    bits = random_bits()
    with_dead = torch.cat([bits, torch.zeros(400, 1), torch.ones(400, 2)], dim=1)
    decoded = []
    for each in (bits, with_dead):
        decoder, bias = fit_decoder(each, power_law_table())
        decoded.append(each @ decoder + bias)

    torch.testing.assert_close(*decoded, atol=1e-3, rtol=0)


@pytest.mark.parametrize("length", [1, 8, 50, 70])  # within one block of bits and over several
def test_no_row_gets_worse_and_in_the_end_no_single_flip_is_better(length):
    table, bits = power_law_table(), random_bits(length=length)
    decoder, bias = fit_decoder(bits, table)
    errors = by_row(table, bits, decoder, bias)
    draw = generator()
    for _ in range(60):
        better = improve_bits(bits, table, decoder, bias, draw)
        after = by_row(table, better, decoder, bias)
        assert (after <= errors + 1e-4).all()
        if torch.equal(better, bits):
            break
        bits, errors = better, after

    for place in range(length):
        flipped = bits.clone()
        flipped[:, place] = 1 - flipped[:, place]
        assert (by_row(table, flipped, decoder, bias) >= errors - 1e-4).all()


def test_finds_the_best_of_all_codes_under_orthogonal_decoders():
    table, bits = power_law_table(), random_bits(length=6)
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator()))
    decoder, bias = basis[:6] * 0.7, table.mean(dim=0)
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)))
    best = torch.cdist(table, every @ decoder + bias).square().min(dim=1).values

    found = improve_bits(bits, table, decoder, bias, generator())

    assert set(found.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(by_row(table, found, decoder, bias), best, atol=1e-4, rtol=1e-4)


def test_turns_lower_the_error_every_time():
    table, bits = power_law_table(), random_bits(length=24)
    draw, errors = generator(), []
    for _ in range(6):
        decoder, bias = fit_decoder(bits, table)
        errors.append(squared_error(table, bits @ decoder + bias))
        bits = improve_bits(bits, table, decoder, bias, draw)

    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.5 * errors[0]


def test_rotation_bits_are_balanced_sides_of_planes_through_the_mean():
    table = power_law_table(4000)
    bits = rotation_bits(table, 20, generator())

    assert bits.shape == (4000, 20) and set(bits.unique().tolist()) == {0.0, 1.0}
    assert ((bits.mean(dim=0) - 0.5).abs() < 0.06).all()
    mirrored = 2 * table.mean(dim=0) - table
    assert (rotation_bits(mirrored, 20, generator()) != bits).float().mean() > 0.999


def test_transform_bits_divide_the_error_by_nearly_four_for_every_bit_a_column():
    table = power_law_table(4000)
    errors = []
    for length in (32, 48, 64, 80):
        bits = transform_bits(table, length)
        assert bits.shape == (4000, length) and set(bits.unique().tolist()) == {0.0, 1.0}
        decoder, bias = fit_decoder(bits, table)
        errors.append(squared_error(table, bits @ decoder + bias))

    ratios = [before / after for before, after in itertools.pairwise(errors)]
    assert all(2.6 < ratio < 4.2 for ratio in ratios), ratios


def test_transform_bits_take_columns_without_variance():
    table = power_law_table() * (torch.arange(16) < 4)

    assert transform_bits(table, 12).isfinite().all()
