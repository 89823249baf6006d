"""Compressed token embeddings against formulas in numpy: tables, lookups, bytes, gradients, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from alad_hf.models.bit_packing import pack_bits, unpack_bits
from alad_hf.models.compressed_embeddings import (
    BinaryCodeEmbedding,
    CompressedEmbedding,
    IntegerEmbedding,
    KeptRowsEmbedding,
    LowRankEmbedding,
    ProductQuantizedEmbedding,
    build_embedding,
    check_embeddings,
)

ROWS, WIDTH, RANK, BITS, PARTS, CENTROIDS = 37, 6, 3, 13, 2, 11
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    # Halves, so that storing 16 bits of them changes nothing.
    return RANDOM.normal(size=shape).astype(np.float16).astype(np.float32)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())


LATENTS, FACTOR, BIAS = normal(ROWS, RANK), normal(WIDTH, RANK), normal(WIDTH)
CODE = RANDOM.integers(0, 2, size=(ROWS, BITS), dtype=np.uint8)
STAGES = normal(BITS, WIDTH)
CENTROID_CODES = RANDOM.integers(0, CENTROIDS, size=(ROWS, PARTS))
BOOKS, ROTATION, SCALES = normal(PARTS, CENTROIDS, WIDTH // PARTS), normal(WIDTH, WIDTH), abs(normal(ROWS))
INT8 = RANDOM.integers(-128, 128, size=(ROWS, WIDTH))
INT4 = RANDOM.integers(-8, 8, size=(ROWS, WIDTH - 1))  # an odd width leaves half a byte over
KEPT = [0, 2, 7, ROWS - 1]
OTHERS = [row for row in range(ROWS) if row not in KEPT]


def concatenation() -> np.ndarray:
    return np.stack([np.concatenate([BOOKS[part, code] for part, code in enumerate(row)]) for row in CENTROID_CODES])


def beside_kept(bits: int, shared: CompressedEmbedding) -> KeptRowsEmbedding:
    integers = tensor(INT8[KEPT] // (1 if bits == 8 else 16))
    scales = tensor(SCALES[KEPT])
    kept = IntegerEmbedding.from_integers(integers, scales, bits=bits, factor_dtype=shared.factor_dtype)
    return KeptRowsEmbedding.from_parts(torch.tensor(KEPT), kept, shared)


def with_kept(table: np.ndarray, divisor: int = 1) -> np.ndarray:
    table = table.copy()
    table[KEPT] = INT8[KEPT] // divisor * SCALES[KEPT, None]
    return table


CASES: dict[str, tuple[Callable[[str], CompressedEmbedding], np.ndarray, int, int]] = {
    # name: maker by factor_dtype, the table by its formula, bytes of codes, number of floats
    "low rank": (
        lambda dtype: LowRankEmbedding.from_factors(tensor(LATENTS), tensor(FACTOR), factor_dtype=dtype),
        LATENTS @ FACTOR.T,
        0,
        ROWS * RANK + WIDTH * RANK,
    ),
    "autoencoder": (
        lambda dtype: LowRankEmbedding.from_factors(tensor(LATENTS), tensor(FACTOR), tensor(BIAS), factor_dtype=dtype),
        LATENTS @ FACTOR.T + BIAS,
        0,
        ROWS * RANK + WIDTH * RANK + WIDTH,
    ),
    "binary": (
        lambda dtype: BinaryCodeEmbedding.from_bits(tensor(CODE), tensor(STAGES), tensor(BIAS), factor_dtype=dtype),
        CODE @ STAGES + BIAS,
        ROWS * 2,
        BITS * WIDTH + WIDTH,
    ),
    "lighttoken": (
        lambda dtype: BinaryCodeEmbedding.from_bits(
            tensor(CODE).bool(),
            tensor(STAGES),
            tensor(BIAS),
            latents=tensor(LATENTS),
            low_rank_decoder=tensor(FACTOR),
            factor_dtype=dtype,
        ),
        CODE @ STAGES + BIAS + LATENTS @ FACTOR.T,
        ROWS * 2,
        BITS * WIDTH + WIDTH + ROWS * RANK + WIDTH * RANK,
    ),
    "product quantized": (
        lambda dtype: ProductQuantizedEmbedding.from_codes(tensor(CENTROID_CODES), tensor(BOOKS), factor_dtype=dtype),
        concatenation(),
        ROWS * PARTS,
        BOOKS.size,
    ),
    "product quantized with all": (
        lambda dtype: ProductQuantizedEmbedding.from_codes(
            tensor(CENTROID_CODES),
            tensor(BOOKS),
            rotation=tensor(ROTATION),
            row_scales=tensor(SCALES),
            bias=tensor(BIAS),
            latents=tensor(LATENTS),
            low_rank_decoder=tensor(FACTOR),
            factor_dtype=dtype,
        ),
        (concatenation() @ ROTATION) * SCALES[:, None] + BIAS + LATENTS @ FACTOR.T,
        ROWS * PARTS,
        BOOKS.size + WIDTH**2 + ROWS + WIDTH + ROWS * RANK + WIDTH * RANK,
    ),
    "int8": (
        lambda dtype: IntegerEmbedding.from_integers(tensor(INT8), tensor(SCALES), factor_dtype=dtype),
        INT8 * SCALES[:, None],
        ROWS * WIDTH,
        ROWS,
    ),
    "int4": (
        lambda dtype: IntegerEmbedding.from_integers(tensor(INT4), tensor(SCALES), bits=4, factor_dtype=dtype),
        INT4 * SCALES[:, None],
        ROWS * 3,
        ROWS,
    ),
    "binary beside kept rows": (
        lambda dtype: beside_kept(
            4,
            BinaryCodeEmbedding.from_bits(tensor(CODE[OTHERS]), tensor(STAGES), tensor(BIAS), factor_dtype=dtype),
        ),
        with_kept(CODE @ STAGES + BIAS, 16),
        4 * len(KEPT) + len(KEPT) * WIDTH // 2 + len(OTHERS) * 2,
        BITS * WIDTH + WIDTH + len(KEPT),
    ),
    "product quantized beside kept rows": (
        lambda dtype: beside_kept(
            8,
            ProductQuantizedEmbedding.from_codes(
                tensor(CENTROID_CODES[OTHERS]), tensor(BOOKS), rotation=tensor(ROTATION), factor_dtype=dtype
            ),
        ),
        with_kept(concatenation() @ ROTATION),
        4 * len(KEPT) + len(KEPT) * WIDTH + len(OTHERS) * PARTS,
        BOOKS.size + WIDTH**2 + len(KEPT),
    ),
}


@pytest.mark.parametrize("name", CASES)
class TestEveryForm:
    def test_the_table_is_the_formulas(self, name: str) -> None:
        make, table, _, _ = CASES[name]
        module = make("float32")
        np.testing.assert_allclose(module.dense().detach().numpy(), table, rtol=1e-5, atol=1e-4)
        assert (module.num_embeddings, module.embedding_dim) == table.shape
        assert module.weight.shape == table.shape and module.weight.dtype == torch.float32

    def test_lookup_gives_rows_for_ids_of_any_shape(self, name: str) -> None:
        make, table, _, _ = CASES[name]
        module = make("float32")
        distinct = torch.tensor([[3, 0, 36], [7, 8, 9]])  # decoded one by one
        repeated = torch.tensor([[5, 5, 5, 2], [2, 5, 0, 0]])  # decoded once each
        for ids in (distinct, repeated, repeated.int(), torch.tensor(4), torch.zeros(2, 0, dtype=torch.long)):
            vectors = module(ids)
            assert vectors.shape == (*ids.shape, table.shape[1])
            np.testing.assert_allclose(vectors.detach().numpy(), table[ids.numpy()], rtol=1e-5, atol=1e-4)
        with pytest.raises(IndexError):
            module(torch.tensor([ROWS]))

    @pytest.mark.parametrize(("dtype", "bytes_of_a_float"), [("float32", 4), ("float16", 2)])
    def test_stored_bytes(self, name: str, dtype: str, bytes_of_a_float: int, tmp_path: Path) -> None:
        make, _, codes, floats = CASES[name]
        module = make(dtype)
        expected = codes + bytes_of_a_float * floats
        assert module.stored_bytes == expected
        with torch.device("meta"):
            assert build_embedding(module.specification()).stored_bytes == expected
        save_file(module.state_dict(), tmp_path / "e.safetensors")
        file = (tmp_path / "e.safetensors").read_bytes()
        assert len(file) == expected + 8 + int.from_bytes(file[:8], "little")

    def test_specification_and_state_rebuild_it(self, name: str) -> None:
        module = CASES[name][0]("float16")
        assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
        rebuilt = build_embedding(json.loads(json.dumps(module.specification())))
        rebuilt.load_state_dict(module.state_dict())
        assert rebuilt.specification() == module.specification()
        assert torch.equal(rebuilt.dense(), module.dense())
        rebuilt.check()

    def test_gradients_reach_the_factors_as_through_the_table(self, name: str) -> None:
        module = CASES[name][0]("float32")
        ids = torch.tensor([[5, 5, 2, 0], [2, 5, 0, 36]])
        weights = torch.randn(*ids.shape, module.embedding_dim, generator=torch.Generator().manual_seed(0))
        (module(ids) * weights).sum().backward()
        gradients = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
        module.zero_grad()
        (module.dense()[ids] * weights).sum().backward()
        assert gradients
        for key, parameter in module.named_parameters():
            torch.testing.assert_close(gradients[key], parameter.grad, msg=key)
        assert all(not buffer.requires_grad for buffer in module.buffers())

    def test_materialized_it_looks_up_the_same_and_stores_the_same(self, name: str) -> None:
        module = CASES[name][0]("float32").eval()
        ids = torch.tensor([[5, 5, 2, 0]])
        before, state = module(ids), module.state_dict()
        module.materialize()
        assert torch.equal(module(ids), before) and torch.equal(module.weight, module.dense())
        assert module.state_dict().keys() == state.keys()
        assert not any(parameter.requires_grad for parameter in module.parameters())
        module.train()
        assert module.table is not None  # nothing is going to change
        module.requires_grad_(True)
        assert module(ids).requires_grad  # decoded, so that the factors can learn
        module.train()
        assert module.table is None
        assert module.materialize().materialize(False).table is None

    def test_a_table_in_memory_is_that_of_the_tensors_loaded_last(self, name: str) -> None:
        module, other = CASES[name][0]("float32"), CASES[name][0]("float32")
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(2)
        module.materialize().load_state_dict(other.state_dict())
        assert torch.equal(module.weight, other.dense()) and module.table is not None

    def test_a_table_in_memory_is_dropped_where_it_is_trained_in_eval_mode(self, name: str) -> None:
        module = CASES[name][0]("float32").eval().materialize()
        module.requires_grad_(True)
        ids = torch.tensor([5, 2])
        module(ids).sum().backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.sub_(0.1 * parameter.grad)
            assert torch.equal(module(ids), module.dense()[ids])

    def test_a_table_in_memory_is_read(self, name: str) -> None:
        module = CASES[name][0]("float32").materialize()
        module.table.zero_()
        assert not module(torch.tensor([1, 2])).any()

    def test_bfloat16(self, name: str) -> None:
        make, table, _, _ = CASES[name]
        module = make("float16").bfloat16()
        vectors = module(torch.tensor([1, 2, 2, 2]))
        assert vectors.dtype == torch.bfloat16
        np.testing.assert_allclose(vectors.float().detach().numpy(), table[[1, 2, 2, 2]], rtol=0.05, atol=0.2)
        stored = {value.dtype for value in module.state_dict().values() if value.is_floating_point()}
        assert stored == {torch.bfloat16}  # 16 bits already

    def test_compiles_and_exports(self, name: str) -> None:
        module = CASES[name][0]("float32").eval()
        ids = torch.tensor([[5, 5, 2, 0]])
        torch.compiler.reset()  # there are more forms than one function may be compiled for
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(ids), module(ids))
        program = torch.export.export(module, (ids,), dynamic_shapes=({1: torch.export.Dim("tokens", min=2, max=64)},))
        longer = torch.arange(20).view(1, 20)
        torch.testing.assert_close(program.module()(longer), module(longer))

    def test_damage_is_found(self, name: str) -> None:
        module = CASES[name][0]("float32")
        holder = nn.ModuleDict({"words": module})
        check_embeddings(holder)
        for key in module.state_dict():
            with pytest.raises(ValueError, match=rf"lacks \['words.{key}'\].*cannot be decoded"):
                check_embeddings(holder, missing=["other.weight", f"words.{key}"])
        parameter = next(module.parameters())
        parameter.data.view(-1)[-1] = float("nan")
        with pytest.raises(ValueError, match="entries that are not finite: the checkpoint is damaged"):
            check_embeddings(holder)
        parameter.data = torch.zeros(1, 2)
        with pytest.raises(ValueError, match=r"is \(1, 2\) torch.float32, its specification says"):
            check_embeddings(holder)


class TestCodes:
    @pytest.mark.parametrize("bits", [1, 7, 8, 9, 64])
    def test_bits_are_packed_in_numpys_order(self, bits: int) -> None:
        plain = RANDOM.integers(0, 2, size=(5, bits), dtype=np.uint8)
        packed = pack_bits(tensor(plain))
        assert packed.dtype == torch.uint8
        np.testing.assert_array_equal(packed.numpy(), np.packbits(plain, axis=1))
        np.testing.assert_array_equal(unpack_bits(packed, bits).numpy(), plain)

    def test_int4_codes_hold_two_columns_in_a_byte(self) -> None:
        codes = CASES["int4"][0]("float32").codes.numpy()
        np.testing.assert_array_equal(codes[:, 0], (INT4[:, 0] + 8) * 16 + INT4[:, 1] + 8)
        np.testing.assert_array_equal(codes[:, 2] >> 4, INT4[:, 4] + 8)

    def test_a_code_beyond_its_codebook_is_found(self) -> None:
        module = CASES["product quantized"][0]("float32")
        module.codes[3, 1] = CENTROIDS
        with pytest.raises(ValueError, match=r"codes .* go up to 11, its codebooks have 11 centroids"):
            module.check()

    @pytest.mark.parametrize("ids", [[2, 0, 7, 36], [0, 2, 2, 36], [-1, 2, 7, 36], [0, 2, 7, ROWS]])
    def test_kept_ids_that_do_not_ascend_within_the_table_are_found(self, ids: list[int]) -> None:
        module = CASES["binary beside kept rows"][0]("float32")
        module.kept_ids.copy_(torch.tensor(ids))
        with pytest.raises(ValueError, match=r"kept_ids .* must ascend from 0 to 36"):
            module.check()

    def test_a_damaged_code_beside_kept_rows_is_found(self) -> None:
        module = CASES["product quantized beside kept rows"][0]("float32")
        module.shared.codes[3, 1] = CENTROIDS
        with pytest.raises(ValueError, match=r"codes .* go up to 11"):
            module.check()

    def test_float_codes_are_found(self) -> None:
        module = CASES["binary"][0]("float32")
        module.codes = module.codes.float()
        with pytest.raises(ValueError, match=r"codes of this BinaryCodeEmbedding is .*float32.*says .*uint8"):
            module.check()

    def test_float16_factors_are_rounded_when_they_are_made_and_stored(self) -> None:
        third = torch.full((4, 1), 1 / 3)
        module = LowRankEmbedding.from_factors(third, third, factor_dtype="float16")
        assert torch.equal(module.latents.data, third.half().float())
        module.latents.data.fill_(1 / 7)  # as training would
        assert torch.equal(module.state_dict()["latents"], torch.full((4, 1), 1 / 7).half())

    def test_what_does_not_fit_is_refused(self) -> None:
        floats = torch.zeros
        refused = [
            (lambda: BinaryCodeEmbedding.from_bits(-torch.ones(2, 3), floats(3, 4), floats(4)), "must be 0 or 1"),
            (lambda: BinaryCodeEmbedding.from_bits(floats(2, 3), floats(5, 4), floats(4)), r"decoder must have shape"),
            (
                lambda: BinaryCodeEmbedding.from_bits(floats(2, 3), floats(3, 4), floats(4), latents=floats(2, 1)),
                "needs both latents and low_rank_decoder",
            ),
            (lambda: ProductQuantizedEmbedding.from_codes(torch.tensor([[4]]), floats(1, 4, 2)), "from 0 to 3, got 4"),
            (
                lambda: ProductQuantizedEmbedding.from_codes(torch.tensor([[-1]]), floats(1, 4, 2)),
                "from 0 to 3, got -1",
            ),
            (lambda: IntegerEmbedding.from_integers(torch.tensor([[128]]), floats(1)), "from -128 to 127, got 128"),
            (lambda: IntegerEmbedding.from_integers(torch.tensor([[8]]), floats(1), bits=4), "from -8 to 7, got 8"),
            (lambda: LowRankEmbedding.from_factors(torch.full((2, 1), torch.inf), floats(3, 1)), "not finite"),
        ]
        for make, message in refused:
            with pytest.raises(ValueError, match=message):
                make()


BASE = {"num_embeddings": 10, "embedding_dim": 8}
RANK_1 = {"method": "low_rank", **BASE, "rank": 1}


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ({}, "method must be one of"),
        ({"method": "zip", **BASE}, "method must be one of"),
        ({"method": "low_rank", **BASE}, "does not describe a LowRankEmbedding.*rank"),
        ({"method": "low_rank", **BASE, "rank": 2, "colour": 1}, "does not describe a LowRankEmbedding.*colour"),
        ({"method": "low_rank", **BASE, "rank": 9}, "rank must be a whole number from 1 to 8, got 9"),
        ({"method": "low_rank", **BASE, "rank": True}, "rank must be a whole number"),
        ({"method": "low_rank", **BASE, "rank": 2, "bias": 1}, "bias must be true or false"),
        ({"method": "low_rank", **BASE, "rank": 2, "factor_dtype": "int8"}, "factor_dtype must be one of"),
        ({"method": "low_rank", "num_embeddings": 0, "embedding_dim": 8, "rank": 1}, "num_embeddings must be"),
        ({"method": "low_rank", "num_embeddings": "9", "embedding_dim": 8, "rank": 1}, "num_embeddings must be"),
        ({"method": "low_rank", "num_embeddings": 10**12, "embedding_dim": 8, "rank": 1}, "num_embeddings must be"),
        ({"method": "low_rank", "num_embeddings": 10**7, "embedding_dim": 65536, "rank": 1}, "must be at most"),
        ({"method": "binary_code", **BASE, "bits": 0}, "bits must be a whole number"),
        ({"method": "binary_code", **BASE, "bits": 10**9}, "bits must be a whole number"),
        ({"method": "binary_code", **BASE, "bits": 8, "rank": -1}, "rank must be a whole number from 0 to 8"),
        ({"method": "product_quantized", **BASE, "subvectors": 3}, "subvectors must divide embedding_dim=8, got 3"),
        ({"method": "product_quantized", **BASE, "subvectors": 2, "centroids": 257}, "centroids must be"),
        ({"method": "integer", **BASE, "bits": 3}, "bits must be 4 or 8"),
        ({"method": ["low_rank"], **BASE, "rank": 2}, "method must be one of"),
        (
            {"method": "kept_rows", **BASE, "kept_rows": 10, "kept_bits": 4, "shared": RANK_1},
            "kept_rows must be .* 1 to 9",
        ),
        ({"method": "kept_rows", **BASE, "kept_rows": 2, "kept_bits": 5, "shared": RANK_1}, "bits must be 4 or 8"),
        (
            {"method": "kept_rows", **BASE, "kept_rows": 2, "kept_bits": 4, "shared": RANK_1},
            "must have 8 rows of 8 columns",
        ),
        (
            {"method": "kept_rows", **BASE, "kept_rows": 2, "kept_bits": 4, "shared": 3},
            "specification of another form",
        ),
        (
            {"method": "kept_rows", **BASE, "kept_rows": 2, "kept_bits": 4, "shared": {"method": "kept_rows"}},
            "specification of another form",
        ),
    ],
)
def test_hostile_specifications_are_refused(specification: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_embedding(specification)
