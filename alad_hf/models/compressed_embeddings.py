"""Token embeddings in less memory than their table: low rank, binary codes, product quantization, int8 and int4.

Any of them may stand beside a few rows that are kept by themselves.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .bit_packing import pack_bits, unpack_bits
from .embedding_table import MAX_BITS_PER_COLUMN, CompressedEmbedding, check_number, check_switch, is_traced
from .integer_embedding import IntegerEmbedding

MOST_TRAINED_BITS = 512
"""Codes of which the decoder is trained with the layers: of 80 bits that gains a little, of 392 it gains on one set
and loses on two, of 1,012 it loses (`docs/compress_a_model.md`)."""


class LowRankEmbedding(CompressedEmbedding):
    """Row = decoder @ latent + bias: what a singular value decomposition or an autoencoder leaves behind.

    Tensors: `latents` (num_embeddings, rank), `decoder` (embedding_dim, rank), `bias` (embedding_dim,) if wanted.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Columns of the table.
        rank: Width of a latent, at most `embedding_dim`.
        bias: Whether a bias is added.
        factor_dtype: "float32" or "float16", for storing.
    """

    method = "low_rank"

    def __init__(
        self, num_embeddings: int, embedding_dim: int, rank: int, bias: bool = True, factor_dtype: str = "float32"
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, factor_dtype)
        check_number("rank", rank, embedding_dim)
        check_switch("bias", bias)
        self.rank = rank
        self.latents = nn.Parameter(torch.zeros(num_embeddings, rank))
        self.decoder = nn.Parameter(torch.zeros(embedding_dim, rank))
        self.bias = nn.Parameter(torch.zeros(embedding_dim)) if bias else None

    @classmethod
    def from_factors(
        cls,
        latents: torch.Tensor,
        decoder: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        factor_dtype: str = "float32",
    ) -> LowRankEmbedding:
        """Build it from latents (num_embeddings, rank), decoder (embedding_dim, rank) and bias (embedding_dim,)."""
        module = cls(len(latents), len(decoder), decoder.shape[1], bias is not None, factor_dtype)
        module.fill(latents=latents, decoder=decoder, bias=bias)
        return module

    def specification(self) -> dict[str, Any]:
        """The base's, the rank and whether there is a bias."""
        return {**super().specification(), "rank": self.rank, "bias": self.bias is not None}

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (tokens, embedding_dim) of ids (tokens,)."""
        return nn.functional.linear(self.latents.index_select(0, ids), self.decoder, self.bias)


class BinaryCodeEmbedding(CompressedEmbedding):
    """Row = sum of the decoder's rows whose bit is set + bias + an optional low-rank part (LightToken, KDD 2023).

    The codes of all stages follow each other in one code; their biases are summed in one. Bit j of a token is in byte
    j // 8 and has the value 128 >> (j % 8) there, which is `numpy.packbits`' own order. Spare bits of the last byte
    are zero.

    Tensors: `codes` uint8 (num_embeddings, ceil(bits / 8)), `decoder` (bits, embedding_dim), `bias` (embedding_dim,),
    and with rank > 0 those of `low_rank`, a `LowRankEmbedding` without bias.

    A compressed encoder has it frozen if the codes are long, see `freeze_codes`.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Columns of the table.
        bits: Length of a code.
        rank: Rank of the low-rank part; 0 leaves it out.
        factor_dtype: "float32" or "float16", for storing.
    """

    method = "binary_code"

    def __init__(
        self, num_embeddings: int, embedding_dim: int, bits: int, rank: int = 0, factor_dtype: str = "float32"
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, factor_dtype)
        check_number("bits", bits, MAX_BITS_PER_COLUMN * embedding_dim)
        self.bits = bits
        self.register_buffer("codes", torch.zeros(num_embeddings, -(-bits // 8), dtype=torch.uint8))
        self.decoder = nn.Parameter(torch.zeros(bits, embedding_dim))
        self.bias = nn.Parameter(torch.zeros(embedding_dim))
        self.low_rank = _low_rank_part(num_embeddings, embedding_dim, rank, factor_dtype)

    @classmethod
    def from_bits(
        cls,
        bits: torch.Tensor,
        decoder: torch.Tensor,
        bias: torch.Tensor,
        *,
        latents: torch.Tensor | None = None,
        low_rank_decoder: torch.Tensor | None = None,
        factor_dtype: str = "float32",
    ) -> BinaryCodeEmbedding:
        """Build it from bits (num_embeddings, bits), 0 or 1 of any dtype, and its factors.

        Args:
            bits: The codes, unpacked.
            decoder: (bits, embedding_dim), the stages' decoders below each other.
            bias: (embedding_dim,), the sum of the stages' biases.
            latents: (num_embeddings, rank) of the low-rank part.
            low_rank_decoder: (embedding_dim, rank) of the low-rank part.
            factor_dtype: "float32" or "float16", for storing.

        Raises:
            ValueError: A bit is neither 0 nor 1, or shapes do not fit together.
        """
        if not ((bits == 0) | (bits == 1)).all():
            raise ValueError("bits must be 0 or 1; signs become bits by (codes > 0).")
        rank = 0 if latents is None else latents.shape[1]
        module = cls(len(bits), decoder.shape[1], bits.shape[1], rank, factor_dtype)
        low_rank = _named_low_rank(latents, low_rank_decoder)
        module.fill(codes=pack_bits(bits), decoder=decoder, bias=bias, **low_rank)
        return module

    @property
    def rank(self) -> int:
        """Rank of the low-rank part."""
        return 0 if self.low_rank is None else self.low_rank.rank

    def specification(self) -> dict[str, Any]:
        """The base's, the length of the code and the rank."""
        return {**super().specification(), "bits": self.bits, "rank": self.rank}

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (tokens, embedding_dim) of ids (tokens,)."""
        bits = unpack_bits(self.codes.index_select(0, ids), self.bits).to(self.decoder.dtype)
        vectors = torch.addmm(self.bias, bits, self.decoder)
        return vectors if self.low_rank is None else vectors + self._decode_part(self.low_rank, ids)


class ProductQuantizedEmbedding(CompressedEmbedding):
    """Row = the concatenation of one centroid per sub-vector, rotated, scaled, plus an optional low-rank part.

    In full: row = (concatenation @ rotation) * row scale + low-rank part. A sub-vector's code is one byte.

    Tensors: `codes` uint8 (num_embeddings, subvectors), `codebooks` (subvectors, centroids, embedding_dim /
    subvectors), and where they are wanted `rotation` (embedding_dim, embedding_dim), `row_scales` (num_embeddings,),
    `low_rank` as in `BinaryCodeEmbedding`, `bias` (embedding_dim,).

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Columns of the table.
        subvectors: Parts of a row, which divide it into equal lengths.
        centroids: Entries of each codebook, at most 256.
        rotation: Whether the concatenation is multiplied by a matrix.
        row_scales: Whether every row has a factor of its own.
        bias: Whether a bias is added to all rows.
        rank: Rank of the low-rank part; 0 leaves it out.
        factor_dtype: "float32" or "float16", for storing.
    """

    method = "product_quantized"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        subvectors: int,
        centroids: int = 256,
        rotation: bool = False,
        row_scales: bool = False,
        bias: bool = False,
        rank: int = 0,
        factor_dtype: str = "float32",
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, factor_dtype)
        check_number("subvectors", subvectors, embedding_dim)
        check_number("centroids", centroids, 256)
        if embedding_dim % subvectors:
            raise ValueError(f"subvectors must divide embedding_dim={embedding_dim}, got {subvectors}.")
        for name, value in {"rotation": rotation, "row_scales": row_scales, "bias": bias}.items():
            check_switch(name, value)
        self.subvectors = subvectors
        self.centroids = centroids
        self.register_buffer("codes", torch.zeros(num_embeddings, subvectors, dtype=torch.uint8))
        self.codebooks = nn.Parameter(torch.zeros(subvectors, centroids, embedding_dim // subvectors))
        self.rotation = nn.Parameter(torch.zeros(embedding_dim, embedding_dim)) if rotation else None
        self.row_scales = nn.Parameter(torch.ones(num_embeddings)) if row_scales else None
        self.bias = nn.Parameter(torch.zeros(embedding_dim)) if bias else None
        self.low_rank = _low_rank_part(num_embeddings, embedding_dim, rank, factor_dtype)

    @classmethod
    def from_codes(
        cls,
        codes: torch.Tensor,
        codebooks: torch.Tensor,
        *,
        rotation: torch.Tensor | None = None,
        row_scales: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        low_rank_decoder: torch.Tensor | None = None,
        factor_dtype: str = "float32",
    ) -> ProductQuantizedEmbedding:
        """Build it from codes (num_embeddings, subvectors) of any integer dtype and the tensors named in the class.

        Raises:
            ValueError: A code is out of range, or shapes do not fit together.
        """
        subvectors, centroids, length = codebooks.shape
        module = cls(
            len(codes),
            subvectors * length,
            subvectors,
            centroids,
            rotation is not None,
            row_scales is not None,
            bias is not None,
            0 if latents is None else latents.shape[1],
            factor_dtype,
        )
        if codes.min() < 0 or int(codes.max()) >= centroids:  # a comparison of uint8 with 256 would wrap
            raise ValueError(f"codes must be from 0 to {centroids - 1}, got {int(codes.min())} to {int(codes.max())}.")
        tensors = {"codebooks": codebooks, "rotation": rotation, "row_scales": row_scales, "bias": bias}
        low_rank = _named_low_rank(latents, low_rank_decoder)
        module.fill(codes=codes.to(torch.uint8), **tensors, **low_rank)
        return module

    @property
    def rank(self) -> int:
        """Rank of the low-rank part."""
        return 0 if self.low_rank is None else self.low_rank.rank

    def specification(self) -> dict[str, Any]:
        """The base's, the sizes of the codebooks and which further parts there are."""
        return {
            **super().specification(),
            "subvectors": self.subvectors,
            "centroids": self.centroids,
            "rotation": self.rotation is not None,
            "row_scales": self.row_scales is not None,
            "bias": self.bias is not None,
            "rank": self.rank,
        }

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (tokens, embedding_dim) of ids (tokens,)."""
        first = torch.arange(0, self.subvectors * self.centroids, self.centroids, device=ids.device)
        entries = self.codes.index_select(0, ids).long() + first
        vectors = nn.functional.embedding(entries, self.codebooks.flatten(0, 1)).flatten(1)
        if self.rotation is not None:
            vectors = vectors @ self.rotation
        if self.row_scales is not None:
            vectors = vectors * self.row_scales.index_select(0, ids).unsqueeze(1)
        if self.bias is not None:
            vectors = vectors + self.bias
        return vectors if self.low_rank is None else vectors + self._decode_part(self.low_rank, ids)

    def check_codes(self) -> None:
        """Raise ValueError if a code names a centroid that its codebook does not have."""
        largest = int(self.codes.max())
        if largest >= self.centroids:
            raise ValueError(
                f"codes of this {type(self).__name__} go up to {largest}, its codebooks have {self.centroids} "
                "centroids: the codes are damaged, or their codebooks are another model's."
            )


class KeptRowsEmbedding(CompressedEmbedding):
    """Some rows rounded each by itself, and all others in a form that they share, such as codes with one decoder.

    A decoder that is fitted to thirty thousand rows serves badly the few hundred that most of a text consists of:
    they are unlike the others. Tables in parts by frequency: Chen et al. 2018 (arXiv 1806.06950), Baevski and Auli
    2019 (arXiv 1809.10853).

    Tensors: `kept_ids` int32 (kept_rows,), ascending, those of `kept`, an `IntegerEmbedding` of these rows, and those
    of `shared`, an embedding of the `num_embeddings - kept_rows` other rows in their order.

    Args:
        num_embeddings: Rows of the table.
        embedding_dim: Columns of the table.
        kept_rows: How many rows are kept, fewer than `num_embeddings`.
        kept_bits: 8 or 4, of their integers.
        shared: Specification of the form of the others.
        factor_dtype: "float32" or "float16", for storing the scales of kept rows.
    """

    method = "kept_rows"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        kept_rows: int,
        kept_bits: int,
        shared: dict[str, Any],
        factor_dtype: str = "float32",
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, factor_dtype)
        check_number("kept_rows", kept_rows, num_embeddings - 1)
        if not isinstance(shared, dict) or shared.get("method") in (None, self.method):
            raise ValueError(f"shared must be the specification of another form of embedding, got {shared!r}.")
        self.register_buffer("kept_ids", torch.arange(kept_rows, dtype=torch.int32))
        self.kept = IntegerEmbedding(kept_rows, embedding_dim, kept_bits, factor_dtype)
        self.shared = build_embedding(shared)
        shape = (self.shared.num_embeddings, self.shared.embedding_dim)
        if shape != (num_embeddings - kept_rows, embedding_dim):
            raise ValueError(
                f"shared must have {num_embeddings - kept_rows} rows of {embedding_dim} columns beside {kept_rows} "
                f"kept of {num_embeddings}, got {shape[0]} of {shape[1]}."
            )

    @classmethod
    def from_parts(
        cls, kept_ids: torch.Tensor, kept: IntegerEmbedding, shared: CompressedEmbedding
    ) -> KeptRowsEmbedding:
        """Build it from the ids (kept_rows,) of kept rows, ascending, and embeddings of these and of all other rows.

        Raises:
            ValueError: Ids are not ascending or out of range, or shapes do not fit together.
        """
        module = cls(
            kept.num_embeddings + shared.num_embeddings,
            kept.embedding_dim,
            kept.num_embeddings,
            kept.bits,
            shared.specification(),
            kept.factor_dtype,
        )
        states = {"kept.": kept.state_dict(), "shared.": shared.state_dict()}
        tensors = {prefix + name: tensor for prefix, state in states.items() for name, tensor in state.items()}
        module.fill(kept_ids=kept_ids.int(), **tensors)
        return module

    def specification(self) -> dict[str, Any]:
        """The base's, how many rows are kept in how many bits, and the specification of the form of the others."""
        return {
            **super().specification(),
            "kept_rows": self.kept.num_embeddings,
            "kept_bits": self.kept.bits,
            "shared": self.shared.specification(),
        }

    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors (tokens, embedding_dim) of ids (tokens,)."""
        ids, kept_ids = ids.long(), self.kept_ids.long()
        if is_traced():  # exporters know no binary search
            places = (kept_ids < ids.unsqueeze(1)).sum(dim=1)
        else:
            places = torch.searchsorted(kept_ids, ids)
        nearest = places.clamp(max=len(kept_ids) - 1)
        is_kept = kept_ids.index_select(0, nearest) == ids
        others = self._decode_part(self.shared, torch.where(is_kept, torch.zeros_like(ids), ids - places))
        return torch.where(is_kept.unsqueeze(1), self._decode_part(self.kept, nearest), others)

    def init_weights(self) -> None:
        """The base's, and the first rows as those that are kept."""
        super().init_weights()
        init.copy_(self.kept_ids, torch.arange(len(self.kept_ids), dtype=torch.int32, device=self.kept_ids.device))

    def check_codes(self) -> None:
        """Raise ValueError if the ids of kept rows are not ascending or out of range, or the others' codes are."""
        ids = self.kept_ids.long()
        if int(ids[0]) < 0 or int(ids[-1]) >= self.num_embeddings or not (ids[1:] > ids[:-1]).all():
            raise ValueError(
                f"kept_ids of this {type(self).__name__} must ascend from 0 to {self.num_embeddings - 1} at most: "
                "they are damaged, or another model's."
            )
        self.shared.check_codes()


