"""The adapter forms against independent formulas, and the published parameter counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from alad_hf.models.alignment_adapter import AlignmentAdapter, LightAdapter, WindowMLPAdapter, context_windows
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


@pytest.mark.parametrize("form", ["light", "mlp"])
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
    with pytest.raises(ValueError, match=r"one of \['light', 'mlp'\], got 'conv'"):
        AlignmentAdapter.from_sizes("conv", 8, 12, 5, 10)
