"""Smaller token embeddings: a model in, the same model with a compressed table out, of a size that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.compressed_embeddings import (
    BinaryCodeEmbedding,
    CompressedEmbedding,
    IntegerEmbedding,
    KeptRowsEmbedding,
    LowRankEmbedding,
    ProductQuantizedEmbedding,
)
from ..models.modeling_compressed_encoder import CompressedEncoderPreTrainedModel
from .autoencoder import train_autoencoder
from .byte_budget import (
    FACTOR_BYTES,
    binary_code_sizes,
    byte_budget,
    integer_sizes,
    kept_rows_bytes,
    low_rank_sizes,
    product_quantization_sizes,
)
from .integer_rounding import round_rows
from .lighttoken import binary_factors, default_refinement, default_start
from .low_rank import truncated_svd
from .metric_coordinates import Coordinates
from .product_quantization import quantize_parts
from .reconstruction import reconstruction_error
from .row_weights import order_weights, rows_to_keep
from .table_checks import check_table, checked_weights
from .wrapping import check_compressible, wrap_encoder

_ROWS_FOR_ONE_KEPT = 64
_KEPT_ROWS_SHARE = 4
"""Kept rows take a quarter of the budget at most."""
_MOST_BITS_BESIDE_KEPT_ROWS = 4
"""Per entry of the table; with more, codes lose so little that there is little to gain."""


def compress_embeddings(
    model: PreTrainedModel,
    method: str = "lighttoken",
    *,
    ratio: float | None = None,
    bytes: int | None = None,
    factor_dtype: str = "float16",
    row_weights: torch.Tensor | None = None,
    metric: torch.Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> CompressedEncoderPreTrainedModel:
    """Compress a model's token embedding, from its table, and from what text says of it; no labels, no task.

    Args:
        model: An encoder, tagger or reader with an ordinary token embedding; it is not changed.
        method: "lighttoken" (binary codes), "pq" (product quantization), "svd", "autoencoder", "int8" or "int4".
        ratio: Bytes of the table in float32 over the bytes stored in its place: codes, factors, decoders and biases.
            "int8" and "int4" have a size of their own, and need neither this nor `bytes`.
        bytes: The bytes themselves, in place of `ratio`. What is stored never takes more.
        factor_dtype: "float16" or "float32": how factors, decoders and codebooks are stored, and counted.
        row_weights: (vocabulary,) non-negative: how much each token counts; `token_weights` makes them of text, which
            is the option to try first. None: for "lighttoken" `order_weights`, for the others all alike.
            "int8" and "int4" take none.
        metric: (width, width) positive definite: an error e of a row counts as e @ metric @ e; `embedding_metric`
            makes one of the encoder and text. None: all directions count alike. For all but "int8" and "int4"; "pq"
            stores a rotation with it, and kept rows are rounded without it. The record's cosines and RMSE are of the
            plain vectors, and become worse while the score becomes better.
        seed: Of all that is drawn; the same seed gives the same codes on the same machine.
        progress: Show progress bars.
        **options: Of the method. They fix sizes that the budget would choose, and one of `rank`, `bits` and
            `subvectors` may stand in place of a budget.
            "svd": rank, centred. "autoencoder": rank, start, epochs, final_epochs, batch_size, learning_rate (see
            `train_autoencoder`). "lighttoken": rank, bits, stages, start, refinement, balance (see `binary_factors`).
            "pq": subvectors, centroids, rotation, rank, iterations (see `quantize_parts`). "int4": clipping (see
            `round_rows`). "int8" has none. All but "int8" and "int4": kept_rows, how many rows are stored by
            themselves, in int4, beside the method's form of all others; see `rows_to_keep`. By default "lighttoken"
            keeps one row in 64 where the budget is at most four bits an entry and `bits` does not fix the code, but
            no more than a quarter of the bytes pays for, and fewer than have a weight; the other methods keep none.

    Returns:
        A compressed encoder with the model's head, if it has one; see `wrap_encoder`. Its
        `config.compression["embedding"]` says method, sizes, bytes, ratio and errors, measured on what is stored.

    Raises:
        ValueError: No such method or option, a size that cannot be, a quantized model, an embedding that is no
            `nn.Embedding` or is compressed already, entries that are not finite, or weights that do not fit.

    Example:
        >>> model = AutoModelForTokenClassification.from_pretrained("my-tagger")
        >>> small = compress_embeddings(model, ratio=25)
        >>> small.config.compression["embedding"]["mean_cosine"], small.config.compression["embedding"]["bytes"]
        >>> small.save_pretrained("my-small-tagger")
    """
    check_compressible(model)
    embedding, record = compress_table(
        embedding_table(model),
        method,
        ratio=ratio,
        bytes=bytes,
        factor_dtype=factor_dtype,
        row_weights=row_weights,
        metric=metric,
        seed=seed,
        progress=progress,
        **options,
    )
    smaller = wrap_encoder(model, embedding=embedding, compression={"embedding": record})
    if smaller.dtype != torch.float32:  # in which the factors have been rounded
        stored: Any = smaller.get_input_embeddings()
        record = record | _measured(embedding_table(model).detach().float().cpu(), stored, row_weights)
        smaller.config.compression["embedding"] = record
    return smaller


def compress_table(
    table: torch.Tensor,
    method: str,
    *,
    ratio: float | None = None,
    bytes: int | None = None,
    factor_dtype: str = "float16",
    row_weights: torch.Tensor | None = None,
    metric: torch.Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> tuple[CompressedEmbedding, dict[str, Any]]:
    """`compress_embeddings` for a table (rows, columns) without a model: the module and the record.

    Args:
        table: (rows, columns).
        method: See `compress_embeddings`, as for all that follows.
        ratio: Of bytes.
        bytes: In place of `ratio`.
        factor_dtype: "float16" or "float32".
        row_weights: (rows,).
        metric: (columns, columns).
        seed: Of all that is drawn.
        progress: Show progress bars.
        **options: Of the method.

    Raises:
        ValueError: As `compress_embeddings`.
    """
    if method not in EMBEDDING_METHODS:
        raise ValueError(f"method must be one of {sorted(EMBEDDING_METHODS)}, got {method!r}.")
    known = EMBEDDING_METHODS[method]
    unknown = sorted(set(options) - set(known.options))
    if unknown:
        raise ValueError(f"{unknown} are no options of method={method!r}, which has {sorted(known.options)}.")
    if factor_dtype not in FACTOR_BYTES:
        raise ValueError(f"factor_dtype must be one of {sorted(FACTOR_BYTES)}, got {factor_dtype!r}.")
    table = table.detach().float().cpu()
    check_table(table, factor_dtype)
    if row_weights is not None:
        row_weights = checked_weights(row_weights, len(table))
        if not known.reads_weights:
            raise ValueError(f"method={method!r} cannot weight rows; leave row_weights out.")
    coordinates = None
    if metric is not None:
        if not known.reads_metric:
            takers = sorted(name for name, one in EMBEDDING_METHODS.items() if one.reads_metric)
            raise ValueError(f"method={method!r} cannot follow a metric, {takers} can: leave metric out.")
        coordinates = Coordinates.of(metric, table.shape[1])
    dense = table.numel() * 4
    sized = known.sized_by is None or known.sized_by in options
    budget = dense - 1 if sized and ratio is None and bytes is None else _budget(table, ratio, bytes, known)
    task = _Task(table, budget, factor_dtype, row_weights, coordinates, seed, progress)
    kept_rows = _kept_rows(task, known, options.pop("kept_rows", None), sized=sized)
    with torch.no_grad():
        embedding, details = _beside_kept_rows(task, known, kept_rows, options)
    record = {
        "method": method,
        **_recorded(embedding.specification()),
        "row_weights": None if row_weights is None else "given",
        "metric": None if metric is None else "given",
        **details,
        "seed": seed,
        **_measured(table, embedding, row_weights),
    }
    return embedding, record


@torch.no_grad()
def _measured(
    table: torch.Tensor, embedding: CompressedEmbedding, row_weights: torch.Tensor | None
) -> dict[str, float]:
    """Bytes, ratio and errors of what is stored in place of a table."""
    error = reconstruction_error(table, embedding.dense().float().cpu(), row_weights=row_weights)
    return {
        "bytes": embedding.stored_bytes,
        "ratio": round(4 * table.numel() / embedding.stored_bytes, 3),
        **{name: float(f"{value:.5g}") for name, value in error.as_dict().items()},
    }


def embedding_table(model: PreTrainedModel) -> torch.Tensor:
    """The table (vocabulary, width) of a model's token embedding.

    Raises:
        ValueError: There is none, or it is no ordinary one.
    """
    try:
        embedding = model.get_input_embeddings()
    except NotImplementedError:
        embedding = None
    if isinstance(embedding, CompressedEmbedding):
        raise ValueError(
            "The token embedding of this model is compressed already. Errors would add up: compress the original "
            "model, or decode this one first with model.set_input_embeddings(nn.Embedding.from_pretrained("
            "model.get_input_embeddings().dense()))."
        )
    # A subclass may scale what it looks up, and max_norm does.
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
        what = "no token embedding that get_input_embeddings finds"
        if embedding is not None:
            what = f"the token embedding {type(embedding).__name__}, where an nn.Embedding without max_norm is needed"
        raise ValueError(
            f"{type(model).__name__} has {what}. Pass an encoder that AutoModel loads, or its table to compress_table."
        )
    return embedding.weight


@dataclass(frozen=True)
class _Task:
    """What every maker is given."""

    table: torch.Tensor
    budget: int
    factor_dtype: str
    row_weights: torch.Tensor | None
    coordinates: Coordinates | None
    seed: int
    progress: bool

    @property
    def shape(self) -> tuple[int, int]:
        return self.table.shape[0], self.table.shape[1]

    @property
    def targets(self) -> torch.Tensor:
        """The table in the coordinates in which a method minimises the squared error."""
        return self.table if self.coordinates is None else self.table @ self.coordinates.root

    def brought_back(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (..., columns) of a decoder, or a bias, from these coordinates into the table's own."""
        return rows if self.coordinates is None else rows @ self.coordinates.inverse


