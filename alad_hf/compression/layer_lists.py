"""Where an encoder keeps its layers."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel


def find_layers(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that holds the list of encoder layers, and the list's name in it."""
    depth = model.config.num_hidden_layers
    found = [
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth and len({type(layer) for layer in child}) == 1
    ]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} lists of {depth} equal layers where one was expected; "
            "its layers cannot be told apart."
        )
    return found[0]
