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
    "teacher": "teacher: {teacher}, fine-tuned",
    "plain": "plain student: {student}, fine-tuned",
    "distilled": "student, logits distillation",
    "lora": "student, LoRA",
    "adapter_only": "frozen student, same adapter, no alignment",
    "plug_and_play_unlabelled": "**AlAd plug-and-play**, no label seen",
    "plug_and_play": "**AlAd plug-and-play** (student frozen)",
    "joint": "**AlAd joint**",
}
PAIR_NAMES = {
    "minilm": {"teacher": "MiniLM-L6", "student": "its first 2 layers"},
    "mpnet": {"teacher": "all-mpnet-base-v2", "student": "MiniLM-L6"},
}
TASK_NAMES = {
    "wnut17": "WNUT-17, F1",
    "ncbi_disease": "NCBI-disease, F1",
    "ewt_pos": "UD-EWT POS, accuracy",
    "qa": "XQuAD, F1",
}


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:.1f}"


def recovery() -> str:
    """Test scores of every arm on every task, and how much of the gap it recovers."""
    results = json.loads((RESULTS / "recovery.json").read_text())
    return "\n\n".join(recovery_of_pair(pair, tasks) for pair, tasks in results["runs"].items())


def recovery_of_pair(pair: str, tasks: dict) -> str:
    """One table, and the budget below it."""

    def scores(task: str, arm: str) -> list[float]:
        runs = tasks[task]["arms"].get(arm, {})
        return [run["test"][tasks[task]["metric"]] for run in runs.values()]

    def cell(task: str, arm: str) -> str:
        values = scores(task, arm)
        if not values:
            return ""
        if arm in ("teacher", "plain"):
            return spread(values)
        plain, teacher = (statistics.mean(scores(task, other)) for other in ("plain", "teacher"))
        return f"{spread(values)} ({100 * (statistics.mean(values) - plain) / (teacher - plain):.0f} %)"

    lines = [
        f"| arm | trained parameters | {' | '.join(TASK_NAMES[task] for task in tasks)} |",
        f"|---|---:|{'---:|' * len(tasks)}",
    ]
    for arm, name in ARM_NAMES.items():
        runs = [run for task in tasks.values() for run in task["arms"].get(arm, {}).values()]
        if runs:
            cells = " | ".join(cell(task, arm) for task in tasks)
            lines.append(f"| {name.format(**PAIR_NAMES[pair])} | {runs[0]['trainable'] / 1e6:.2f} M | {cells} |")
    budgets = []
    for name, task in tasks.items():
        seeds = len(task["arms"]["joint"])
        count = f"{seeds} seeds" if seeds > 1 else "one seed, so preliminary"
        budgets.append(
            f"{TASK_NAMES[name].split(',')[0]}: {count}; {task['steps']} steps of {task['batch_size']} rows"
        )
    return "\n".join([*lines, "", ". ".join(budgets) + "."])


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
    for name, table in (("recovery", recovery), ("speed", speed)):
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