Made = tuple[CompressedEmbedding, dict[str, Any]]


@dataclass(frozen=True)
class EmbeddingMethod:
    """How one method is called, and what it can be given."""

    make: Callable[..., Made]
    options: tuple[str, ...]
    sized_by: str | None
    """The option that may stand in place of a budget; None: the size is fixed."""
    reads_weights: bool = True
    """Whether it takes row weights."""
    reads_metric: bool = True
    """Whether it takes a metric."""
    stores_metric: bool = False
    """Whether a metric takes bytes of the budget, so that it is not always worth it."""
    draws: bool = True
    """Whether a seed says what it draws."""
    keeps_rows: bool = False
    """Whether it keeps some rows by default."""


def _svd(task: _Task, *, rank: int | None = None, centred: bool = False) -> Made:
    sizes = low_rank_sizes(*task.shape, task.budget, bias=centred, factor_dtype=task.factor_dtype, rank=rank)
    factors = truncated_svd(task.targets, sizes["rank"], centred=centred, row_weights=task.row_weights)
    return _low_rank(task, factors.latents, factors.decoder, factors.bias), {"centred": centred}


def _autoencoder(task: _Task, *, rank: int | None = None, **training: Any) -> Made:
    sizes = low_rank_sizes(*task.shape, task.budget, bias=True, factor_dtype=task.factor_dtype, rank=rank)
    factors = train_autoencoder(
        task.targets,
        sizes["rank"],
        row_weights=task.row_weights,
        seed=task.seed,
        progress=task.progress,
        **training,
    )
    return _low_rank(task, factors.latents, factors.decoder, factors.bias), training


