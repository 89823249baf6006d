"""The adapter forms against independent formulas, and the published parameter counts."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from model_contract import ModelContract
from tiny import STUDENT_CONFIGS, random_batch, tiny_config
from torch.nn import functional
from transformers import AutoModel, AutoModelForTokenClassification, PreTrainedConfig

from alad_hf import AlAdConfig, AlAdForTokenClassification, AlAdModel
from alad_hf.models.alignment_adapter import (
    AlignmentAdapter,
    LayerMix,
    LightAdapter,
    LinearAdapter,
    WindowMLPAdapter,
    context_windows,
)
from alad_hf.models.configuration_alad import DEFAULT_ADAPTER_SIZES


def test_window_order_on_a_ramp() -> None:
    ramp = torch.arange(1.0, 6.0).view(1, 5, 1)
    expected = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 0], [3, 4, 5, 0, 0]])
    assert torch.equal(context_windows(ramp, 5)[0], expected.float())
    assert torch.equal(context_windows(ramp, 1), ramp)


@pytest.mark.parametrize("window_size", [1, 3, 5, 9])
def test_window_mlp_is_a_convolution(window_size: int) -> None:
    adapter = WindowMLPAdapter(8, 12, window_size, 10)
    states = torch.randn(2, 7, 8)
    kernel = adapter.hidden.weight.view(10, window_size, 8).transpose(1, 2)
    hidden = functional.conv1d(states.transpose(1, 2), kernel, adapter.hidden.bias, padding=window_size // 2)
    torch.testing.assert_close(
        adapter(states), adapter.output(functional.gelu(hidden).transpose(1, 2)), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("window_size", [1, 3, 5])
def test_light_adapter_is_linear_plus_windowed_correction(window_size: int) -> None:
    adapter = LightAdapter(8, 12, window_size, 4)
    states = torch.randn(2, 7, 8)
    radius = window_size // 2
    expected = torch.zeros(2, 7, 12)
    for row in range(2):
        for token in range(7):
            value = adapter.linear.weight @ states[row, token] + adapter.linear.bias
            for offset in range(-radius, radius + 1):
                if 0 <= token + offset < 7:
                    block = adapter.up.weight[:, (offset + radius) * 4 : (offset + radius + 1) * 4]
                    value = value + block @ functional.gelu(adapter.down.weight @ states[row, token + offset])
            expected[row, token] = value
    torch.testing.assert_close(adapter(states), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [None, 3])
@pytest.mark.parametrize("window_size", [1, 3, 5])
def test_linear_adapter_is_one_map_of_the_window(window_size: int, rank: int | None) -> None:
    adapter = LinearAdapter(8, 12, window_size, rank)
    weight = adapter.linear.weight if rank is None else adapter.linear.weight @ adapter.down.weight
    assert weight.shape == (12, 8 * window_size)
    assert torch.linalg.matrix_rank(weight) == (rank or min(weight.shape))
    states = torch.randn(2, 7, 8)
    radius = window_size // 2
    expected = torch.zeros(2, 7, 12)
    for row in range(2):
        for token in range(7):
            expected[row, token] = adapter.linear.bias
            for offset in range(-radius, radius + 1):
                if 0 <= token + offset < 7:
                    block = weight[:, (offset + radius) * 8 : (offset + radius + 1) * 8]
                    expected[row, token] += block @ states[row, token + offset]
    torch.testing.assert_close(adapter(states), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("form", "window_size"), [("linear", 1), ("linear", 5), ("light", 5)])
def test_starts_as_the_student_where_the_widths_agree(form: str, window_size: int) -> None:
    config = AlAdConfig(text_config=tiny_config(), adapter_type=form, window_size=window_size)
    states = AlAdModel(config).eval()(**inputs_of(random_batch()), output_hidden_states=True).hidden_states
    real = random_batch()["attention_mask"].bool()
    torch.testing.assert_close(states[-1][real], states[-2][real])


def test_the_rank_of_a_linear_adapter_is_a_choice() -> None:
    config = AlAdConfig(text_config=tiny_config(), hidden_size=32, adapter_type="linear")
    assert config.adapter_size is None
    assert AlAdConfig.from_dict(config.to_dict()).adapter_size is None
    with pytest.raises(Exception, match="cannot exceed hidden_size=32, got 33; leave it out"):
        AlAdConfig(text_config=tiny_config(), hidden_size=32, adapter_type="linear", adapter_size=33)
    assert AlAdConfig(text_config=tiny_config(), hidden_size=32, adapter_size=33).adapter_size == 33


@pytest.mark.parametrize("form", ["light", "linear", "mlp"])
def test_a_masked_position_is_like_the_end_of_the_text(form: str) -> None:
    adapter = AlignmentAdapter.from_sizes(form, 8, 12, 5, 10)
    states = torch.randn(1, 9, 8)
    states[:, 6:] = 0
    torch.testing.assert_close(adapter(states)[:, :6], adapter(states[:, :6]), atol=1e-6, rtol=0)


# Table "adapter parameters" of the published sizes: student width, window, count for h = 1280 and d_L = 768.
@pytest.mark.parametrize(
    ("width", "counts"),
    [
        (128, (1_148_928, 1_476_608, 1_804_288)),
        (256, (1_312_768, 1_968_128, 2_623_488)),
        (768, (1_968_128, 3_934_208, 5_900_288)),
    ],
)
def test_published_parameter_counts_and_the_light_forms_fifth(width: int, counts: tuple[int, ...]) -> None:
    for window_size, count in zip((1, 3, 5), counts, strict=True):
        published = AlignmentAdapter.from_sizes("mlp", width, 768, window_size, 1280)
        assert sum(parameter.numel() for parameter in published.parameters()) == count
    light = AlignmentAdapter.from_sizes("light", width, 768, 5, DEFAULT_ADAPTER_SIZES["light"])
    assert sum(parameter.numel() for parameter in light.parameters()) <= counts[-1] / 5


def test_unknown_form() -> None:
    with pytest.raises(ValueError, match=r"one of \['light', 'linear', 'mlp'\], got 'conv'"):
        AlignmentAdapter.from_sizes("conv", 8, 12, 5, 10)


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


class TestLinearAdapterOnMixedLayers(ModelContract):
    """Everything that a model class must do, for the linear form on all layers of the student."""

    model_class = AlAdForTokenClassification
    auto_class = AutoModelForTokenClassification

    def config(self) -> PreTrainedConfig:
        return AlAdConfig(
            text_config=tiny_config(),
            hidden_size=32,
            adapter_type="linear",
            adapter_size=6,
            window_size=3,
            mix_student_layers=True,
        )

    def inputs(self) -> dict[str, torch.Tensor]:
        return inputs_of(random_batch())

    def targets(self) -> dict[str, torch.Tensor]:
        states = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(5))
        return {"labels": random_batch()["labels"].clamp(max=1), "teacher_states": states}


class TestLayerMix:
    @pytest.mark.parametrize("student", STUDENT_CONFIGS)
    def test_the_adapter_reads_the_weighted_mean_of_all_states(self, student: str, tmp_path: Path) -> None:
        torch.manual_seed(0)
        encoder = AutoModel.from_config(tiny_config(student)).eval()
        form = {"adapter_type": "linear", "window_size": 1}
        model = AlAdModel.from_student_pretrained(encoder, mix_student_layers=True, **form)
        inputs = inputs_of(random_batch())
        real = inputs["attention_mask"].bool()
        with torch.no_grad():
            states = encoder(**inputs, output_hidden_states=True).hidden_states
            plain = AlAdModel.from_student_pretrained(encoder, **form)(**inputs).last_hidden_state
            torch.testing.assert_close(model(**inputs).last_hidden_state[real], plain[real], atol=0.1, rtol=0)
            model.layer_mix.logits.copy_(torch.tensor([0.3, -0.4, 1.2]))
            outputs = model(**inputs)
        weights = [math.exp(logit) for logit in (0.3, -0.4, 1.2)]
        expected = sum(weight / sum(weights) * one for weight, one in zip(weights, states, strict=True))
        torch.testing.assert_close(outputs.last_hidden_state[real], expected[real], atol=1e-5, rtol=0)
        assert outputs.hidden_states is None
        assert len(model(**inputs, output_hidden_states=True).hidden_states) == 4

        model.save_pretrained(tmp_path)
        loaded = AutoModel.from_pretrained(tmp_path)
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).last_hidden_state, outputs.last_hidden_state)

    def test_starts_near_the_last_layer_and_learns(self) -> None:
        model = AlAdModel(AlAdConfig(text_config=tiny_config(), mix_student_layers=True, freeze_student=True)).train()
        weights = model.layer_mix.logits.softmax(dim=0)
        torch.testing.assert_close(weights, torch.tensor([0.005, 0.005, 0.99]))
        inputs = inputs_of(random_batch())
        model(**inputs, teacher_states=torch.randn(3, 9, 16)).loss.backward()
        assert model.layer_mix.logits.grad.abs().min() > 0
        assert all(parameter.grad is None for parameter in model.encoder.parameters())
        assert "layer_mix.logits" in model.state_dict()

    def test_counts_as_adapter(self) -> None:
        config = {"text_config": tiny_config(), "adapter_type": "linear"}
        parts = AlAdModel(AlAdConfig(mix_student_layers=True, **config)).num_parameters_by_part()
        without = AlAdModel(AlAdConfig(**config)).num_parameters_by_part()
        assert parts == {**without, "adapter": without["adapter"] + 3}

    def test_another_number_of_states_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match="returned 2 hidden states where 3 were expected.*mix_student_layers=False"
        ):
            LayerMix(3)([torch.zeros(1, 2, 4)] * 2)
