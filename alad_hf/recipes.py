"""A tagger from data in one call: plain fine-tuning, or a student with an alignment adapter under a teacher."""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, List
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)

from .alignment.teacher_cache import cache_teacher_states
from .compression.truncation import truncate_layers
from .data.token_labels import encode_tagged_words, longest_input
from .evaluation.compute_metrics import entity_metrics, tagging_metrics
from .hub.model_card import write_model_card
from .models.modeling_alad import AlAdForTokenClassification, AlAdPreTrainedModel
from .models.student import load_student
from .models.teacher import load_teacher
from .tagging import evaluate_tagger
from .training.stages import align, last_complete_checkpoint, published_arguments, train

logger = logging.getLogger(__name__)

MOST_EVALUATIONS = 5
"""Evaluations, and checkpoints, of one fine-tuning."""
EXCHANGED_COPIES, EXCHANGED_EPOCHS = 8, 3
"""Where there is no unlabelled text: variants made of each labelled sentence, and passes over them."""


@dataclass(frozen=True)
class Budget:
    """How long and how fast each stage learns; the defaults of AlAd are those of `benchmarks/wnut17.py`.

    Args:
        epochs: Passes over the labels.
        alignment_epochs: Passes over the unlabelled text; by default 1, and 3 where it is made from the labelled text.
        batch_size: Sentences of one optimiser step.
        learning_rate: Peak of the linear schedule on the labels; by default 2e-4, and 5e-4 for adapter and head over a
            frozen student.
        alignment_learning_rate: Peak on the unlabelled text; by default 5e-4, and 2e-3 over a frozen student.
        seed: Of everything random.
    """

    epochs: int = 5
    alignment_epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    alignment_learning_rate: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class TrainedTagger:
    """What `train_tagger` made."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scores: dict[str, float]
    """As `evaluate_tagger` returns them."""
    split: str
    """The split that the scores are of: "test", or "validation" where there is no test split."""


def train_tagger(
    encoder: str | PreTrainedModel,
    data: DatasetDict,
    output_dir: str | os.PathLike,
    *,
    teacher: str | PreTrainedModel | None = None,
    texts: Iterable[str] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    keep_layers: Iterable[int] | None = None,
    freeze_student: bool = False,
    budget: Budget | None = None,
    dataset_name: str = "tagged words",
    resume: bool = False,
    callbacks: list[TrainerCallback] | None = None,
    **config_arguments: Any,
) -> TrainedTagger:
    """Fine-tune an encoder on tagged words; with a teacher, as the student of an AlAd model.

    With a teacher: the adapter (and, unless frozen, the student) is first aligned on `texts`, by the teacher's states
    and its head's logits, then fine-tuned on the labels beside the same signal. Of up to five evaluations on
    `data["validation"]` the best is kept. Model and tokenizer are saved in `output_dir`, checkpoints below it.

    Args:
        encoder: Folder, Hub id or model of the encoder: the student, or without a teacher simply the model to train.
        data: Splits `train`, `validation` and, for the scores, `test` with the columns `tokens` and `tags`; see
            `load_token_classification`.
        output_dir: Where the model goes, with its tokenizer and, for an AlAd model, its card.
        teacher: Folder, Hub id or model of a tagger with the same tags and tokenizer.
        texts: Unlabelled text for the alignment; by default the training sentences with their entities exchanged, see
            `exchange_mentions`.
        tokenizer: By default loaded from the encoder's name.
        teacher_tokenizer: By default loaded from the teacher's name.
        keep_layers: Keep only these layers of the encoder, such as `range(2)`.
        freeze_student: Plug-and-play: train adapter and head only.
        budget: Epochs, batch size and learning rates.
        dataset_name: What the card calls the data: a Hub id, path or name.
        resume: Go on from the checkpoints of an interrupted call with the same arguments.
        callbacks: More callbacks for both Trainers.
        **config_arguments: More fields of `AlAdConfig`, such as `window_size`.

    Returns:
        The trained model, in eval mode, and its scores.
    """
    budget = budget or Budget()
    set_seed(budget.seed)  # the Trainer seeds itself only after the head and the adapter were initialised
    output_dir = Path(output_dir)
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(
        encoder if isinstance(encoder, str) else encoder.name_or_path
    )
    if isinstance(teacher, str):
        teacher = load_teacher(teacher)
    if teacher is not None:
        data = with_tags_of(teacher, data)
    tags = data["train"].features["tags"].feature.names
    labels = {"id2label": dict(enumerate(tags)), "label2id": {tag: index for index, tag in enumerate(tags)}}
    is_entities = any(tag.startswith("B-") for tag in tags)
    task_folder, alignment_folder = output_dir / "checkpoints", output_dir / "alignment"

    if isinstance(encoder, str):
        encoder = load_student(encoder)
    if keep_layers is not None:
        encoder = truncate_layers(encoder.base_model, list(keep_layers))
    max_length = longest_input(encoder.config, tokenizer)
    rows = {
        split: encode_tagged_words(data[split], tokenizer, max_length=max_length).remove_columns("sentence")
        for split in ("train", "validation")
    }
    if teacher is None:
        model = _with_stock_head(encoder, labels)
        learning_rate = 2e-4
    else:
        model = AlAdForTokenClassification.from_student_pretrained(
            encoder,
            teacher=teacher,
            tokenizer=tokenizer,
            teacher_tokenizer=teacher_tokenizer,
            freeze_student=freeze_student,
            **{**labels, **config_arguments},
        )
        alignment_epochs = budget.alignment_epochs or (1 if texts is not None else EXCHANGED_EPOCHS)
        if texts is None:
            texts = exchange_mentions(data["train"], copies=EXCHANGED_COPIES, seed=budget.seed)
        if not (resume and last_complete_checkpoint(task_folder)):
            align(
                model,
                texts,
                tokenizer=tokenizer,
                args=_arguments(
                    alignment_folder,
                    budget,
                    num_train_epochs=alignment_epochs,
                    learning_rate=budget.alignment_learning_rate or (2e-3 if freeze_student else 5e-4),
                    save_strategy="epoch",
                ),
                resume=resume,
                print_logs=False,
                callbacks=callbacks,
            )
        model.detach_teacher()
        rows["train"] = cache_teacher_states(rows["train"], teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer)
        learning_rate = 5e-4 if freeze_student else 2e-4
    # Writing a checkpoint takes longer than an epoch over a small set: a few evenly spaced ones, the last at the end.
    steps = budget.epochs * math.ceil(len(rows["train"]) / budget.batch_size)
    interval = math.ceil(steps / min(budget.epochs, MOST_EVALUATIONS))
    trainer = train(
        model,
        rows["train"],
        tokenizer=tokenizer,
        args=_arguments(
            task_folder,
            budget,
            max_steps=steps,
            learning_rate=budget.learning_rate or learning_rate,
            eval_strategy="steps",
            eval_steps=interval,
            save_strategy="steps",
            save_steps=interval,
            load_best_model_at_end=True,
            metric_for_best_model="f1" if is_entities else "accuracy",
        ),
        eval_dataset=rows["validation"],
        compute_metrics=(entity_metrics if is_entities else tagging_metrics)(tags),
        resume=resume,
        print_logs=False,
        callbacks=callbacks,
    )
    trainer.save_model(str(output_dir))
    model.name_or_path = str(output_dir)  # what it is now; as a teacher it will be named and found by it
    model.eval()
    split = "test" if "test" in data else "validation"
    scores = evaluate_tagger(model, tokenizer, data[split])
    if isinstance(model, AlAdPreTrainedModel):
        write_model_card(
            model,
            output_dir,
            task="ner" if is_entities else "pos",
            dataset_name=dataset_name,
            metrics=scores,
            split=split,
            language="en" if dataset_name == "builtin" else None,
            training={name: value for name, value in asdict(budget).items() if value is not None},
        )
    return TrainedTagger(model, tokenizer, scores, split)


def _arguments(folder: Path, budget: Budget, **arguments: Any) -> object:
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


def _with_stock_head(encoder: PreTrainedModel, labels: dict[str, dict]) -> PreTrainedModel:
    config = encoder.config
    config.id2label, config.label2id = labels["id2label"], labels["label2id"]
    model = AutoModelForTokenClassification.from_config(config)
    model.base_model.load_state_dict(encoder.base_model.state_dict(), strict=False)
    model.config.name_or_path = encoder.name_or_path
    return model


def with_tags_of(teacher: PreTrainedModel, data: DatasetDict) -> DatasetDict:
    """Give tagged data the tag ids of a teacher, by the tags' names.

    Args:
        teacher: A token classifier.
        data: Splits with the column `tags`.

    Raises:
        ValueError: The data has tags that the teacher does not know.
    """
    id2label: Any = teacher.config.id2label
    names = [id2label[index] for index in sorted(teacher.config.id2label)]
    own = data["train"].features["tags"].feature.names
    missing = sorted(set(own) - set(names))
    if missing:
        raise ValueError(
            f"The teacher does not know the tags {missing} of the data; it has {names}. Fine-tune the teacher on this "
            "data first, or give it tags of the same names (teacher.config.id2label)."
        )
    if own == names:
        return data
    ids = [names.index(name) for name in own]

    def convert(row: dict[str, list[int]]) -> dict[str, list[int]]:
        return {"tags": [ids[tag] for tag in row["tags"]]}

    features = data["train"].features.copy()
    features["tags"] = List(ClassLabel(names=names))
    return DatasetDict({split: rows.map(convert, features=features) for split, rows in data.items()})


def exchange_mentions(data: Dataset, *, copies: int, seed: int = 0) -> Dataset:
    """Unlabelled text out of tagged text: every entity replaced by another of its type, a third of it lower-cased.

    It shows a student contexts and names in combinations that the labels do not have, which only a teacher can tag.

    Args:
        data: Columns `tokens` and `tags` in IOB2; text without entities is returned as it is.
        copies: How many variants of each sentence, besides the sentence itself.
        seed: Of the choice.

    Returns:
        A dataset with the column `tokens`.
    """
    names = data.features["tags"].feature.names
    generator = random.Random(seed)
    sentences = [(row["tokens"], [names[tag] for tag in row["tags"]]) for row in data]
    mentions: dict[str, list[list[str]]] = {}
    for tokens, tags in sentences:
        for start, end in _mention_spans(tags):
            mentions.setdefault(tags[start][2:], []).append(tokens[start:end])
    variants = [tokens for tokens, _ in sentences]
    for tokens, tags in sentences:
        spans = _mention_spans(tags)
        for _ in range(copies if spans else 0):
            variant, position = [], 0
            for start, end in spans:
                variant += tokens[position:start] + generator.choice(mentions[tags[start][2:]])
                position = end
            variant += tokens[position:]
            variants.append([word.lower() for word in variant] if generator.random() < 1 / 3 else variant)
    return Dataset.from_dict({"tokens": variants})


def _mention_spans(tags: list[str]) -> list[tuple[int, int]]:
    starts = [index for index, tag in enumerate(tags) if tag.startswith("B-")]
    spans = []
    for start in starts:
        end = start + 1
        while end < len(tags) and tags[end].startswith("I-"):
            end += 1
        spans.append((start, end))
    return spans
