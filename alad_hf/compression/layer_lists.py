"""Where an encoder keeps its layers."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..models.modeling_alad import AlAdPreTrainedModel
from ..models.student import holds_peft_layers


def whole_numbers(numbers: Iterable[Any], name: str) -> list[int]:
    """Integers of any kind, numpy's for one, as Python's own, the only ones that a configuration can be saved with.

    Raises:
        ValueError: One is no integer; a float is none, whatever its value.
    """
    numbers = list(numbers)
    try:
        return [operator.index(number) for number in numbers]
    except TypeError as error:
        raise ValueError(f"{name} must hold integers, got {numbers}.") from error


def check_no_adapter(model: PreTrainedModel) -> None:
    """Raise ValueError for an AlAd model and for peft's adapters, which were fitted to the weights as they are."""
    if isinstance(model, AlAdPreTrainedModel):
        raise ValueError(
            f"A {type(model).__name__} is a student under an adapter that fits this student alone. Compress the "
            "student first, then align the result; here it is model.base_model.encoder."
        )
    if holds_peft_layers(model):
        raise ValueError(
            f"This {type(model).__name__} carries adapters of peft, which belong to the weights as they are. Merge "
            "them first, and compress what merge_and_unload() of the PeftModel returns."
        )


def find_layers(model: PreTrainedModel) -> tuple[nn.Module, str]:
    """The module that holds the list of encoder layers, and the list's name in it.

    Raises:
        ValueError: There is not exactly one such list (ALBERT shares one layer), or it is an AlAd model.
    """
    check_no_adapter(model)
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
