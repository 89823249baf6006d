"""Draw the figures of docs from the results files.

python benchmarks/draw_figures.py
"""

from __future__ import annotations

import json
import statistics
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
from embedding_tables import METHOD_NAMES  # noqa: E402
from matplotlib import pyplot  # noqa: E402
from table_parts import RESULTS, ROOT, TASK_NAMES  # noqa: E402

FIGURES = ROOT / "docs" / "figures"
CURVES = {"embedding_compression": 5, "embedding_metric": 3}
"""Ratios that make a curve, by results file; lines through fewer points would show what was not measured."""
STYLES = {
    "svd": ("#999999", "o"),
    "svd_weighted": ("#555555", "o"),
    "svd_metric": ("#9ecae1", "o"),
    "autoencoder": ("#c49c2e", "v"),
    "autoencoder_weighted": ("#7a5c00", "<"),
    "autoencoder_metric": ("#4292c6", "<"),
    "lighttoken_paper": ("#9e6bc9", "D"),
    "lighttoken": ("#31b57b", "s"),
    "lighttoken_weighted": ("#00591f", "P"),
    "lighttoken_metric": ("#08306b", "P"),
    "pq": ("#fdae61", "^"),
    "pq_weighted_kept": ("#c2410c", "X"),
    "int8": ("#000000", "*"),
    "int4": ("#e7298a", "*"),
}
"""Of the methods that are drawn; the tables have the other variants as well."""


class Curve(NamedTuple):
    """A line of one method."""

    method: str
    label: str
    points: dict[str, list[float]]
    """Scores by "method@ratio", one a seed."""
    line: str = "-"


def embedding_compression(results_file: str) -> None:
    """Score against stored bytes of the token table, every method: replaced, and fine-tuned after that."""
    results = json.loads((RESULTS / f"{results_file}.json").read_text())
    for task, replaced in results["untuned"].items():
        metric = "accuracy" if task == "ewt_pos" else "f1"
        sizes = {point: run["bytes"] / 1e6 for point, run in replaced.items() if "bytes" in run}
        scores = {point: [run["test"][metric]] for point, run in replaced.items() if "test" in run}
        curves = [Curve(method, METHOD_NAMES[method], _of(method, scores)) for method in STYLES]
        draw_curves(f"{results_file}_{task}", task, curves, sizes, scores["dense"], "nothing tuned afterwards")

        arms = results.get("tuned", {}).get(task, {})
        trained, fixed = (
            {point: [run["test"][metric] for run in runs.values()] for point, runs in arms.get(arm, {}).items()}
            for arm in ("tuned", "tuned_fixed")
        )
        curves = []
        for method in STYLES:
            name, fixed_points = METHOD_NAMES[method], _of(method, fixed)
            curves.append(Curve(method, f"{name}; table fixed", fixed_points))
            curves.append(Curve(method, name, _of(method, trained), ":" if fixed_points else "-"))
        own = trained.get("dense", [])
        draw_curves(f"{results_file}_{task}_tuned", task, curves, sizes, own, "then fine-tuned (three seeds)")


def _of(method: str, scores: dict[str, list[float]]) -> dict[str, list[float]]:
    return {point: values for point, values in scores.items() if point.startswith(f"{method}@")}


def draw_curves(
    name: str, task: str, curves: list[Curve], sizes: dict[str, float], dense: list[float], title: str
) -> None:
    """One figure of scores, means and deviations, by the MB of the table; none where there are too few ratios."""
    curves = [curve for curve in curves if curve.points]
    shown = {point for curve in curves for point in curve.points}
    if len({point.split("@")[1] for point in shown}) < CURVES[name.rpartition(f"_{task}")[0]]:
        return
    figure, axes = pyplot.subplots(figsize=(12, 5.5), layout="constrained")
    own = statistics.mean(dense)
    axes.axhline(own, color="black", linestyle=":", linewidth=1)
    axes.annotate(f"uncompressed, 46.9 MB: {own:.1f}", (0.01, own), xycoords=("axes fraction", "data"),
                  ha="left", va="bottom")  # fmt: skip
    for curve in curves:
        points = sorted(curve.points, key=sizes.__getitem__)
        values = [curve.points[point] for point in points]
        color, marker = STYLES[curve.method]
        axes.errorbar(
            [sizes[point] for point in points],
            [statistics.mean(seeds) for seeds in values],
            [statistics.stdev(seeds) if len(seeds) > 1 else 0 for seeds in values],
            color=color,
            marker=marker,
            linestyle=curve.line,
            label=curve.label,
            elinewidth=1,
        )
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 1, 2, 5, 10, 20) if tick < 1.5 * max(sizes[point] for point in shown)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("stored bytes of the token table, MB (float32: 46.9)")
    axes.set_ylabel(f"{TASK_NAMES[task]} on test")
    axes.set_title(f"Token table of a fine-tuned MiniLM-L6 replaced, {title}")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(FIGURES / f"{name}.png", dpi=120)
    pyplot.close(figure)


TERMS = {
    "loss": ("total", "#000000"),
    "mlm_loss": ("masked words", "#1b9e77"),
    "attention_loss": ("attention", "#d95f02"),
    "hidden_loss": ("hidden states", "#7570b3"),
}


def distillation() -> None:
    """The loss of the recursive students' distillation over its steps, and its terms."""
    runs = json.loads((RESULTS / "recursive_students.json").read_text())["distillation"]
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for term, (name, color) in TERMS.items():
        for number, run in enumerate(runs.values()):
            points = [(line["step"], line[term]) for line in run["curve"] if term in line]
            if points:
                label = name if number == 0 else None
                axes.plot(*zip(*points, strict=True), color=color, alpha=0.7, linewidth=1.2, label=label)
    axes.set_yscale("log")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (terms before weighting)")
    axes.set_title(f"Distilling a recursive student from MiniLM-L6, {len(runs)} seeds")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(FIGURES / "distillation_loss.png", dpi=120)
    pyplot.close(figure)


def main() -> None:
    """Draw every figure whose results file is there."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    for results_file in CURVES:
        if (RESULTS / f"{results_file}.json").exists():
            embedding_compression(results_file)
    if (RESULTS / "recursive_students.json").exists():
        distillation()


if __name__ == "__main__":
    main()
