"""Sizes within a budget: the published arithmetic, every byte counted, and nothing left that could be used."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from alad_hf.compression.byte_budget import (
    binary_code_sizes,
    byte_budget,
    integer_sizes,
    low_rank_sizes,
    product_quantization_sizes,
    stored_bytes,
)
from alad_hf.compression.embeddings import compress_table

BERT = (30_522, 768)
MINILM = (30_522, 384)
DENSE = {shape: 4 * shape[0] * shape[1] for shape in (BERT, MINILM)}


@pytest.mark.parametrize(("ratio", "rank"), [(2.5, 299), (5, 149), (10, 74), (25, 29)])
def test_ranks_of_the_svd_baseline(ratio, rank):
    """l = floor(V d / (ratio (V + d))), arXiv 2106.08181's baseline on BERT-base."""
    sizes = low_rank_sizes(*BERT, byte_budget(*BERT, ratio=ratio), bias=False, factor_dtype="float32")

    assert sizes["rank"] == rank


def test_a_bias_costs_a_rank_where_there_is_no_byte_to_spare():
    exact = 4 * 20 * sum(MINILM)
    ranks = [
        low_rank_sizes(*MINILM, exact + spare, bias=bias, factor_dtype="float32")["rank"]
        for spare, bias in ((0, False), (0, True), (4 * 384, True))
    ]

    assert ranks == [20, 19, 20]


@pytest.mark.parametrize(("rank", "ratio"), [(75, 9.985), (150, 4.994), (300, 2.497)])
def test_ratios_of_the_published_autoencoders(rank, ratio):
    sizes = low_rank_sizes(*BERT, DENSE[BERT], bias=True, factor_dtype="float32", rank=rank)

    assert DENSE[BERT] / stored_bytes(sizes) == pytest.approx(ratio, abs=0.002)


@pytest.mark.parametrize(
    ("rank", "bits", "ratio"),
    [(8, 384, 25.7), (16, 256, 24.9), (4, 448, 26.1), (1, 112, 104), (2, 96, 102.5), (0, 128, 106), (4, 64, 99)],
)
def test_ratios_of_binary_codes(rank, bits, ratio):
    """bytes = 4k(V + d) + V L / 8 + 4(L d + d): stages' biases are summed in one."""
    sizes = binary_code_sizes(*BERT, DENSE[BERT], rank=rank, factor_dtype="float32", bits=bits)
    rows, columns = BERT

    assert stored_bytes(sizes) == 4 * rank * (rows + columns) + rows * bits // 8 + 4 * (bits + 1) * columns
    assert DENSE[BERT] / stored_bytes(sizes) == pytest.approx(ratio, rel=0.005)


@pytest.mark.parametrize("shape", [BERT, MINILM])
@pytest.mark.parametrize("ratio", [2.5, 5, 10, 25, 50, 100])
@pytest.mark.parametrize("factor_dtype", ["float16", "float32"])
def test_budgets_are_kept_and_used(shape, ratio, factor_dtype):
    budget = byte_budget(*shape, ratio=ratio)
    used = {
        "low rank": stored_bytes(low_rank_sizes(*shape, budget, bias=True, factor_dtype=factor_dtype)),
        "binary": stored_bytes(binary_code_sizes(*shape, budget, rank=0, factor_dtype=factor_dtype)),
    }
    # One rank takes so much of the budget.
    grain = (4 if factor_dtype == "float32" else 2) * sum(shape) / budget

    assert budget * (1 - grain) - 1 <= used["low rank"] <= budget
    assert 0.93 * budget <= used["binary"] <= budget  # codes come in bytes a row
    if ratio >= 5 and (ratio < 100 or factor_dtype == "float16"):
        sizes = product_quantization_sizes(*shape, budget, rotation=False, factor_dtype=factor_dtype)
        assert 0.6 * budget <= stored_bytes(sizes) <= budget


def test_product_quantization_takes_the_most_bits_a_row():
    sizes = product_quantization_sizes(*MINILM, byte_budget(*MINILM, ratio=50), rotation=False, factor_dtype="float16")
    rows, columns = MINILM

    assert (sizes["subvectors"], sizes["centroids"]) == (24, 256)
    assert stored_bytes(sizes) == rows * 24 + 2 * 256 * columns
    rotated = product_quantization_sizes(
        *MINILM, byte_budget(*MINILM, ratio=25), rotation=True, factor_dtype="float16", rank=1
    )
    assert stored_bytes(rotated) == (
        rows * rotated["subvectors"] + 2 * (rotated["centroids"] * columns + columns * columns + rows + columns)
    )


@pytest.mark.parametrize(("bits", "codes"), [(8, 384), (4, 192)])
def test_integers_have_a_size_of_their_own(bits, codes):
    sizes = integer_sizes(*MINILM, DENSE[MINILM], bits=bits, factor_dtype="float16")

    assert stored_bytes(sizes) == 30_522 * (codes + 2)
    with pytest.raises(ValueError, match="Take ratio="):
        integer_sizes(*MINILM, 1_000_000, bits=bits, factor_dtype="float16")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "either ratio or bytes"),
        ({"ratio": 10, "num_bytes": 10}, "either ratio or bytes"),
        ({"ratio": 1}, "above 1 .* got 1"),
        ({"ratio": float("nan")}, "above 1 .* got nan"),
        ({"ratio": -3}, "got -3"),
        ({"num_bytes": 0}, "from 1 to .* got 0"),
        ({"num_bytes": 46_881_792}, "from 1 to 46881791"),
    ],
)
def test_refuses_what_is_no_budget(given, message):
    with pytest.raises(ValueError, match=message):
        byte_budget(*MINILM, **given)


@pytest.mark.parametrize("method", ["lighttoken", "svd"])
def test_bytes_of_numpy_are_bytes(method):
    table = torch.randn(100, 16)
    assert type(byte_budget(100, 16, num_bytes=np.int64(2000))) is int
    embedding, record = compress_table(table, method, bytes=np.int64(2000), progress=False)
    json.dumps([embedding.specification(), record])
    assert embedding.stored_bytes <= 2000


def test_says_what_would_fit():
    for choose in (
        lambda: low_rank_sizes(*MINILM, 50_000, bias=False, factor_dtype="float32"),
        lambda: binary_code_sizes(*MINILM, 500, rank=0, factor_dtype="float32"),
        lambda: product_quantization_sizes(*MINILM, 100_000, rotation=True, factor_dtype="float32"),
    ):
        with pytest.raises(ValueError, match=r"too few for .* Take ratio=[\d.]+ or less, or factor_dtype=\"float16\""):
            choose()
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to 384, got 385"):
        low_rank_sizes(*MINILM, DENSE[MINILM], bias=False, factor_dtype="float32", rank=385)
