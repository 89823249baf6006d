"""The three published stages of AlAd, each one run of the stock Trainer (arXiv 2602.14635, authors' code).

1. General alignment: `align` on plain text, student frozen.
2. Continual alignment: `align` again on the text of the task, without its labels.
3. Task fine-tuning: `fine_tune` on the labels, with the student frozen or trained too.
"""

from __future__ import annotations

import copy
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from torch.utils.data import DataLoader, Sampler
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..alignment.find_teacher import find_teacher
from ..data.collators import LENGTH_COLUMN, DataCollatorForAlignment
from ..data.row_order import in_order
from ..models.teacher import accepted_arguments
from .loss_logging import LossTermsCallback, inner_model

logger = logging.getLogger(__name__)

_TEACHER_WEIGHTS = ("alignment_mse_weight", "alignment_cosine_weight", "distillation_weight")

Stage = Literal["general_alignment", "continual_alignment", "head_only", "frozen", "joint"]

_SIGNAL = {"teacher_states", "teacher_logits"}

# Learning rate, weight decay, epochs and schedule as in the authors' code; the rest is shared by all stages.
_PUBLISHED: dict[str, dict[str, Any]] = {
    "general_alignment": {"learning_rate": 5e-4, "weight_decay": 0.01, "lr_scheduler_type": "constant"},
    "continual_alignment": {"learning_rate": 1e-4, "weight_decay": 0.01, "lr_scheduler_type": "constant"},
    "head_only": {"learning_rate": 5e-4, "weight_decay": 0.0, "lr_scheduler_type": "linear"},
    "frozen": {"learning_rate": 1e-4, "weight_decay": 0.01, "lr_scheduler_type": "linear"},
    "joint": {"learning_rate": 5e-5, "weight_decay": 0.01, "lr_scheduler_type": "linear"},
}
_PUBLISHED_EPOCHS = {"general_alignment": 1, "continual_alignment": 10, "head_only": 4, "frozen": 4, "joint": 4}


def published_arguments(stage: Stage, output_dir: str | os.PathLike, **overrides: Any) -> TrainingArguments:
    """`TrainingArguments` with the published hyper-parameters of a stage.

    Published are AdamW with betas (0.9, 0.98), gradient clipping at 1, batches of 32 sentences. The budget of
    general alignment was 12 hours of Wikipedia; one epoch over whatever text is given stands in for it here.

    Rows are grouped by length, which is faster. A stock `Trainer` does so in evaluation and `predict` as well, and
    what it returns is then in that order; the Trainers of `train` and `align` keep the order of the rows in `predict`.

    Args:
        stage: "general_alignment", "continual_alignment", or a way of fine-tuning: "head_only", "frozen" (adapter and
            head), "joint" (everything).
        output_dir: Folder of the checkpoints.
        **overrides: Any other field of `TrainingArguments`, or another value for one of these.
    """
    if stage not in _PUBLISHED:
        raise ValueError(f"stage must be one of {sorted(_PUBLISHED)}, got {stage!r}.")
    defaults: dict[str, Any] = {
        "output_dir": str(output_dir),
        "num_train_epochs": _PUBLISHED_EPOCHS[stage],
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "adam_beta1": 0.9,
        "adam_beta2": 0.98,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "group_by_length",
        "save_total_limit": 2,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "seed": 42,
    }
    return TrainingArguments(**{**defaults, **_PUBLISHED[stage], **overrides})


def align(
    model: PreTrainedModel,
    texts: Iterable[str] | Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainingArguments,
    teacher: str | PreTrainedModel | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    eval_texts: Iterable[str] | Dataset | None = None,
    cache_dir: str | os.PathLike | None = None,
    resume: bool = False,
    print_logs: bool = True,
    callbacks: list[TrainerCallback] | None = None,
) -> Trainer:
    """Align a model with its teacher on unlabelled text (stages 1 and 2).

    Args:
        model: An AlAd model; with `freeze_student` only the adapter (and head) learn.
        texts: Strings, or a dataset with a column `text`, `tokens` or `input_ids`. Labels are not used.
        tokenizer: The student's tokenizer.
        args: See `published_arguments`.
        teacher: By default the attached one. Its states are cached once on disk.
        teacher_tokenizer: The teacher's tokenizer, which may be another one; by default that of the attached teacher,
            or loaded from the teacher's name.
        eval_texts: Held-out text for the evaluation loss.
        cache_dir: Where to keep the teacher's states.
        resume: Go on from the last checkpoint in `args.output_dir`.
        print_logs: Print a line for every log, besides the progress bar.
        callbacks: More callbacks for the Trainer.

    Returns:
        The Trainer after training; `trainer.state.log_history` has every term of the loss.

    Raises:
        ValueError: No teacher, one that does not fit, no tokenizer of it, no loss with a weight, `eval_texts` that are
            never read, or `args.output_dir` holds another run's checkpoints and `resume` is False.
    """
    found = find_teacher(model, teacher, teacher_tokenizer)
    model.check_teacher(found.model)
    if not any(getattr(model.config, name) for name in _TEACHER_WEIGHTS):
        raise ValueError(f"There is nothing to learn from the teacher: {', '.join(_TEACHER_WEIGHTS)} are all 0.")
    if eval_texts is not None and args.eval_strategy == "no":
        raise ValueError("eval_texts would never be read: args.eval_strategy is 'no'. Set it to 'epoch' or 'steps'.")

    def prepare(text: Iterable[str] | Dataset) -> Dataset:
        rows = found.encode(text, model.config, tokenizer)
        return found.with_signal(rows, tokenizer, model.config.teacher_layers, cache_dir)

    return train(
        model,
        prepare(texts),
        tokenizer=tokenizer,
        args=args,
        eval_dataset=prepare(eval_texts) if eval_texts is not None else None,
        resume=resume,
        print_logs=print_logs,
        callbacks=callbacks,
    )


