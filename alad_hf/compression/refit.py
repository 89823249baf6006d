"""Closed-form refit: layers of a student that come as near as they can to what their original's layers compute.

Every step is a least-squares problem with a linear map's change as the unknown, on text without labels:

1. Queries, keys and values of each head as they were where the head comes from, from what the head now sees.
2. The attention's output projection, so that the residual stream is that before the norm of the group's last layer.
3. What enters each neuron as it was where the neuron comes from.
4. The feed-forward part's output projection, so that the residual stream before the last norm is the original's.

Layers follow each other from below, each on the states of the student below it, so that it makes up for errors there.
The penalty is on the change: a step never raises its error on the text, and directions that the text does not show
stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..alignment.least_squares import AlignmentMoments, ridge
from .calibration import CalibrationText, reading, run_layers
from .encoder_layouts import LayerParts, encoder_layers

Source = tuple[int, int]
"""Index of a layer of the original, and of a head or neuron in it."""

REGULARISATION = 1e-3
"""Penalty on the change of a map, as a share of the mean variance of what it reads."""


@dataclass(frozen=True)
class LayerSources:
    """What one layer of a student stands for, and where its parts come from."""

    layers: list[int]
    """The layers of the original that it replaces: neighbours, in order."""
    heads: list[Source]
    neurons: list[Source]

    @classmethod
    def whole_layer(cls, model: PreTrainedModel, kept: int, layers: Sequence[int]) -> LayerSources:
        """One layer of `model` as it is, in the place of `layers`."""
        parts = encoder_layers(model)[kept]
        return cls(
            list(layers), [(kept, head) for head in range(parts.heads)], [(kept, one) for one in range(parts.neurons)]
        )


@dataclass(frozen=True)
class LayerFit:
    """Squared error of a layer's output states on the text, as a share of the sum of squares of the original's."""

    before: float
    """Over the refitted layers below it."""
    after: float


@torch.no_grad()
def refit_layers(
    student: PreTrainedModel,
    original: PreTrainedModel,
    sources: Sequence[LayerSources],
    calibration: CalibrationText,
    *,
    regularisation: float = REGULARISATION,
) -> list[LayerFit]:
    """Refit all layers of a student whose layers stand for groups of layers of its original, in place.

    Norms, embeddings and head are not changed. Layers that are their original's, over others that are, stay as they
    are.

    Args:
        student: Truncated, grafted or pruned.
        original: The model that it was made of.
        sources: For each layer of the student; together their `layers` are all layers of the original in order.
        calibration: Text, better some ten thousand tokens; a map with n inputs needs several times n.
        regularisation: See `REGULARISATION`.

    Returns:
        The error of each layer's states.

    Raises:
        ValueError: The sources do not fit the models, or the text is too short for so small a `regularisation`.
    """
    own, layers = encoder_layers(student), encoder_layers(original)
    _check_sources(own, layers, sources)
    pairs = _Pairs(student, original, calibration)
    fits = []
    for part, source in zip(own, sources, strict=True):
        group = [layers[index] for index in source.layers]
        before = pairs.error(part, group)
        if before > 0:
            for step in (_attention_inputs, _attention_output, _intermediate, _output):
                step(pairs, part, group, source, regularisation)
        fits.append(LayerFit(before, pairs.advance(part, group)))
    return fits


class _Pairs:
    """Student and original side by side on the same text, group by group from below."""

    def __init__(self, student: PreTrainedModel, original: PreTrainedModel, calibration: CalibrationText) -> None:
        self.student, self.original, self.batches = student, original, calibration.batches
        self.own_states: list[torch.Tensor | None] = [None] * len(self.batches)
        self.states: list[torch.Tensor | None] = [None] * len(self.batches)

    def run(
        self, part: LayerParts, group: Sequence[LayerParts], own: Sequence[nn.Module], theirs: Sequence[nn.Module]
    ) -> Iterator[tuple[list[tuple[torch.Tensor, torch.Tensor]], list[tuple[torch.Tensor, torch.Tensor]]]]:
        """For each batch, what entered and left modules of the student's layer and of the original's, by real token.

        Yields:
            Two lists of pairs (input, output), each (tokens, width).
        """
        for index, batch in enumerate(self.batches):
            real = batch["attention_mask"].bool()
            with reading(*own) as own_values, reading(*theirs) as their_values:
                run_layers(self.student, [part.layer], batch, self.own_states[index])
                run_layers(self.original, [one.layer for one in group], batch, self.states[index])
                values = own_values(), their_values()
            mine, others = ([(a[real].cpu().double(), b[real].cpu().double()) for a, b in side] for side in values)
            yield mine, others

    def error(self, part: LayerParts, group: Sequence[LayerParts]) -> float:
        """See `LayerFit`."""
        wrong, total = 0.0, 0.0
        for mine, theirs in self.run(part, group, [part.output_norm], [group[-1].output_norm]):
            wrong += (mine[0][1] - theirs[0][1]).square().sum().item()
            total += theirs[0][1].square().sum().item()
        return wrong / total

    def advance(self, part: LayerParts, group: Sequence[LayerParts]) -> float:
        """Go on to the states behind the group; returns their error."""
        error = self.error(part, group)
        for index, batch in enumerate(self.batches):
            self.own_states[index] = run_layers(self.student, [part.layer], batch, self.own_states[index])
            self.states[index] = run_layers(self.original, [one.layer for one in group], batch, self.states[index])
        return error


def _attention_inputs(
    pairs: _Pairs, part: LayerParts, group: Sequence[LayerParts], source: LayerSources, regularisation: float
) -> None:
    maps = [part.query, part.key, part.value]
    moments = _Moments.of(part.query.in_features, sum(one.out_features for one in maps))
    theirs = [module for one in group for module in (one.query, one.key, one.value)]
    for mine, others in pairs.run(part, group, maps, theirs):
        wanted = []
        for kind in range(3):
            by_head = [output.unflatten(-1, (-1, part.head_size)) for _, output in others[kind::3]]
            wanted.append(_gathered(by_head, source.layers, source.heads).flatten(1))
        moments.update(mine[0][0], torch.cat(wanted, -1) - torch.cat([output for _, output in mine], -1))
    _change(maps, moments, regularisation)


def _attention_output(
    pairs: _Pairs, part: LayerParts, group: Sequence[LayerParts], source: LayerSources, regularisation: float
) -> None:
    _residual_stream(
        pairs, part, group, (part.attention_output, part.attention_norm), "attention_norm", regularisation
    )


def _intermediate(
    pairs: _Pairs, part: LayerParts, group: Sequence[LayerParts], source: LayerSources, regularisation: float
) -> None:
    moments = _Moments.of(part.intermediate.in_features, part.intermediate.out_features)
    for mine, others in pairs.run(part, group, [part.intermediate], [one.intermediate for one in group]):
        wanted = _gathered([output for _, output in others], source.layers, source.neurons)
        moments.update(mine[0][0], wanted - mine[0][1])
    _change([part.intermediate], moments, regularisation)


def _output(
    pairs: _Pairs, part: LayerParts, group: Sequence[LayerParts], source: LayerSources, regularisation: float
) -> None:
    _residual_stream(pairs, part, group, (part.output, part.output_norm), "output_norm", regularisation)


def _residual_stream(
    pairs: _Pairs,
    part: LayerParts,
    group: Sequence[LayerParts],
    modules: tuple[nn.Linear, nn.LayerNorm],
    norm: str,
    regularisation: float,
) -> None:
    projection, _ = modules
    moments = _Moments.of(projection.in_features, projection.out_features)
    for mine, others in pairs.run(part, group, modules, [getattr(group[-1], norm)]):
        features, stream, wanted = mine[0][0], mine[1][0], others[0][0]
        # The norm divides by a token's spread: to first order, this is the error behind the norm.
        moments.update(features, wanted - stream, 1 / wanted.var(dim=-1, correction=0).clamp(min=1e-12))
    _change([projection], moments, regularisation)


class _Moments(AlignmentMoments):
    """Moments whose target products stay 0 but on the diagonal: a ridge reads none of them, an error their trace."""

    @classmethod
    def of(cls, num_features: int, num_targets: int) -> _Moments:
        """The moments of no text."""
        return cls(**vars(cls.zeros(num_features, num_targets)))

    def update(self, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Add tokens, each with a weight of 1 by default."""
        features, targets = features.cpu(), targets.cpu()
        scaled = features if weights is None else features * weights.cpu().unsqueeze(-1)
        weighted = targets if weights is None else targets * weights.cpu().unsqueeze(-1)
        self.weight += len(features) if weights is None else weights.sum().cpu()
        self.feature_sum += scaled.sum(dim=0)
        self.target_sum += weighted.sum(dim=0)
        self.feature_products.addmm_(scaled.T, features)
        self.cross_products.addmm_(scaled.T, targets)
        self.target_products.diagonal().add_((weighted * targets).sum(dim=0))


