"""Which sizes a number of stored bytes allows: codes, factors, decoders and biases are all counted."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..models.compressed_embeddings import build_embedding
from .product_quantization import MAX_CENTROIDS

FACTOR_BYTES = {"float32": 4, "float16": 2}
_BYTES_OF_AN_ID = 4
_FEWEST_CENTROIDS = 16
_MOST_BITS_PER_COLUMN = 16
_MOST_FILLING_RANK = 8


def byte_budget(rows: int, columns: int, *, ratio: float | None = None, num_bytes: int | None = None) -> int:
    """Bytes that a compressed table may take.

    Args:
        rows: Of the table.
        columns: Of the table.
        ratio: Bytes of the table in float32 over bytes of its compressed form, above 1.
        num_bytes: The bytes themselves, fewer than the table takes.

    Raises:
        ValueError: Neither or both are given, or one is out of range.
    """
    dense = 4 * rows * columns
    if (ratio is None) == (num_bytes is None):
        raise ValueError("Give either ratio or bytes, such as ratio=25 (--ratio 25).")
    if num_bytes is None:
        assert ratio is not None
        if not (math.isfinite(ratio) and ratio > 1):
            raise ValueError(f"ratio must be a number above 1 (25 keeps a twenty-fifth of the bytes), got {ratio}.")
        return int(dense / ratio)
    if not 0 < num_bytes < dense:
        raise ValueError(f"bytes must be from 1 to {dense - 1}, below the table's own bytes, got {num_bytes}.")
    return int(num_bytes)  # a number of numpy's would end up in a configuration


def stored_bytes(specification: dict[str, Any]) -> int:
    """Bytes that an embedding of this specification stores, without building it."""
    with torch.device("meta"):
        return build_embedding(specification).stored_bytes


def low_rank_sizes(
    rows: int, columns: int, budget: int, *, bias: bool, factor_dtype: str, rank: int | None = None
) -> dict[str, Any]:
    """Specification of a `LowRankEmbedding` of the largest rank within a budget, unless `rank` is given.

    Raises:
        ValueError: The rank, or even rank 1, does not fit; the message says what does.
    """
    width = FACTOR_BYTES[factor_dtype]
    if rank is None:
        rank = min((budget // width - bias * columns) // (rows + columns), columns)
    sizes = _sizes("low_rank", rows, columns, factor_dtype, rank=max(rank, 1), bias=bias)
    _check_fits(rank, budget, sizes)
    return sizes


def binary_code_sizes(
    rows: int, columns: int, budget: int, *, rank: int, factor_dtype: str, bits: int | None = None
) -> dict[str, Any]:
    """Specification of a `BinaryCodeEmbedding` with the longest code within a budget.

    A code fills its bytes unless less than a byte a row is left; it has at most 16 bits a column, after which there
    is nothing to gain.

    Args:
        rows: Of the table.
        columns: Of the table.
        budget: Bytes.
        rank: Of the low-rank part.
        factor_dtype: "float32" or "float16".
        bits: Length of the code, where it is not to be chosen.

    Raises:
        ValueError: No such code fits; the message says what does.
    """
    width = FACTOR_BYTES[factor_dtype]
    left = budget - width * (rank * (rows + columns) + columns)
    if bits is None:
        whole = 8 * (left // (rows + 8 * width * columns))
        # One more byte a row, with what is left for decoders, need not be used to its last bit.
        further = (left - whole * width * columns - (whole // 8 + 1) * rows) // (width * columns)
        bits = min(whole + max(further, 0), _MOST_BITS_PER_COLUMN * columns)
    sizes = _sizes("binary_code", rows, columns, factor_dtype, bits=max(bits, 1), rank=rank)
    _check_fits(bits, budget, sizes)
    return sizes


def product_quantization_sizes(
    rows: int,
    columns: int,
    budget: int,
    *,
    rotation: bool,
    factor_dtype: str,
    subvectors: int | None = None,
    centroids: int | None = None,
    rank: int | None = None,
) -> dict[str, Any]:
    """Specification of a `ProductQuantizedEmbedding` with the most bits a row within a budget.

    Subvectors must divide the columns, so the grid is coarse. What is left goes into a low-rank part, of rank 8 at
    most.

    Args:
        rows: Of the table.
        columns: Of the table.
        budget: Bytes.
        rotation: Whether there is one, of columns * columns factors.
        factor_dtype: "float32" or "float16".
        subvectors: Parts of a row, where they are not to be chosen.
        centroids: Entries of a codebook, where they are not to be chosen: 16 to 256.
        rank: Of the low-rank part, where it is not to be chosen.

    Raises:
        ValueError: No such code fits; the message says what does.
    """
    fewest, most_centroids = min(_FEWEST_CENTROIDS, rows), min(MAX_CENTROIDS, rows)
    if centroids is not None and not fewest <= centroids <= most_centroids:
        raise ValueError(f"centroids must be from {fewest} to {most_centroids} for {rows} rows, got {centroids}.")
    width = FACTOR_BYTES[factor_dtype]
    left = budget - width * (rotation * columns * columns + (rank or 0) * (rows + columns))
    divisors = (
        [parts for parts in range(1, columns + 1) if columns % parts == 0] if subvectors is None else [subvectors]
    )
    best, most = (divisors[0], centroids or fewest), 0.0
    for parts in divisors:
        entries = min((left - parts * rows) // (width * columns), most_centroids)
        entries = entries if centroids is None else centroids if centroids <= entries else 0
        if entries >= fewest and parts * math.log2(entries) > most:
            best, most = (parts, entries), parts * math.log2(entries)
    left -= best[0] * rows + best[1] * width * columns
    fill = min(left // (width * (rows + columns)), _MOST_FILLING_RANK, columns) if rank is None else rank
    sizes = _sizes(
        "product_quantized",
        rows,
        columns,
        factor_dtype,
        subvectors=best[0],
        centroids=best[1],
        rotation=rotation,
        rank=max(fill, 0),
    )
    _check_fits(most, budget, sizes)
    return sizes


def integer_sizes(rows: int, columns: int, budget: int, *, bits: int, factor_dtype: str) -> dict[str, Any]:
    """Specification of an `IntegerEmbedding`, whose size is what it is.

    Raises:
        ValueError: It does not fit into the budget.
    """
    sizes = _sizes("integer", rows, columns, factor_dtype, bits=bits)
    _check_fits(1, budget, sizes)
    return sizes


def kept_rows_bytes(rows: int, columns: int, *, factor_dtype: str) -> int:
    """Bytes of so many rows that a `KeptRowsEmbedding` keeps in int4: their codes, scales and ids."""
    return stored_bytes(_sizes("integer", rows, columns, factor_dtype, bits=4)) + rows * _BYTES_OF_AN_ID


def _sizes(method: str, rows: int, columns: int, factor_dtype: str, **sizes: Any) -> dict[str, Any]:
    return {
        "method": method,
        "num_embeddings": rows,
        "embedding_dim": columns,
        "factor_dtype": factor_dtype,
        **sizes,
    }


def _check_fits(amount: float, budget: int, smallest: dict[str, Any]) -> None:
    """Raise if nothing fits, that is `amount` is below one, or the specification is above the budget after all."""
    needed = stored_bytes(smallest)
    if amount >= 1 and needed <= budget:
        return
    dense = 4 * smallest["num_embeddings"] * smallest["embedding_dim"]
    half = "" if smallest["factor_dtype"] == "float16" else ', or factor_dtype="float16"'
    shape = {name: value for name, value in smallest.items() if name not in ("num_embeddings", "embedding_dim")}
    raise ValueError(
        f"{budget} bytes (ratio {dense / max(budget, 1):.1f}) are too few for {shape}, which takes {needed}. "
        f"Take ratio={math.floor(10 * dense / needed) / 10} or less{half}, or another method: binary codes "
        '(method="lighttoken") go furthest.'
    )