EMBEDDINGS: dict[str, type[CompressedEmbedding]] = {
    kind.method: kind
    for kind in (
        LowRankEmbedding,
        BinaryCodeEmbedding,
        ProductQuantizedEmbedding,
        IntegerEmbedding,
        KeptRowsEmbedding,
    )
}


def build_embedding(specification: dict[str, Any]) -> CompressedEmbedding:
    """Build the module that a specification describes, with zero codes and factors, for loading.

    Under `torch.device("meta")` it takes no memory, and its `stored_bytes` says what such an embedding would store.

    Args:
        specification: As `CompressedEmbedding.specification` gives it.

    Raises:
        ValueError: An unknown method, a missing or unknown field, or a value out of its bounds.
    """
    fields = dict(specification)
    method = fields.pop("method", None)
    kind = EMBEDDINGS.get(method) if isinstance(method, str) else None
    if kind is None:
        raise ValueError(f"An embedding's method must be one of {sorted(EMBEDDINGS)}, got {specification}.")
    try:
        return kind(**fields)
    except TypeError as error:
        raise ValueError(f"{specification} does not describe a {kind.__name__}: {error}.") from error


def freeze_codes(model: nn.Module) -> None:
    """Freeze the embeddings of a model that have long binary codes, of more than `MOST_TRAINED_BITS`.

    Trained at a rate that suits the layers, their tables came apart: measured in `docs/compress_a_model.md`. Probably
    that is since a token's vector is a sum of as many rows of the decoder as its code has bits set, so that a step of
    Adam can move it by as many times the rate. `model.get_input_embeddings().requires_grad_(True)` trains it.
    """
    for module in model.modules():
        if isinstance(module, CompressedEmbedding) and any(
            isinstance(part, BinaryCodeEmbedding) and part.bits > MOST_TRAINED_BITS for part in module.modules()
        ):
            module.requires_grad_(False)


