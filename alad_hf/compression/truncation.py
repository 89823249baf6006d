"""Students made by leaving layers out: the simplest compression, and the baseline of the others."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel


def truncate_layers(model: PreTrainedModel, layer_map: Sequence[int]) -> PreTrainedModel:
    """Keep the encoder layers named by `layer_map`, in that order, and drop the others.

    Args:
        model: A model whose encoder has one list of equal layers; it is not changed. A task head is kept.
        layer_map: Indices of layers, counted from 0; `range(2)` keeps the lowest two.

    Returns:
        A new model of the same class whose config says how many layers it has.

    Raises:
        ValueError: An index is out of range or repeated, the encoder's layers cannot be found (ALBERT shares one), or
            a layer cannot stand where `layer_map` puts it (ModernBERT's first has no norm of its own).

    Example:
        >>> student = truncate_layers(teacher, layer_map=[0, 1])
    """
    depth = model.config.num_hidden_layers
    layer_map = list(layer_map)
    if not layer_map or len(set(layer_map)) != len(layer_map) or not all(0 <= index < depth for index in layer_map):
        raise ValueError(f"layer_map must name layers from 0 to {depth - 1}, each at most once, got {layer_map}.")
    student = copy.deepcopy(model)
    owner, name = find_layers(student)
    layers = getattr(owner, name)
    setattr(owner, name, nn.ModuleList([layers[index] for index in layer_map]))
    student.config.num_hidden_layers = len(layer_map)
    if getattr(student.config, "layer_types", None):
        student.config.layer_types = [student.config.layer_types[index] for index in layer_map]
    _check_rebuilds(student, layer_map)
    return student


def _check_rebuilds(student: PreTrainedModel, layer_map: list[int]) -> None:
    """Raise if a checkpoint of `student` would load into layers with other tensors."""
    with torch.device("meta"):
        rebuilt = type(student)(copy.deepcopy(student.config))
    layers, expected = (getattr(*find_layers(model)).state_dict() for model in (student, rebuilt))
    different = sorted(layers.keys() ^ expected.keys())
    if different:
        raise ValueError(
            f"{type(student).__name__} cannot hold the layers {layer_map} in this order: its layers differ by "
            f"position, so that a reloaded model would lack or add {different[:3]}. Keep the first layer first: "
            "layer_map=[0, ...]."
        )


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
