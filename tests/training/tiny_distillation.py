"""Students, teachers, text and Trainers for the tests of distillation; also read by the script in two processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tiny import WORDS, tiny_config, tiny_tokenizer
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer, TrainingArguments

from alad_hf.training.encoder_distillation import distill_encoder


def tiny_mlm(model_type: str = "bert", layers: int = 2, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A masked-language model with every parameter random, without dropout unless `changes` say so."""
    sizes = {"num_hidden_layers": layers, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if model_type == "distilbert":
        sizes = {"n_layers": layers, "dropout": 0.0, "attention_dropout": 0.0}
    torch.manual_seed(seed)
    model = AutoModelForMaskedLM.from_config(tiny_config(model_type, **{**sizes, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def tiny_texts(count: int = 40, seed: int = 0) -> list[str]:
    """Sentences of 2 to 12 words."""
    generator = random.Random(seed)
    words = [word for word in WORDS.split() if not word.startswith("##")]
    return [" ".join(generator.choices(words, k=generator.randint(2, 12))) for _ in range(count)]


def tiny_arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Plain SGD, every step logged."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "optim": "sgd",
        "learning_rate": 0.1,
        "lr_scheduler_type": "constant",
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "report_to": "none",
    }
    return TrainingArguments(**{**defaults, **changes})


def distill(student: PreTrainedModel, folder: Path, teacher: PreTrainedModel | None = None, **changes: Any) -> Trainer:
    """Two steps of distillation; `changes` named as an argument of `distill_encoder` go there."""
    names = {"weights", "layer_map", "eval_texts", "resume", "callbacks", "teacher_tokenizer", "max_tokens"}
    own = {name: changes.pop(name) for name in names & changes.keys()}
    return distill_encoder(
        student,
        tiny_texts(),
        teacher=teacher or tiny_mlm(layers=4, seed=1),
        tokenizer=tiny_tokenizer(),
        args=tiny_arguments(folder, **changes),
        print_logs=False,
        **{"teacher_tokenizer": tiny_tokenizer(), "max_tokens": 32, **own},
    )
