"""Fewer layers by grafting, against dropping layers and pruning width: before and after recovery.

    python benchmarks/grafting.py --data ../shared/data [--tasks wnut17 ncbi_disease ewt_pos qa] [--only before]

The teacher is MiniLM-L6 fine-tuned on the task (`recovery.py --work` keeps it; it is trained if it is not there). Each
arm makes a student of it, is scored as it is, and is then trained, all arms for the same number of steps: by the
labels alone, by distillation (logits and states), by joint AlAd, and under an adapter while it stays as it is
(plug-and-play); all but the first read the labels and the same text in every batch. Of three evaluations on dev the
best is kept, and its score is given on test. Training in bfloat16 autocast. Results are added to the JSON file run by
run, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from recovery import PAIRS, Experiment, add_teacher_options
from recovery_tasks import TASKS
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from alad_hf.compression import graft_layers, prune_width, truncate_layers
from alad_hf.compression.encoder_layouts import encoder_layers
from alad_hf.compression.layer_lists import find_layers
from alad_hf.data.mixing import mix_rows
from alad_hf.evaluation.efficiency import count_parameters
from alad_hf.recipes.grafting import PROGRESSIVE_PART, TakingTurns, pairwise_merges, rising_share
from alad_hf.training.distillation import distilling

DEPTHS = (3, 2)
EVALUATIONS = 3
LEARNING_RATES = {"labels": 3e-4, "distilled": 5e-4, "alad": 5e-4, "plug_and_play": 2e-3}
"""By how a student is trained. That of joint AlAd was picked on dev of WNUT-17, as half of what it takes over a
student that was not made of the teacher; the others are those of recovery.py."""
CALIBRATION_TOKENS = 20_000


@dataclass(frozen=True)
class Arm:
    """How a student is made of the teacher, and trained."""

    make: str
    options: dict[str, Any] = field(default_factory=dict)
    schedule: str = "at_once"
    calibration: str = "labels"
    """What the student is made on: the labelled rows, or plain text, which for questions are the paragraphs alone."""


def _graft(strategy: str, schedule: str = "at_once", **options: Any) -> Arm:
    return Arm("graft", {"strategy": strategy, **options}, schedule)


def _truncations() -> dict[str, Arm]:
    rules = {"bottom": "bottom", "top": "top", "every_second": "every_second", "similarity": "by_similarity"}
    return {
        f"{name}{'_refit' if refit else ''}": Arm("truncate", {"layer_map": rule, "refit": refit})
        for name, rule in rules.items()
        for refit in (False, True)
    }


ARMS = {
    "graft_upper": _graft("upper", refit=False),
    "graft_upper_refit": _graft("upper"),
    "graft": _graft("fixed", refit=False),
    "graft_refit": _graft("fixed"),
    "graft_refit_raw_scores": _graft("fixed", normalise=False),
    "graft_refit_similar": _graft("similar"),
    "graft_concat": _graft("fixed", concatenate=True, refit=False),
    "graft_refit_one_by_one": _graft("fixed", schedule="one_by_one"),
    "graft_refit_progressive": _graft("fixed", schedule="progressive"),
    "graft_upper_refit_one_by_one": _graft("upper", schedule="one_by_one"),
    "graft_upper_refit_progressive": _graft("upper", schedule="progressive"),
    **_truncations(),
    "width": Arm("prune", {"refit": False}),
    "width_refit": Arm("prune"),
    "width_refit_text": Arm("prune", calibration="text"),
}


class Grafting:
    """One task: its teacher, and students of it."""

    def __init__(self, options: Namespace, task_name: str) -> None:
        self.experiment = Experiment(options, options.pair, task_name)
        self.teacher = self.experiment.teacher().eval()
        self.labelled = self.experiment.rows
        self._made: dict[str, PreTrainedModel] = {}

    def student(self, arm: Arm, depth: int) -> PreTrainedModel:
        """A student of the teacher; made once, for nothing about it is random."""
        key = f"{arm.make} {arm.options} {arm.calibration} {depth}"
        if key not in self._made:
            self._made[key] = self.make_student(arm, depth, self.teacher)
        return copy.deepcopy(self._made[key])

    def make_student(self, arm: Arm, depth: int, model: PreTrainedModel, **changes: Any) -> PreTrainedModel:
        """A student of `model`."""
        text = {
            "texts": self.labelled if arm.calibration == "labels" else self.experiment.task.lines,
            "tokenizer": self.experiment.tokenizer,
            "max_tokens": CALIBRATION_TOKENS,
        }
        if arm.make == "graft":
            return graft_layers(model, **{"num_hidden_layers": depth, **arm.options, **text, **changes})
        if arm.make == "truncate":
            reads = arm.options.get("refit") or arm.options["layer_map"] == "by_similarity"
            return truncate_layers(model, num_hidden_layers=depth, **arm.options, **(text if reads else {})).eval()
        # As many of each layer's parameters as the others keep of the depth.
        part = encoder_layers(model)[0]
        share = depth / model.config.num_hidden_layers
        width = {"heads": round(share * part.heads), "neurons": round(share * part.neurons)}
        return prune_width(model, **width, **arm.options, **text)

    def jobs(self, options: Namespace) -> Iterator[tuple[list[str], Callable[[], dict[str, Any]]]]:
        """What is to be run, and where its result goes."""
        yield ["teacher"], partial(self.before, lambda: self.teacher)
        for depth, name in itertools.product(options.depths, options.arms):
            arm, keys = ARMS[name], ["depths", str(depth), name]
            if options.only != "after" and arm.schedule == "at_once":
                yield [*keys, "before"], partial(self.before, partial(self.student, arm, depth))
            if options.only != "before":
                for recovery, seed in itertools.product(options.recoveries, options.seeds):
                    yield (
                        [*keys, recovery, str(seed)],
                        partial(self.recover, arm, depth, recovery, seed, options.steps),
                    )

    def before(self, make: Callable[[], PreTrainedModel]) -> dict[str, Any]:
        """Scores and size of a student as it is."""
        model = make()
        return {
            **{split: self.experiment.score(model, split) for split in ("validation", "test")},
            "parameters": count_parameters(model),
            "compression": getattr(model.config, "compression", None),
        }

    def recover(self, arm: Arm, depth: int, recovery: str, seed: int, steps: int | None) -> dict[str, Any]:
        """Train a student as its schedule says, the last part by `recovery`."""
        set_seed(seed)
        steps = steps or self.experiment.steps
        stages = {"at_once": self._at_once, "one_by_one": self._one_by_one, "progressive": self._progressive}
        model, left = stages[arm.schedule](arm, depth, seed, steps, recovery)
        if recovery in ("alad", "plug_and_play"):
            # The embeddings stay, as in the other arm.
            model = self.experiment.task.alad_class.from_student_pretrained(
                model,
                teacher=self.teacher,
                tokenizer=self.experiment.tokenizer,
                freeze_student=recovery == "plug_and_play",
            )
            model.detach_teacher()
        report = self._fit(model, seed, left, recovery)
        scores = {split: self.experiment.score(model, split) for split in ("validation", "test")}
        trainable = count_parameters(model, trainable_only=True)
        return report | scores | {"parameters": count_parameters(model), "trainable": trainable}

    def _fit(self, model: PreTrainedModel, seed: int, steps: int, recovery: str) -> dict[str, Any]:
        rows = self.labelled
        if recovery != "labels":
            rows = mix_rows(
                *(self.experiment.with_signal(which) for which in ("labels", "text")),
                epochs=self.experiment.settings.epochs,
            )
        if recovery == "distilled":
            model.get_input_embeddings().requires_grad_(False)
        rate = LEARNING_RATES[recovery] * self.experiment.pair.rate
        with distilling(model) if recovery == "distilled" else nullcontext():
            return self.experiment.fit(
                model, rows, seed=seed, learning_rate=rate, steps=steps, evaluations=EVALUATIONS
            )

    def _before_last(self, model: PreTrainedModel, seed: int, steps: int, recovery: str) -> None:
        """Train in a stage before the last, the only one in which an adapter is on top."""
        self._fit(model, seed, steps, "labels" if recovery == "labels" else "distilled")

    def _at_once(self, arm: Arm, depth: int, seed: int, steps: int, recovery: str) -> tuple[PreTrainedModel, int]:
        return self.student(arm, depth), steps

    def _one_by_one(self, arm: Arm, depth: int, seed: int, steps: int, recovery: str) -> tuple[PreTrainedModel, int]:
        merges = pairwise_merges(self.student(arm, depth).config.compression["layer_map"])
        part, model = steps // len(merges), self.teacher
        for number, groups in enumerate(merges, start=1):
            model = self.make_student(arm, len(groups), model, groups=groups)
            if number < len(merges):
                self._before_last(model, seed, part, recovery)
        return model, steps - (len(merges) - 1) * part

    def _progressive(self, arm: Arm, depth: int, seed: int, steps: int, recovery: str) -> tuple[PreTrainedModel, int]:
        student = self.student(arm, depth)
        groups = student.config.compression["layer_map"]
        layers = getattr(*find_layers(student))
        originals = [part.layer for part in encoder_layers(self.teacher)]
        student.base_model.requires_grad_(False)
        merged = [place for place, group in enumerate(groups) if len(group) > 1]
        for place in merged:
            layers[place].requires_grad_(True)
            layers[place] = TakingTurns([copy.deepcopy(originals[index]) for index in groups[place]], layers[place])
        first = round(PROGRESSIVE_PART * steps)
        counter = itertools.count()

        def rise(module: PreTrainedModel, arguments: tuple) -> None:
            if module.training:  # one forward a step
                share = rising_share(next(counter), first)
                for place in merged:
                    layers[place].share = share

        handle = student.register_forward_pre_hook(rise)
        self._before_last(student, seed, first, recovery)
        handle.remove()
        for place in merged:
            layers[place] = layers[place].grafted
        return student.requires_grad_(True), steps - first


def read_options() -> Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/recovery"), help="as of recovery.py")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/grafting.json"))
    parser.add_argument("--pair", choices=PAIRS, default="minilm", help="whose teacher it is; see recovery.py")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--recoveries", nargs="+", choices=LEARNING_RATES, default=list(LEARNING_RATES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="of every arm; by default those of recovery.py")
    add_teacher_options(parser)
    parser.add_argument("--only", choices=["before", "after"], help="leave the other part out")
    return parser.parse_args()


def write(results: dict[str, Any], path: Path) -> None:
    """The results so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Run what the results file lacks."""
    options = read_options()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    results = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    settings = {
        "learning_rates": LEARNING_RATES,
        "steps": options.steps,
        "pair": options.pair,
    }
    settings |= {"calibration_tokens": CALIBRATION_TOKENS}
    recorded = results.setdefault("settings", settings)
    # A way to train that an older file knows nothing of is no contradiction.
    rates = {name: LEARNING_RATES.get(name) for name in recorded["learning_rates"]}
    if recorded != settings | {"learning_rates": rates}:
        raise SystemExit(f"{options.out} was made with other settings: {recorded}. Name another --out.")
    results["settings"] = settings

    for task_name in options.tasks:
        task = Grafting(options, task_name)
        metric = task.experiment.task.metric
        entry = results["runs"].setdefault(task_name, {"metric": metric, "depths": {}})
        entry["steps"] = options.steps or task.experiment.steps
        entry["batch_size"] = task.experiment.settings.batch_size
        entry["teacher_training"] = {
            "steps": json.loads((task.experiment.work / "teacher" / "dev.json").read_text())["steps"],
            "learning_rate": task.experiment.pair.teacher_learning_rate,
        }
        write(results, options.out)
        for keys, run in task.jobs(options):
            place = entry
            for key in keys[:-1]:
                place = place.setdefault(key, {})
            if keys[-1] in place:
                continue
            place[keys[-1]] = run()
            write(results, options.out)
            dev, test = (place[keys[-1]][split][metric] for split in ("validation", "test"))
            print(f"{task_name} {' '.join(keys):50} dev {dev:.1f} test {test:.1f}", flush=True)


if __name__ == "__main__":
    main()