def make_trainable(model: nn.Module) -> None:
    """Release every parameter of a model, but those that `freeze_codes` freezes."""
    model.requires_grad_(True)
    freeze_codes(model)


def check_embeddings(model: nn.Module, missing: Collection[str] = ()) -> None:
    """Check every compressed embedding in a model that was loaded.

    Args:
        model: The model.
        missing: Names of the tensors that the checkpoint did not have.

    Raises:
        ValueError: A tensor of an embedding is missing or damaged; see `CompressedEmbedding.check`.
    """
    for path, module in model.named_modules():
        if not isinstance(module, CompressedEmbedding):
            continue
        lost = sorted(name for name in missing if name.startswith(f"{path}."))
        if lost:
            raise ValueError(
                f"The checkpoint lacks {lost}: without them its compressed embeddings cannot be decoded. It is "
                "damaged, or its config.json is another model's."
            )
        module.check()


def _low_rank_part(num_embeddings: int, embedding_dim: int, rank: int, factor_dtype: str) -> LowRankEmbedding | None:
    check_number("rank", rank, embedding_dim, smallest=0)
    return LowRankEmbedding(num_embeddings, embedding_dim, rank, False, factor_dtype) if rank else None


def _named_low_rank(latents: torch.Tensor | None, decoder: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    if (latents is None) != (decoder is None):
        raise ValueError("A low-rank part needs both latents and low_rank_decoder, got one of them.")
    return {} if latents is None else {"low_rank.latents": latents, "low_rank.decoder": decoder}


__all__ = [
    "BinaryCodeEmbedding",
    "CompressedEmbedding",
    "IntegerEmbedding",
    "KeptRowsEmbedding",
    "LowRankEmbedding",
    "ProductQuantizedEmbedding",
    "build_embedding",
    "check_embeddings",
    "freeze_codes",
    "make_trainable",
]
