"""Write the tables of README from the results files.

    python benchmarks/write_tables.py

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end of table -->`; whatever is there is replaced.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

ARM_NAMES = {
    "teacher": "teacher: MiniLM-L6, fine-tuned",
    "plain": "plain student: its first 2 layers, fine-tuned",
    "frozen_linear": "frozen student, linear head",
    "frozen_adapter": "frozen student, same adapter, no alignment",
    "plug_and_play": "**AlAd plug-and-play** (student frozen)",
    "plug_and_play_mlp": "AlAd plug-and-play, published adapter form",
    "joint": "**AlAd joint**",
    "joint_mlp": "AlAd joint, published adapter form",
}


def spread(values: list[float]) -> str:
    """Mean and standard deviation in points."""
    mean = 100 * statistics.mean(values)
    return f"{mean:.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def wnut17() -> str:
    """Scores of every arm."""
    results = json.loads((RESULTS / "wnut17.json").read_text())
    runs = results["runs"]
    test = {arm: [run["test"]["f1"] for run in seeds.values()] for arm, seeds in runs.items()}
    mean = {arm: statistics.mean(values) for arm, values in test.items()}
    lines = [
        "| arm | trained parameters | F1 dev | F1 test | F1 test before any label | gap recovered |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for arm, name in ARM_NAMES.items():
        if arm not in runs:
            continue
        seeds = list(runs[arm].values())
        unlabelled = [run["test_without_labels"] for run in seeds if "test_without_labels" in run]
        gap = (mean[arm] - mean["plain"]) / (mean["teacher"] - mean["plain"])
        lines.append(
            f"| {name} | {seeds[0]['trainable'] / 1e6:.2f} M | {spread([run['validation']['f1'] for run in seeds])} | "
            f"{spread(test[arm])} | {spread(unlabelled) if unlabelled else ''} | "
            f"{'' if arm in ('teacher', 'plain') else f'{100 * gap:.0f} %'} |"
        )
    steps = results["steps"]
    student = runs["joint"][next(iter(runs["joint"]))]["parameters_by_part"]
    return "\n".join(
        [
            *lines,
            "",
            f"{len(test['plain'])} seeds, mean ± standard deviation. Every student arm takes "
            f"{steps['text'] + steps['task']} optimiser steps of {results['settings']['batch_size']} sentences; AlAd "
            f"spends {steps['text']} of them on unlabelled text. The student has {student['student'] / 1e6:.1f} M "
            f"parameters, the default adapter {student['adapter'] / 1e6:.2f} M "
            f"({100 * student['adapter'] / student['student']:.1f} %).",
        ]
    )


def speed() -> str:
    """Latency of student and adapter against the student alone."""
    results = json.loads((RESULTS / "speed.json").read_text())
    rows = {(row["layers"], row["batch"], row["tokens"], row["adapter"]): row for row in results["forward"]}
    lines = [
        "| student | batch | tokens | student | with the default adapter | with the published adapter |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for layers, batch, tokens, adapter in rows:
        if adapter != "light":
            continue
        light, published = (rows[layers, batch, tokens, form] for form in ("light", "mlp"))
        lines.append(
            f"| {layers} layers | {batch} | {tokens} | {light['student_ms']:.1f} ms | × {light['ratio']:.2f} | "
            f"× {published['ratio']:.2f} |"
        )
    step = results["training_step"]
    return "\n".join(
        [
            *lines,
            "",
            f"A joint training step on cached teacher states takes {step['ratio']:.2f} times a plain fine-tuning step "
            f"({step['cached_ms']:.0f} against {step['plain_ms']:.0f} ms, {step['batch']} × {step['tokens']} tokens). "
            f"{results['machine']}, torch {results['torch']}.",
        ]
    )


def main() -> None:
    """Replace every table whose results file is there."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    for name, table in (("wnut17", wnut17), ("speed", speed)):
        if not (RESULTS / f"{name}.json").exists():
            print(f"no results/{name}.json: its table is left as it is")
            continue
        pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"README.md has no place for the table {name}")
        text = pattern.sub(lambda match, table=table: f"{match[1]}\n{table()}\n\n{match[2]}", text)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
