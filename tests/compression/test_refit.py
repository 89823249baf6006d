"""The closed-form refit against an independent least-squares solver."""

from __future__ import annotations

import pytest
import torch
from graft_models import HEADS, LAYOUTS, NEURONS, model_of, states, text_for
from transformers import PreTrainedModel

from alad_hf.compression.calibration import CalibrationText, reading, run_layers
from alad_hf.compression.encoder_layouts import encoder_layers
from alad_hf.compression.layer_lists import find_layers
from alad_hf.compression.refit import LayerSources, refit_layers
from alad_hf.compression.truncation import groups_of, keep_layers

GROUPS = [[0, 1], [2, 3]]


def truncated(model: PreTrainedModel, kept: list[int]) -> tuple[PreTrainedModel, list[LayerSources]]:
    groups = groups_of(kept, model.config.num_hidden_layers)
    return keep_layers(model, kept), [LayerSources.whole_layer(model, k, g) for k, g in zip(kept, groups, strict=True)]


def values(model: PreTrainedModel, module: torch.nn.Module, text: CalibrationText) -> list[torch.Tensor]:
    """Input and output of a module for all real tokens, by an ordinary forward."""
    parts = []
    for batch in text.batches:
        with torch.no_grad(), reading(module) as seen:
            model.base_model(batch["input_ids"], attention_mask=batch["attention_mask"])
        parts.append([side[batch["attention_mask"].bool()] for side in seen()[0]])
    return [torch.cat(side).double() for side in zip(*parts, strict=True)]


def least_squares(features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    with_ones = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
    scale = weights.sqrt().unsqueeze(1)
    solution = torch.linalg.lstsq(with_ones * scale, targets * scale, driver="gelsd").solution
    return solution[:-1].T, solution[-1]


@pytest.mark.parametrize("name", LAYOUTS)
def test_running_layers_one_by_one_is_the_models_own_forward(name: str) -> None:
    model = model_of(name).train()
    layers = list(getattr(*find_layers(model)))
    text = text_for(model, 12, batch_size=5)
    expected = states(model.eval(), text)
    model.train()
    parts = []
    for batch in text.batches:
        current = None
        for layer in layers:
            current = run_layers(model, [layer], batch, current)
        parts.append(current[batch["attention_mask"].bool()])
    torch.testing.assert_close(torch.cat(parts), expected, atol=1e-6, rtol=1e-5)
    assert list(getattr(*find_layers(model))) == layers and model.config.num_hidden_layers == len(layers)
    assert model.training and all(layer.training for layer in layers)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_output_projections_are_the_weighted_least_squares_solution(name: str) -> None:
    original = model_of(name)
    student, sources = truncated(original, [0, 2])
    text = text_for(original, 120)
    refit_layers(student, original, sources, text, regularisation=1e-9)
    for layer, last in ((0, 1), (1, 3)):
        own, theirs = encoder_layers(student)[layer], encoder_layers(original)[last]
        for linear, norm in (("attention_output", "attention_norm"), ("output", "output_norm")):
            wanted, _ = values(original, getattr(theirs, norm), text)
            stream, _ = values(student, getattr(own, norm), text)
            features, output = values(student, getattr(own, linear), text)
            weight, bias = least_squares(features, wanted - (stream - output), 1 / wanted.var(dim=1, correction=0))
            torch.testing.assert_close(getattr(own, linear).weight.double(), weight, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(getattr(own, linear).bias.double(), bias, atol=2e-3, rtol=2e-3)


def test_heads_and_neurons_read_what_the_least_squares_solution_gives() -> None:
    """Compared in the error: normalised states add up to a constant, so that many maps are equally good."""
    original = model_of()
    student, sources = truncated(original, [1, 3])
    text = text_for(original, 120)
    refit_layers(student, original, sources, text, regularisation=1e-9)
    own, theirs = encoder_layers(student)[1], encoder_layers(original)[3]
    for name in ("query", "key", "value", "intermediate"):
        features, output = values(student, getattr(own, name), text)
        _, wanted = values(original, getattr(theirs, name), text)
        weight, bias = least_squares(features, wanted, torch.ones(len(features), dtype=torch.float64))
        best = (features @ weight.T + bias - wanted).square().sum()
        assert best * 0.999 <= (output - wanted).square().sum() <= best * 1.01  # float32


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("regularisation", [1e-6, 1.0])
def test_the_error_on_the_text_never_rises_and_is_what_is_reported(name: str, regularisation: float) -> None:
    original = model_of(name)
    student, sources = truncated(original, [0, 2])
    text = text_for(original, 60)
    with torch.no_grad():
        before = states(student, text)
    fits = refit_layers(student, original, sources, text, regularisation=regularisation)
    wanted = states(original, text)
    error, first = ((wanted - one).square().sum() / wanted.square().sum() for one in (states(student, text), before))
    assert fits[-1].after == pytest.approx(error.item(), rel=1e-3)
    assert error < first
    assert all(fit.after < fit.before for fit in fits)


def test_a_heavy_penalty_changes_nothing() -> None:
    original = model_of()
    student, sources = truncated(original, [0, 2])
    before = {name: value.clone() for name, value in student.state_dict().items() if name.endswith("weight")}
    refit_layers(student, original, sources, text_for(original), regularisation=1e9)
    for name, value in before.items():
        torch.testing.assert_close(student.state_dict()[name], value, atol=1e-5, rtol=0)


def test_layers_that_are_their_originals_stay_as_they_are_until_one_is_not() -> None:
    original = model_of()
    student, sources = truncated(original, [0, 1, 2])
    fits = refit_layers(student, original, sources, text_for(original))
    assert [fit.before for fit in fits[:2]] == [0, 0] and fits[2].before > 0
    for index in (0, 1):
        own, theirs = (encoder_layers(model)[index].layer.state_dict() for model in (student, original))
        assert all(torch.equal(own[key], theirs[key]) for key in own)


def test_norms_embeddings_and_the_original_stay() -> None:
    original = model_of()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    student, sources = truncated(original, [0, 2])
    kept = {
        name: value.clone() for name, value in student.state_dict().items() if "Norm" in name or "embeddings" in name
    }
    refit_layers(student, original, sources, text_for(original))
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    assert kept and all(torch.equal(student.state_dict()[name], value) for name, value in kept.items())


@pytest.mark.parametrize(
    ("layers", "heads", "message"),
    [([[0, 1], [3]], HEADS, "each once and in order"), (GROUPS, HEADS - 1, r"\(heads, neurons\)")],
)
def test_sources_that_do_not_fit_are_refused(layers: list[list[int]], heads: int, message: str) -> None:
    original = model_of()
    sources = [
        LayerSources(group, [(group[0], i) for i in range(heads)], [(group[0], i) for i in range(NEURONS)])
        for group in layers
    ]
    with pytest.raises(ValueError, match=message):
        refit_layers(keep_layers(original, [0, 2]), original, sources, text_for(original))
