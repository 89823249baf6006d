"""WNUT-17: what an alignment adapter is worth on a two-layer student of MiniLM-L6.

    python benchmarks/wnut17.py --data PATH/TO/wnut17 --text FILE [FILE ...]

Every student arm takes the same number of optimiser steps with batches of the same number of sentences. Arms without a
teacher spend them all on the labels; AlAd arms spend the first part on unlabelled text. The epoch is selected on dev
and the score is that epoch's on test. Results are added to the JSON file arm by arm, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import (
    AutoModel,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from alad_hf import AlAdForTokenClassification
from alad_hf.alignment.teacher_cache import cache_teacher_states
from alad_hf.compression.truncation import truncate_layers
from alad_hf.data import encode_text
from alad_hf.data.collators import DataCollatorForAlignment
from alad_hf.data.loading import load_token_classification
from alad_hf.data.token_labels import encode_tagged_words, longest_input
from alad_hf.evaluation.compute_metrics import entity_metrics
from alad_hf.hub.pretrained_weights import resolve_pretrained
from alad_hf.training.stages import published_arguments, train

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ARMS = (
    "plain",
    "joint",
    "plug_and_play",
    "frozen_linear",
    "frozen_adapter",
    "plug_and_play_mlp",
    "joint_mlp",
)


class BestOnDev(TrainerCallback):
    """Keep the weights of the best evaluation in memory, and put them back at the end."""

    def __init__(self) -> None:
        self.score, self.weights, self.epoch = -1.0, None, None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare and keep."""
        if kwargs["metrics"]["eval_f1"] > self.score:
            self.score, self.epoch = kwargs["metrics"]["eval_f1"], state.epoch
            self.weights = copy.deepcopy(kwargs["model"].state_dict())

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore."""
        kwargs["model"].load_state_dict(self.weights)


class Experiment:
    """Data, teacher and caches of one seed, and a method to train an arm on them."""

    def __init__(self, options: argparse.Namespace, seed: int) -> None:
        self.options, self.seed = options, seed
        self.source = resolve_pretrained(ENCODER)
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.source)
        data: DatasetDict = load_token_classification(options.data)
        self.tags = data["train"].features["tags"].feature.names
        max_length = longest_input(AutoModel.from_pretrained(self.source).config, self.tokenizer)
        self.data = {
            split: encode_tagged_words(rows, self.tokenizer, max_length=max_length).remove_columns("sentence")
            for split, rows in data.items()
        }
        lines = [line.strip() for path in options.text for line in Path(path).read_text(encoding="utf-8").splitlines()]
        lines = sorted({line for line in lines if line})
        random.Random(0).shuffle(lines)
        self.text = encode_text(lines[: options.text_lines], self.tokenizer, max_length=max_length)
        self.cache_dir = Path(options.work) / "states"
        batch = options.batch_size
        self.task_steps = options.task_epochs * -(-len(self.data["train"]) // batch)
        self.text_steps = options.text_epochs * -(-len(self.text) // batch)

    def labels(self) -> dict[str, Any]:
        """The label maps of a model for this data."""
        return {
            "id2label": dict(enumerate(self.tags)),
            "label2id": {tag: index for index, tag in enumerate(self.tags)},
        }

    def run(
        self,
        model: PreTrainedModel,
        rows: Dataset,
        *,
        learning_rate: float,
        steps: int,
        select: bool,
        **arguments: Any,
    ) -> tuple[Trainer, BestOnDev]:
        """Train in place for so many steps; with `select`, evaluate every task epoch and keep the best."""
        set_seed(self.seed)
        best = BestOnDev()
        schedule = {"eval_strategy": "steps", "eval_steps": max(1, self.task_steps // self.options.task_epochs)}
        with tempfile.TemporaryDirectory() as folder:
            args = published_arguments(
                "joint",
                folder,
                learning_rate=learning_rate,
                max_steps=steps,
                per_device_train_batch_size=self.options.batch_size,
                adam_beta2=0.999,
                warmup_steps=0.06,
                save_strategy="no",
                logging_steps=50,
                disable_tqdm=True,
                seed=self.seed,
                **(schedule if select else {}),
                **arguments,
            )
            trainer = train(
                model,
                rows,
                tokenizer=self.tokenizer,
                args=args,
                eval_dataset=self.data["validation"] if select else None,
                compute_metrics=entity_metrics(self.tags),
                callbacks=[best] if select else [],
            )
        return trainer, best

    def score(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        """Entity scores of a model on a split."""
        with tempfile.TemporaryDirectory() as folder:
            args = published_arguments("joint", folder, disable_tqdm=True)
            trainer = Trainer(
                model=model,
                args=args,
                data_collator=DataCollatorForAlignment(self.tokenizer),
                compute_metrics=entity_metrics(self.tags),
            )
            return {name.removeprefix("eval_"): value for name, value in trainer.evaluate(self.data[split]).items()}

    def teacher(self) -> PreTrainedModel:
        """The large model, fine-tuned on the labels; kept on disk between arms."""
        folder = Path(self.options.work) / f"teacher-{self.seed}"
        if not (folder / "model.safetensors").exists():
            set_seed(self.seed)
            model = AutoModelForTokenClassification.from_pretrained(self.source, **self.labels())
            _, best = self.run(
                model, self.data["train"], learning_rate=self.options.teacher_lr, steps=self.task_steps, select=True
            )
            model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            (folder / "dev.json").write_text(json.dumps({"dev": best.score, "epoch": best.epoch}))
        return AutoModelForTokenClassification.from_pretrained(folder)

    def student(self) -> PreTrainedModel:
        """The first layers of the encoder before any fine-tuning."""
        return truncate_layers(
            AutoModel.from_pretrained(self.source, add_pooling_layer=False), range(self.options.layers)
        )

    def with_states(self, rows: Dataset) -> Dataset:
        """`rows` with the teacher's cached states."""
        return cache_teacher_states(
            rows,
            self.teacher(),
            tokenizer=self.tokenizer,
            teacher_tokenizer=self.tokenizer,
            cache_dir=self.cache_dir,
        )

    def arm(self, name: str) -> dict[str, Any]:
        """Train one arm and measure it."""
        options, total = self.options, self.text_steps + self.task_steps
        set_seed(self.seed)
        result: dict[str, Any] = {}
        if name == "teacher":
            model = self.teacher()
        elif name in ("plain", "frozen_linear"):
            folder = Path(options.work) / "student"
            self.student().save_pretrained(folder)
            model = AutoModelForTokenClassification.from_pretrained(folder, **self.labels())
            if name == "frozen_linear":
                model.base_model.requires_grad_(False)
            rate = options.plain_lr if name == "plain" else options.probe_lr
            _, best = self.run(model, self.data["train"], learning_rate=rate, steps=total, select=True)
            result["epoch"] = best.epoch
        else:
            frozen = not name.startswith("joint")
            teacher = self.teacher()
            model = AlAdForTokenClassification.from_student_pretrained(
                self.student(),
                teacher=teacher,
                freeze_student=frozen,
                window_size=options.window_size,
                adapter_type="mlp" if name.endswith("_mlp") else "light",
                alignment_mse_weight=options.mse,
                alignment_cosine_weight=options.cosine,
                distillation_weight=options.distillation,
                # The control differs in nothing but the alignment: it has neither the teacher's head nor its signal.
                copy_teacher_head=name != "frozen_adapter",
            )
            model.detach_teacher()
            frozen_lr = options.mlp_lr if name.endswith("_mlp") else options.frozen_lr
            rate = frozen_lr if frozen else options.joint_lr
            if name == "frozen_adapter":
                _, best = self.run(model, self.data["train"], learning_rate=rate, steps=total, select=True)
            else:
                self.run(model, self.with_states(self.text), learning_rate=rate, steps=self.text_steps, select=False)
                for split in ("validation", "test"):
                    result[f"{split}_without_labels"] = self.score(model, split)["f1"]
                rows = self.with_states(self.data["train"]) if options.task_teacher else self.data["train"]
                rate = options.frozen_task_lr if frozen else options.joint_task_lr
                _, best = self.run(model, rows, learning_rate=rate, steps=self.task_steps, select=True)
            result["epoch"] = best.epoch
            result["parameters_by_part"] = model.num_parameters_by_part()
        result |= {
            "validation": self.score(model, "validation"),
            "test": self.score(model, "test"),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "trainable": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        }
        return result


