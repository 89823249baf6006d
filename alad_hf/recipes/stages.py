"""The stages that all recipes share: load, train on labels and unlabelled text, save, score."""

from __future__ import annotations

import copy
import logging
import math
import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import nn
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..alignment.find_teacher import FoundTeacher
from ..compression.truncation import truncate_layers
from ..data.mixing import mix_rows
from ..data.token_labels import longest_input
from ..hub.model_card import Task as CardTask
from ..hub.model_card import record_training, write_model_card
from ..long_documents import state_length
from ..models.alad_construction import load_tokenizer
from ..models.compressed_embeddings import make_trainable
from ..models.modeling_alad import AlAdPreTrainedModel
from ..models.quantized_student import check_frozen
from ..models.student import bare_encoder, load_student, merged
from ..models.teacher import copy_head, load_teacher, state_width, tagging_head, tokenizes_alike
from ..training.distillation import distilling
from ..training.stages import check_one_device, last_complete_checkpoint, published_arguments, train
from .budget import MOST_EVALUATIONS, Budget, Mode
from .same_run import CHECKPOINTS, check_same_run, describe_run
from .tagged_splits import scored_split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedModel:
    """What a recipe made."""

    model: PreTrainedModel
    """In eval mode."""
    tokenizer: PreTrainedTokenizerBase
    scores: dict[str, float]
    split: str
    """The split that the scores are of: "test", or "validation" where there is no test split."""
    budget: Budget
    """As it was spent, with the defaults filled in."""


@dataclass(frozen=True)
class Parts:
    """Models and tokenizers of a recipe; without a teacher, there is no tokenizer of it either."""

    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    teacher: PreTrainedModel | None
    teacher_tokenizer: PreTrainedTokenizerBase | None
    source: str | PreTrainedModel
    """What the encoder was given as, perhaps with a task head; of a `PeftModel`, the model that it is merged into."""

    @property
    def width(self) -> int:
        """Hidden size of the encoder."""
        return self.encoder.config.get_text_config().hidden_size

    @property
    def max_length(self) -> int:
        """Tokens that fit into one input of the encoder and, where it reads the same tokens, of the teacher."""
        if self.teacher is None:
            return longest_input(self.encoder.config, self.tokenizer)
        return self._found.longest_row(self.encoder.config, self.tokenizer)

    @property
    def teacher_max_length(self) -> int | None:
        """Tokens that fit into one input of the teacher, if there is one and it has a limit."""
        return self._found.max_length if self.teacher is not None else None

    @property
    def read_alike(self) -> bool:
        """Whether there is a teacher, which reads the student's tokens."""
        return self.teacher_tokenizer is not None and tokenizes_alike(self.tokenizer, self.teacher_tokenizer)

    @property
    def _found(self) -> FoundTeacher:
        return FoundTeacher(self.teacher, self.teacher_tokenizer)

    def encode(self, texts: Iterable[str] | Dataset) -> Dataset:
        """Tokenize unlabelled text for the student and the teacher."""
        return self._found.encode(texts, self.encoder.config, self.tokenizer)

    def with_teacher_signal(self, rows: Dataset, layers: list[int] | None, *, states: bool) -> Dataset:
        """Rows with the teacher's cached signal, its states among it or left out."""
        return self._found.with_signal(rows, self.tokenizer, layers, states=states)

    def mode(self, stock_class: type, *, adapter: bool, freeze_student: bool) -> Mode:
        """How the model is trained.

        Args:
            stock_class: The task's Auto class: a student that has such a head knows the task.
            adapter: Put an adapter on top.
            freeze_student: Train adapter and head only.
        """
        if self.teacher is None:
            return "plain"
        if freeze_student:
            return "plug-and-play"
        return "distilled" if not adapter or self.knows(stock_class) else "joint"

    def knows(self, stock_class: type) -> bool:
        """Whether the student has a head for a task, by its checkpoint or its class."""
        head = stock_class.__name__.removeprefix("AutoModel")
        names = [*(self.encoder.config.architectures or []), type(self.source).__name__]
        return any(name.endswith(head) for name in names)


