"""How much of the gap between a student and its teacher each method recovers, on four tasks.

    python benchmarks/recovery.py --data ../shared/data [--tasks wnut17 ncbi_disease ewt_pos qa] [--pairs minilm mpnet]

Within a task every student arm takes the same number of optimiser steps with batches of the same size. The arms that
can learn from unlabelled text (distillation and AlAd) read the same text, mixed among the labels; the others spend all
steps on the labels. Distillation differs from joint AlAd in nothing but the adapter, the alignment of states and the
learning rate. Of six evaluations on dev and one after the last step the best is kept, and its score is given on test.
One teacher a task (seed 0) serves all seeds. Training in bfloat16 autocast, or with --float32 without. Results are
added to the JSON file run by run, so that a stopped run goes on.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import tempfile
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, TaskType, get_peft_model
from recovery_tasks import TASKS, make_task
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from alad_hf.alignment import cache_teacher_states
from alad_hf.compression import truncate_layers
from alad_hf.data.mixing import mix_rows
from alad_hf.evaluation.efficiency import count_parameters
from alad_hf.hub.pretrained_weights import resolve_pretrained
from alad_hf.training.distillation import distilling
from alad_hf.training.linear_probe import fit_tagging_head
from alad_hf.training.stages import published_arguments, train

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_L3 = "sentence-transformers/paraphrase-MiniLM-L3-v2"
MPNET = "sentence-transformers/all-mpnet-base-v2"
ARMS = (
    "teacher",
    "plain",
    "distilled",
    "joint",
    "plug_and_play",
    "plug_and_play_unlabelled",
    "plug_and_play_wide",
    "adapter_only",
    "lora",
)
EVALUATIONS = 6
LEARNING_RATES = {
    "plain": 3e-4,
    "distilled": 5e-4,
    "joint": 1e-3,
    "plug_and_play": 2e-3,
    "plug_and_play_unlabelled": 2e-3,
    "plug_and_play_wide": 2e-3,
    "adapter_only": 2e-3,
    "lora": 1e-3,  # at twice this it learns nothing
}
"""Peaks of the linear schedules, the same for all tasks."""
LORA_RANK = 16
WIDE_ADAPTER = {"window_size": 9, "adapter_size": 160}
"""As large as 5 % of the plain student's parameters allow; the default adapter is made for 3 % of a student's time."""


@dataclass(frozen=True)
class Pair:
    """A teacher's encoder, and the student under it."""

    teacher: str
    student: str
    student_layers: int | None
    teacher_learning_rate: float
    rate: float = 1
    """Of the students' learning rates: wide ones need lower rates."""
    learning_rates: dict[str, float] = field(default_factory=dict)
    """Of arms that need another."""
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What of a task's settings is another for this pair."""


PAIRS = {
    "minilm": Pair(MINILM, MINILM, student_layers=2, teacher_learning_rate=2e-4),
    "mpnet": Pair(
        MPNET,
        MINILM_L3,
        student_layers=None,
        teacher_learning_rate=1.5e-4,
        tasks={
            # With --fit-teacher-head: from a random head it tags nothing, at this rate as at 1.5e-4.
            "wnut17": {"teacher_learning_rate": 5e-5},
            # Less of the data: on a CPU this teacher learns from less than two rows a second.
            "qa": {"teacher_learning_rate": 8e-5, "labelled_rows": 2_000, "text_rows": 700},
        },
    ),
    # Question answering only: MiniLM-L3 learns next to nothing from so few questions.
    "mpnet_l6": Pair(
        MPNET,
        MINILM,
        student_layers=None,
        teacher_learning_rate=1.5e-4,
        # Half of the default, which was better under this teacher on dev of WNUT-17 (see ablations).
        learning_rates={"joint": 5e-4},
        tasks={"qa": {"teacher_learning_rate": 8e-5, "labelled_rows": 2_000, "text_rows": 700, "epochs": 2}},
    ),
    "mpnet_truncated": Pair(MPNET, MPNET, student_layers=6, teacher_learning_rate=1.5e-4, rate=1 / 4),
}
"""The wide teachers are made for a few hundred steps (`--teacher-steps`), and therefore learn fast."""