def main() -> None:
    """Run the arms that the results file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--text", nargs="+", required=True)
    parser.add_argument("--work", default=".benchmarks/wnut17", help="folder for teachers and cached states")
    parser.add_argument("--out", default="benchmarks/results/wnut17.json")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["teacher", *ARMS])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--text-lines", type=int, default=16_000)
    parser.add_argument("--text-epochs", type=int, default=1)
    parser.add_argument("--task-epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--window-size", type=int, default=5)
    parser.add_argument("--mse", type=float, default=0.1)
    parser.add_argument("--cosine", type=float, default=0.0)
    parser.add_argument("--distillation", type=float, default=1.0)
    parser.add_argument("--task-teacher", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--teacher-lr", type=float, default=2e-4)
    parser.add_argument("--plain-lr", type=float, default=3e-4)
    parser.add_argument("--probe-lr", type=float, default=5e-3)
    parser.add_argument("--frozen-lr", type=float, default=2e-3)
    parser.add_argument("--mlp-lr", type=float, default=5e-4)
    parser.add_argument("--frozen-task-lr", type=float, default=5e-4)
    parser.add_argument("--joint-lr", type=float, default=5e-4)
    parser.add_argument("--joint-task-lr", type=float, default=2e-4)
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    transformers_logging.set_verbosity_error()

    out = Path(options.out)
    results = json.loads(out.read_text()) if out.exists() else {"runs": {}}
    settings = {
        name: value
        for name, value in vars(options).items()
        if name not in ("data", "text", "work", "out", "seeds", "arms")
    }
    settings["text"] = [Path(path).name for path in options.text]
    if results.setdefault("settings", settings) != settings:
        raise SystemExit(f"{out} was made with other settings: {results['settings']}. Name another --out.")
    for seed in options.seeds:
        experiment = Experiment(options, seed)
        for name in options.arms:
            runs = results["runs"].setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = experiment.arm(name)
                results["steps"] = {"text": experiment.text_steps, "task": experiment.task_steps}
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(results, indent=1) + "\n")
                run = runs[str(seed)]
                print(
                    f"seed {seed} {name:15} dev {100 * run['validation']['f1']:.1f} "
                    f"test {100 * run['test']['f1']:.1f} "
                    f"unlabelled {100 * run.get('validation_without_labels', 0):.1f} / "
                    f"{100 * run.get('test_without_labels', 0):.1f} epoch {run.get('epoch')}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
