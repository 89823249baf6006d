"""Adjacent layer grafting: neighbouring layers become one with the heads and neurons that matter (AIT RSPR CS-24-01).

The published selection keeps the best of two layers' heads and neurons by importance. Here their number is the
target's, so that the encoder's width is kept, they are taken by index, and the new layer is refitted in closed form:
running parts of two layers side by side is no substitute for running one after the other. By default the lowest layers
are left alone and the rest becomes one layer: after training that was ahead of merging pairs everywhere, or level
(docs/compress_a_model.md has the scores).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.mpnet.modeling_mpnet import MPNetLayer

from ..models.layer_widths import layer_width, set_layer_width
from .calibration import CALIBRATION_TOKENS, CalibrationText
from .compression_record import record_compression, refit_record
from .encoder_layouts import LayerParts, encoder_layers
from .importance import Importance, layer_importance
from .layer_lists import whole_numbers
from .layer_similarity import equal_groups, similar_groups, upper_groups
from .refit import LayerSources, Source, refit_layers
from .truncation import keep_layers
from .wrapping import wrap_encoder

PairChoice = Literal["upper", "fixed", "similar"]


def graft_layers(
    model: PreTrainedModel,
    num_hidden_layers: int | None = None,
    *,
    texts: Iterable[str] | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    strategy: PairChoice = "upper",
    groups: Sequence[Sequence[int]] | None = None,
    extra_heads: int = 0,
    extra_neurons: int = 0,
    concatenate: bool = False,
    normalise: bool = True,
    refit: bool = True,
    max_tokens: int = CALIBRATION_TOKENS,
    batch_size: int = 32,
    seed: int = 0,
) -> PreTrainedModel:
    """Merge neighbouring layers, each group into one.

    Args:
        model: An encoder, token classifier or question answerer of BERT, RoBERTa, ELECTRA, MPNet or DistilBERT, or one
            with the same layers. It is not changed.
        num_hidden_layers: How many layers are left.
        texts: Text for similarity, importance and refit; labelled rows (see `CalibrationText`) decide importance by
            their labels.
        tokenizer: The model's tokenizer.
        strategy: How layers are grouped: "upper", the lowest layers stay and the others become one; "fixed",
            neighbours in groups of like size; "similar", the most similar neighbours by linear CKA, again and again.
        groups: The groups instead: all layers, in order.
        extra_heads: Heads of a merged layer beyond those of the last one of its group.
        extra_neurons: The same for feed-forward neurons.
        concatenate: Keep all heads and neurons of a group.
        normalise: Compare the importance of parts within their layer's; see `Importance.normalised`.
        refit: Refit merged layers in closed form; see `refit_layers`.
        max_tokens: Tokens of `texts` to read.
        batch_size: Rows read at a time.
        seed: For importance without labels.

    Returns:
        A new model in eval mode: of the same class where the width is kept, else a compressed encoder (see
        `wrap_encoder`). `config.compression` says which layers, heads and how many neurons went into each layer.

    Raises:
        ValueError: The layers are of an unknown layout, or numbers or groups are out of range.

    Example:
        >>> student = graft_layers(tagger, num_hidden_layers=6, texts=sentences, tokenizer=tokenizer)
    """
    if concatenate and (extra_heads or extra_neurons):
        raise ValueError("concatenate=True keeps all heads and neurons: leave out extra_heads and extra_neurons.")
    if extra_heads < 0 or extra_neurons < 0:
        raise ValueError(
            f"extra_heads={extra_heads} and extra_neurons={extra_neurons} must be 0 or more; prune_width makes layers "
            "narrower."
        )
    layers = encoder_layers(model)
    text = CalibrationText(model, texts, tokenizer, batch_size=batch_size, max_tokens=max_tokens)
    groups = graft_groups(model, num_hidden_layers, strategy, groups, text)
    importance, scores = None, None
    if not concatenate:
        importance = layer_importance(model, text, seed=seed)
        scores = importance.normalised() if normalise else importance
    sources = [
        _all_parts(layers, group)
        if scores is None or len(group) == 1
        else choose_parts(layers, group, scores, extra_heads, extra_neurons)
        for group in groups
    ]
    student = write_grafts(model, sources)
    record = graft_record(sources, importance, normalise)
    if refit:
        record["refit"] = refit_record(refit_layers(student, model, sources, text), text)
    return finished(student, layers, record)


def choose_parts(
    layers: Sequence[LayerParts],
    group: Sequence[int],
    scores: Importance,
    extra_heads: int = 0,
    extra_neurons: int = 0,
) -> LayerSources:
    """The heads and neurons of a group with the largest scores.

    The target, the group's last layer, says how many. Those of its own that are kept stay in their places, the others
    fill the gaps. A head of MPNet can only move to its own place, since the position bias of a place is shared by all
    layers; only layers that get more heads are free of that.
    """
    target = layers[group[-1]]
    if _has_places(target) and not extra_heads and all(layers[one].heads == target.heads for one in group):
        upwards = list(reversed(group))
        heads = [
            (max(upwards, key=lambda one: scores.heads[one][place].item()), place) for place in range(target.heads)
        ]
    else:
        heads = _best(scores.heads, group, target.heads + extra_heads)
    return LayerSources(list(group), heads, _best(scores.neurons, group, target.neurons + extra_neurons))


def _best(scores: Sequence[torch.Tensor], group: Sequence[int], count: int) -> list[Source]:
    parts = [(layer, index) for layer in reversed(group) for index in range(len(scores[layer]))]
    if count > len(parts):
        raise ValueError(f"Layers {list(group)} have {len(parts)} heads or neurons together, fewer than {count}.")
    ranked = sorted(parts, key=lambda part: -scores[part[0]][part[1]].item())[:count]
    own = {index: (layer, index) for layer, index in ranked if layer == group[-1]}
    others = iter(sorted(part for part in ranked if part[0] != group[-1]))
    return [own.get(place) or next(others) for place in range(count)]


def _all_parts(layers: Sequence[LayerParts], group: Sequence[int]) -> LayerSources:
    order = [group[-1], *group[:-1]]
    return LayerSources(
        list(group),
        [(one, head) for one in order for head in range(layers[one].heads)],
        [(one, neuron) for one in order for neuron in range(layers[one].neurons)],
    )


@torch.no_grad()
def write_grafts(model: PreTrainedModel, sources: Sequence[LayerSources]) -> PreTrainedModel:
    """A copy of a model with one layer for each of `sources`, put together from its own heads and neurons.

    The target is the last layer of a group: norms and output biases are its own, and the output bias of each other
    layer is added by the share of its heads or neurons that came along (all of them: the sum, as it must be).
    """
    student = keep_layers(model, [source.layers[-1] for source in sources])
    layers = encoder_layers(model)
    for part, source in zip(encoder_layers(student), sources, strict=True):
        _write_layer(part.layer, layers, source)
    return student.eval()


def _write_layer(layer: nn.Module, layers: Sequence[LayerParts], source: LayerSources) -> None:
    target = layers[source.layers[-1]]
    width: dict[str, Any] = {"heads": len(source.heads), "intermediate": len(source.neurons)}
    if _has_places(target):
        places = [_place(layers[one], head) for one, head in source.heads]
        if places != [_place(target, head) for head in range(target.heads)]:
            width["position_heads"] = places
    set_layer_width(layer, **width)
    part = LayerParts(layer)
    size = part.head_size
    for name in ("query", "key", "value"):
        by_head = {one: getattr(layers[one], name) for one in source.layers}
        weights = {one: linear.weight.unflatten(0, (-1, size)) for one, linear in by_head.items()}
        biases = {one: linear.bias.unflatten(0, (-1, size)) for one, linear in by_head.items()}
        getattr(part, name).weight.copy_(torch.cat([weights[one][head] for one, head in source.heads]))
        getattr(part, name).bias.copy_(torch.cat([biases[one][head] for one, head in source.heads]))
    columns = {one: layers[one].attention_output.weight.unflatten(1, (-1, size)) for one in source.layers}
    part.attention_output.weight.copy_(torch.cat([columns[one][:, head] for one, head in source.heads], dim=1))
    for one in source.layers:
        places = [place for place, (origin, _) in enumerate(source.neurons) if origin == one]
        indices = [index for origin, index in source.neurons if origin == one]
        part.intermediate.weight[places] = layers[one].intermediate.weight[indices]
        part.intermediate.bias[places] = layers[one].intermediate.bias[indices]
        part.output.weight[:, places] = layers[one].output.weight[:, indices]
    # Maps of another size are new ones, also in their bias.
    part.attention_output.bias.copy_(target.attention_output.bias)
    part.output.bias.copy_(target.output.bias)
    for one in source.layers[:-1]:
        share = sum(origin == one for origin, _ in source.heads) / layers[one].heads
        part.attention_output.bias.add_(share * layers[one].attention_output.bias)
        share = sum(origin == one for origin, _ in source.neurons) / layers[one].neurons
        part.output.bias.add_(share * layers[one].output.bias)


def finished(student: PreTrainedModel, layers: Sequence[LayerParts], record: dict[str, Any]) -> PreTrainedModel:
    """The student with its record, wrapped if its layers have not the width that its configuration says."""
    stock = {"heads": layers[0].heads, "intermediate": layers[0].neurons}
    record_compression(student.config, record)
    own_widths = getattr(student.config, "layer_widths", None) is not None  # of a compressed encoder, now other ones
    if not own_widths and all(layer_width(part.layer) == stock for part in encoder_layers(student)):
        return student
    record = student.config.__dict__.pop("compression")  # of the whole, not of the stock encoder in it
    return wrap_encoder(student, compression=record)


def graft_record(sources: Sequence[LayerSources], importance: Importance | None, normalised: bool) -> dict[str, Any]:
    """What `config.compression` says of a graft; see `record_compression`."""
    record: dict[str, Any] = {
        "method": "grafting",
        "layer_map": [source.layers for source in sources],
        "heads": [[list(head) for head in source.heads] for source in sources],
        "neurons": [
            [sum(origin == one for origin, _ in source.neurons) for one in source.layers] for source in sources
        ],
    }
    if importance is not None:
        record["importance"] = {
            "normalised": normalised,
            "heads": [float(f"{scores.sum():.4g}") for scores in importance.heads],
            "neurons": [float(f"{scores.sum():.4g}") for scores in importance.neurons],
        }
    return record


def _has_places(part: LayerParts) -> bool:
    """Whether heads read a position bias of their place."""
    return isinstance(part.layer, MPNetLayer)


def _place(part: LayerParts, head: int) -> int:
    """The column of the position bias that a head reads."""
    return layer_width(part.layer).get("position_heads", range(part.heads))[head]


def graft_groups(
    model: PreTrainedModel,
    num_hidden_layers: int | None,
    strategy: PairChoice,
    groups: Sequence[Sequence[int]] | None,
    text: CalibrationText,
) -> list[list[int]]:
    """The layers that go together; arguments as of `graft_layers`."""
    depth = model.config.num_hidden_layers
    if strategy not in get_args(PairChoice):
        raise ValueError(f"strategy must be one of {get_args(PairChoice)}, got {strategy!r}.")
    if num_hidden_layers is not None:
        (num_hidden_layers,) = whole_numbers([num_hidden_layers], "num_hidden_layers")
    if groups is not None:
        given = [whole_numbers(group, "groups") for group in groups]
        in_order = [one for group in given for one in group] == list(range(depth)) and all(given)
        if not in_order or num_hidden_layers not in (None, len(given)):
            raise ValueError(
                f"groups must hold layers 0 to {depth - 1} in order, each once, in num_hidden_layers groups, got "
                f"{given} with num_hidden_layers={num_hidden_layers}."
            )
        return given
    if num_hidden_layers is None:
        raise ValueError("Say how many layers are to be left, num_hidden_layers=..., or which go together, groups=...")
    if strategy == "similar":
        return similar_groups(model, num_hidden_layers, text)
    return (upper_groups if strategy == "upper" else equal_groups)(num_hidden_layers, depth)
