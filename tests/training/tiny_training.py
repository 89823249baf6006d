"""Models, rows and Trainers for the tests of training; also read by the script that runs in two processes."""

from __future__ import annotations

from pathlib import Path

import torch
from datasets import Dataset
from tiny import TAGS, VOCABULARY, tiny_config, tiny_tokenizer
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from alad_hf import AlAdConfig, AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel
from alad_hf.data.collators import DataCollatorForAlignment
from alad_hf.training.loss_logging import LossTermsCallback

WIDTH = 32
TASKS = ("tagging", "text", "answers", "text for answers", "text without a head")
"""Rows with token labels, answers or neither, for the three model classes."""

WEIGHTS = {"task": 1.0, "alignment_mse": 0.3, "alignment_cosine": 0.7, "distillation": 0.5}


def make_model(task: str = "tagging", dropout: float = 0.0, **changes: object) -> PreTrainedModel:
    """A model with every parameter random, the same at every call."""
    model_class = {
        "tagging": AlAdForTokenClassification,
        "text": AlAdForTokenClassification,
        "answers": AlAdForQuestionAnswering,
        "text for answers": AlAdForQuestionAnswering,
        "text without a head": AlAdModel,
    }[task]
    weights = {f"{name}_weight": weight for name, weight in WEIGHTS.items() if name != "task"}
    config = AlAdConfig(
        text_config=tiny_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout),
        hidden_size=WIDTH,
        adapter_size=6,
        classifier_dropout=dropout,
        id2label=dict(enumerate(TAGS)),
        label2id={tag: index for index, tag in enumerate(TAGS)},
        **{**weights, **changes},
    )
    torch.manual_seed(0)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def make_rows(task: str = "tagging", rows: int = 8, teacher: bool = True, seed: int = 0) -> Dataset:
    """Rows of different lengths with different shares of labels, and with columns that no model wants."""
    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list] = {"example": [], "input_ids": [], "token_type_ids": [], "attention_mask": []}
    columns |= {"labels": [], "start_positions": [], "end_positions": [], "teacher_states": [], "teacher_logits": []}
    for row in range(rows):
        length = int(torch.randint(4, 12, (1,), generator=generator))
        labels = torch.randint(0, len(TAGS), (length,), generator=generator)
        labels[torch.rand(length, generator=generator) < row / rows] = -100
        labels[0] = 0
        columns["example"].append(f"row {row}")
        columns["input_ids"].append(torch.randint(5, len(VOCABULARY), (length,), generator=generator).tolist())
        columns["token_type_ids"].append([0] * length)
        columns["attention_mask"].append([1] * length)
        columns["labels"].append(labels.tolist())
        columns["start_positions"].append(int(torch.randint(0, length, (1,), generator=generator)))
        columns["end_positions"].append(int(torch.randint(0, length, (1,), generator=generator)))
        classes = 2 if "answers" in task else len(TAGS)
        columns["teacher_states"].append(torch.randn(length, WIDTH, generator=generator).tolist())
        columns["teacher_logits"].append(torch.randn(length, classes, generator=generator).tolist())
    unwanted = set() if task == "tagging" else {"labels"}
    unwanted |= set() if task == "answers" else {"start_positions", "end_positions"}
    unwanted |= set() if teacher else {"teacher_states", "teacher_logits"}
    return Dataset.from_dict(columns).remove_columns(sorted(unwanted)).with_format("torch")


def make_trainer(
    model: PreTrainedModel,
    rows: Dataset | None,
    folder: Path,
    callbacks: list[TrainerCallback] | None = None,
    eval_rows: Dataset | None = None,
    compute_metrics: object = None,
    **arguments: object,
) -> Trainer:
    """The stock Trainer: plain SGD, rows in their order, every step logged."""
    defaults = {
        "output_dir": str(folder),
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**{**defaults, **arguments}),
        train_dataset=rows,
        eval_dataset=eval_rows,
        data_collator=DataCollatorForAlignment(tiny_tokenizer()),
        processing_class=tiny_tokenizer(),
        compute_metrics=compute_metrics,
        callbacks=callbacks,
    )
    LossTermsCallback.add_to(trainer)  # before the callbacks that are there
    return trainer


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A copy of the parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def step_logs(trainer: Trainer) -> list[dict[str, float]]:
    """The log lines of training steps, with the loss and its terms only."""
    lines = [line for line in trainer.state.log_history if "loss" in line]
    return [{name: value for name, value in line.items() if name.endswith("loss")} for line in lines]
