"""Write the tables of README and docs from the results files.

    python benchmarks/write_tables.py

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end of table -->`; whatever is there is replaced.
"""

from __future__ import annotations

import json
import re
import statistics
from functools import partial

from embedding_tables import (
    embedding_compression,
    embedding_cosines,
    embedding_lookup,
    embedding_losses,
    embedding_reconstruction,
    embedding_seconds,
    embedding_tuned,
)
from table_parts import RESULTS, ROOT, TASK_NAMES, spread

ARM_NAMES = {
    "teacher": "teacher: {teacher}, fine-tuned",
    "plain": "plain student: {student}, fine-tuned",
    "distilled": "student, logits distillation",
    "lora": "student, LoRA",
    "adapter_only": "frozen student, same adapter, no alignment",
    "plug_and_play_unlabelled": "**AlAd plug-and-play**, no label seen",
    "plug_and_play": "**AlAd plug-and-play** (student frozen)",
    "plug_and_play_wide": "**AlAd plug-and-play**, wide adapter",
    "joint": "**AlAd joint**",
}
PAIR_NAMES = {
    "minilm": {"teacher": "MiniLM-L6", "student": "its first 2 layers"},
    "mpnet": {"teacher": "all-mpnet-base-v2", "student": "MiniLM-L3"},
    "mpnet_l6": {"teacher": "all-mpnet-base-v2", "student": "MiniLM-L6"},
}


def recovery(pair: str = "minilm", results: str = "recovery") -> str:
    """Test scores of every arm on every task, how much of the gap it recovers, and the budget below."""
    tasks = json.loads((RESULTS / f"{results}.json").read_text())["runs"][pair]

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
    budgets = [
        f"{TASK_NAMES[name].split(',')[0]}: {task['steps']} steps of {task['batch_size']} rows, "
        f"the teacher {task['arms']['teacher']['0']['steps']}"
        for name, task in tasks.items()
    ]
    runs_of = {len(runs) for task in tasks.values() for arm, runs in task["arms"].items() if arm != "teacher"}
    note = f"Mean ± deviation of {' or '.join(str(count) for count in sorted(runs_of) if count > 1)} seeds."
    if 1 in runs_of:
        note += " Students without a deviation are of one seed, and preliminary."
    budgets += [
        f"Seeds {' and '.join(task['later_teacher']['seeds'])} of {TASK_NAMES[name].split(',')[0]} learned from a "
        f"teacher that was trained anew by the same command ({task['later_teacher']['test'][task['metric']]:.1f})"
        for name, task in tasks.items()
        if "later_teacher" in task
    ]
    return "\n".join([*lines, "", f"{note} {'. '.join(budgets)}."])


