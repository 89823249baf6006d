"""Linear CKA over tokens, and how layers are grouped by it."""

from __future__ import annotations

import pytest
import torch
from graft_models import DEPTH, model_of, states, text_for
from tiny import tiny_config
from transformers import AutoModel

from alad_hf.compression.calibration import run_layers
from alad_hf.compression.encoder_layouts import encoder_layers
from alad_hf.compression.importance import layer_importance
from alad_hf.compression.layer_similarity import (
    LinearCKA,
    equal_groups,
    layer_cosines,
    layer_similarities,
    similar_groups,
    upper_groups,
)


def cka(one: torch.Tensor, two: torch.Tensor, *, debiased: bool = True, batch: int = 7) -> float:
    sums = LinearCKA()
    for first in range(0, len(one), batch):  # the last batch is smaller
        sums.update(one[first : first + batch], two[first : first + batch])
    return sums.value(debiased)


def by_grams(one: torch.Tensor, two: torch.Tensor) -> float:
    """Song et al. 2012, equation 5, with the kernels' matrices written out."""
    n = len(one)

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        k, m = (side @ side.T * (1 - torch.eye(n, dtype=side.dtype)) for side in (a, b))
        ones = torch.ones(n, dtype=a.dtype)
        sums = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return ((k @ m).trace() + sums - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    return (hsic(one, two) / (hsic(one, one) * hsic(two, two)).sqrt()).item()


def correlated(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    one = torch.randn(n, 6, dtype=torch.float64) + 3
    return one, one @ torch.randn(6, 4, dtype=torch.float64) + torch.randn(n, 4, dtype=torch.float64) - 1


def test_streamed_sums_give_the_unbiased_estimate() -> None:
    one, two = correlated()
    assert cka(one, two) == pytest.approx(by_grams(one, two), rel=1e-9)
    assert cka(one, two, batch=50) == pytest.approx(cka(one, two, batch=3), rel=1e-9)


def test_the_plain_estimate_is_that_of_centred_states() -> None:
    one, two = correlated()
    a, b = (side - side.mean(0) for side in (one, two))
    expected = (a.T @ b).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert cka(one, two, debiased=False) == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("debiased", [True, False])
def test_rotation_scale_and_shift_change_nothing(debiased: bool) -> None:
    one, two = correlated()
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    assert cka(one, 3 * one @ rotation + 5, debiased=debiased) == pytest.approx(1)
    assert cka(one, two, debiased=debiased) == pytest.approx(cka(two, one, debiased=debiased))
    assert 0 <= cka(one, two, debiased=debiased) <= 1


def test_few_tokens_of_many_dimensions_look_alike_to_the_plain_estimate_only() -> None:
    one, two = torch.randn(20, 200), torch.randn(20, 200)
    assert cka(one, two, debiased=False) > 0.8
    assert abs(cka(one, two)) < 0.2


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="4 tokens or more, got 3"):
        cka(torch.randn(3, 2), torch.randn(3, 2))


def test_padding_is_not_read_and_batches_do_not_matter() -> None:
    model = model_of()
    results = [layer_similarities(model, [(0, 1), (2, 3)], text_for(model, batch_size=size)) for size in (1, 8)]
    assert results[0].keys() == {(0, 1), (2, 3)}
    for pair, value in results[0].items():
        assert value == pytest.approx(results[1][pair], rel=1e-4)


def test_a_layer_that_changes_nothing_is_merged_first() -> None:
    model = model_of(noise=0.5)
    layer, below = model.encoder.layer[2], model.encoder.layer[1]
    with torch.no_grad():
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.load_state_dict(below.output.LayerNorm.state_dict())
        for linear in (layer.attention.output.dense, layer.output.dense):
            linear.weight.zero_()
            linear.bias.zero_()
    text = text_for(model)
    assert similar_groups(model, 3, text) == [[0], [1, 2], [3]]
    cosines = layer_cosines(model, text)
    assert max(range(DEPTH), key=cosines.__getitem__) == 2
    assert similar_groups(model, 1, text) == [[0, 1, 2, 3]]
    assert similar_groups(model, DEPTH, text) == [[0], [1], [2], [3]]


def test_a_model_in_training_stays_so() -> None:
    model = model_of(tagger=True).train()
    model.classifier.eval()  # a part that is not
    before = {name: module.training for name, module in model.named_modules()}
    text = text_for(model, 6)
    layer_cosines(model, text)
    similar_groups(model, 2, text)
    run_layers(model, [part.layer for part in encoder_layers(model)], text.batches[0])
    layer_importance(model, text)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_cosines_are_means_over_real_tokens() -> None:
    model = model_of()
    text = text_for(model, 6)
    batch = text.batches[0]
    with torch.no_grad():
        hidden = model(batch["input_ids"], batch["attention_mask"], output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    expected = torch.nn.functional.cosine_similarity(hidden[-2][real], hidden[-1][real], dim=-1).mean()
    assert layer_cosines(model, text)[-1] == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(hidden[-1][real], states(model, text))


def test_a_norm_behind_the_last_layer_is_no_part_of_it() -> None:
    torch.manual_seed(0)
    config = tiny_config("modernbert")
    encoder = AutoModel.from_config(config).eval()
    with torch.no_grad():
        encoder.final_norm.weight.copy_(torch.rand(16) * 3)
        for parameter in encoder.layers[-1].parameters():
            parameter.zero_()  # such a layer hands on what it gets
    text = text_for(encoder, 6)
    assert layer_cosines(encoder, text)[-1] == pytest.approx(1, abs=1e-6)
    hooks = len(encoder.layers[-1]._forward_hooks)  # transformers leaves one of its own
    layer_cosines(encoder, text)
    assert len(encoder.layers[-1]._forward_hooks) == hooks


@pytest.mark.parametrize(
    ("count", "expected"),
    [(3, [[0, 1], [2, 3], [4, 5]]), (2, [[0, 1, 2], [3, 4, 5]]), (4, [[0], [1], [2, 3], [4, 5]])],
)
def test_equal_groups(count: int, expected: list[list[int]]) -> None:
    assert equal_groups(count, 6) == expected


@pytest.mark.parametrize(("count", "expected"), [(1, [[0, 1, 2]]), (2, [[0], [1, 2]]), (3, [[0], [1], [2]])])
def test_upper_groups(count: int, expected: list[list[int]]) -> None:
    assert upper_groups(count, 3) == expected


@pytest.mark.parametrize("count", [0, 7])
def test_impossible_depths_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to the model's 6, got {count}"):
        equal_groups(count, 6)
    with pytest.raises(ValueError, match=f"from 1 to the model's 6, got {count}"):
        upper_groups(count, 6)