def train(
    model: PreTrainedModel,
    train_dataset: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainingArguments,
    eval_dataset: Dataset | Mapping[str, Dataset] | None = None,
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None,
    resume: bool = False,
    print_logs: bool = True,
    callbacks: list[TrainerCallback] | None = None,
) -> Trainer:
    """Run the stock Trainer with our collator and the loss terms in its logs (stage 3, and what `align` ends in).

    Works for any token model, AlAd or not, so that plain baselines are trained by the same code.

    Args:
        model: The model; trained in place.
        train_dataset: Encoded rows, with or without labels and teacher columns.
        tokenizer: Saved beside every checkpoint.
        args: See `published_arguments`.
        eval_dataset: Encoded rows for evaluation, or several sets of them by name.
        compute_metrics: See `alad_hf.evaluation`.
        resume: Go on from the last complete checkpoint in `args.output_dir`, if there is one.
        print_logs: Print a line for every log, besides the progress bar; `trainer.state.log_history` has them anyway.
        callbacks: More callbacks.

    Raises:
        ValueError: `args.output_dir` holds checkpoints already and `resume` is False, the rows have neither labels
            nor a teacher's signal that the model reads, or one process would train on several GPUs.
        TypeError: The rows are no `Dataset`.
    """
    for name, rows in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
        parts = rows.values() if name == "eval_dataset" and isinstance(rows, Mapping) else [rows]
        for part in parts:
            if part is not None and not isinstance(part, Dataset):
                raise TypeError(
                    f"{name} must be a datasets.Dataset of encoded rows, got {type(part).__name__}. Rows of another "
                    "kind are for a Trainer of your own, with DataCollatorForAlignment."
                )
    _check_targets(model, train_dataset)
    check_one_device(args.n_gpu)
    if any(parameter.requires_grad and parameter.dtype == torch.float16 for parameter in model.parameters()):
        logger.warning(
            "Weights are trained in float16, as they were loaded, and what is small becomes zero in it. Load the "
            "models with dtype=torch.float32; TrainingArguments(bf16=True) makes the training fast."
        )
    checkpoint = checkpoint_to_resume(args.output_dir, resume)
    args = copy.copy(args)
    args.remove_unused_columns, args.length_column_name = False, LENGTH_COLUMN
    if isinstance(eval_dataset, Mapping):
        evaluated: Any = {name: _model_columns(part, model) for name, part in eval_dataset.items()}
        columns = next(iter(eval_dataset.values())).features
    else:
        evaluated = _model_columns(eval_dataset, model) if eval_dataset is not None else None
        columns = (eval_dataset or train_dataset).features
    trainer = _Trainer(
        model=model,
        args=args,
        train_dataset=_model_columns(train_dataset, model),
        eval_dataset=evaluated,
        data_collator=DataCollatorForAlignment(tokenizer),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
    LossTermsCallback.add_to(trainer)
    if not print_logs:
        stop_printing_logs(trainer)
    # These are for evaluation alone. Of text without answers, the loss belongs to the token labels of the collator.
    if "start_positions" in trainer.label_names and "start_positions" not in columns:
        trainer.label_names = ["labels"]
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


def _check_targets(model: PreTrainedModel, rows: Dataset) -> None:
    """Raise ValueError if a model would learn nothing of the rows; tell of a teacher's signal that it passes by."""
    given = {"labels", "start_positions", *_SIGNAL} & set(rows.column_names)
    read = given & _accepted(model)
    passed_by = sorted(given & _SIGNAL - read)
    kind = type(inner_model(model)).__name__
    remedy = (
        f"A {kind} learns from a teacher in train_tagger(..., teacher=..., adapter=False), or inside `with "
        "distilling(model):` (alad_hf.training.distillation); AlAd models do so as they are."
    )
    if getattr(model, "teacher", None) is None and not read:
        if not given:
            raise ValueError(
                f"There is nothing to learn: the rows have the columns {rows.column_names}, neither labels nor a "
                "teacher's states, and no teacher is attached. Add labels, or call cache_teacher_states first."
            )
        raise ValueError(
            f"There is nothing to learn: a {kind} does not read {', '.join(sorted(given))}, and the rows have no "
            f"other targets. {remedy if passed_by else 'Add labels of its task, or take a model of the task.'}"
        )
    if passed_by:
        logger.warning("%s of the rows are passed by, and the labels alone are learned. %s", passed_by, remedy)


def check_one_device(count: int) -> None:
    """Raise ValueError if one process would train on several GPUs (`DataParallel`), with a copy of the model on each.

    Such copies would share one attached teacher, and their loss terms lie on different devices.

    Args:
        count: Devices of this process.
    """
    if count > 1:
        raise ValueError(
            f"This process sees {count} GPUs, and the Trainer would train on all in threads (DataParallel). Start one "
            "process for each with `accelerate launch`, or show one alone: CUDA_VISIBLE_DEVICES=0. See "
            "docs/train_on_several_gpus.md."
        )


class _Trainer(Trainer):
    """The stock Trainer, but lengths are read once, losses that are means divided as such, and `predict` keeps order.

    What `evaluate` and `predict` are given may have columns that the model does not take, as in `train`.

    It groups rows by a lazy column, and reads a row of the dataset for every comparison of its sort: minutes for some
    ten thousand rows in several files. It groups those of `predict`, too, whose result is read beside the rows. And it
    takes a model whose `forward` has `**kwargs` for one that divides its
    loss by `num_items_in_batch`. Stock taggers and readers do not, and would learn from the sum of the accumulated
    batches' means.
    """

    def __init__(self, model: PreTrainedModel, **arguments: Any) -> None:
        super().__init__(model=model, **arguments)
        inner = inner_model(model)
        counts = "num_items_in_batch" in inspect.signature(inner.forward).parameters
        if not getattr(inner, "accepts_loss_kwargs", counts):
            self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        return _with_lengths_in_memory(super()._get_train_sampler(*args, **kwargs))

    def _get_eval_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        return _with_lengths_in_memory(super()._get_eval_sampler(*args, **kwargs))

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """Batches of the evaluation rows, or of the given ones, of the columns that the model takes."""
        # Those of `train` have their lengths already; names are of such, too.
        if isinstance(eval_dataset, Dataset) and LENGTH_COLUMN not in eval_dataset.column_names:
            eval_dataset = _model_columns(eval_dataset, self.model)
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """Batches of the rows in their order, of the columns that the model takes."""
        if isinstance(test_dataset, Dataset):
            test_dataset = _model_columns(test_dataset, self.model)
        grouped, self.args = self.args, copy.copy(self.args)
        self.args.train_sampling_strategy = "sequential"
        try:
            return super().get_test_dataloader(test_dataset)
        finally:
            self.args = grouped


def _with_lengths_in_memory(sampler: Sampler | None) -> Sampler | None:
    if isinstance(sampler, LengthGroupedSampler):
        sampler.lengths = torch.as_tensor(sampler.lengths[:]).tolist()
    return sampler


def stop_printing_logs(trainer: Trainer) -> None:
    """Leave nothing but the progress bar, where there is one."""
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(_ProgressBar())


class _ProgressBar(ProgressCallback):
    """The Trainer's bars without a printed dictionary at every log."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


def _model_columns(dataset: Dataset, model: PreTrainedModel) -> Dataset:
    """What the model takes, and the column `length`.

    The Trainer groups rows by it, and would otherwise read every row whole, teacher states included; but it would also
    remove it first, with the other columns that are no argument of the model.
    """
    accepted = _accepted(model)
    dataset = dataset.select_columns([name for name in dataset.column_names if name in accepted])
    lengths = [len(ids) for ids in dataset.with_format(None).select_columns("input_ids")["input_ids"]]
    return in_order(dataset).add_column(LENGTH_COLUMN, lengths)


def _accepted(model: PreTrainedModel) -> frozenset[str]:
    return accepted_arguments(inner_model(model))


def checkpoint_to_resume(output_dir: str | os.PathLike | None, resume: bool) -> str | None:
    """The checkpoint that a training into `output_dir` goes on from, None for a new training.

    Raises:
        ValueError: There is one and `resume` is False.
    """
    checkpoint = last_complete_checkpoint(output_dir)
    if checkpoint is None:
        return None
    if not resume:
        raise ValueError(
            f"{output_dir} already holds {checkpoint.name} of an earlier run. Pass resume=True (--resume) to go on "
            "from it, or name another output_dir (--output)."
        )
    logger.warning("Resuming from %s.", checkpoint)
    return str(checkpoint)


def last_complete_checkpoint(output_dir: str | os.PathLike | None) -> Path | None:
    """The newest checkpoint whose writing was not interrupted: the Trainer writes `trainer_state.json` last."""
    folders = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if output_dir else []
    numbered = [folder for folder in folders if folder.name.rpartition("-")[2].isdigit()]
    for folder in sorted(numbered, key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True):
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return folder
    return None
