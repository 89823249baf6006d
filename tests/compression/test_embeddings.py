"""compress_embeddings: every method from a model to a checkpoint and back, its record, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from embedding_tables import power_law_table
from safetensors.torch import load_file
from tiny import TAGS, random_batch, tiny_config
from torch import nn
from transformers import AutoModel, AutoModelForTokenClassification, BertForTokenClassification, BertModel

from alad_hf.compression.embeddings import EMBEDDING_METHODS, compress_embeddings, compress_table, embedding_table
from alad_hf.compression.lighttoken import binary_factors
from alad_hf.compression.row_weights import order_weights, rows_to_keep, token_weights

FAST = {
    "autoencoder": {"epochs": 2, "final_epochs": 1, "start": "svd"},
    "lighttoken": {"refinement": 2},
    "pq": {"iterations": 4},
}


def sized(method, ratio):
    return {} if method.startswith("int") else {"ratio": ratio}


@pytest.fixture(scope="module")
def tagger():
    torch.manual_seed(0)
    config = tiny_config("bert", vocab_size=400, id2label=dict(enumerate(TAGS)))
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(power_law_table())
    return model


@pytest.mark.parametrize("method", EMBEDDING_METHODS)
def test_stores_what_the_record_says_and_loads_alone(method, tagger, tmp_path):
    small = compress_embeddings(tagger, method, **sized(method, 3), progress=False, **FAST.get(method, {}))
    record = small.config.compression["embedding"]
    dense = small.get_input_embeddings().dense()

    assert record["method"] == method
    assert record["bytes"] == small.get_input_embeddings().stored_bytes
    assert record["ratio"] == pytest.approx(400 * 16 * 4 / record["bytes"], abs=1e-3)
    if not method.startswith("int"):
        assert record["ratio"] >= 3
    cosines = nn.functional.cosine_similarity(dense, tagger.get_input_embeddings().weight)
    assert record["mean_cosine"] == pytest.approx(cosines.mean().item(), abs=1e-4) and record["mean_cosine"] > 0.3

    small.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    stored = [tensor.nbytes for name, tensor in tensors.items() if "word_embeddings" in name]
    assert sum(stored) == record["bytes"]
    again = AutoModelForTokenClassification.from_pretrained(tmp_path)
    batch = random_batch()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, small(**batch).logits)
    assert again.config.compression["embedding"] == json.loads(json.dumps(record))


@pytest.mark.parametrize("method", EMBEDDING_METHODS)
def test_model_is_left_alone_and_seed_decides(method, tagger):
    before = tagger.get_input_embeddings().weight.clone()
    tables = [
        compress_embeddings(tagger, method, **sized(method, 4), seed=7, progress=False, **FAST.get(method, {}))
        .get_input_embeddings()
        .dense()
        for _ in range(2)
    ]

    assert torch.equal(*tables)
    assert torch.equal(tagger.get_input_embeddings().weight, before)
    assert type(tagger.get_input_embeddings()) is nn.Embedding


@pytest.mark.parametrize("method", ["svd", "autoencoder", "lighttoken", "pq"])
def test_bytes_are_never_exceeded(method):
    table = power_law_table(2000, 32)
    for budget in (20_000, 45_678, 100_000):
        embedding, _ = compress_table(table, method, bytes=budget, progress=False, **FAST.get(method, {}))
        assert embedding.stored_bytes <= budget


def test_methods_rank_as_they_should_at_equal_bytes():
    table = power_law_table(4000, 32)
    cosine = {
        method: compress_table(table, method, ratio=10, progress=False)[1]["mean_cosine"]
        for method in ("svd", "lighttoken", "pq")
    }

    assert cosine["lighttoken"] > cosine["svd"] + 0.05 and cosine["pq"] > cosine["svd"]


def test_float16_factors_are_counted_and_buy_rank():
    records = [
        compress_table(power_law_table(), "svd", ratio=4, factor_dtype=dtype)[1] for dtype in ("float32", "float16")
    ]

    assert [record["rank"] for record in records] == [3, 7]
    assert records[0]["relative_error"] > records[1]["relative_error"]


def test_a_size_may_stand_in_place_of_a_budget():
    table = power_law_table()
    for method, options in {"svd": {"rank": 3}, "lighttoken": {"bits": 21}, "pq": {"subvectors": 4}}.items():
        _, record = compress_table(table, method, progress=False, **options)
        assert record | options == record


def test_hard_errors_and_stages_are_recorded():
    _, record = compress_table(
        power_law_table(), "lighttoken", bits=24, rank=1, start="autoencoder", stages=3, refinement=2, progress=False
    )

    assert (record["stages"], record["rank"], record["bits"], record["dead_bits"]) == (3, 1, 24, 0)
    assert len(record["hard_errors"]) == 1 + 3 + 1 + 2
    assert record["hard_errors"][-1] == pytest.approx(record["relative_error"], rel=0.02)  # rounded to float16


def test_a_full_rank_changes_nothing():
    table = power_law_table()
    embedding, _ = compress_table(table, "svd", rank=16)

    torch.testing.assert_close(embedding.dense(), table, atol=5e-3, rtol=0)  # float16 factors


def test_without_weights_binary_codes_take_the_order_of_the_vocabulary():
    table = power_law_table()
    embedding, record = compress_table(table, "lighttoken", ratio=6, progress=False)
    expected = binary_factors(
        table,
        record["bits"],
        start=record["start"],
        refinement=record["refinement"],
        row_weights=order_weights(400),
        balance=2.0,
        progress=False,
    )

    assert (record["row_weights"], record["balance"]) == ("order", 2.0)
    torch.testing.assert_close(embedding.dense(), expected.dense(), atol=5e-3, rtol=0)  # float16 factors
    _, given = compress_table(table, "lighttoken", ratio=6, row_weights=torch.ones(400), progress=False)
    assert (given["row_weights"], given["balance"]) == ("given", 0.0)


def test_order_weights_fall_to_a_tenth_over_nine_thousand_places():
    weights = order_weights(9001)

    assert weights.mean().item() == pytest.approx(1, abs=1e-4)
    assert (weights[0] / weights[-1]).item() == pytest.approx(10)


class TestTokenWeights:
    class Tokenizer:
        def __call__(self, texts):
            return {"input_ids": [[int(word) for word in text.split()] for text in texts]}

    def test_follow_the_counts(self):
        weights = token_weights(["1 2 1", "", "1"], self.Tokenizer(), 4, power=0.5)
        expected = torch.tensor([1.0, 2.0, 2**0.5, 1.0])
        torch.testing.assert_close(weights, expected / expected.mean())

    @pytest.mark.parametrize(("texts", "message"), [(["", " "], "needs text"), (["7"], "token 7, the table has 4")])
    def test_refuses(self, texts, message):
        with pytest.raises(ValueError, match=message):
            token_weights(texts, self.Tokenizer(), 4)

    @pytest.mark.parametrize("method", ["svd", "lighttoken", "pq"])
    def test_weighted_rows_are_nearer(self, method):
        table = power_law_table()
        weights = torch.ones(400)
        weights[:40] = 50.0
        records = [
            compress_table(table, method, ratio=6, row_weights=given, progress=False)[0].dense()[:40]
            for given in (None, weights)
        ]
        errors = [(each - table[:40]).square().sum() for each in records]
        assert errors[1] < 0.9 * errors[0]


class TestKeptRows:
    @pytest.mark.parametrize("method", ["svd", "autoencoder", "lighttoken", "pq"])
    def test_rows_of_the_largest_weights_are_stored_by_themselves(self, method):
        table, weights = power_law_table(2000, 32), torch.rand(2000, generator=torch.Generator().manual_seed(0))
        chosen = weights.topk(50).indices.sort().values
        embedding, record = compress_table(
            table, method, bytes=20_000, row_weights=weights, kept_rows=50, progress=False, **FAST.get(method, {})
        )
        rounded, _ = compress_table(table[chosen], "int4")

        assert (record["kept_rows"], record["kept_bits"], record["num_embeddings"]) == (50, 4, 2000)
        assert embedding.stored_bytes == record["bytes"] <= 20_000
        assert torch.equal(embedding.kept_ids.long(), chosen)
        assert torch.equal(embedding.dense()[chosen], rounded.dense())
        # What all others share is what the method makes of them alone, with what the kept rows leave of the bytes.
        others = torch.ones(2000, dtype=torch.bool)
        others[chosen] = False
        alone, _ = compress_table(
            table[others],
            method,
            bytes=20_000 - 50 * (16 + 2 + 4),
            row_weights=weights[others],
            kept_rows=0,
            progress=False,
            **FAST.get(method, {}),
        )
        assert embedding.shared.specification() == alone.specification()
        torch.testing.assert_close(embedding.dense()[others], alone.dense(), atol=0.02, rtol=0)

    def test_binary_codes_keep_some_where_bytes_are_few(self):
        table, weights = power_law_table(2000, 32), torch.rand(2000)

        def kept(method="lighttoken", row_weights=weights, **size):
            _, record = compress_table(table, method, row_weights=row_weights, progress=False, **size)
            return record.get("kept_rows", 0)

        assert kept(ratio=10) == 2000 // 64
        assert kept(ratio=7) == kept(bits=16) == kept(ratio=10, kept_rows=0) == kept("pq", ratio=10) == 0
        assert kept(ratio=10, row_weights=None) == 2000 // 64
        # The counts of a short text: the other rows need some weight, too.
        assert kept(ratio=20, row_weights=(torch.arange(2000) < 20).float()) == 19
        # A quarter of the bytes at most: a row takes half a byte a column, its scale and its id.
        _, record = compress_table(power_law_table(640, 64), "lighttoken", bytes=1500, progress=False)
        assert record["kept_rows"] == 1500 // 4 // (32 + 2 + 4) < 640 // 64

    def test_without_weights_rows_unlike_the_others_are_kept(self):
        table = power_law_table(2000, 32)
        directions = torch.linalg.svd(table, full_matrices=False).Vh
        # Ten rows in directions in which all others hardly vary.
        strange = torch.randperm(2000, generator=torch.Generator().manual_seed(1))[:10]
        table[strange] = directions[-10:]
        kept = rows_to_keep(table, 15)

        assert kept.sum() == 15 and kept[strange].sum() == 10
        embedding, record = compress_table(table, "lighttoken", ratio=16, progress=False)
        assert record["kept_rows"] == 31 and torch.isin(strange, embedding.kept_ids).all()

    def test_a_model_with_them_is_saved_and_loads_alone(self, tagger, tmp_path):
        small = compress_embeddings(tagger, "pq", ratio=4, row_weights=torch.rand(400), kept_rows=9, progress=False)
        small.save_pretrained(tmp_path)

        again = AutoModelForTokenClassification.from_pretrained(tmp_path)
        batch = random_batch()
        with torch.no_grad():
            assert torch.equal(again(**batch).logits, small.eval()(**batch).logits)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("hashing", {"ratio": 4}, "method must be one of .* got 'hashing'"),
        ("svd", {}, "ratio=25, bytes=..., or rank="),
        ("lighttoken", {"ratio": 1e6}, "too few for .* Take ratio="),
        ("svd", {"rank": 17}, "from 1 to 16, got 17"),
        ("svd", {"ratio": 4, "bits": 3}, r"\['bits'\] are no options of method='svd'"),
        ("svd", {"ratio": 4, "factor_dtype": "int8"}, "factor_dtype must be one of .* got 'int8'"),
        ("int8", {"ratio": 100}, "too few"),
        ("int8", {"clipping": False}, r"\['clipping'\] are no options of method='int8'"),
        ("int4", {"row_weights": torch.ones(400)}, "cannot weight rows"),
        ("svd", {"ratio": 4, "row_weights": torch.ones(3)}, "must be 400 finite numbers"),
        ("svd", {"ratio": 4, "row_weights": -torch.ones(400)}, "none negative"),
        ("lighttoken", {"ratio": 4, "stages": 3}, 'start="autoencoder"'),
        ("pq", {"ratio": 4, "kept_rows": 400, "row_weights": torch.ones(400)}, "from 0 to 399, got 400"),
        ("pq", {"ratio": 4, "kept_rows": -1, "row_weights": torch.ones(400)}, "from 0 to 399, got -1"),
        (
            "pq",
            {"ratio": 64, "kept_rows": 300, "row_weights": torch.ones(400)},
            "kept_rows=300 take more than the 400",
        ),
        ("pq", {"ratio": 16, "kept_rows": 60}, r"Beside 60 kept rows, .* \(kept_rows=0 .* are too few"),
        ("pq", {"ratio": 2, "centroids": 8}, "centroids must be from 16 to 256 for 400 rows, got 8"),
        ("pq", {"ratio": 4, "kept_rows": 1, "row_weights": torch.eye(400)[0]}, "not all zero"),
        ("int4", {"kept_rows": 3}, r"\['kept_rows'\] are no options of method='int4'"),
    ],
)
def test_refuses(method, options, message):
    with pytest.raises(ValueError, match=message):
        compress_table(power_law_table(), method, **options)


def test_refuses_tables_that_are_not_finite_or_too_large_for_float16():
    table = power_law_table()
    table[5, 3] = torch.nan
    with pytest.raises(ValueError, match="1 rows of the table, the first being 5"):
        compress_table(table, "svd", ratio=4)
    with pytest.raises(ValueError, match='take factor_dtype="float32"'):
        compress_table(power_law_table() * 1e6, "svd", ratio=4)
    assert compress_table(power_law_table() * 1e6, "svd", ratio=4, factor_dtype="float32")[1]["mean_cosine"] > 0.5


def test_a_table_without_any_vector_is_refused_and_one_of_like_rows_is_coded():
    with pytest.raises(ValueError, match="All entries of the table are zero"):
        compress_table(torch.zeros(200, 16), "svd", ratio=2)
    for table in (torch.ones(200, 16), torch.eye(16)[:1].expand(200, 16)):
        assert compress_table(table, "lighttoken", ratio=1.05, progress=False)[1]["mean_cosine"] > 0.999


def test_refuses_models_without_an_ordinary_embedding(tagger):
    class Scaled(nn.Embedding):
        pass

    model = BertModel(tiny_config("bert"))
    model.set_input_embeddings(Scaled(10, 16))
    with pytest.raises(ValueError, match="the token embedding Scaled"):
        embedding_table(model)
    model.set_input_embeddings(nn.Embedding(10, 16, max_norm=0.1))
    with pytest.raises(ValueError, match="the token embedding Embedding, .* without max_norm"):
        embedding_table(model)
    model.set_input_embeddings(None)
    with pytest.raises(ValueError, match="no token embedding"):
        embedding_table(model)
    small = compress_embeddings(tagger, "int8")
    with pytest.raises(ValueError, match="compressed already"):
        compress_embeddings(small, "int4")


def test_takes_half_precision_models_and_keeps_their_dtype(tmp_path):
    model = BertModel(tiny_config("bert"), add_pooling_layer=False).to(torch.bfloat16)
    compress_embeddings(model, "pq", subvectors=4, progress=False).save_pretrained(tmp_path)

    for factor_dtype, bytes_of_a_factor in (("float16", 2), ("float32", 2)):  # the model's own dtype has two
        small = compress_embeddings(model, "svd", rank=4, factor_dtype=factor_dtype)
        record, stored = small.config.compression["embedding"], small.get_input_embeddings()
        assert record["bytes"] == stored.stored_bytes == 4 * bytes_of_a_factor * (99 + 16)
        table, decoded = model.get_input_embeddings().weight.float(), stored.dense().float()
        wanted = torch.nn.functional.cosine_similarity(table, decoded)[1:].mean().item()  # padding is a row of zeros
        assert record["mean_cosine"] == pytest.approx(wanted, abs=2e-5)
    assert AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