def _change(maps: Sequence[nn.Linear], moments: _Moments, regularisation: float) -> None:
    """Add the best change to maps of the same input, whose outputs stand side by side."""
    fit = ridge(moments, regularisation)
    sizes = [one.out_features for one in maps]
    for one, weight, bias in zip(maps, fit.weight.split(sizes), fit.bias.split(sizes), strict=True):
        one.weight.add_(weight.to(one.weight))
        one.bias.add_(bias.to(one.bias))


def _gathered(outputs: Sequence[torch.Tensor], layers: Sequence[int], items: Sequence[Source]) -> torch.Tensor:
    """Columns of several layers' outputs in the order of `items`: (tokens, items, ...)."""
    offsets: dict[int, int] = {}
    total = 0
    for layer, output in zip(layers, outputs, strict=True):
        offsets[layer] = total
        total += output.shape[1]
    return torch.cat(list(outputs), dim=1)[:, [offsets[layer] + index for layer, index in items]]


def _check_sources(own: Sequence[LayerParts], layers: Sequence[LayerParts], sources: Sequence[LayerSources]) -> None:
    covered = [index for source in sources for index in source.layers]
    if covered != list(range(len(layers))):
        raise ValueError(
            f"The student's layers must stand for layers 0 to {len(layers) - 1} of the original, each once and in "
            f"order, got {[source.layers for source in sources]}."
        )
    sizes = [(part.heads, part.neurons) for part in own]
    wanted = [(len(source.heads), len(source.neurons)) for source in sources]
    if sizes != wanted:
        raise ValueError(f"The sources name (heads, neurons) {wanted}, but the student's layers have {sizes}.")
