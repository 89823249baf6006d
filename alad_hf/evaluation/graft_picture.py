"""A picture of which heads and neurons of a model's layers came from where."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from .matplotlib_figure import figure_class


def draw_graft(config: PreTrainedConfig, path: str | os.PathLike) -> Path:
    """Draw the heads of each layer, coloured and named by the layer and head they were, and the shares of neurons.

    The shares are left out where they are not known: of layers that were merged, and then pruned.

    Args:
        config: Of a model that `graft_layers` or `prune_width` made; of an AlAd model, its `text_config`.
        path: Where the picture goes; its ending decides the format (png, svg, pdf).

    Returns:
        The path.

    Raises:
        ValueError: The configuration says nothing of heads.
        ImportError: matplotlib is not installed.
    """
    record: dict[str, Any] = getattr(config, "compression", None) or {}
    if "heads" not in record:
        raise ValueError(
            "This configuration does not say where its heads came from; graft_layers and prune_width record that in "
            "config.compression. Of an AlAd model, pass model.config.text_config."
        )
    new_figure = figure_class()
    from matplotlib import colormaps

    depth = 1 + max(max(group) for group in record["layer_map"])
    palette = colormaps["viridis"]

    def colour(layer: int) -> tuple[float, float, float, float]:
        return palette(0.15 + 0.8 * layer / max(1, depth - 1))

    most = max(len(heads) for heads in record["heads"])
    rows = len(record["heads"])
    figure = new_figure(figsize=(2 + 0.5 * most + 3, 1.2 + 0.5 * rows), layout="constrained")
    shares = record.get("neurons")
    widths = [0.5 * most, 3] if shares else [1]
    heads_axes, *others = figure.subplots(1, len(widths), sharey=True, squeeze=False, width_ratios=widths)[0]
    for row, heads in enumerate(record["heads"]):
        for place, (layer, head) in enumerate(heads):
            heads_axes.barh(row, 1, left=place, color=colour(layer), edgecolor="white")
            heads_axes.text(place + 0.5, row, f"{layer}.{head}", ha="center", va="center", color="white", fontsize=7)
        start = 0
        for layer, count in zip(record["layer_map"][row], shares[row], strict=True) if shares else ():
            others[0].barh(row, count, left=start, color=colour(layer), edgecolor="white")
            start += count
    heads_axes.set_title("heads: layer.head of the original")
    heads_axes.set_yticks(range(rows), [f"layer {row}" for row in range(rows)])
    heads_axes.set_xticks([])
    for neurons_axes in others:
        neurons_axes.set_title("neurons by layer")
        handles = [neurons_axes.bar(0, 0, color=colour(layer)) for layer in range(depth)]
        neurons_axes.legend(
            handles, range(depth), title="from", fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    path = Path(path)
    figure.savefig(path)
    return path


__all__ = ["draw_graft"]
