"""Token embeddings rounded to 8 or 4 bits: what one would try first, and the line that other forms have to beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .embedding_table import CompressedEmbedding


class IntegerEmbedding(CompressedEmbedding):
    """Row = integers * row scale: rounding to int8, or to int4 with two columns in a byte.

    int4: column 2j of a token is in the upper and column 2j + 1 in the lower half of byte j, each as value + 8.

    Tensors: `codes` int8 (num_embeddings, embedding_dim) or uint8 (num_embeddings, ceil(embedding_dim / 2)), and
    `row_scales` (num_embeddings,).

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Columns of the table.
        bits: 8 or 4.
        factor_dtype: "float32" or "float16", for storing the scales.
    """

    method = "integer"

    def __init__(self, num_embeddings: int, embedding_dim: int, bits: int = 8, factor_dtype: str = "float32") -> None:
        super().__init__(num_embeddings, embedding_dim, factor_dtype)
        if type(bits) is not int or bits not in (4, 8):
            raise ValueError(f"bits must be 4 or 8, got {bits!r}.")
        self.bits = bits
        width, dtype = (embedding_dim, torch.int8) if bits == 8 else (-(-embedding_dim // 2), torch.uint8)
        self.register_buffer("codes", torch.zeros(num_embeddings, width, dtype=dtype))
        self.row_scales = nn.Parameter(torch.ones(num_embeddings))

    @classmethod
    def from_integers(
        cls, integers: torch.Tensor, row_scales: torch.Tensor, *, bits: int = 8, factor_dtype: str = "float32"
    ) -> IntegerEmbedding:
        """Build it from integers (num_embeddings, embedding_dim) and scales (num_embeddings,).

        Raises:
            ValueError: An integer does not fit into so many bits.
        """
        module = cls(*integers.shape, bits, factor_dtype)
        bound = 2 ** (bits - 1)
        if integers.min() < -bound or integers.max() >= bound:
            raise ValueError(
                f"{bits}-bit integers go from {-bound} to {bound - 1}, got {int(integers.min())} to "
                f"{int(integers.max())}."
            )
        if bits == 4:
            halves = nn.functional.pad((integers + 8).to(torch.uint8), (0, integers.shape[1] % 2))
            codes = halves[:, ::2] * 16 + halves[:, 1::2]
        else:
            codes = integers.to(torch.int8)
        module.fill(codes=codes, row_scales=row_scales)
        return module

    def specification(self) -> dict[str, Any]:
        """The base's and the number of bits."""
        return {**super().specification(), "bits": self.bits}

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (tokens, embedding_dim) of ids (tokens,)."""
        integers = self.codes.index_select(0, ids)
        scales = self.row_scales.index_select(0, ids).unsqueeze(1)
        if self.bits == 4:
            halves = torch.stack([integers >> 4, integers & 15], dim=2).flatten(1)[:, : self.embedding_dim]
            return (halves.to(scales.dtype) - 8) * scales
        return integers.to(scales.dtype) * scales


__all__ = ["IntegerEmbedding"]
