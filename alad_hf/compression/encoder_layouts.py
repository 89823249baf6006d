"""Where heads, neurons, biases and norms lie in an encoder layer, whatever the architecture calls them.

Only post-norm layers are taken: they add their attention to their input and normalise, add their feed-forward part and
normalise again. The input of either norm is thus the residual stream, and what enters an output projection are the
values of heads or neurons, side by side.
"""

from __future__ import annotations

from typing import cast

from torch import nn
from transformers import PreTrainedModel

from ..models.layer_widths import layer_layout
from .layer_lists import find_layers

# Paths of the norms behind attention and feed-forward part, by the path of the attention's output projection.
_NORMS = {
    # BERT, RoBERTa, ELECTRA and their relatives
    "attention.output.dense": ("attention.output.LayerNorm", "output.LayerNorm"),
    # MPNet
    "attention.attn.o": ("attention.LayerNorm", "output.LayerNorm"),
    # DistilBERT
    "attention.out_lin": ("sa_layer_norm", "output_layer_norm"),
}


class LayerParts:
    """The modules of one encoder layer by their function.

    Args:
        layer: A post-norm layer of self-attention and feed-forward part, as BERT, RoBERTa, ELECTRA, MPNet and
            DistilBERT have.

    Raises:
        ValueError: Another layer; the message says what it lacks, or has beside.
    """

    def __init__(self, layer: nn.Module) -> None:
        layout = layer_layout(layer)
        attention_norm, output_norm = _NORMS[layout.attention_output]
        self.layer = layer
        self.heads, self.head_size = layout.heads(layer), layout.head_size(layer)
        self.neurons = layout.intermediate(layer)
        paths = (layout.query, layout.key, layout.value, layout.attention_output, layout.up, layout.down)
        norms = [name for name, module in layer.named_modules() if isinstance(module, nn.LayerNorm)]
        lacking = sorted({attention_norm, output_norm} - set(norms))
        if lacking:
            raise ValueError(
                f"A {type(layer).__name__} has no norm {' and no norm '.join(lacking)}, only {norms}: it does not "
                "normalise behind each part, as BERT, RoBERTa, ELECTRA, MPNet and DistilBERT do, so its heads and "
                "neurons cannot be grafted. truncate_layers takes any encoder."
            )
        others = {name.rpartition(".")[0] for name in layer.state_dict()} - {*paths, attention_norm, output_norm}
        without_bias = [path for path in paths if layer.get_submodule(path).bias is None]
        if others or without_bias:
            what = f"also has {', '.join(sorted(others))}" if others else f"has no bias in {', '.join(without_bias)}"
            raise ValueError(
                f"This {type(layer).__name__} {what}; layers of self-attention and feed-forward part with biases can "
                "be grafted, and nothing else in them. truncate_layers takes any encoder."
            )
        linears = [cast(nn.Linear, layer.get_submodule(path)) for path in paths]
        self.query, self.key, self.value, self.attention_output, self.intermediate, self.output = linears
        self.attention_norm = cast(nn.LayerNorm, layer.get_submodule(attention_norm))
        self.output_norm = cast(nn.LayerNorm, layer.get_submodule(output_norm))


def encoder_layers(model: PreTrainedModel) -> list[LayerParts]:
    """The layers of an encoder, each taken apart.

    Raises:
        ValueError: The layers cannot be found, or one is laid out in another way.
    """
    return [LayerParts(layer) for layer in getattr(*find_layers(model))]
