"""Students made by leaving layers out: the simplest compression, and the baseline of the others."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.compressed_embeddings import make_trainable
from ..models.quantized_student import is_quantized
from .calibration import CALIBRATION_TOKENS, CalibrationText
from .compression_record import record_compression, refit_record
from .layer_lists import check_no_adapter, find_layers, whole_numbers
from .layer_similarity import check_depth, layer_cosines
from .refit import LayerSources, refit_layers

LayerMap = Literal["bottom", "top", "every_second", "by_similarity"]

_LISTS_OF_LAYERS = ("attention_layers", "attention_window", "layer_types", "mlp_layer_types", "no_rope_layers")
"""Fields of configurations that hold one entry a layer."""


_PLACES = ("layer_idx", "layer_id")
"""How layers call their own number."""


def truncate_layers(
    model: PreTrainedModel,
    layer_map: Sequence[int] | LayerMap,
    num_hidden_layers: int | None = None,
    *,
    texts: Iterable[str] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    refit: bool = False,
    max_tokens: int = CALIBRATION_TOKENS,
) -> PreTrainedModel:
    """Keep the encoder layers named by `layer_map`, in that order, and drop the others.

    Args:
        model: A model whose encoder has one list of equal layers; it is not changed. A task head is kept.
        layer_map: Indices of layers, counted from 0; `range(2)` keeps the lowest two. Or a rule for what is kept:
            "bottom", "top", "every_second" (evenly spaced from layer 0 on), or "by_similarity": what is left when the
            layers are dropped whose output has the largest cosine with their input (Peer et al. 2022,
            arXiv 2104.03048).
        num_hidden_layers: How many a rule keeps.
        texts: Text for "by_similarity" and `refit`; see `CalibrationText`.
        tokenizer: The model's tokenizer, for `texts`.
        refit: Refit the kept layers to stand for those above them that were dropped too (those below the first one
            with it); see `refit_layers`.
        max_tokens: Tokens of `texts` to read.

    Returns:
        A new model of the same class whose config says how many layers it has, and in `compression` which ones. All of
        it can be trained, also where `model` is frozen, as teachers are (a quantized model stays as it is).

    Raises:
        ValueError: An index is out of range or repeated, a rule lacks its number or text, a number or text is given
            that nothing reads, the encoder's layers cannot be found (ALBERT shares one), a layer cannot stand where
            `layer_map` puts it (ModernBERT's first has no norm of its own), or cannot be refitted.

    Example:
        >>> student = truncate_layers(teacher, layer_map=[0, 1])
        >>> student = truncate_layers(teacher, "bottom", 3, texts=sentences, tokenizer=tokenizer, refit=True)
    """
    check_no_adapter(model)
    depth = model.config.num_hidden_layers
    if not isinstance(layer_map, str):
        layer_map = whole_numbers(layer_map, "layer_map")
    if num_hidden_layers is not None:
        (num_hidden_layers,) = whole_numbers([num_hidden_layers], "num_hidden_layers")
    text = None
    if texts is not None and not refit and layer_map != "by_similarity":
        raise ValueError(
            f"layer_map={layer_map!r} reads no text without a refit: pass refit=True (--refit), or leave texts out "
            "(--text, --data)."
        )
    if refit or layer_map == "by_similarity":
        if texts is None or tokenizer is None:
            raise ValueError(
                f"layer_map={layer_map!r} with refit={refit} reads text: pass texts=... and tokenizer=... (--text)."
            )
        text = CalibrationText(model, texts, tokenizer, max_tokens=max_tokens)
    if isinstance(layer_map, str):
        layer_map = _by_rule(model, layer_map, num_hidden_layers, text)
    if num_hidden_layers not in (None, len(layer_map)):
        raise ValueError(
            f"layer_map names {len(layer_map)} layers, and num_hidden_layers={num_hidden_layers} (--num-layers) says "
            'otherwise: leave it out, or pass a rule such as "bottom".'
        )
    student = keep_layers(model, layer_map)
    record: dict[str, Any] = {"method": "truncation", "layer_map": [[index] for index in layer_map]}
    if refit and text is not None:
        groups = groups_of(layer_map, depth)
        sources = [LayerSources.whole_layer(model, kept, group) for kept, group in zip(layer_map, groups, strict=True)]
        record |= {"stands_for": groups, "refit": refit_record(refit_layers(student, model, sources, text), text)}
    record_compression(student.config, record)
    return student


def keep_layers(model: PreTrainedModel, layer_map: Sequence[int]) -> PreTrainedModel:
    """`truncate_layers` by indices, without a record."""
    depth = model.config.num_hidden_layers
    layer_map = whole_numbers(layer_map, "layer_map")
    if not layer_map or len(set(layer_map)) != len(layer_map) or not all(0 <= index < depth for index in layer_map):
        raise ValueError(f"layer_map must name layers from 0 to {depth - 1}, each at most once, got {layer_map}.")
    student = copy.deepcopy(model)
    owner, name = find_layers(student)
    layers = nn.ModuleList([getattr(owner, name)[index] for index in layer_map])
    setattr(owner, name, layers)
    _renumber(layers)
    config: Any = student.config.get_text_config()  # of a compressed encoder, the one of the encoder in it
    config.num_hidden_layers = len(layer_map)
    for holder, field in (*((config, name) for name in _LISTS_OF_LAYERS), (student.config, "layer_widths")):
        if isinstance(getattr(holder, field, None), list):
            setattr(holder, field, [getattr(holder, field)[index] for index in layer_map])
    if getattr(config, "attention_types", None):  # GPT-Neo: the same list once more, by runs
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]
    check_rebuilds(student, layer_map)
    if not is_quantized(student):
        make_trainable(student)  # a teacher that an adapter has learned from is frozen, its student need not be
    return student


def _renumber(layers: Iterable[Any]) -> None:
    """Tell the parts of a decoder's layers, which find their entry of the cache by it, where they are now."""
    for index, layer in enumerate(layers):
        for module in layer.modules():
            for name in _PLACES:
                if getattr(module, name, None) is not None:
                    setattr(module, name, index)


def groups_of(layer_map: Sequence[int], depth: int) -> list[list[int]]:
    """The layers that each kept one stands for: itself, the dropped ones above it, and for the first those below it.

    Example:
        >>> groups_of([1, 2], 6)
        [[0, 1], [2, 3, 4, 5]]
    """
    if list(layer_map) != sorted(layer_map):
        raise ValueError(f"Layers can be refitted in their own order only, got {list(layer_map)}.")
    ends = [*layer_map[1:], depth]
    return [list(range(first, end)) for first, end in zip([0, *layer_map[1:]], ends, strict=True)]


def _by_rule(
    model: PreTrainedModel, rule: str, num_hidden_layers: int | None, text: CalibrationText | None
) -> list[int]:
    depth = model.config.num_hidden_layers
    if rule not in get_args(LayerMap) or num_hidden_layers is None:
        raise ValueError(
            f"layer_map must be indices, or one of {get_args(LayerMap)} with num_hidden_layers=... (--num-layers), "
            f"got {rule!r} with num_hidden_layers={num_hidden_layers}."
        )
    check_depth(num_hidden_layers, depth)
    if rule == "by_similarity" and text is not None:
        cosines = layer_cosines(model, text)
        return sorted(sorted(range(depth), key=cosines.__getitem__)[:num_hidden_layers])
    if rule == "every_second":
        return [index * depth // num_hidden_layers for index in range(num_hidden_layers)]
    return list(range(num_hidden_layers) if rule == "bottom" else range(depth - num_hidden_layers, depth))


def check_rebuilds(student: PreTrainedModel, layer_map: list[int]) -> None:
    """Raise if a checkpoint of `student` would load into a model with other tensors, or that computes otherwise."""
    with torch.device("meta"):
        rebuilt = type(student)(copy.deepcopy(student.config))
    kept, new = (getattr(*find_layers(model)) for model in (student, rebuilt))
    different = sorted(kept.state_dict().keys() ^ new.state_dict().keys())
    if different:
        raise ValueError(
            f"{type(student).__name__} cannot hold the layers {layer_map} in this order: its layers differ by "
            f"position, so that a reloaded model would lack or add {different[:3]}. Keep the first layer first: "
            "layer_map=[0, ...]."
        )
    own, loaded = student.state_dict(), rebuilt.state_dict()
    resized = sorted(name for name in own.keys() & loaded.keys() if own[name].shape != loaded[name].shape)
    if resized:
        raise ValueError(
            f"{type(student).__name__} has tensors of a size that depends on the number of layers, which nothing cuts "
            f"with them: {resized[:3]}. Its layers cannot be dropped."
        )
    others = dict(new.named_modules())
    pairs = [(module, others[name]) for name, module in kept.named_modules() if name in others]
    changed = sorted({name for pair in pairs for name in _unlike(*pair)})
    if changed:
        raise ValueError(
            f"The layers {layer_map} of this {type(student).__name__} compute with {', '.join(changed)} of where they "
            "are, and would with other values once they are saved and loaded. Keep the lowest layers: "
            f"layer_map=range({len(layer_map)})."
        )


def _unlike(module: nn.Module, other: nn.Module) -> list[str]:
    """Names of the numbers that two modules of a class compute with and that differ; no tensors, no flags."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value != vars(other).get(name)
    ]
