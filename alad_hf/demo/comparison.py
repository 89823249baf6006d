"""Where models that read the same text differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

DisagreementKind = Literal["missing", "label", "borders"]


class Span(NamedTuple):
    """What a model found: the characters `start` to `end - 1` of a text."""

    start: int
    end: int
    label: str
    score: float
    """The model's own probability, from 0 to 1; no part of a comparison."""


@dataclass(frozen=True)
class Disagreement:
    """A stretch of text in which not all models found the same."""

    start: int
    end: int
    """Exclusive."""
    kind: DisagreementKind
    """`missing`: a model found nothing here; `label`: the same characters, called differently; `borders`: the rest."""
    found: tuple[tuple[Span, ...], ...]
    """What each model found here, in the order of the models."""


def find_disagreements(readings: Sequence[Sequence[Span]]) -> list[Disagreement]:
    """Compare what several models found in one text.

    Spans that overlap, those of different models included, belong together. Such a group is a disagreement unless
    every model has the same spans with the same labels in it.

    Args:
        readings: The spans of each model.

    Returns:
        The disagreements, in the order of the text.

    Example:
        >>> found = find_disagreements([[Span(0, 3, "PER", 0.9)], [Span(0, 3, "ORG", 0.8)]])
        >>> [(one.start, one.end, one.kind) for one in found]
        [(0, 3, 'label')]
    """
    ordered = sorted((span, model) for model, spans in enumerate(readings) for span in spans)
    groups: list[list[tuple[Span, int]]] = []
    end = 0
    for span, model in ordered:
        if groups and span.start < end:
            groups[-1].append((span, model))
        else:
            groups.append([(span, model)])
        end = max(end, span.end)
    disagreements = []
    for group in groups:
        found = tuple(tuple(span for span, owner in group if owner == model) for model in range(len(readings)))
        kind = _kind(found)
        if kind is not None:
            disagreements.append(Disagreement(group[0][0].start, max(span.end for span, _ in group), kind, found))
    return disagreements


def _kind(found: tuple[tuple[Span, ...], ...]) -> DisagreementKind | None:
    if not all(found):
        return "missing"
    if len({tuple((span.start, span.end) for span in spans) for spans in found}) > 1:
        return "borders"
    return "label" if len({tuple(span.label for span in spans) for spans in found}) > 1 else None


__all__ = ["Disagreement", "DisagreementKind", "Span", "find_disagreements"]
