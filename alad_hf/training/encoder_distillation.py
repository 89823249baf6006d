"""Task-agnostic distillation of an encoder from plain text (MiniALBERT, arXiv 2210.06425, section 3)."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from ..data.collators import DataCollatorForAlignment
from ..data.masked_text import MaskedTextStream
from ..data.token_labels import longest_input
from ..models.alad_construction import load_tokenizer
from ..models.shard_names import check_shard_names
from ..models.teacher import load_teacher, tokenizes_alike
from .distillation_model import DistillationModel, DistillationWeights
from .loss_logging import LossTermsCallback
from .stages import check_one_device, checkpoint_to_resume, stop_printing_logs

PUBLISHED_BATCH_SIZE = 192


def published_distillation_arguments(
    output_dir: str | os.PathLike, *, max_steps: int, **overrides: Any
) -> TrainingArguments:
    """`TrainingArguments` with the published hyper-parameters of the distillation.

    Published are AdamW with a peak of 5e-4, weight decay 1e-4, 5,000 steps of warm-up, a linear decay, 192 rows of 256
    tokens a step (48 on each of four devices; one device accumulates them here), and one pass over Wikipedia or
    100,000 steps. A text is a stream here, so the length is a number of steps, and the warm-up its twentieth.

    Args:
        output_dir: Folder of the checkpoints.
        max_steps: Length of the training.
        **overrides: Any other field of `TrainingArguments`, or another value for one of these.
    """
    defaults: dict[str, Any] = {
        "output_dir": str(output_dir),
        "max_steps": max_steps,
        "learning_rate": 5e-4,
        "weight_decay": 1e-4,
        "warmup_steps": 0.05,
        "lr_scheduler_type": "linear",
        "per_device_train_batch_size": 48,
        "gradient_accumulation_steps": PUBLISHED_BATCH_SIZE // 48,
        "save_total_limit": 2,
        "logging_steps": 50,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "seed": 42,
    }
    return TrainingArguments(**{**defaults, **overrides})


def distill_encoder(
    student: PreTrainedModel,
    texts: Path | Iterable[Path] | Iterable[str],
    *,
    teacher: str | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainingArguments,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    weights: DistillationWeights | None = None,
    layer_map: Sequence[int] | None = None,
    max_tokens: int = 128,
    masked_share: float = 0.15,
    eval_texts: Path | Iterable[Path] | Iterable[str] | None = None,
    resume: bool = False,
    print_logs: bool = True,
    callbacks: list[TrainerCallback] | None = None,
) -> Trainer:
    """Teach an encoder masked-language modelling, attention, hidden states and predictions of a larger one.

    Args:
        student: Trained in place; see `DistillationModel`.
        texts: Text files, or texts; read as a stream (see `MaskedTextStream`).
        teacher: A masked-language model, or a name of one. Any other encoder has no predictions to learn from: that
            term is then off, with a warning.
        tokenizer: The student's tokenizer, saved beside every checkpoint.
        args: See `published_distillation_arguments`; `max_steps` must be set. `seed` also decides the masks.
        teacher_tokenizer: The teacher's, by default loaded from its name; it must tokenize as the student's does.
        weights: Of the terms, by default the published ones.
        layer_map: See `DistillationModel`.
        max_tokens: Tokens of the longest row.
        masked_share: Share of the tokens that are hidden.
        eval_texts: Held-out text for the evaluation loss, masked the same way every time.
        resume: Go on from the last complete checkpoint in `args.output_dir`, if there is one.
        print_logs: Print a line for every log, besides the progress bar.
        callbacks: More callbacks for the Trainer.

    Returns:
        The Trainer after training. `trainer.state.log_history` has every term of the loss, `trainer.model.weights`
        those that were in force, and what it saves is the student.

    Raises:
        ValueError: `args.max_steps` is not set, the tokenizers differ or do not fit the student, the models do not fit
            each other, `args.output_dir` holds another run's checkpoints and `resume` is False, or one process would
            train on several GPUs.
    """
    check_one_device(args.n_gpu)
    if args.max_steps < 1:
        raise ValueError("The text is an endless stream: set max_steps in the TrainingArguments.")
    checkpoint = checkpoint_to_resume(args.output_dir, resume)
    name = teacher if isinstance(teacher, str) else teacher.name_or_path
    if isinstance(teacher, str):
        teacher = load_predicting_teacher(teacher)
    teacher_tokenizer = teacher_tokenizer or load_tokenizer(name, "teacher_tokenizer")
    _check_tokenizer(student, tokenizer, teacher, teacher_tokenizer, max_tokens)
    args = copy.copy(args)
    # Rows of every process are padded on their own, so no process could hand out batches to the others.
    settings: Any = args.accelerator_config
    args.accelerator_config = dataclasses.replace(settings, dispatch_batches=False)

    def stream(texts: Any, batch_size: int, passes: int | None) -> MaskedTextStream:  # noqa: ANN401
        return MaskedTextStream(
            texts,
            tokenizer,
            max_tokens=max_tokens,
            masked_share=masked_share,
            rows_per_batch=batch_size * args.world_size,
            passes=passes,
            seed=args.seed,
        )

    train_rows = stream(texts, args.train_batch_size, passes=None)
    eval_rows = stream(eval_texts, args.eval_batch_size, passes=1) if eval_texts is not None else None
    set_seed(args.seed)  # the Trainer does so too, but only after the map between widths was drawn
    model = DistillationModel(student, teacher, weights=weights, layer_map=layer_map)
    try:
        if checkpoint is not None:
            model.load_projection(checkpoint)
        trainer = Trainer(
            model=model,
            args=args,
            train_dataset=train_rows,
            eval_dataset=eval_rows,
            data_collator=DataCollatorForAlignment(tokenizer),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        LossTermsCallback.add_to(trainer)
        if not print_logs:
            stop_printing_logs(trainer)
        trainer.train(resume_from_checkpoint=checkpoint)
        if args.load_best_model_at_end and trainer.state.best_model_checkpoint:
            model.load_projection(trainer.state.best_model_checkpoint)  # the Trainer knows the student's weights only
    finally:
        model.release()
    return trainer


def load_predicting_teacher(name_or_path: str, **kwargs: Any) -> PreTrainedModel:
    """Load a teacher with its masked-language-modelling head, or the bare encoder where that was not trained.

    Args:
        name_or_path: Folder or Hub id. Checkpoints of sentence-transformers may name such a head without having it.
        **kwargs: For `from_pretrained`.

    Raises:
        ValueError: An index of its weights names a file outside its folder.
    """
    kwargs.setdefault("trust_remote_code", False)
    check_shard_names(name_or_path, kwargs.get("subfolder", ""))
    architectures = " ".join(AutoConfig.from_pretrained(name_or_path, **kwargs).architectures or [])
    if "ForMaskedLM" not in architectures and "ForPreTraining" not in architectures:
        return load_teacher(name_or_path, **kwargs)
    model, info = AutoModelForMaskedLM.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
    return model.base_model if info["missing_keys"] else model


def _check_tokenizer(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    teacher: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
) -> None:
    if not tokenizes_alike(tokenizer, teacher_tokenizer):
        raise ValueError(
            "Student and teacher tokenize differently, and their attention is compared token by token. Make the "
            "student from a model with the teacher's tokenizer (make_recursive_student(teacher)), or align it with "
            "an adapter instead (alad_hf.training.align), which takes any teacher."
        )
    highest = max(tokenizer.get_vocab().values())
    for role, model in (("student", student), ("teacher", teacher)):
        if highest >= model.config.vocab_size:
            raise ValueError(
                f"The tokenizer has ids up to {highest}, but the {role}'s vocab_size is {model.config.vocab_size}. "
                "Take the tokenizer that the model was made with."
            )
        longest = longest_input(model.config, tokenizer)
        if max_tokens > longest:
            raise ValueError(f"max_tokens={max_tokens} do not fit into the {role}, which takes {longest} at most.")


__all__ = ["distill_encoder", "load_predicting_teacher", "published_distillation_arguments"]
