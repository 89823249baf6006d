"""Layers of their own width: how many attention heads and feed-forward neurons each layer of an encoder has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention


@dataclass(frozen=True)
class LayerLayout:
    """Where a layer keeps its linear maps, as paths of submodules below the layer.

    `query`, `key` and `value` have heads * head size outputs, `attention_output` as many inputs; `up` has one output
    and `down` one input for each feed-forward neuron. `attention` is the module that knows the number of heads.
    """

    attention: str
    query: str
    key: str
    value: str
    attention_output: str
    up: str
    down: str
    heads_attribute: str = "num_attention_heads"

    def heads(self, layer: nn.Module) -> int:
        """Attention heads of a layer."""
        return getattr(layer.get_submodule(self.attention), self.heads_attribute)

    def head_size(self, layer: nn.Module) -> int:
        """Width of one head."""
        return layer.get_submodule(self.query).out_features // self.heads(layer)

    def intermediate(self, layer: nn.Module) -> int:
        """Feed-forward neurons of a layer."""
        return layer.get_submodule(self.up).out_features


LAYOUTS = (
    # BERT, RoBERTa, ELECTRA and their relatives
    LayerLayout(
        attention="attention.self",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        attention_output="attention.output.dense",
        up="intermediate.dense",
        down="output.dense",
    ),
    # MPNet
    LayerLayout(
        attention="attention.attn",
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_output="attention.attn.o",
        up="intermediate.dense",
        down="output.dense",
    ),
    # DistilBERT
    LayerLayout(
        attention="attention",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        heads_attribute="n_heads",
    ),
)


class MPNetChosenHeads(MPNetSelfAttention):
    """MPNet's attention with heads that read chosen columns of the position bias, which all layers share.

    A head that moved here from another layer, or to another place, keeps the bias it was trained with.
    """

    position_heads: list[int]

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        output_attentions: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, ...]:
        """MPNet's own, with `position_bias` (batch, the encoder's heads, tokens, tokens) cut to this layer's heads."""
        if position_bias is not None:
            position_bias = position_bias[:, self.position_heads]
        return super().forward(hidden_states, attention_mask, position_bias, output_attentions, **kwargs)


def encoder_layers(encoder: PreTrainedModel) -> nn.ModuleList:
    """The list of an encoder's layers.

    Raises:
        ValueError: There is not exactly one list of `num_hidden_layers` layers (ALBERT runs one layer many times).
    """
    depth = encoder.config.num_hidden_layers
    found = [module for module in encoder.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    found = [layers for layers in found if len({type(layer) for layer in layers}) == 1]
    if len(found) != 1:
        raise ValueError(
            f"{type(encoder).__name__} has {len(found)} lists of {depth} equal layers where one was expected; "
            "its layers cannot have widths of their own."
        )
    return found[0]


def layer_layout(layer: nn.Module) -> LayerLayout:
    """Where this layer keeps its linear maps.

    Raises:
        ValueError: It is laid out in none of the known ways.
    """
    names = {name for name, module in layer.named_modules() if isinstance(module, nn.Linear)}
    for layout in LAYOUTS:
        wanted = {layout.query, layout.key, layout.value, layout.attention_output, layout.up, layout.down}
        if wanted == names and hasattr(layer.get_submodule(layout.attention), layout.heads_attribute):
            return layout
    missing = sorted({LAYOUTS[0].query, LAYOUTS[0].up} - names)
    raise ValueError(
        f"The linear maps of a {type(layer).__name__} are {sorted(names)}: this is none of the layouts of BERT, "
        f"RoBERTa, ELECTRA, MPNet and DistilBERT (BERT's, for one, lacks {missing}), so its width cannot be changed."
    )


def layer_width(layer: nn.Module) -> dict[str, Any]:
    """A layer's width as `CompressedEncoderConfig.layer_widths` has it."""
    layout = layer_layout(layer)
    width = {"heads": layout.heads(layer), "intermediate": layout.intermediate(layer)}
    attention = layer.get_submodule(layout.attention)
    if isinstance(attention, MPNetChosenHeads):
        width["position_heads"] = list(attention.position_heads)
    return width


def set_layer_width(
    layer: nn.Module, heads: int, intermediate: int, position_heads: Sequence[int] | None = None
) -> None:
    """Give a layer new linear maps for so many heads and neurons, where its own have another number.

    New maps have fresh random weights; maps of the right size, and everything else, stay as they are.

    Args:
        layer: A layer of BERT, RoBERTa, ELECTRA, MPNet or DistilBERT; changed in place.
        heads: Attention heads; their size stays.
        intermediate: Feed-forward neurons.
        position_heads: For MPNet, which head of the position bias each head reads; by default its own place.

    Raises:
        ValueError: The layer is laid out in another way, a number is below 1, or `position_heads` do not fit.
    """
    layout = layer_layout(layer)
    if heads < 1 or intermediate < 1:
        raise ValueError(f"A layer needs 1 head and 1 neuron or more, got heads={heads}, intermediate={intermediate}.")
    attention = layer.get_submodule(layout.attention)
    before, inner = layout.heads(layer), heads * layout.head_size(layer)
    for path in (layout.query, layout.key, layout.value):
        _resize(layer, path, outputs=inner)
    _resize(layer, layout.attention_output, inputs=inner)
    _resize(layer, layout.up, outputs=intermediate)
    _resize(layer, layout.down, inputs=intermediate)
    setattr(attention, layout.heads_attribute, heads)
    if hasattr(attention, "all_head_size"):
        attention.all_head_size = inner
    if isinstance(attention, MPNetSelfAttention):
        _choose_position_heads(attention, heads, position_heads, before)
    elif position_heads is not None:
        raise ValueError(f"position_heads are for MPNet, whose layers share a bias; got them for {type(layer)}.")


def set_layer_widths(encoder: PreTrainedModel, widths: Sequence[dict[str, Any]]) -> None:
    """Apply `set_layer_width` to every layer of an encoder of ordinary widths, in place.

    Raises:
        ValueError: There is not one width for each layer; see also `set_layer_width`.
    """
    layers = encoder_layers(encoder)
    if len(widths) != len(layers):
        raise ValueError(f"layer_widths has {len(widths)} entries for the {len(layers)} layers of the encoder.")
    for layer, width in zip(layers, widths, strict=True):
        set_layer_width(layer, **width)


def _resize(layer: nn.Module, path: str, *, inputs: int | None = None, outputs: int | None = None) -> None:
    old = layer.get_submodule(path)
    inputs, outputs = inputs or old.in_features, outputs or old.out_features
    if (inputs, outputs) != (old.in_features, old.out_features):
        weight = old.weight
        new = nn.Linear(inputs, outputs, bias=old.bias is not None, device=weight.device, dtype=weight.dtype)
        layer.set_submodule(path, new)


def _choose_position_heads(
    attention: MPNetSelfAttention, heads: int, position_heads: Sequence[int] | None, before: int
) -> None:
    if position_heads is None:
        if heads == before:
            return
        if heads > before:
            raise ValueError(
                f"MPNet has a position bias for {before} heads, the layer is to have {heads}: say which one each head "
                "reads, as position_heads=[...]."
            )
        position_heads = range(heads)
    if len(position_heads) != heads or min(position_heads) < 0:
        raise ValueError(f"position_heads must name one head of the bias for each of {heads}, got {position_heads}.")
    attention.__class__ = MPNetChosenHeads
    attention.position_heads = list(position_heads)


__all__ = [
    "LayerLayout",
    "encoder_layers",
    "layer_layout",
    "layer_width",
    "set_layer_width",
    "set_layer_widths",
]
