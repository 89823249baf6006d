"""What an adapter is worth that was solved for in closed form, without labels and without gradient steps.

    python benchmarks/closed_form.py --data ../shared/data [--tasks wnut17 ncbi_disease]

Teacher, frozen student, unlabelled text and scores are those of the plug-and-play arms of `recovery.py`, whose folder
of teachers is shared. The seconds hold all of it: student and teacher read the text, and the solution. Results are
added to the JSON file run by run.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from recovery import PAIRS, Experiment, add_teacher_options
from recovery_tasks import TASKS
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from alad_hf.alignment import fit_adapter
from alad_hf.evaluation.efficiency import count_parameters

ADAPTERS: dict[str, dict[str, Any]] = {
    "linear, window 1": {"adapter_type": "linear", "window_size": 1},
    "linear, window 3": {"adapter_type": "linear", "window_size": 3},
    "linear, window 5": {"adapter_type": "linear"},
    "linear, window 9": {"adapter_type": "linear", "window_size": 9},
    "light, window 5": {},
    "mlp, window 5": {"adapter_type": "mlp"},
}
SEED = 0
"""Of what an adapter keeps of its random start: the hidden layer of "mlp"."""


def run(experiment: Experiment, adapter: dict[str, Any]) -> dict[str, Any]:
    """Solve and score."""
    set_seed(SEED)
    model = experiment.task.alad_class.from_student_pretrained(
        str(experiment.work / "student"), teacher=experiment.teacher(), freeze_student=True, **adapter
    )
    fit = fit_adapter(model, experiment.text, tokenizer=experiment.tokenizer)
    model.detach_teacher()
    return {
        "seconds": round(fit.seconds, 1),
        "tokens": fit.tokens,
        "passes": fit.passes,
        "mse": fit.mse_after,
        "r_squared": fit.r_squared,
        "parameters": count_parameters(model.base_model.adapter),
        **{split: experiment.score(model, split) for split in ("validation", "test")},
    }


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/recovery"), help="teachers and cached states")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/closed_form.json"))
    parser.add_argument("--pair", choices=PAIRS, default="minilm")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["wnut17", "ncbi_disease", "ewt_pos"])
    add_teacher_options(parser)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    results = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    results["machine"] = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    results["torch"] = torch.__version__
    for task in options.tasks:
        experiment = Experiment(options, options.pair, task)
        metric = experiment.task.metric
        runs = results["runs"].setdefault(task, {"metric": metric, "adapters": {}})["adapters"]
        for name, adapter in ADAPTERS.items():
            if name in runs:
                continue
            runs[name] = run(experiment, adapter)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
            dev, test = (runs[name][split][metric] for split in ("validation", "test"))
            print(f"{task} {name:20} {runs[name]['seconds']:.0f} s dev {dev:.1f} test {test:.1f}", flush=True)


if __name__ == "__main__":
    main()
