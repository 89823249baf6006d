"""The metric of an encoder against its exact derivative, and tables that are compressed in a metric."""

from __future__ import annotations

import math

import pytest
import torch
from embedding_tables import power_law_table, squared_error
from graft_models import model_of
from tiny import STUDENT_CONFIGS, tiny_config, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from alad_hf.compression import compress_embeddings, compress_table, embedding_metric
from alad_hf.compression.low_rank import truncated_svd
from alad_hf.compression.metric_coordinates import Coordinates

SENTENCE = "jones visited london ."
FAST = {
    "svd": {},
    "autoencoder": {"epochs": 6, "final_epochs": 2, "start": "svd"},
    "lighttoken": {"kept_rows": 0},
    "pq": {"rotation": True},
}


def anisotropic(columns: int = 16, seed: int = 1) -> torch.Tensor:
    """A metric whose eigenvalues span three powers of ten, in a random basis."""
    basis, _ = torch.linalg.qr(torch.randn(columns, columns, generator=torch.Generator().manual_seed(seed)))
    return (basis * torch.logspace(-3, 0, columns)) @ basis.T


def metric_error(table: torch.Tensor, other: torch.Tensor, metric: torch.Tensor) -> float:
    """Sum over rows of e @ metric @ e, e being the row's error."""
    errors = (table - other).double()
    return ((errors @ metric.double()) * errors).sum().item()


def exact_metric(model: PreTrainedModel, text: str) -> torch.Tensor:
    """The mean over a text's tokens of J.T @ J, neither scaled nor estimated."""
    encoder = model.base_model
    vectors = encoder.get_input_embeddings()(tiny_tokenizer()(text, return_tensors="pt")["input_ids"]).detach()
    jacobian = torch.autograd.functional.jacobian(
        lambda given: encoder(inputs_embeds=given).last_hidden_state.squeeze(0), vectors
    ).squeeze(2)  # (token out, column out, token in, column in)
    return torch.einsum("aoip,aoiq->pq", jacobian.double(), jacobian.double()) / vectors.shape[1]


def scaled(metric: torch.Tensor) -> torch.Tensor:
    return metric / metric.diagonal().mean()


@pytest.mark.parametrize("tagger", [False, True])
def test_is_the_mean_product_of_the_exact_derivative(tagger):
    model = model_of(tagger=tagger)
    exact = scaled(exact_metric(model, SENTENCE))
    # Each repetition of the sentence has random directions of its own.
    estimate = embedding_metric(model, [SENTENCE] * 500, tiny_tokenizer(), ridge=0, max_tokens=None)
    torch.testing.assert_close(estimate.double(), exact, rtol=0, atol=0.15)
    assert (exact - torch.eye(len(exact))).abs().max() > 0.3  # which is not met by saying nothing


def test_padding_does_not_count():
    model, tokenizer = model_of(), tiny_tokenizer()
    texts = ["jones .", "jones visited new york and london for smith ."]
    together = embedding_metric(model, texts * 300, tokenizer, ridge=0, max_tokens=None)
    # Long rows have more tokens, each of which counts once.
    expected = sum(len(tokenizer(text)["input_ids"]) * exact_metric(model, text) for text in texts)
    torch.testing.assert_close(together.double(), scaled(expected), rtol=0, atol=0.15)


