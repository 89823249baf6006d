"""Tables of compressed token embeddings: vectors, scores and lookups; see `write_tables.py`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable

from table_parts import RESULTS, TASK_NAMES, spread

METHOD_NAMES = {
    "svd": "SVD",
    "svd_weighted": "SVD, tokens weighted by text",
    "svd_metric": "SVD, weighted, in the encoder's metric",
    "autoencoder": "autoencoder, direction-aware",
    "autoencoder_svd_start": "the same, begun at SVD",
    "autoencoder_weighted": "autoencoder, tokens weighted by text",
    "autoencoder_metric": "autoencoder, weighted, in the encoder's metric",
    "lighttoken_paper": "LightToken, the paper's steps",
    "lighttoken_none_kept": "LightToken, no row kept",
    "lighttoken_weighted_none_kept": "LightToken, no row kept, tokens weighted by text",
    "lighttoken": "LightToken",
    "lighttoken_weighted": "LightToken, tokens weighted by text",
    "lighttoken_metric": "LightToken, weighted, in the encoder's metric",
    "lighttoken_encyclopedia": "LightToken, tokens weighted by text of Wikipedia",
    "lighttoken_encyclopedia_metric": "LightToken, weighted by text of Wikipedia, in the encoder's metric",
    "lighttoken_domain": "LightToken, tokens weighted by text of the domain",
    "lighttoken_domain_metric": "LightToken, weighted by text of the domain, in the encoder's metric",
    "pq": "product quantization",
    "pq_weighted": "product quantization, tokens weighted by text",
    "pq_weighted_kept": "product quantization, tokens weighted by text, rows kept",
    "pq_weighted_kept_rotated": "product quantization, weighted, rows kept, rotated",
    "pq_metric_kept": "product quantization, weighted, rows kept, in the encoder's metric",
    "int8": "int8",
    "int4": "int4",
}
_TITLES = {"minilm": "MiniLM-L6, 30,522 × 384", "mpnet": "all-mpnet-base-v2, 30,527 × 768"}
TUNED_ARMS = {
    "tuned": "fine-tuned with the table's factors",
    "tuned_fixed": "fine-tuned, table fixed",
    "alad": "AlAd, joint, table fixed",
    "alad_factors": "AlAd, joint, with its factors",
    "plug_and_play": "AlAd, plug-and-play",
}
ROUNDING_RATIOS = {"int8": 5.0, "int4": 10.0}
"""The column nearest to what rounding takes."""


def _columns(points: Iterable[tuple[str, str]]) -> list[float]:
    """Ratios that have a run, of pairs (method, ratio)."""
    return sorted({ROUNDING_RATIOS[method] if ratio == "None" else float(ratio) for method, ratio in points})


def _at(method: str, ratio: float, runs: dict[str, dict]) -> tuple[dict | None, str]:
    """A method's run in a column, and a note on its ratio where that is another by more than a tenth."""
    run = runs.get("None" if ROUNDING_RATIOS.get(method) == ratio else str(ratio))
    if run is None or abs(run["ratio"] / ratio - 1) <= 0.1:
        return run, ""
    return run, f" (ratio {run['ratio']:.1f})"


def embedding_compression(results_file: str = "embedding_compression") -> str:
    """Scores of a tagger whose token table is replaced, nothing tuned afterwards."""
    tasks = json.loads((RESULTS / f"{results_file}.json").read_text())["untuned"]
    return "\n\n".join(embedding_compression_of_task(task, runs) for task, runs in tasks.items())


def embedding_compression_of_task(task: str, runs: dict) -> str:
    """One table: methods by ratio."""
    metric = "accuracy" if task == "ewt_pos" else "f1"
    found = {tuple(key.split("@")): run for key, run in runs.items() if "@" in key and "error" not in run}
    ratios = _columns(found)
    lines = [
        f"| {TASK_NAMES[task]} on test / mean cosine | {' | '.join(f'ratio {ratio:g}' for ratio in ratios)} |",
        f"|---|{'---:|' * len(ratios)}",
    ]
    for method, name in METHOD_NAMES.items():
        points = {ratio: run for (other, ratio), run in found.items() if other == method}
        cells = []
        for ratio in ratios:
            run, note = _at(method, ratio, points)
            cells.append(f"{run['test'][metric]:.1f} / {run['mean_cosine']:.3f}{note}" if run else "")
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    dense = runs["dense"]["test"][metric]
    return "\n".join([*lines, "", f"One tagger (MiniLM-L6), {dense:.1f} with its own table of 46.9 MB. One run each."])


