"""Recursive students (MiniALBERT) against truncated ones of the same stored bytes, on WNUT-17 and UD-EWT.

    python benchmarks/recursive_students.py --data ../shared/data [--estimate 30]

A student of one layer, called six times, is made of MiniLM-L6 and distilled once per seed on all of `distill_text`.
Then every arm is fine-tuned as in `recovery.py`: the same number of steps with batches of the same size, the best of
three evaluations on dev kept, its score given on test; teachers and text of the AlAd arms are those of `recovery.py`.
There are two truncated students without distillation. "truncated" is the lowest layer of MiniLM-L6 with its whole
embedding table, the smallest truncation there is and larger than the recursive student. "truncated_factorised" is that
layer over embeddings that are factorised as the recursive student's, as wide as makes the bytes equal. Results are
added to the JSON file run by run, so that a stopped run goes on; a stopped distillation goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

from recovery import LEARNING_RATES, MINILM, Experiment, add_teacher_options
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, set_seed
from transformers.utils import logging as transformers_logging

from alad_hf.compression import truncate_layers
from alad_hf.compression.factorised_embeddings import SourceEmbeddings, embedding_error, sample_tokens
from alad_hf.compression.recursive import make_recursive_student
from alad_hf.evaluation.efficiency import count_parameters, latency, stored_bytes
from alad_hf.hub.pretrained_weights import resolve_pretrained
from alad_hf.training.encoder_distillation import distill_encoder, published_distillation_arguments

ARMS = {
    "recursive": ("recursive", "plain"),
    "recursive_distilled": ("recursive_distilled", "plain"),
    "recursive_distilled_plug_and_play": ("recursive_distilled", "plug_and_play"),
    "recursive_distilled_joint": ("recursive_distilled", "joint"),
    "truncated": ("truncated", "plain"),
    "truncated_factorised": ("truncated_factorised", "plain"),
    "truncated_factorised_joint": ("truncated_factorised", "joint"),
}
"""For each arm its student, and the arm of `recovery.py` that says how it learns the task."""
RECURSIVE_LEARNING_RATE = 1e-4
"""Of a recursive student's fine-tuning on labels alone: the gradients of all calls add up in the one layer, and at the
3e-4 of the others it ends at "O" for every word (WNUT-17, seed 0)."""
TASKS = ("wnut17", "ewt_pos")
LATENCY_TOKENS = 64
SAMPLED_LINES = 5000
EVALUATIONS = 3


def learning_rate_of(arm: str) -> float:
    """The peak of an arm's schedule."""
    student, method = ARMS[arm]
    if method == "plain" and student.startswith("recursive"):
        return RECURSIVE_LEARNING_RATE
    return LEARNING_RATES[method]


