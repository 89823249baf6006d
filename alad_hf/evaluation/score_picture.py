"""A picture of what models score and how long they take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .matplotlib_figure import figure_class

COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d")
MARKERS = "osD^vP"


def draw_scores(
    models: Mapping[str, tuple[float, float]],
    path: str | os.PathLike,
    *,
    score: str = "score",
    time: str = "milliseconds",
    title: str = "",
) -> Path:
    """Draw the score of models against their latency: upper left is better.

    Args:
        models: For each name the latency and the score.
        path: Where the picture goes; its ending decides the format (png, svg, pdf).
        score: What the scores are, for the axis.
        time: What the latencies are, for the axis.
        title: Of the picture.

    Returns:
        The path.

    Raises:
        ValueError: There is no model.
        ImportError: matplotlib is not installed.
    """
    if not models:
        raise ValueError("There is no model to draw: pass a latency and a score for each name.")
    figure = figure_class()(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for place, (name, (latency, value)) in enumerate(models.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        axes.scatter([latency], [value], s=90, color=colour, marker=marker, label=f"{name}: {value:.1f}")
    axes.margins(0.2)
    axes.set_xlim(left=0)
    axes.set_xlabel(time)
    axes.set_ylabel(score)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=min(len(models), 3), frameon=False)
    target = Path(path)
    figure.savefig(target, dpi=120)
    return target


__all__ = ["draw_scores"]