def embedding_reconstruction() -> str:
    """How near the vectors of a compressed table are to the original ones."""
    matrices = json.loads((RESULTS / "embedding_compression.json").read_text())["reconstruction"]
    return "\n\n".join(embedding_reconstruction_of(matrix, methods) for matrix, methods in matrices.items())


def embedding_reconstruction_of(matrix: str, methods: dict) -> str:
    """One table: methods by ratio."""
    ratios = _columns((method, ratio) for method, runs in methods.items() for ratio in runs)
    title = _TITLES[matrix]
    lines = [
        f"| {title}: cosine / RMSE / neighbours | {' | '.join(f'ratio {ratio:g}' for ratio in ratios)} |",
        f"|---|{'---:|' * len(ratios)}",
    ]
    for method, name in METHOD_NAMES.items():
        runs = {ratio: run for ratio, run in methods.get(method, {}).items() if "error" not in run}
        cells = []
        for ratio in ratios:
            run, note = _at(method, ratio, runs)
            values = (run["mean_cosine"], run["rmse"], run["neighbour_overlap"]) if run else ()
            cells.append(" / ".join(f"{value:.3f}" for value in values) + note)
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def embedding_seconds() -> str:
    """How long the methods take at the ratio that is the slowest for most."""
    results = json.loads((RESULTS / "embedding_seconds.json").read_text())
    seconds = results["seconds"]
    lines = [
        f"| seconds, ratio {results['ratio']:g} | {' | '.join(_TITLES[matrix] for matrix in seconds)} |",
        f"|---|{'---:|' * len(seconds)}",
    ]
    names = {**METHOD_NAMES, "embedding_metric": "the encoder's metric, for those in it"}
    for method, name in names.items():
        cells = [f"{times[method]:.0f}" if method in times else "" for times in seconds.values()]
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{results['machine']}, torch {results['torch']}."])


def embedding_cosines() -> str:
    """What the score follows: cosines over the rows of a table, over the tokens of a text, and F1 on WNUT-17."""
    results = json.loads((RESULTS / "embedding_compression.json").read_text())
    vectors, scores = results["reconstruction"]["minilm"], results["untuned"]["wnut17"]
    ratios = ("25.0", "100.0")
    heads = [f"ratio {float(ratio):g}: {what}" for ratio in ratios for what in ("over rows", "in text", "F1")]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for method, name in METHOD_NAMES.items():
        cells = []
        for ratio in ratios:
            run, scored = vectors.get(method, {}).get(ratio), scores.get(f"{method}@{ratio}")
            if run and scored:
                score = f"{scored['test']['f1']:.1f}"
                cells += [f"{run['mean_cosine']:.2f}", f"{run['text_cosine']:.2f}", score]
        if len(cells) == len(heads):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    dense = scores["dense"]["test"]["f1"]
    return "\n".join([*lines, "", f"MiniLM-L6; F1 on test of WNUT-17, {dense:.1f} with the tagger's own table."])


def embedding_tuned(results_file: str = "embedding_compression") -> str:
    """Scores of a tagger whose token table is replaced: as it is, fine-tuned, and under AlAd."""
    results = json.loads((RESULTS / f"{results_file}.json").read_text())
    tuned, untuned = results.get("tuned", {}), results["untuned"]
    return "\n\n".join(embedding_tuned_of_task(task, untuned[task], tuned[task]) for task in untuned if task in tuned)


