"""What each part of AlAd is worth: one factor at a time is changed in the plug-and-play and the joint arm.

    python benchmarks/ablations.py --data ../shared/data [--tasks wnut17 ncbi_disease] [--variants plug_and_play ...]

Data, steps, teacher, schedule and selection are those of `recovery.py`, whose folder of teachers and cached states is
shared. Results are added to the JSON file run by run, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recovery import PAIRS, Experiment, add_teacher_options
from recovery_tasks import TASKS
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from alad_hf.alignment import fit_adapter
from alad_hf.evaluation.efficiency import count_parameters


@dataclass(frozen=True)
class Variant:
    """An arm of `recovery.py` with one thing changed."""

    arm: str
    config: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    closed_form_start: bool = False


VARIANTS = {
    "plug_and_play": Variant("plug_and_play"),
    "plug_and_play, adapter of 160": Variant("plug_and_play", {"adapter_size": 160}),
    "plug_and_play, adapter of 256": Variant("plug_and_play", {"adapter_size": 256}),
    "plug_and_play, window 1": Variant("plug_and_play", {"window_size": 1}),
    "plug_and_play, window 3": Variant("plug_and_play", {"window_size": 3}),
    "plug_and_play, window 9": Variant("plug_and_play", {"window_size": 9}),
    "plug_and_play, window 9, adapter of 160": Variant("plug_and_play", {"window_size": 9, "adapter_size": 160}),
    "plug_and_play, window 13, adapter of 112": Variant("plug_and_play", {"window_size": 13, "adapter_size": 112}),
    "plug_and_play, window 17, adapter of 80": Variant("plug_and_play", {"window_size": 17, "adapter_size": 80}),
    "plug_and_play, window 33, adapter of 40": Variant("plug_and_play", {"window_size": 33, "adapter_size": 40}),
    "plug_and_play, layers mixed": Variant("plug_and_play", {"mix_student_layers": True}),
    "plug_and_play, published adapter": Variant("plug_and_play", {"adapter_type": "mlp"}),
    "plug_and_play, no state loss": Variant("plug_and_play", {"alignment_mse_weight": 0.0}),
    "plug_and_play, state loss x 10": Variant("plug_and_play", {"alignment_mse_weight": 1.0}),
    "plug_and_play, no distillation": Variant("plug_and_play", {"distillation_weight": 0.0}),
    "plug_and_play, learning rate 4e-3": Variant("plug_and_play", learning_rate=4e-3),
    "plug_and_play, closed-form start": Variant("plug_and_play", closed_form_start=True),
    "plug_and_play, window 9, adapter of 160, learning rate 4e-3": Variant(
        "plug_and_play", {"window_size": 9, "adapter_size": 160}, learning_rate=4e-3
    ),
    "plug_and_play, window 9, adapter of 160, closed-form start": Variant(
        "plug_and_play", {"window_size": 9, "adapter_size": 160}, closed_form_start=True
    ),
    "joint": Variant("joint"),
    "joint, learning rate 5e-4": Variant("joint", learning_rate=5e-4),
    "joint, learning rate 2e-3": Variant("joint", learning_rate=2e-3),
    "joint, window 9, adapter of 160": Variant("joint", {"window_size": 9, "adapter_size": 160}),
    "joint, closed-form start": Variant("joint", closed_form_start=True),
    "joint, window 1": Variant("joint", {"window_size": 1}),
    "joint, no state loss": Variant("joint", {"alignment_mse_weight": 0.0}),
    "joint, state loss x 10": Variant("joint", {"alignment_mse_weight": 1.0}),
    "joint, no distillation": Variant("joint", {"distillation_weight": 0.0}),
    "joint, embeddings trained": Variant("joint", {"freeze_embeddings": False}),
}


class Ablation(Experiment):
    """An experiment whose arms can be changed."""

    def build_variant(self, variant: Variant) -> PreTrainedModel:
        """The untrained model of a variant."""
        model = self.task.alad_class.from_student_pretrained(
            str(self.work / "student"),
            teacher=self.teacher(),
            **{"freeze_student": variant.arm != "joint"} | variant.config,
        )
        model.detach_teacher()
        return model

    def run_variant(self, variant: Variant, seed: int) -> dict[str, Any]:
        """Train one variant and measure it."""
        set_seed(seed)
        model = self.build_variant(variant)
        if variant.closed_form_start:
            fit_adapter(model, self.with_signal("text"), tokenizer=self.tokenizer)
        learning_rate = variant.learning_rate or self.learning_rate(variant.arm)
        result = self.fit(model, self.training_rows(variant.arm), seed=seed, learning_rate=learning_rate)
        return result | {
            "validation": self.score(model, "validation"),
            "test": self.score(model, "test"),
            "trainable": count_parameters(model, trainable_only=True),
        }


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/recovery"), help="teachers and cached states")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablations.json"))
    parser.add_argument("--pair", choices=PAIRS, default="minilm")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["wnut17", "ncbi_disease", "ewt_pos"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_teacher_options(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    for task_name in options.tasks:
        experiment = Ablation(options, options.pair, task_name)
        metric = experiment.task.metric
        entry = results.setdefault(options.pair, {}).setdefault(task_name, {"metric": metric, "variants": {}})
        for seed in options.seeds:
            for name in options.variants:
                runs = entry["variants"].setdefault(name, {})
                if str(seed) in runs:
                    continue
                runs[str(seed)] = run = experiment.run_variant(VARIANTS[name], seed)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                dev, test = (run[split][metric] for split in ("validation", "test"))
                print(f"{task_name} {name:40} seed {seed} dev {dev:.1f} test {test:.1f}", flush=True)


if __name__ == "__main__":
    main()