def fitted_heads() -> str:
    """Teachers whose fine-tuning began with a random head, and with one fitted to the encoder's states."""
    tasks = json.loads((RESULTS / "fitted_heads.json").read_text())["runs"]
    lines = [
        "| F1 | encoder | head at the start | steps | dev, first evaluation | second | best | test |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for task, encoders in tasks.items():
        for encoder, runs in encoders.items():
            for run in runs:
                head = f"fitted, penalty {run['penalty']:g}" if "penalty" in run else run["head"]
                scores = [*run["dev_curve"][:2], run["validation"]["f1"], run["test"]["f1"]]
                cells = " | ".join(f"{score:.1f}" for score in scores)
                lines.append(f"| {TASK_NAMES[task].split(',')[0]} | {encoder} | {head} | {run['steps']} | {cells} |")
    return "\n".join([*lines, "", "One run each, 32 rows a step. Evaluations are 53 steps apart, 85 on NCBI-disease."])


def ablations(pair: str = "minilm") -> str:
    """Scores of an arm with one or two things changed, task by task."""
    tasks = json.loads((RESULTS / "ablations.json").read_text())[pair]
    unchanged = json.loads((RESULTS / "recovery.json").read_text())["runs"][pair]
    return "\n\n".join(ablations_of_task(task, entry, unchanged[task]) for task, entry in tasks.items())


def ablations_of_task(task: str, entry: dict, unchanged: dict) -> str:
    """One table; before an arm's variants the arm itself, from the main benchmark and of the same seeds."""
    variants = entry["variants"]
    seeds = sorted({seed for runs in variants.values() for seed in runs})
    rows: dict[str, dict] = {}
    for arm in dict.fromkeys(name.split(",")[0] for name in variants):
        rows[arm] = {seed: unchanged["arms"][arm][seed] for seed in seeds}
        rows |= {name: runs for name, runs in variants.items() if name.split(",")[0] == arm}
    lines = [f"| {TASK_NAMES[task]} | trained parameters | dev | test |", "|---|---:|---:|---:|"]
    for name, runs in rows.items():
        scores = [spread([run[split][entry["metric"]] for run in runs.values()]) for split in ("validation", "test")]
        millions = next(iter(runs.values()))["trainable"] / 1e6
        lines.append(f"| {name.replace('plug_and_play', 'plug-and-play')} | {millions:.2f} M | {' | '.join(scores)} |")
    return "\n".join([*lines, "", "One seed." if len(seeds) == 1 else f"Mean ± deviation of {len(seeds)} seeds."])


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


def shapes() -> str:
    """Latency of encoders with fewer layers and with narrower ones."""
    results = json.loads((RESULTS / "speed.json").read_text())
    sizes = list(dict.fromkeys((row["batch"], row["tokens"]) for row in results["shapes"]))
    times = {(row["student"], row["batch"], row["tokens"]): row["ms"] for row in results["shapes"]}
    students = list(dict.fromkeys(row["student"] for row in results["shapes"]))
    lines = [
        f"| ms (and part of the whole encoder's) | {' | '.join(f'{batch} × {tokens}' for batch, tokens in sizes)} |",
        f"|---|{'---:|' * len(sizes)}",
    ]
    for student in students:
        cells = []
        for size in sizes:
            time, whole = times[(student, *size)], times[(students[0], *size)]
            cells.append(f"{time:.1f} ({time / whole:.2f})")
        lines.append(f"| {student} | {' | '.join(cells)} |")
    note = f"Sentences × tokens of one batch. MiniLM-L6, {results['machine']}, torch {results['torch']}."
    return "\n".join([*lines, "", note])


GRAFTING_NAMES = {
    "top": "keep the top layers",
    "bottom": "keep the bottom layers",
    "every_second": "keep every second layer",
    "similarity": "drop the layers that change states least",
    "width": "keep all layers, prune heads and neurons to that share",
    "width_refit_text": "the same, made on the paragraphs without questions",
    "graft_upper": "keep the bottom layers, graft all others into one",
    "graft": "graft neighbours",
    "graft_refit_similar": "graft the most similar neighbours",
}


def grafting() -> str:
    """Scores of students with fewer layers before any training, without and with refit."""
    tasks = json.loads((RESULTS / "grafting.json").read_text())["runs"]
    return "\n\n".join(grafting_of_task(task, entry) for task, entry in tasks.items())


def grafting_of_task(task: str, entry: dict) -> str:
    """One table: ways by depth."""
    depths = sorted(entry["depths"], reverse=True)
    heads = [f"{depth} layers{refit}" for depth in depths for refit in ("", ", refitted")]
    lines = [f"| {TASK_NAMES[task]} on test | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for arm, name in GRAFTING_NAMES.items():
        plain, refitted = (None, arm) if "refit" in arm else (arm, f"{arm}_refit")
        cells = []
        for depth in depths:
            for one in (plain, refitted):
                run = entry["depths"][depth].get(one, {}).get("before")
                cells.append(f"{run['test'][entry['metric']]:.1f}" if run else "")
        if any(cells):
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"The 6-layer teacher has {entry['teacher']['test'][entry['metric']]:.1f}. One run."]
    )


RECOVERY_NAMES = {arm: f"{name}, not refitted" for arm, name in GRAFTING_NAMES.items()} | {
    "graft_refit": "graft neighbours, refitted",
    "graft_refit_similar": "graft the most similar neighbours, refitted",
    "graft_upper_refit": "keep the bottom layers, graft all others into one, refitted",
    "graft_upper_refit_one_by_one": "the same, one pair at a time",
    "graft_upper_refit_progressive": "the same, taking turns with the layers that they replace",
    "graft_refit_one_by_one": "graft neighbours, refitted, one pair at a time",
    "graft_refit_progressive": "graft neighbours, refitted, taking turns with the layers that they replace",
    "bottom_refit": "keep the bottom layers, refitted",
    "every_second_refit": "keep every second layer, refitted",
    "top_refit": "keep the top layers, refitted",
    "similarity_refit": "drop the layers that change states least, refitted",
    "width_refit": "keep all layers, prune heads and neurons to that share, refitted",
    "width_refit_text": "the same, made on the paragraphs without questions",
}

