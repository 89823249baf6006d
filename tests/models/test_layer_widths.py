"""Layers of their own width: heads and neurons added and cut, saved and loaded, for every layout."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from tiny_stock import result, stock_model
from transformers import AutoModel, AutoModelForTokenClassification

from alad_hf.compression.wrapping import wrap_encoder
from alad_hf.models.layer_widths import encoder_layers, layer_layout, layer_width, set_layer_width

WIDE = ["bert", "roberta", "electra", "mpnet", "distilbert"]


@pytest.mark.parametrize("architecture", WIDE)
def test_heads_and_neurons_that_are_not_read_change_nothing(architecture: str, tmp_path: Path) -> None:
    """One more head and five more neurons, whose outputs are multiplied by zero."""
    stock = stock_model(architecture)
    wider = copy.deepcopy(stock)
    layer, original = encoder_layers(wider.base_model)[0], encoder_layers(stock.base_model)[0]
    layout, position = layer_layout(layer), {"position_heads": [0, 1, 1]} if architecture == "mpnet" else {}
    set_layer_width(layer, heads=3, intermediate=29, **position)
    for path, dimension in [
        (layout.query, 0),
        (layout.key, 0),
        (layout.value, 0),
        (layout.up, 0),
        (layout.attention_output, 1),
        (layout.down, 1),
    ]:
        new, old = layer.get_submodule(path), original.get_submodule(path)
        new.weight.data.narrow(dimension, 0, old.weight.shape[dimension]).copy_(old.weight)
        if dimension == 0:
            new.bias.data[: len(old.bias)] = old.bias
        else:
            new.bias.data.copy_(old.bias)
            new.weight.data[:, old.weight.shape[1] :] = 0
    model = wrap_encoder(wider)
    first = {"heads": 3, "intermediate": 29, **position}
    assert model.config.layer_widths == [first, {"heads": 2, "intermediate": 24}]
    torch.testing.assert_close(result(model), result(stock), atol=1e-5, rtol=0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert torch.equal(result(loaded), result(model))
    assert [layer_width(one) for one in encoder_layers(loaded.model.encoder)] == model.config.layer_widths
    with torch.no_grad():  # the new head is there, and would be heard
        module = encoder_layers(loaded.model.encoder)[0].get_submodule(layout.attention_output)
        module.weight[:, -1] += torch.randn(len(module.weight))
    assert not torch.allclose(result(loaded), result(stock), atol=1e-3)


@pytest.mark.parametrize("architecture", WIDE)
def test_a_narrower_layer_lacks_what_was_cut_off(architecture: str) -> None:
    stock = stock_model(architecture)
    layer = encoder_layers(stock.base_model)[1]
    layout = layer_layout(layer)
    narrow = copy.deepcopy(stock)
    cut = encoder_layers(narrow.base_model)[1]
    set_layer_width(cut, heads=1, intermediate=7)
    with torch.no_grad():
        layer.get_submodule(layout.attention_output).weight[:, 8:] = 0
        layer.get_submodule(layout.down).weight[:, 7:] = 0
        for path in (layout.query, layout.key, layout.value, layout.up):
            size = cut.get_submodule(path).out_features
            cut.get_submodule(path).weight.copy_(layer.get_submodule(path).weight[:size])
            cut.get_submodule(path).bias.copy_(layer.get_submodule(path).bias[:size])
        for path in (layout.attention_output, layout.down):
            size = cut.get_submodule(path).in_features
            cut.get_submodule(path).weight.copy_(layer.get_submodule(path).weight[:, :size])
            cut.get_submodule(path).bias.copy_(layer.get_submodule(path).bias)
    torch.testing.assert_close(result(wrap_encoder(narrow)), result(stock), atol=1e-5, rtol=0)


def test_mpnets_heads_keep_their_position_bias_when_they_move() -> None:
    stock = stock_model("mpnet")
    moved = copy.deepcopy(stock)
    for layer in encoder_layers(moved.base_model):
        order = torch.cat([torch.arange(8, 16), torch.arange(8)])
        layout = layer_layout(layer)
        for path in (layout.query, layout.key, layout.value):
            layer.get_submodule(path).weight.data = layer.get_submodule(path).weight.data[order]
            layer.get_submodule(path).bias.data = layer.get_submodule(path).bias.data[order]
        layer.get_submodule(layout.attention_output).weight.data = layer.get_submodule(
            layout.attention_output
        ).weight.data[:, order]
    assert not torch.allclose(result(moved), result(stock), atol=1e-4)
    for layer in encoder_layers(moved.base_model):
        set_layer_width(layer, heads=2, intermediate=24, position_heads=[1, 0])
    torch.testing.assert_close(result(moved), result(stock), atol=1e-5, rtol=0)
    torch.testing.assert_close(result(wrap_encoder(moved)), result(stock), atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["deberta-v2", "modernbert"])
def test_other_layouts_are_refused(architecture: str) -> None:
    layer = encoder_layers(stock_model(architecture).base_model)[0]
    with pytest.raises(ValueError, match="none of the layouts of BERT.*so its width cannot be changed"):
        set_layer_width(layer, heads=1, intermediate=4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="AlbertModel has 0 lists of 2 equal layers"):
        encoder_layers(stock_model("albert", AutoModel))
    layer = encoder_layers(stock_model("bert", AutoModel))[0]
    with pytest.raises(ValueError, match="1 head and 1 neuron or more"):
        set_layer_width(layer, heads=0, intermediate=4)
    with pytest.raises(ValueError, match="position_heads are for MPNet"):
        set_layer_width(layer, heads=2, intermediate=4, position_heads=[0, 1])
    layer = encoder_layers(stock_model("mpnet", AutoModel))[0]
    with pytest.raises(ValueError, match="a position bias for 2 heads, the layer is to have 3"):
        set_layer_width(layer, heads=3, intermediate=4)
    with pytest.raises(ValueError, match="one head of the bias for each of 3"):
        set_layer_width(layer, heads=3, intermediate=4, position_heads=[0, 1])
    with pytest.raises(ValueError, match="do not have the widths in layer_widths"):
        wrap_encoder(stock_model("bert"), layer_widths=[{"heads": 1, "intermediate": 9}] * 2)