@dataclass(frozen=True)
class Task:
    """What the stages have to know of a task."""

    card: CardTask
    stock_class: Any
    """Auto class of a model without an adapter."""
    alad_class: type[AlAdPreTrainedModel]
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    best: str
    """The metric that decides which evaluation was the best."""
    evaluate: Callable[[PreTrainedModel, PreTrainedTokenizerBase, Dataset], dict[str, float]]
    labels: dict[str, dict]
    """`id2label` and `label2id` of the model, whose head is as wide as there are labels."""
    fit_head: Callable[..., object] | None = None
    """Fits a new head to labelled rows before the encoder moves, see `fit_tagging_head`."""


def check_one_process() -> None:
    """Raise ValueError where several processes, or several GPUs, run a recipe."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: a recipe trains, scores and saves in one process. For several "
            "take its parts, alad_hf.training.align and train, or your own Trainer: docs/train_on_several_gpus.md."
        )
    check_one_device(torch.cuda.device_count())


def load_parts(
    encoder: str | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    teacher: str | PreTrainedModel | None,
    teacher_tokenizer: PreTrainedTokenizerBase | None,
    keep_layers: Iterable[int] | None,
    seed: int,
    adapter: bool = True,
    freeze_student: bool = False,
    config_arguments: dict[str, Any] | None = None,
    **only_with_teacher: object,
) -> Parts:
    """Load what is given by name, and seed everything random.

    Args:
        encoder: Folder, Hub id or model.
        tokenizer: By default loaded from the encoder's name.
        teacher: Folder, Hub id or model.
        teacher_tokenizer: By default loaded from the teacher's name.
        keep_layers: Keep only these layers of the encoder.
        seed: The Trainer sets it only after the head and the adapter were initialised.
        adapter: Whether there is to be one, where there is a teacher.
        freeze_student: Of the adapter.
        config_arguments: Of the adapter.
        **only_with_teacher: Further arguments of the recipe that mean nothing without a teacher.

    Raises:
        ValueError: One of them is given, and no teacher is, or one of the adapter's, and there is none; a frozen
            student's embeddings shall be trained; a tokenizer cannot be loaded; the encoder is quantized and would be
            trained; or several processes run.
    """
    check_one_process()
    of_the_adapter = {"freeze_student": freeze_student, **(config_arguments or {})}
    only_with_teacher |= {"teacher_tokenizer": teacher_tokenizer, "adapter=False": not adapter, **of_the_adapter}
    useless = [name for name, value in only_with_teacher.items() if value is not None and value is not False]
    useless += [name for name in config_arguments or {} if name not in useless]  # False may say something there
    if teacher is None and useless:
        raise ValueError(
            f"Without a teacher there is no adapter and no alignment, and nothing that {', '.join(useless)} could do: "
            "pass teacher=..., or leave these arguments out."
        )
    useless = [name for name in useless if name in of_the_adapter]
    if not adapter and useless:
        raise ValueError(
            f"Without an adapter (adapter=False, --no-adapter) there is nothing that {', '.join(useless)} could do: "
            "leave out the one or the other."
        )
    if freeze_student and (config_arguments or {}).get("freeze_embeddings") is False:
        raise ValueError(
            "freeze_student=True (--frozen) keeps all of the student, its token embeddings too: leave out "
            "freeze_embeddings=False (--no-freeze-embeddings)."
        )
    set_seed(seed)
    tokenizer = tokenizer or load_tokenizer(encoder if isinstance(encoder, str) else encoder.name_or_path, "tokenizer")
    if isinstance(teacher, str):
        teacher = load_teacher(teacher)
    if teacher is not None:
        teacher_tokenizer = teacher_tokenizer or load_tokenizer(teacher.name_or_path, "teacher_tokenizer")
    source = encoder if isinstance(encoder, str) else merged(encoder)
    encoder = load_student(source) if isinstance(source, str) else bare_encoder(source)
    if keep_layers is not None:
        encoder = truncate_layers(encoder.base_model, list(keep_layers))
    check_frozen(encoder, freeze_student)
    state_length(tokenizer, encoder.config)
    return Parts(encoder, tokenizer, teacher, teacher_tokenizer, source)


def train_and_save(
    task: Task,
    parts: Parts,
    rows: DatasetDict,
    unlabelled: Iterable[str] | Dataset | None,
    output_dir: str | os.PathLike,
    *,
    adapter: bool,
    freeze_student: bool,
    budget: Budget,
    resume: bool,
    callbacks: list[TrainerCallback] | None,
    config_arguments: dict[str, Any],
) -> PreTrainedModel:
    """Build the model, train it and save it with its tokenizer.

    With a teacher, labelled and unlabelled rows are mixed: the model learns the labels beside the teacher's signal on
    both, from the first step to the last.

    Args:
        task: What is learned.
        parts: See `load_parts`.
        rows: Encoded and labelled rows, `train` and `validation`.
        unlabelled: Text or encoded rows for the alignment; not read without a teacher.
        output_dir: Where the model goes; checkpoints go into its folder `checkpoints`.
        adapter: Put an adapter between student and head, where there is a teacher.
        freeze_student: Train adapter and head only.
        budget: A completed one.
        resume: Go on from the checkpoints of an interrupted call.
        callbacks: For the Trainer.
        config_arguments: Fields of `AlAdConfig`.

    Returns:
        The trained model, in eval mode.
    """
    output_dir = Path(output_dir)
    training, epochs = rows["train"], budget.epochs
    distilled = parts.teacher is not None and not adapter
    if parts.teacher is None or distilled:
        model = _with_stock_head(task, parts, labelled=training, budget=budget)
    else:
        model = task.alad_class.from_student_pretrained(
            parts.encoder,
            teacher=parts.teacher,
            tokenizer=parts.tokenizer,
            teacher_tokenizer=parts.teacher_tokenizer,
            freeze_student=freeze_student,
            **{**task.labels, **config_arguments},
        )
        model.detach_teacher()
    if parts.teacher is not None:
        # States are compared as they are without an adapter, so they have to be as wide.
        comparable = adapter or state_width(parts.teacher) == parts.width
        layers = config_arguments.get("teacher_layers")
        training = parts.with_teacher_signal(training, layers, states=comparable)
        if budget.alignment_epochs:
            text = parts.with_teacher_signal(parts.encode(unlabelled), layers, states=comparable)
            training, epochs = mix_rows(training, text, epochs=epochs, unlabelled_epochs=budget.alignment_epochs), 1
    trainer = fit(
        model,
        training,
        output_dir / CHECKPOINTS,
        teacher=parts.teacher,
        steps=epochs * math.ceil(len(training) / budget.batch_size),
        distilled=distilled,
        validation=rows["validation"],
        task=task,
        tokenizer=parts.tokenizer,
        budget=budget,
        resume=resume,
        callbacks=callbacks,
    )
    trainer.save_model(str(output_dir))
    model.name_or_path = str(output_dir)  # what it is now; as a teacher it will be named and found by it
    return model.eval()


def fit(
    model: PreTrainedModel,
    rows: Dataset,
    checkpoints: Path,
    *,
    teacher: PreTrainedModel | None,
    steps: int,
    distilled: bool,
    validation: Dataset | None,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    budget: Budget,
    resume: bool,
    callbacks: list[TrainerCallback] | None,
) -> Trainer:
    """Train in place.

    Args:
        model: A stock model, or an AlAd model.
        rows: What it reads, encoded.
        checkpoints: Their folder.
        teacher: Whose signal the rows bring.
        steps: Optimiser steps.
        distilled: Of a stock model: it learns the teacher's signal beside the labels.
        validation: Rows by which the best of a few evaluations is kept; without them the last weights are.
        task: What is learned.
        tokenizer: The model's.
        budget: A completed one.
        resume: Go on from the checkpoints.
        callbacks: For the Trainer.
    """
    # Writing a checkpoint takes longer than an epoch over a small set: a few evenly spaced ones, the last at the end.
    label_epochs: Any = budget.epochs  # filled in
    interval = math.ceil(steps / min(label_epochs, MOST_EVALUATIONS))
    evaluating: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": interval,
        "load_best_model_at_end": True,
        "metric_for_best_model": task.best,
        "include_for_metrics": ["inputs"],
    }
    args = training_arguments(
        checkpoints,
        budget,
        max_steps=steps,
        learning_rate=budget.learning_rate,
        save_strategy="steps",
        save_steps=interval,
        **(evaluating if validation is not None else {}),
    )
    run = describe_run(
        model, rows, validation=validation, teacher=teacher, steps=steps, distilled=distilled, budget=budget
    )
    check_same_run(checkpoints, run, resume, begun=last_complete_checkpoint(checkpoints) is not None)
    if distilled:
        model.get_input_embeddings().requires_grad_(False)  # as in joint training; it helps here too
    with distilling(model) if distilled else nullcontext():
        trainer = train(
            model,
            rows,
            tokenizer=tokenizer,
            args=args,
            eval_dataset=validation,
            compute_metrics=task.compute_metrics if validation is not None else None,
            resume=resume,
            print_logs=False,
            callbacks=callbacks,
        )
    if distilled:
        make_trainable(model)
    return trainer


def score_and_describe(
    task: Task,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: DatasetDict,
    *,
    dataset_name: str,
    budget: Budget,
) -> tuple[dict[str, float], str]:
    """Score a saved model on test, or on validation, and write the card of an AlAd model beside it.

    Returns:
        The scores and the split.
    """
    split = scored_split(data)
    scores = task.evaluate(model, tokenizer, data[split])
    if isinstance(model, AlAdPreTrainedModel):
        record_training(model.name_or_path, asdict(budget))
        write_model_card(
            model,
            model.name_or_path,
            task=task.card,
            dataset_name=dataset_name,
            metrics=scores,
            split=split,
            language="en" if dataset_name == "builtin" else None,
            training=asdict(budget),
        )
    return scores, split


def training_arguments(folder: Path, budget: Budget, **arguments: Any) -> TrainingArguments:
    """The published hyper-parameters of joint training, with a budget and what a recipe says."""
    return published_arguments(
        "joint",
        folder,
        per_device_train_batch_size=budget.batch_size,
        adam_beta2=0.999,
        warmup_steps=0.06,
        logging_steps=10,
        seed=budget.seed,
        **arguments,
    )


def _with_stock_head(
    task: Task, parts: Parts, *, labelled: Dataset | None = None, budget: Budget | None = None
) -> PreTrainedModel:
    """The encoder in a stock model: with its own head where that is for these labels, else the teacher's or a new one.

    Args:
        task: What is learned.
        parts: See `load_parts`.
        labelled: Encoded rows that a new head is fitted to, where the task can and there is no teacher.
        budget: Its batch size and seed serve that fit.

    Raises:
        ValueError: The stock model has weights that the encoder lacks.
    """
    encoder = parts.encoder
    config = copy.deepcopy(encoder.config)
    for name, value in task.labels.items():
        setattr(config, name, value)
    model = task.stock_class.from_config(config)
    found = model.base_model.load_state_dict(encoder.base_model.state_dict(), strict=False)
    missing = [name for name in found.missing_keys if "pooler" not in name]
    if missing:
        raise ValueError(f"{type(model).__name__} has weights that a {type(encoder).__name__} lacks: {missing[:5]}.")
    model.config.name_or_path = encoder.name_or_path
    head = _own_head(task, parts)
    if head:
        model.load_state_dict(head, strict=False)
    elif parts.teacher is not None:
        copy_head(model, parts.teacher)
    elif labelled is not None and task.fit_head is not None and isinstance(tagging_head(model), nn.Linear):
        model.to(PartialState().device)  # where the Trainer will put it
        budget = budget or Budget()
        task.fit_head(model, labelled, tokenizer=parts.tokenizer, batch_size=budget.batch_size, seed=budget.seed)
    return model


def _own_head(task: Task, parts: Parts) -> dict[str, torch.Tensor]:
    """Weights of the student's task head, if it has one for the same labels in the same order."""
    if not parts.knows(task.stock_class):
        return {}
    tagger = parts.source
    if isinstance(tagger, str):
        tagger = task.stock_class.from_pretrained(tagger)
    if tagging_head(tagger) is not None and dict(tagger.config.id2label) != task.labels["id2label"]:
        logger.warning(
            "The head of %s is left behind: it has the labels %s, the data %s.",
            parts.encoder.name_or_path,
            list(tagger.config.id2label.values()),
            list(task.labels["id2label"].values()),
        )
        return {}
    encoder = f"{tagger.base_model_prefix}."
    return {name: value for name, value in tagger.state_dict().items() if not name.startswith(encoder)}