class Students:
    """The untrained and the distilled students, kept on disk."""

    def __init__(self, options: argparse.Namespace, results: dict[str, Any]) -> None:
        self.options, self.results = options, results
        self.source_folder = resolve_pretrained(MINILM)
        self.tokenizer = AutoTokenizer.from_pretrained(self.source_folder)
        self.files = sorted((options.data / "distill_text").glob("*.txt"))
        lines = [line for file in self.files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        self.sample = lines[:: max(1, len(lines) // SAMPLED_LINES)]

    def source(self) -> PreTrainedModel:
        """MiniLM-L6, the teacher of the distillation, in a fresh copy."""
        return AutoModel.from_pretrained(self.source_folder, add_pooling_layer=False)

    def recursive(self, seed: int, **settings: Any) -> PreTrainedModel:
        """A recursive student before distillation."""
        set_seed(seed)
        settings = {"embedding_size": self.options.embedding_size, **settings}
        return make_recursive_student(self.source(), texts=self.sample, tokenizer=self.tokenizer, **settings)

    def folder(self, name: str, seed: int) -> Path:
        """A student on disk, made if it is not there."""
        folder = self.options.work / "students" / f"{name}-{seed}"
        if (folder / "done").exists():
            return folder
        if name == "recursive":
            encoder = self.recursive(seed).model
        elif name == "recursive_distilled":
            encoder = self.distilled(seed, folder)
        elif name == "truncated":
            encoder = truncate_layers(self.source(), [0])
        else:
            budget = stored_bytes(self.recursive(seed).model)
            settings = {"num_hidden_layers": 1, "layer_start": 0, "use_adapter": False}
            encoder = self.recursive(seed, embedding_size=None, max_bytes=budget, **settings).model
        encoder.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "done").touch()
        return folder

    def distilled(self, seed: int, folder: Path) -> PreTrainedModel:
        """Distil a student and keep the curve of its loss."""
        student = self.recursive(seed)
        source = SourceEmbeddings(self.source())
        sample = sample_tokens(source, self.sample, self.tokenizer)
        fit = embedding_error(student.model.embeddings, source, sample)
        start = time.perf_counter()
        trainer = self.distil(student, seed, folder / "checkpoints", self.options.distillation_steps)
        lines = [line for line in trainer.state.log_history if "loss" in line]
        self.results["distillation"][str(seed)] = {
            "steps": trainer.state.global_step,
            "weights": vars(trainer.model.weights),
            "layer_map": trainer.model.layer_map,
            "embedding_error_at_start": fit,
            "seconds": time.perf_counter() - start,
            "curve": [{name: value for name, value in line.items() if name != "epoch"} for line in lines],
        }
        return student.model

    def distil(self, student: PreTrainedModel, seed: int, folder: Path, steps: int) -> Any:  # noqa: ANN401
        """Run the distillation; returns its Trainer."""
        args = published_distillation_arguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=self.options.batch_size,
            gradient_accumulation_steps=1,
            logging_steps=max(1, steps // 100),
            save_steps=500,
            save_total_limit=1,
            disable_tqdm=True,
            bf16=True,
            use_cpu=True,
            seed=seed,
        )
        return distill_encoder(
            student,
            self.files,
            teacher=self.source(),
            tokenizer=self.tokenizer,
            teacher_tokenizer=self.tokenizer,
            args=args,
            max_tokens=self.options.max_tokens,
            resume=True,
            print_logs=False,
        )


class RecursiveExperiment(Experiment):
    """One task: its rows, its teacher, and a method to train an arm."""

    def __init__(self, options: argparse.Namespace, students: Students, task_name: str) -> None:
        super().__init__(options, "minilm", task_name)
        self.students = students

    def build_on(self, folder: Path, method: str) -> PreTrainedModel:
        """The untrained model of an arm."""
        if method == "plain":
            return self.task.stock_class.from_pretrained(folder, **self.task.labels())
        model = self.task.alad_class.from_student_pretrained(
            str(folder), teacher=self.teacher(), freeze_student=method != "joint"
        )
        model.detach_teacher()
        return model

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train one arm and measure it."""
        name, method = ARMS[arm]
        folder = self.students.folder(name, seed)
        set_seed(seed)
        model = self.build_on(folder, method)
        result = self.fit(
            model,
            self.training_rows(method),
            seed=seed,
            learning_rate=learning_rate_of(arm),
            steps=self.options.steps,
            evaluations=EVALUATIONS,
        )
        times = latency(model, self.tokenizer, batch_size=1, tokens=LATENCY_TOKENS, repeats=50)
        return result | {
            "validation": self.score(model, "validation"),
            "test": self.score(model, "test"),
            "parameters": count_parameters(model),
            "trainable": count_parameters(model, trainable_only=True),
            "stored_bytes": stored_bytes(model),
            "latency_ms": times["median_ms"],
        }


def estimate(options: argparse.Namespace, students: Students) -> None:
    """Time some steps of distillation and of fine-tuning, and print what everything would take."""
    folder = options.work / "estimate"
    folder.mkdir(parents=True, exist_ok=True)
    student = students.recursive(0)
    start = time.perf_counter()
    trainer = students.distil(student, 0, folder / f"distillation-{time.time_ns()}", options.estimate)
    seconds = (time.perf_counter() - start) / options.estimate
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    total = seconds * options.distillation_steps
    print(
        f"distillation: {seconds:.2f} s a step, {total / 60:.0f} min a seed; loss {losses[0]:.2f} -> {losses[-1]:.2f}"
    )
    student.model.save_pretrained(folder / "student")
    students.tokenizer.save_pretrained(folder / "student")
    for task_name in options.tasks:
        experiment = RecursiveExperiment(options, students, task_name)
        model = experiment.build_on(folder / "student", "plain")
        start = time.perf_counter()
        experiment.score(model, "validation")
        scoring = time.perf_counter() - start
        start = time.perf_counter()
        experiment.fit(model, experiment.rows, seed=0, learning_rate=RECURSIVE_LEARNING_RATE, steps=options.estimate)
        seconds = (time.perf_counter() - start - 6 * scoring) / options.estimate
        total = (seconds * experiment.steps + 8 * scoring) / 60
        print(f"{task_name}: {seconds:.2f} s a step, {experiment.steps} steps, {total:.0f} min an arm of six layers")


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--work", type=Path, default=Path(".benchmarks/recovery"), help="teachers, states and students"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recursive_students.json"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--distillation-steps", type=int, default=4000)
    parser.add_argument("--steps", type=int, help="of every arm's task training; by default those of recovery.py")
    parser.add_argument("--batch-size", type=int, default=32, help="rows of a step of distillation")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of its longest row")
    parser.add_argument("--embedding-size", type=int, default=128)
    add_teacher_options(parser)
    parser.add_argument(
        "--estimate", type=int, metavar="STEPS", help="time so many steps, say what all take, and stop"
    )
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    settings = {
        "learning_rates": {arm: learning_rate_of(arm) for arm in ARMS},
        "distillation_steps": options.distillation_steps,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "max_tokens": options.max_tokens,
        "embedding_size": options.embedding_size,
    }
    results = json.loads(options.out.read_text()) if options.out.exists() else {"distillation": {}, "runs": {}}
    students = Students(options, results)
    if options.estimate:
        estimate(options, students)
        return
    if results.setdefault("settings", settings) != settings:
        raise SystemExit(f"{options.out} was made with other settings: {results['settings']}. Name another --out.")
    for task_name in options.tasks:
        experiment = RecursiveExperiment(options, students, task_name)
        entry = results["runs"].setdefault(task_name, {"arms": {}})
        entry |= {
            "metric": experiment.task.metric,
            "steps": options.steps or experiment.steps,
            "labelled_rows": len(experiment.rows),
        }
        for seed in options.seeds:
            for arm in options.arms:
                runs = entry["arms"].setdefault(arm, {})
                if str(seed) in runs:
                    continue
                runs[str(seed)] = run = experiment.run(arm, seed)
                options.out.parent.mkdir(parents=True, exist_ok=True)
                options.out.write_text(json.dumps(results, indent=1) + "\n")
                dev, test = (run[split][experiment.task.metric] for split in ("validation", "test"))
                print(
                    f"{task_name} {arm:34} seed {seed} dev {dev:.1f} test {test:.1f} "
                    f"{run['stored_bytes'] / 1e6:.1f} MB {run['latency_ms']:.1f} ms",
                    flush=True,
                )


if __name__ == "__main__":
    main()