def embedding_tuned_of_task(task: str, untuned: dict, arms: dict) -> str:
    """One table: methods, and what was done with them, by ratio."""
    metric = "accuracy" if task == "ewt_pos" else "f1"
    scores = {
        arm: {point: [run["test"][metric] for run in runs.values()] for point, runs in arms[arm].items()}
        for arm in TUNED_ARMS
        if arm in arms
    }
    points = dict.fromkeys(point for arm in scores.values() for point in arm)
    scores = {"replaced": {point: [untuned[point]["test"][metric]] for point in points}} | scores
    ratios = _columns(point.split("@") for point in points if "@" in point)
    lines = [
        f"| {TASK_NAMES[task]} on test | | {' | '.join(f'ratio {ratio:g}' for ratio in ratios)} |",
        f"|---|---|{'---:|' * len(ratios)}",
    ]
    for method, name in METHOD_NAMES.items():
        shown = name
        for arm, values in scores.items():
            runs = {
                point.split("@")[1]: {"score": spread(values[point]), "ratio": untuned[point]["ratio"]}
                for point in values
                if point.startswith(f"{method}@")
            }
            found = [_at(method, ratio, runs) for ratio in ratios]
            if any(run for run, _ in found):
                cells = [f"{run['score']}{note}" if run else "" for run, note in found]
                lines.append(f"| {shown} | {TUNED_ARMS.get(arm, arm)} | {' | '.join(cells)} |")
                shown = ""
    own = [f"{untuned['dense']['test'][metric]:.1f} as it was"]
    own += [f"{TUNED_ARMS[arm]} {spread(scores[arm]['dense'])}" for arm in arms if "dense" in scores.get(arm, {})]
    seeds = sorted({len(values) for arm, by_point in scores.items() if arm in arms for values in by_point.values()})
    note = (
        f"With its own table: {'; '.join(own)}. {arms['settings']['steps']} steps of 32 rows. Mean ± deviation of "
        f"{' or '.join(map(str, seeds))} seeds; replaced: one run."
    )
    return "\n".join([*lines, "", note])


def embedding_losses() -> str:
    """What tables cost a tagger that was fine-tuned, by the arm that is best on dev: against its own table."""
    results = json.loads((RESULTS / "embedding_compression.json").read_text())["tuned"]
    ratios = ("25.0", "50.0", "100.0")
    heads = [f"{TASK_NAMES[task].split(',')[0]}: ratio {float(ratio):g}" for task in results for ratio in ratios]
    lines = [f"| points lost, fine-tuned | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for method, name in METHOD_NAMES.items():
        cells = [_loss(arms, f"{method}@{ratio}", task) for task, arms in results.items() for ratio in ratios]
        if sum(map(bool, cells)) > len(ratios):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _loss(arms: dict[str, dict], point: str, task: str) -> str:
    metric = "accuracy" if task == "ewt_pos" else "f1"

    def mean(arm: str, point: str, split: str) -> float:
        return statistics.mean(run[split][metric] for run in arms[arm][point].values())

    tried = [arm for arm in ("tuned", "tuned_fixed") if point in arms.get(arm, {})]
    if not tried:
        return ""
    best = max(tried, key=lambda arm: mean(arm, point, "validation"))
    own = best if "dense" in arms[best] else "tuned"
    return f"{mean(own, 'dense', 'test') - mean(best, point, 'test'):.1f}"


def embedding_lookup() -> str:
    """What a lookup adds to the stock one, in percent of the forward pass."""
    results = json.loads((RESULTS / "embedding_lookup.json").read_text())
    times = results["milliseconds"]
    forward, stock = times.pop("MiniLM-L6 forward"), times.pop("nn.Embedding")
    lines = [
        f"| | {' | '.join(f'{rows} × {tokens} tokens' for rows, tokens in results['batches'])} |",
        f"|---|{'---:|' * len(forward)}",
        f"| MiniLM-L6, the whole forward pass | {' | '.join(f'{time:.1f} ms' for time in forward)} |",
        f"| stock lookup in it | {' | '.join(f'{time:.2f} ms' for time in stock)} |",
    ]
    for name, values in times.items():
        cells = [
            f"{value:.2f} ms ({100 * (value - own) / whole:+.1f} %)"
            for value, own, whole in zip(values, stock, forward, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    note = f"In brackets what it adds to the forward pass. {results['machine']}, torch {results['torch']}."
    return "\n".join([*lines, "", note])