def _low_rank(
    task: _Task, latents: torch.Tensor, decoder: torch.Tensor, bias: torch.Tensor | None
) -> LowRankEmbedding:
    """The module of factors that were found in the task's coordinates."""
    return LowRankEmbedding.from_factors(
        latents,
        task.brought_back(decoder.T).T,
        None if bias is None else task.brought_back(bias),
        factor_dtype=task.factor_dtype,
    )


def _lighttoken(
    task: _Task,
    *,
    rank: int = 0,
    bits: int | None = None,
    stages: int | None = None,
    start: str | None = None,
    refinement: int | None = None,
    balance: float | None = None,
) -> Made:
    sizes = binary_code_sizes(*task.shape, task.budget, rank=rank, factor_dtype=task.factor_dtype, bits=bits)
    length = sizes["bits"]
    # Without text nobody says which rows matter: their order does in part, and rows that fare worst must not fare too
    # badly, among which are common tokens, few and unlike the others.
    weights = order_weights(task.shape[0]) if task.row_weights is None else task.row_weights
    if balance is None:
        balance = 2.0 if task.row_weights is None else 0.0
    settings: dict[str, Any] = {
        "start": default_start(length, task.shape[1]) if start is None else start,
        "refinement": default_refinement(length, task.shape[0]) if refinement is None else refinement,
        "balance": balance,
    }
    if settings["start"] == "autoencoder":
        settings["stages"] = max(1, length // 64) if stages is None else stages
    elif stages is not None:
        raise ValueError(f'stages={stages} are autoencoders: they need start="autoencoder".')
    factors = binary_factors(
        task.targets, length, rank=rank, row_weights=weights, seed=task.seed, progress=task.progress, **settings
    )
    embedding = BinaryCodeEmbedding.from_bits(
        factors.bits,
        task.brought_back(factors.decoder),
        task.brought_back(factors.bias),
        latents=factors.latents if rank else None,
        low_rank_decoder=task.brought_back(factors.low_rank_decoder.T).T if rank else None,
        factor_dtype=task.factor_dtype,
    )
    errors = [float(f"{error:.4g}") for error in factors.errors]
    return embedding, {**settings, "dead_bits": factors.dead_bits, "hard_errors": errors} | (
        {"row_weights": "order"} if task.row_weights is None else {}
    )


def _product_quantization(
    task: _Task,
    *,
    subvectors: int | None = None,
    centroids: int | None = None,
    rotation: bool | None = None,
    rank: int | None = None,
    iterations: int = 20,
) -> Made:
    measured = task.coordinates is not None
    if measured and rotation is False:
        raise ValueError(
            "rotation=False leaves no matrix in which a metric could be stored: leave one of the two out "
            "(--no-metric on the command line)."
        )
    # A metric's coordinates need a matrix to come back from, in which a rotation of theirs costs nothing.
    rotation = measured if rotation is None else rotation
    sizes = product_quantization_sizes(
        *task.shape,
        task.budget,
        rotation=rotation,
        factor_dtype=task.factor_dtype,
        subvectors=subvectors,
        centroids=centroids,
        rank=rank,
    )
    low_rank = truncated_svd(task.targets, sizes["rank"], row_weights=task.row_weights)
    quantized = quantize_parts(
        task.targets - low_rank.dense(),
        sizes["subvectors"],
        centroids=sizes["centroids"],
        iterations=iterations,
        rotations=4 if rotation else 0,
        row_weights=task.row_weights,
        seed=task.seed,
        progress=task.progress,
    )
    embedding = ProductQuantizedEmbedding.from_codes(
        quantized.codes.long(),
        quantized.codebooks,
        rotation=None if quantized.rotation is None else task.brought_back(quantized.rotation),
        latents=low_rank.latents if sizes["rank"] else None,
        low_rank_decoder=task.brought_back(low_rank.decoder.T).T if sizes["rank"] else None,
        factor_dtype=task.factor_dtype,
    )
    return embedding, {"iterations": iterations}


def _integers(task: _Task, bits: int, **clipping: bool) -> IntegerEmbedding:
    integer_sizes(*task.shape, task.budget, bits=bits, factor_dtype=task.factor_dtype)
    rounded = round_rows(task.table, bits, **clipping)
    return IntegerEmbedding.from_integers(
        rounded.integers, rounded.row_scales, bits=bits, factor_dtype=task.factor_dtype
    )


def _int8(task: _Task) -> Made:
    return _integers(task, 8), {}


def _int4(task: _Task, *, clipping: bool = True) -> Made:
    return _integers(task, 4, clipping=clipping), {"clipping": clipping}


def _kept_rows(task: _Task, method: EmbeddingMethod, wanted: int | None, *, sized: bool) -> int:
    """How many rows are kept by themselves: what is wanted, or what is good where it has been tried."""
    rows, columns = task.shape
    if wanted is None:
        tight = not sized and 8 * task.budget <= _MOST_BITS_BESIDE_KEPT_ROWS * rows * columns
        if not (method.keeps_rows and tight):
            return 0
        one = kept_rows_bytes(1, columns, factor_dtype=task.factor_dtype)
        count = min(rows // _ROWS_FOR_ONE_KEPT, task.budget // _KEPT_ROWS_SHARE // one)
        if task.row_weights is not None:  # of which the others need some, too
            count = min(count, int((task.row_weights > 0).sum()) - 1)
        return count
    if type(wanted) is not int or not 0 <= wanted < rows:
        raise ValueError(f"kept_rows must be a whole number from 0 to {rows - 1}, got {wanted!r}.")
    return wanted


def _beside_kept_rows(task: _Task, method: EmbeddingMethod, kept_rows: int, options: dict[str, Any]) -> Made:
    """What a method makes of all rows but the kept ones, and these beside it."""
    if not kept_rows:
        return method.make(task, **options)
    left = task.budget - kept_rows_bytes(kept_rows, task.shape[1], factor_dtype=task.factor_dtype)
    if left < 1:
        raise ValueError(f"kept_rows={kept_rows} take more than the {task.budget} bytes that there are: keep fewer.")
    kept = rows_to_keep(task.table, kept_rows, task.row_weights)
    weights = None
    if task.row_weights is not None:
        weights = checked_weights(task.row_weights[~kept], task.shape[0] - kept_rows)
    others = replace(task, table=task.table[~kept], budget=left, row_weights=weights)
    try:
        shared, details = method.make(others, **options)
    except ValueError as error:
        raise ValueError(
            f"Beside {kept_rows} kept rows, which take {task.budget - left} of {task.budget} bytes (kept_rows=0 keeps "
            f"none), of the other rows alone: {error}"
        ) from error
    rounded = _integers(replace(task, table=task.table[kept]), 4)
    return KeptRowsEmbedding.from_parts(kept.nonzero().squeeze(1), rounded, shared), details


def _recorded(specification: dict[str, Any]) -> dict[str, Any]:
    """The fields of a specification that a record has besides its own method, all on one level."""
    shared = specification.get("shared", {})
    return {name: value for name, value in (shared | specification).items() if name not in ("method", "shared")}


_TRAINING = ("start", "epochs", "final_epochs", "batch_size", "learning_rate")
EMBEDDING_METHODS = {
    "svd": EmbeddingMethod(_svd, ("kept_rows", "rank", "centred"), "rank", draws=False),
    "autoencoder": EmbeddingMethod(_autoencoder, ("kept_rows", "rank", *_TRAINING), "rank"),
    "lighttoken": EmbeddingMethod(
        _lighttoken,
        ("kept_rows", "rank", "bits", "stages", "start", "refinement", "balance"),
        "bits",
        keeps_rows=True,
    ),
    "pq": EmbeddingMethod(
        _product_quantization,
        ("kept_rows", "subvectors", "centroids", "rotation", "rank", "iterations"),
        "subvectors",
        stores_metric=True,
    ),
    "int8": EmbeddingMethod(_int8, (), None, reads_weights=False, reads_metric=False, draws=False),
    "int4": EmbeddingMethod(_int4, ("clipping",), None, reads_weights=False, reads_metric=False, draws=False),
}


def _budget(table: torch.Tensor, ratio: float | None, bytes: int | None, method: EmbeddingMethod) -> int:
    if ratio is None and bytes is None:
        raise ValueError(
            f"Say how small: ratio=25, bytes=..., or {method.sized_by}=... (--ratio 25, --bytes, or --option "
            f"{method.sized_by}=...)."
        )
    return byte_budget(*table.shape, ratio=ratio, num_bytes=bytes)


__all__ = ["EMBEDDING_METHODS", "compress_embeddings", "compress_table", "embedding_table"]