SCHEDULES = ("one_by_one", "progressive")
"""Ends of the names of arms that were run again, on mended code, in the second run."""

RECOVERIES = {
    "before": "untrained",
    "labels": "labels alone",
    "distilled": "distilled",
    "alad": "AlAd",
    "plug_and_play": "AlAd, student frozen",
}


def grafting_recovered() -> str:
    """Scores of the same students after training, by labels alone, by distillation and under AlAd."""
    recoveries = [name for name in RECOVERIES if name != "before"]
    return _trained_layers("grafting", recoveries, [arm for arm in RECOVERY_NAMES if not arm.endswith(SCHEDULES)])


def other_layers() -> str:
    """Scores of the second run: students with other layers and by other schedules, before and after training."""
    return _trained_layers("other_layers", list(RECOVERIES), list(RECOVERY_NAMES))


def _trained_layers(results: str, recoveries: list[str], arms: list[str]) -> str:
    tasks = json.loads((RESULTS / f"{results}.json").read_text())["runs"]
    tables = (_trained_layers_of_task(task, entry, recoveries, arms) for task, entry in tasks.items())
    return "\n\n".join(filter(None, tables))


def _trained_layers_of_task(task: str, entry: dict, recoveries: list[str], arms: list[str]) -> str:
    """One table: ways by depth and by what they are trained with; "" where nothing was trained."""
    metric = entry["metric"]
    columns = [
        (depth, recovery)
        for depth in sorted(entry["depths"], reverse=True)
        for recovery in recoveries
        if any(arm.get(recovery) for arm in entry["depths"][depth].values())
    ]
    heads = [f"{depth} layers, {RECOVERIES[recovery]}" for depth, recovery in columns]
    lines = [f"| {TASK_NAMES[task]} on test | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for arm in arms:
        cells = []
        for depth, recovery in columns:
            runs = entry["depths"][depth].get(arm, {}).get(recovery, {})
            runs = [runs] if runs and recovery == "before" else runs.values()
            cells.append(spread([run["test"][metric] for run in runs]) if runs else "")
        if any(cells):
            lines.append(f"| {RECOVERY_NAMES[arm]} | {' | '.join(cells)} |")
    if len(lines) == 2:
        return ""
    rows = entry.get("batch_size", 32)
    note = f"The 6-layer teacher has {entry['teacher']['test'][metric]:.1f}. {entry['steps']} steps of {rows} rows."
    return "\n".join([*lines, "", f"{note} Mean ± deviation of three seeds; without a deviation, of one."])


def grafting_mpnet() -> str:
    """Half of the layers of a wider and deeper teacher: untrained and distilled."""
    ((task, entry),) = json.loads((RESULTS / "grafting_mpnet.json").read_text())["runs"].items()
    (arms,) = entry["depths"].values()
    metric, teacher = entry["metric"], entry["teacher"]["test"][entry["metric"]]
    lines = [
        f"| {TASK_NAMES[task]} on test | parameters | untrained | distilled | of the teacher's |",
        "|---|---:|---:|---:|---:|",
        f"| teacher: all-mpnet-base-v2, 12 layers, fine-tuned | {entry['teacher']['parameters'] / 1e6:.1f} M | "
        f"{teacher:.1f} | | |",
    ]
    for arm, name in RECOVERY_NAMES.items():
        if arm not in arms:
            continue
        scores = [run["test"][metric] for run in arms[arm].get("distilled", {}).values()]
        cells = [spread(scores), f"{100 * statistics.mean(scores) / teacher:.1f} %"] if scores else ["", ""]
        before = arms[arm]["before"]
        lines.append(
            f"| {name} | {before['parameters'] / 1e6:.1f} M | {before['test'][metric]:.1f} | {' | '.join(cells)} |"
        )
    note = (
        f"The teacher was trained for {entry['teacher_training']['steps']} steps of 32 rows, its students for "
        f"{entry['steps']}. Mean ± deviation of the seeds; without a deviation, of one."
    )
    return "\n".join([*lines, "", note])


SMALL_NAMES = {
    "bottom": "the bottom two of six layers",
    "bottom_refit": "the bottom two of six layers, refitted",
    "graft_refit": "six layers grafted into two, refitted",
    "width_refit": "a third of the heads and neurons of every layer, refitted",
}
THIRD = "2"
"""The depth that leaves a third of the layers."""


def small_students() -> str:
    """Students of a third of the teacher's operations: untrained, distilled and under AlAd, all tasks in one table."""
    results = json.loads((RESULTS / "grafting.json").read_text())
    tasks = results["runs"]
    lines = [
        f"| student | trained | {' | '.join(TASK_NAMES[task] for task in tasks)} |",
        f"|---|---|{'---:|' * len(tasks)}",
    ]
    teachers = [f"{entry['teacher']['test'][entry['metric']]:.1f}" for entry in tasks.values()]
    lines.append(f"| teacher: MiniLM-L6 | fine-tuned | {' | '.join(teachers)} |")
    for arm, name in SMALL_NAMES.items():
        for recovery, trained in {"before": "no", "distilled": "distilled", "alad": "AlAd"}.items():
            cells = []
            for entry in tasks.values():
                runs = entry["depths"].get(THIRD, {}).get(arm, {}).get(recovery, {})
                scored = [runs] if recovery == "before" else runs.values()
                scores = [run["test"][entry["metric"]] for run in scored if run]
                cells.append(spread(scores) if scores else "")
            if any(cells):
                lines.append(f"| {name if recovery == 'before' else ''} | {trained} | {' | '.join(cells)} |")
    steps = next(iter(tasks.values()))["steps"]
    note = (
        f"Untrained: made and refitted in closed form on {results['settings']['calibration_tokens']:,} tokens of the "
        "training rows, whose labels say which heads and neurons matter; one run. "
        f"Distilled or under AlAd: {steps} steps of 32 rows, of 16 on XQuAD; mean ± deviation of three seeds, "
        "without a deviation, of one."
    )
    return "\n".join([*lines, "", note])


RECURSIVE_NAMES = {
    "recursive": "recursive, not distilled",
    "recursive_distilled": "recursive, distilled",
    "recursive_distilled_plug_and_play": "recursive, distilled, AlAd plug-and-play",
    "recursive_distilled_joint": "recursive, distilled, AlAd joint",
    "truncated": "bottom layer of MiniLM-L6",
    "truncated_factorised": "bottom layer, embeddings factorised to the recursive student's bytes",
    "truncated_factorised_joint": "the same, AlAd joint",
}


def recursive_students() -> str:
    """Scores, bytes and latency of recursive students against truncated ones."""
    results = json.loads((RESULTS / "recursive_students.json").read_text())
    tasks = results["runs"]
    lines = [
        f"| student | stored MB | ms | {' | '.join(TASK_NAMES[task] for task in tasks)} |",
        f"|---|---:|---:|{'---:|' * len(tasks)}",
    ]
    for arm, name in RECURSIVE_NAMES.items():
        found = {task: list(entry["arms"].get(arm, {}).values()) for task, entry in tasks.items()}
        runs = [run for one in found.values() for run in one]
        if not runs:
            continue
        cells = [
            spread([run["test"][tasks[task]["metric"]] for run in one]) if one else "" for task, one in found.items()
        ]
        size = f"{runs[0]['stored_bytes'] / 1e6:.1f}"
        time = f"{statistics.median(run['latency_ms'] for run in runs):.1f}"
        lines.append(f"| {name} | {size} | {time} | {' | '.join(cells)} |")
    settings = results["settings"]
    note = (
        f"Distilled for {settings['distillation_steps']} steps of {settings['batch_size']} rows of at most "
        f"{settings['max_tokens']} tokens, then {settings['steps']} steps of 32 rows for every arm. Mean ± deviation "
        "of the seeds; latency of one sentence of 64 tokens, the median of all runs, on one thread while another "
        "training ran beside."
    )
    return "\n".join([*lines, "", note])


def export_speed() -> str:
    """Latency of a teacher and a student in torch and in ONNX."""
    results = json.loads((RESULTS / "export_speed.json").read_text())
    kinds = {"torch_ms": "torch", "compiled_ms": "torch.compile", "onnx_ms": "ONNX", "onnx_int8_ms": "ONNX, int8"}
    lines = [f"| model | batch | tokens | {' | '.join(kinds.values())} |", f"|---|---:|---:|{'---:|' * len(kinds)}"]
    names = {"teacher": "teacher, 6 layers", "student": "AlAd student, 2 layers"}
    for row in results["speed"]:
        cells = " | ".join(f"{row[kind]:.1f} ms" for kind in kinds)
        lines.append(f"| {names[row['model']]} | {row['batch']} | {row['tokens']} | {cells} |")
    sizes = [
        f"{names[row['model']]}: {row['torch_bytes'] / 1e6:.0f} MB, in int8 {row['onnx_int8_bytes'] / 1e6:.0f} MB"
        for row in results["files"]
    ]
    note = f"MiniLM, {results['threads']} thread, torch {results['torch']}, onnxruntime {results['onnxruntime']}."
    return "\n".join([*lines, "", f"{note} {'; '.join(sizes)}."])


def closed_form() -> str:
    """Adapters solved for without labels: time, fit and score."""
    results = json.loads((RESULTS / "closed_form.json").read_text())
    tasks = results["runs"]
    heads = [f"{TASK_NAMES[task]} | variance explained | seconds" for task in tasks]
    lines = [f"| adapter | parameters | {' | '.join(heads)} |", f"|---|{'---:|' * (1 + 3 * len(tasks))}"]
    for name, first in next(iter(tasks.values()))["adapters"].items():
        cells = []
        for task in tasks.values():
            run = task["adapters"][name]
            cells += [f"{run['test'][task['metric']]:.1f}", f"{100 * run['r_squared']:.0f} %", f"{run['seconds']:.0f}"]
        lines.append(f"| {name} | {first['parameters'] / 1e6:.2f} M | {' | '.join(cells)} |")
    texts = "; ".join(
        f"{TASK_NAMES[task].split(',')[0]}: {next(iter(runs['adapters'].values()))['tokens']:,} tokens"
        for task, runs in tasks.items()
    )
    return "\n".join([*lines, "", f"One run each. {texts}. {results['machine']}, torch {results['torch']}."])


TABLES = {
    "ablations": ablations,
    "ablations_mpnet": partial(ablations, "mpnet"),
    "closed_form": closed_form,
    "export_speed": export_speed,
    "fitted_heads": fitted_heads,
    "recovery": recovery,
    "recovery_longer": partial(recovery, results="recovery_longer"),
    "recovery_mpnet": partial(recovery, "mpnet"),
    "recovery_mpnet_l6": partial(recovery, "mpnet_l6"),
    "speed": speed,
    "shapes": shapes,
    "embedding_compression": embedding_compression,
    "embedding_cosines": embedding_cosines,
    "embedding_reconstruction": embedding_reconstruction,
    "embedding_seconds": embedding_seconds,
    "embedding_tuned": embedding_tuned,
    "embedding_longer": partial(embedding_tuned, "embedding_longer"),
    "embedding_metric": partial(embedding_compression, "embedding_metric"),
    "embedding_metric_tuned": partial(embedding_tuned, "embedding_metric"),
    "embedding_lookup": embedding_lookup,
    "embedding_losses": embedding_losses,
    "grafting": grafting,
    "grafting_recovered": grafting_recovered,
    "other_layers": other_layers,
    "grafting_mpnet": grafting_mpnet,
    "small_students": small_students,
    "recursive_students": recursive_students,
}
RESULTS_OF = {
    "ablations_mpnet": "ablations",
    "recovery_mpnet": "recovery",
    "recovery_mpnet_l6": "recovery",
    "grafting_recovered": "grafting",
    "small_students": "grafting",
    "shapes": "speed",
    "embedding_cosines": "embedding_compression",
    "embedding_losses": "embedding_compression",
    "embedding_reconstruction": "embedding_compression",
    "embedding_tuned": "embedding_compression",
    "embedding_metric_tuned": "embedding_metric",
}
"""The results file of a table, where it has another name."""


def main() -> None:
    """Replace every table whose results file is there."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"<!-- table: (\w+) -->", text):
            source = RESULTS_OF.get(name, name)
            if not (RESULTS / f"{source}.json").exists():
                print(f"no results/{source}.json: its table in {path.name} is left as it is")
                continue
            pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
            text = pattern.sub(lambda match, name=name: f"{match[1]}\n{TABLES[name]()}\n\n{match[2]}", text)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