def test_follows_the_seed_and_leaves_the_model_alone():
    model, tokenizer = model_of(), tiny_tokenizer()
    model.train()
    model.encoder.layer[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    one, same, other = (embedding_metric(model, [SENTENCE] * 8, tokenizer, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.diagonal().mean().item() == pytest.approx(1, abs=1e-5) and torch.equal(one, one.T)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("auto_class", [AutoModelForTokenClassification, AutoModelForQuestionAnswering])
def test_no_head_is_asked_and_no_question_missed(auto_class, caplog):
    model = auto_class.from_config(tiny_config("bert"))
    one, two = (embedding_metric(given, [SENTENCE] * 5, tiny_tokenizer()) for given in (model, model.base_model))
    assert torch.equal(one, two) and not caplog.records


@pytest.mark.parametrize("name", STUDENT_CONFIGS)
def test_any_encoder_has_one(name):
    model, tokenizer = AutoModel.from_config(tiny_config(name)), tiny_tokenizer()
    metric = embedding_metric(model, [SENTENCE, "smith works"] * 4, tokenizer)
    width = model.get_input_embeddings().embedding_dim
    assert metric.shape == (width, width) and torch.linalg.eigvalsh(metric)[0] > 0
    assert compress_embeddings(model, "svd", rank=3, metric=metric).config.compression["embedding"]["rank"] == 3


def test_the_ridge_evens_directions_out():
    model, tokenizer = model_of(), tiny_tokenizer()
    spans = []
    for ridge in (0, 1, 1e4):
        values = torch.linalg.eigvalsh(embedding_metric(model, [SENTENCE] * 50, tokenizer, ridge=ridge).double())
        spans.append((values[-1] / values[0].clamp(min=1e-9)).item())
    assert spans[0] > spans[1] > spans[2] and spans[2] == pytest.approx(1, abs=1e-2)


def test_svd_is_the_best_of_its_rank_in_the_metric():
    table, metric = power_law_table(), anisotropic()
    options = {"rank": 5, "factor_dtype": "float32"}
    plain, _ = compress_table(table, "svd", **options)
    measured, record = compress_table(table, "svd", metric=metric, **options)
    # An independent way: a Cholesky factor in place of the symmetric root.
    factor = torch.linalg.cholesky(metric.double())
    left = torch.linalg.svdvals(table.double() @ factor)[5:].square().sum().item()
    assert metric_error(table, measured.dense(), metric) == pytest.approx(left, rel=1e-3)
    assert metric_error(table, plain.dense(), metric) > 1.5 * left
    assert squared_error(table, plain.dense()) < squared_error(table, measured.dense())
    assert record["metric"] == "given"


def test_a_bias_is_brought_back_too():
    """Centred, the best bias is the mean row in any metric."""
    table, metric = power_law_table(), anisotropic()
    embedding, _ = compress_table(table, "svd", rank=5, centred=True, metric=metric, factor_dtype="float32")
    factor = torch.linalg.cholesky(metric.double())
    left = torch.linalg.svdvals((table - table.mean(dim=0)).double() @ factor)[5:].square().sum().item()
    assert metric_error(table, embedding.dense(), metric) == pytest.approx(left, rel=1e-3)


@pytest.mark.parametrize("method", FAST)
def test_every_method_errs_less_in_the_metric_that_it_is_given(method):
    table, metric = power_law_table(800), anisotropic()
    options = {"ratio": 6, "progress": False, **FAST[method]}
    plain, record = compress_table(table, method, **options)
    measured, _ = compress_table(table, method, metric=metric, **options)
    assert record["metric"] is None and measured.stored_bytes == plain.stored_bytes
    assert metric_error(table, measured.dense(), metric) < 0.8 * metric_error(table, plain.dense(), metric)


@pytest.mark.parametrize("method", FAST)
@pytest.mark.parametrize("scale", [1, 7])
def test_the_identity_changes_nothing(method, scale):
    table = power_law_table()
    options = {"ratio": 4, "progress": False, **FAST[method]}
    plain, measured = (
        compress_table(table, method, metric=metric, **options)[0] for metric in (None, scale * torch.eye(16))
    )
    torch.testing.assert_close(measured.dense(), plain.dense(), rtol=1e-3, atol=1e-3)


def test_a_low_rank_part_beside_codes_is_brought_back_too():
    table, metric = power_law_table(2000), anisotropic()
    options = {"bits": 16, "rank": 6, "kept_rows": 0, "progress": False, "factor_dtype": "float32"}
    embedding, _ = compress_table(table, "lighttoken", metric=metric, **options)
    low_rank = truncated_svd(table @ Coordinates.of(metric, 16).root, 6)
    alone = low_rank.dense() @ Coordinates.of(metric, 16).inverse
    assert metric_error(table, embedding.dense(), metric) < metric_error(table, alone, metric)


@pytest.mark.parametrize("rank", [0, 3])
def test_codebooks_and_a_low_rank_part_beside_them_are_brought_back(rank):
    """Enough codes to come near the table, in the metric and out of it."""
    table, metric = power_law_table(2000), anisotropic()
    options = {"subvectors": 8, "centroids": 256, "rank": rank, "progress": False, "factor_dtype": "float32"}
    embedding, record = compress_table(table, "pq", metric=metric, **options)
    assert record["rotation"] and record["rank"] == rank
    nothing = torch.zeros_like(table)
    assert metric_error(table, embedding.dense(), metric) < 0.02 * metric_error(table, nothing, metric)
    assert squared_error(table, embedding.dense()) < 0.1 * squared_error(table, nothing)


def test_kept_rows_are_those_and_as_exact_as_without_a_metric():
    table = power_law_table()
    weights = torch.ones(400)
    weights[[3, 50, 399]] = 10
    options = {"ratio": 6, "kept_rows": 3, "row_weights": weights, "progress": False}
    plain, measured = (
        compress_table(table, "lighttoken", metric=metric, **options)[0] for metric in (None, anisotropic())
    )
    assert torch.equal(plain.dense()[[3, 50, 399]], measured.dense()[[3, 50, 399]])
    assert not torch.allclose(plain.dense()[4], measured.dense()[4])


def test_a_model_compressed_in_its_metric_keeps_more_of_its_states():
    """What the metric is for: at the same bytes the states, of other text than was measured, change less."""
    model, tokenizer = model_of(), tiny_tokenizer()
    # An encoder that reads four of sixteen columns, and of the others no more than what normalises a row.
    with torch.no_grad():
        model.embeddings.LayerNorm.weight[4:] = 0
    metric = embedding_metric(model, [SENTENCE, "smith works in berlin"] * 20, tokenizer)
    batch = tokenizer(["the acme in new york", "a jones and a smith"], return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    errors = []
    for given in (None, metric):
        small = compress_embeddings(model, "svd", rank=4, metric=given)
        assert small.config.compression["embedding"]["metric"] == (None if given is None else "given")
        with torch.no_grad():
            errors.append((small(**batch).last_hidden_state - states).square().mean().item())
    assert errors[1] < 0.3 * errors[0]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (True, "must be a tensor, got True"),
        (torch.eye(15), "16 x 16 finite numbers"),
        (torch.eye(16) * math.nan, "16 x 16 finite numbers"),
        (torch.eye(16) + torch.ones(16, 16).triu(1), "must be symmetric"),
        (torch.diag(torch.tensor([0.0] + [1.0] * 15)), "must be positive definite"),
        (-torch.eye(16), "must be positive definite"),
    ],
)
def test_metrics_that_are_none(metric, message):
    with pytest.raises(ValueError, match=message):
        compress_table(power_law_table(), "svd", ratio=4, metric=metric)


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_methods_that_follow_no_metric_say_so(method):
    takers = r"\['autoencoder', 'lighttoken', 'pq', 'svd'\]"
    with pytest.raises(ValueError, match=rf"cannot follow a metric, {takers} can"):
        compress_table(power_law_table(), method, ratio=3, metric=torch.eye(16))


def test_product_quantization_needs_its_rotation_for_a_metric():
    with pytest.raises(ValueError, match="rotation=False leaves no matrix in which a metric could be stored"):
        compress_table(power_law_table(), "pq", ratio=3, rotation=False, metric=torch.eye(16))


def test_bad_arguments_of_the_metric():
    model, tokenizer = model_of(), tiny_tokenizer()
    with pytest.raises(ValueError, match="no text"):
        embedding_metric(model, [], tokenizer)
    with pytest.raises(ValueError, match="ridge must be 0 or more, got -1"):
        embedding_metric(model, [SENTENCE], tokenizer, ridge=-1)
    small = compress_embeddings(model, "int8")
    with pytest.raises(ValueError, match="compressed already"):
        embedding_metric(small, [SENTENCE], tokenizer)