class BestOnDev(TrainerCallback):
    """Evaluate at evenly spaced steps, keep the best weights in memory and put them back at the end."""

    def __init__(self, experiment: Experiment, every: int) -> None:
        self.experiment, self.every = experiment, every
        self.best, self.step, self.weights = -1.0, 0, None
        self.curve: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate, compare and keep."""
        if state.global_step % self.every and state.global_step != state.max_steps:
            return
        model = kwargs["model"]
        score = self.experiment.score(model, "validation")[self.experiment.task.metric]
        model.train()
        self.curve.append(round(score, 2))
        logging.info("step %d: %.2f on dev", state.global_step, score)
        if score > self.best:
            self.best, self.step = score, state.global_step
            self.weights = copy.deepcopy(model.state_dict())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore."""
        kwargs["model"].load_state_dict(self.weights)


class Experiment:
    """One pair on one task: its rows, its teacher, and a method to train an arm."""

    def __init__(self, options: argparse.Namespace, pair_name: str, task_name: str, *, longer: int = 1) -> None:
        self.options, self.pair = options, PAIRS[pair_name]
        self.settings = dataclasses.replace(TASKS[task_name], **self.pair.tasks.get(task_name, {}))
        self.teacher_epochs = max(self.settings.epochs, 3)
        more = {"epochs": longer * self.settings.epochs, "text_rows": longer * self.settings.text_rows}
        self.settings = dataclasses.replace(self.settings, **more)
        self.task = make_task(task_name, self.settings, options.data)
        self.work = options.work / pair_name / task_name
        self.student_source = resolve_pretrained(self.pair.student)
        self.teacher_source = resolve_pretrained(self.pair.teacher)
        self.tokenizer = AutoTokenizer.from_pretrained(self.student_source)
        self.teacher_tokenizer = AutoTokenizer.from_pretrained(self.teacher_source)
        self.rows = self.task.training_rows(self.tokenizer)
        self.text = self.task.text_rows(self.tokenizer, self.teacher_tokenizer)
        batch = self.settings.batch_size
        self.steps = -(-(self.settings.epochs * len(self.rows) + len(self.text)) // batch)
        self._cached: dict[str, Dataset] = {}
        student = AutoModel.from_pretrained(self.student_source, add_pooling_layer=False)
        if self.pair.student_layers:
            student = truncate_layers(student, range(self.pair.student_layers))
        student.save_pretrained(self.work / "student")
        self.tokenizer.save_pretrained(self.work / "student")

    def score(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """Scores of a student, or of the teacher while it is made, on a split."""
        with self.reading() if self.tokenizer is self.teacher_tokenizer else nullcontext():
            return self.task.score(model.eval(), self.tokenizer, split)

    def fit(
        self,
        model: PreTrainedModel,
        rows: Dataset,
        *,
        seed: int,
        learning_rate: float,
        steps: int | None = None,
        evaluations: int = EVALUATIONS,
    ) -> dict[str, Any]:
        """Train in place and keep the best of the evaluations on dev."""
        set_seed(seed)
        steps = steps or self.steps
        best = BestOnDev(self, max(1, steps // evaluations))
        with tempfile.TemporaryDirectory() as folder:
            args = published_arguments(
                "joint",
                folder,
                learning_rate=learning_rate,
                max_steps=steps,
                per_device_train_batch_size=self.settings.batch_size,
                adam_beta2=0.999,
                warmup_steps=0.06,
                save_strategy="no",
                logging_steps=50,
                disable_tqdm=True,
                bf16=not self.options.float32,
                use_cpu=True,
                seed=seed,
            )
            train(model, rows, tokenizer=self.tokenizer, args=args, callbacks=[best], print_logs=False)
        return {"best_step": best.step, "dev_curve": best.curve, "bfloat16": not self.options.float32}

    def teacher(self) -> PreTrainedModel:
        """The large model, fine-tuned on the labels with seed 0; kept on disk."""
        folder = self.work / "teacher"
        if not (folder / "dev.json").exists():
            set_seed(0)
            model = self.task.stock_class.from_pretrained(self.teacher_source, **self.task.labels())
            student_tokenizer, self.tokenizer = self.tokenizer, self.teacher_tokenizer
            steps = self.teacher_epochs * -(-len(self.rows) // self.settings.batch_size)
            if self.options.teacher_steps:
                steps = min(steps, self.options.teacher_steps)
            rate = self.settings.teacher_learning_rate or self.pair.teacher_learning_rate
            rows = self.task.training_rows(self.teacher_tokenizer)
            penalty = self.options.fit_teacher_head
            if penalty is not None:
                with self.reading():
                    fit_tagging_head(model, rows, tokenizer=self.teacher_tokenizer, penalty=penalty)
                logging.info("head fitted: %.2f on dev", self.score(model, "validation")[self.task.metric])
            report = self.fit(
                model,
                rows,
                seed=0,
                learning_rate=rate,
                steps=steps,
                evaluations=self.options.teacher_evaluations,
            )
            report |= {split: self.score(model, split) for split in ("validation", "test")}
            model.save_pretrained(folder)
            self.teacher_tokenizer.save_pretrained(folder)
            report |= {"steps": steps, "learning_rate": rate, "read_in_bfloat16": self.options.bfloat16_teacher}
            report |= {"head_penalty": penalty}
            report |= {"parameters": count_parameters(model), "trainable": count_parameters(model)}
            self.tokenizer = student_tokenizer
            (folder / "dev.json").write_text(json.dumps(report))
        return self.task.stock_class.from_pretrained(folder)

    def reading(self) -> AbstractContextManager:
        """In which precision the teacher is evaluated and its states are cached.

        Never around a training: autocast remembers the weights that it has cast until the outermost block is left.
        """
        return torch.autocast("cpu", torch.bfloat16) if self.options.bfloat16_teacher else nullcontext()

    def with_signal(self, which: str) -> Dataset:
        """The text or the labelled rows, with the teacher's cached signal."""
        if which not in self._cached:
            rows = self.text
            if which == "labels":
                rows = self.task.training_rows(self.tokenizer, self.teacher_tokenizer)
            with self.reading():
                self._cached[which] = cache_teacher_states(
                    rows,
                    self.teacher(),
                    tokenizer=self.tokenizer,
                    teacher_tokenizer=self.teacher_tokenizer,
                    cache_dir=self.work / "states",
                )
        return self._cached[which]

    def training_rows(self, arm: str) -> Dataset:
        """What an arm reads in one pass."""
        if arm in ("plain", "lora", "adapter_only"):
            return self.rows
        labelled, text = self.with_signal("labels"), self.with_signal("text")
        epochs = self.settings.epochs
        if arm == "distilled":
            labelled, text = (rows.remove_columns("teacher_states") for rows in (labelled, text))
        if arm != "plug_and_play_unlabelled":
            return mix_rows(labelled, text, epochs=epochs)
        hidden = [name for name in ("labels", "start_positions", "end_positions") if name in labelled.column_names]
        rows = [labelled.remove_columns(hidden)] * epochs + [text]
        return concatenate_datasets([part.with_format(None) for part in rows]).with_format("torch")

    def build(self, arm: str) -> PreTrainedModel:
        """The untrained model of an arm."""
        folder, labels = self.work / "student", self.task.labels()
        if arm in ("plain", "lora", "distilled"):
            model = self.task.stock_class.from_pretrained(folder, **labels)
            if arm == "lora":
                head = "qa_outputs" if hasattr(model, "qa_outputs") else "classifier"
                model = get_peft_model(
                    model,
                    LoraConfig(
                        task_type=TaskType.QUESTION_ANS if head == "qa_outputs" else TaskType.TOKEN_CLS,
                        r=LORA_RANK,
                        lora_alpha=2 * LORA_RANK,
                        lora_dropout=0.1,
                        target_modules="all-linear",
                        exclude_modules=[head],
                        modules_to_save=[head],
                    ),
                )
            if arm == "distilled":
                model.get_input_embeddings().requires_grad_(False)  # as in the joint arm; it helps here too
            return model
        model = self.task.alad_class.from_student_pretrained(
            str(folder),
            teacher=self.teacher(),
            freeze_student=arm != "joint",
            # The control differs in nothing but the alignment: it has neither the teacher's head nor its signal.
            copy_teacher_head=arm != "adapter_only",
            **(WIDE_ADAPTER if arm == "plug_and_play_wide" else {}),
        )
        model.detach_teacher()
        return model

    def learning_rate(self, arm: str) -> float:
        """The peak of an arm's schedule."""
        return self.pair.learning_rates.get(arm, self.pair.rate * LEARNING_RATES[arm])

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train one arm and measure it."""
        if arm == "teacher":
            self.teacher()
            return json.loads((self.work / "teacher" / "dev.json").read_text())
        set_seed(seed)
        model = self.build(arm)
        rate = self.learning_rate(arm)
        with distilling(model) if arm == "distilled" else nullcontext():
            result = self.fit(model, self.training_rows(arm), seed=seed, learning_rate=rate)
        return result | {
            "validation": self.score(model, "validation"),
            "test": self.score(model, "test"),
            "parameters": count_parameters(model),
            "trainable": count_parameters(model, trainable_only=True),
        }


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    """How a teacher that is not there yet is made."""
    parser.add_argument("--teacher-steps", type=int, help="at most so many steps for a teacher")
    parser.add_argument("--teacher-evaluations", type=int, default=EVALUATIONS, help="on dev; the best is kept")
    parser.add_argument(
        "--fit-teacher-head",
        nargs="?",
        type=float,
        const=1e-2,
        metavar="PENALTY",
        help="fit a tagger's head before the encoder moves, by default with the default penalty",
    )
    parser.add_argument(
        "--bfloat16-teacher",
        action="store_true",
        help="evaluate and cache in bfloat16 autocast: twice as fast on a CPU that multiplies it",
    )
    parser.add_argument(
        "--float32",
        action="store_true",
        help="train in float32: many times as fast on a CPU that does not multiply bfloat16 (no avx512_bf16, no amx)",
    )


def main() -> None:
    """Run what the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks/recovery"), help="teachers and cached states")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recovery.json"))
    parser.add_argument("--pairs", nargs="+", choices=PAIRS, default=["minilm"])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--longer",
        type=int,
        default=1,
        metavar="TIMES",
        help="the students' passes over the labels times this, and their rows of text, as far as there are",
    )
    add_teacher_options(parser)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()

    results = json.loads(options.out.read_text()) if options.out.exists() else {"runs": {}}
    settings = {"learning_rates": LEARNING_RATES, "lora_rank": LORA_RANK}
    if options.longer > 1:
        settings["longer"] = options.longer
    if results.setdefault("settings", settings) != settings:
        raise SystemExit(f"{options.out} was made with other settings: {results['settings']}. Name another --out.")
    for pair_name in options.pairs:
        for task_name in options.tasks:
            experiment = Experiment(options, pair_name, task_name, longer=options.longer)
            entry = results["runs"].setdefault(pair_name, {}).setdefault(task_name, {"arms": {}})
            entry |= {
                "metric": experiment.task.metric,
                "steps": experiment.steps,
                "label_epochs": experiment.settings.epochs,
                "labelled_rows": len(experiment.rows),
                "unlabelled_rows": len(experiment.text),
                "batch_size": experiment.settings.batch_size,
            }
            for seed in options.seeds:
                for arm in options.arms:
                    runs = entry["arms"].setdefault(arm, {})
                    if str(seed) in runs or (arm == "teacher" and runs):
                        continue
                    runs[str(seed)] = run = experiment.run(arm, seed)
                    options.out.parent.mkdir(parents=True, exist_ok=True)
                    options.out.write_text(json.dumps(results, indent=1) + "\n")
                    dev, test = (run[split][experiment.task.metric] for split in ("validation", "test"))
                    print(f"{pair_name} {task_name} {arm:14} seed {seed} dev {dev:.1f} test {test:.1f}", flush=True)


if __name__ == "__main__":
    main()
