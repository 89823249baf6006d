"""A tagger from data in one call: plain fine-tuning, or a student with an alignment adapter under a teacher."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import AutoModelForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ..data.loading import Source
from ..data.token_labels import encode_tagged_words
from ..evaluation.compute_metrics import entity_metrics, tagging_metrics
from ..models.modeling_alad import AlAdForTokenClassification
from ..tagging import evaluate_tagger, marks_spans
from ..training.linear_probe import fit_tagging_head
from .budget import EXCHANGED_COPIES, Budget
from .exchanged_mentions import exchange_mentions
from .stages import Task, TrainedModel, load_parts, score_and_describe, train_and_save
from .tagged_splits import tagged_splits


@dataclass(frozen=True)
class TrainedTagger(TrainedModel):
    """What `train_tagger` made; the scores are those of `evaluate_tagger`, from 0 to 1."""


def train_tagger(
    encoder: str | PreTrainedModel,
    data: Source,
    output_dir: str | os.PathLike,
    *,
    teacher: str | PreTrainedModel | None = None,
    texts: Iterable[str] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    keep_layers: Iterable[int] | None = None,
    adapter: bool = True,
    freeze_student: bool = False,
    budget: Budget | None = None,
    dataset_name: str = "tagged words",
    resume: bool = False,
    callbacks: list[TrainerCallback] | None = None,
    **config_arguments: Any,
) -> TrainedTagger:
    """Fine-tune an encoder on tagged words; with a teacher, as the student of an AlAd model.

    With a teacher, the adapter (and, unless frozen, the student) learns the labels and, on them and on `texts` mixed
    among them, the teacher's states and its head's logits. Without one, a new head is first fitted to the encoder as
    it is (`fit_tagging_head`), then both learn the labels. Of up to five evaluations on `data["validation"]` the best
    is kept. Model and tokenizer are saved in `output_dir`, checkpoints below it.

    The two modes are one argument apart. `freeze_student=True` is plug-and-play: adapter and head only, minutes on a
    CPU, and the student stays as it is for its other uses. `freeze_student=False` is joint training, for the best
    quality.

    Args:
        encoder: Folder, Hub id or model of the encoder: the student, or without a teacher simply the model to train.
        data: Splits `train`, `validation` and, for the scores, `test` with the columns `tokens` and `tags`, or what
            `load_token_classification` makes them of, such as a folder. Without `validation`, a tenth of the training
            sentences is held out.
        output_dir: Where the model goes, with its tokenizer and, for an AlAd model, its card.
        teacher: Folder, Hub id or model of a tagger with the same tags.
        texts: Unlabelled text for the alignment; by default the training sentences with their entities exchanged, see
            `exchange_mentions`.
        tokenizer: By default loaded from the encoder's name.
        teacher_tokenizer: By default loaded from the teacher's name; it may be another one than the student's.
        keep_layers: Keep only these layers of the encoder, such as `range(2)`.
        adapter: With a teacher, put an adapter on the encoder. Without one the encoder itself learns the teacher's
            logits and, where it is as wide, its states: ordinary distillation, of which a stock model comes out.
        freeze_student: Plug-and-play: train adapter and head only.
        budget: Epochs, batch size and learning rates; by default those of the mode in `DEFAULTS`.
        dataset_name: What the card calls the data: a Hub id, path or name.
        resume: Go on from the checkpoints of an interrupted call with the same arguments.
        callbacks: More callbacks for the Trainer.
        **config_arguments: More fields of `AlAdConfig`, such as `window_size`.

    Returns:
        The trained model, in eval mode, and its scores.

    Raises:
        ValueError: A split is empty, untagged or of other columns, the teacher does not know the tags of the data, an
            argument needs a teacher, or `output_dir` holds another run's checkpoints and `resume` is False.

    Example:
        >>> train_tagger("student", data, "out", teacher="tagger", freeze_student=True).scores  # doctest: +SKIP
        {'f1': ..., 'precision': ...}
    """
    budget = budget or Budget()
    parts = load_parts(
        encoder,
        tokenizer=tokenizer,
        teacher=teacher,
        teacher_tokenizer=teacher_tokenizer,
        keep_layers=keep_layers,
        seed=budget.seed,
        texts=texts,
        adapter=adapter,
        freeze_student=freeze_student,
        config_arguments=config_arguments,
    )
    mode = parts.mode(AutoModelForTokenClassification, adapter=adapter, freeze_student=freeze_student)
    budget = budget.completed(mode, width=parts.width, exchanged=texts is None)
    is_tagger = parts.knows(AutoModelForTokenClassification)
    data = tagged_splits(data, parts.teacher, parts.encoder if is_tagger else None)
    if parts.teacher is not None and texts is None:
        texts = exchange_mentions(data["train"], copies=EXCHANGED_COPIES, seed=budget.seed)
    task = tagging_task(data["train"].features["tags"].feature.names)

    def encode(split: str, teacher_tokenizer: PreTrainedTokenizerBase | None = None) -> Dataset:
        rows = encode_tagged_words(
            data[split],
            parts.tokenizer,
            max_length=parts.max_length,
            teacher_tokenizer=teacher_tokenizer,
            teacher_max_length=parts.teacher_max_length,
        )
        return rows.remove_columns("sentence")

    model = train_and_save(
        task,
        parts,
        DatasetDict(train=encode("train", parts.teacher_tokenizer), validation=encode("validation")),
        texts,
        output_dir,
        adapter=adapter,
        freeze_student=freeze_student,
        budget=budget,
        resume=resume,
        callbacks=callbacks,
        config_arguments=config_arguments,
    )
    scores, split = score_and_describe(task, model, parts.tokenizer, data, dataset_name=dataset_name, budget=budget)
    return TrainedTagger(model, parts.tokenizer, scores, split, budget)


def tagging_task(tags: list[str]) -> Task:
    """Entities, if the tags mark spans, or else a tag a word."""
    is_entities = marks_spans(tags)
    return Task(
        card="ner" if is_entities else "pos",
        stock_class=AutoModelForTokenClassification,
        alad_class=AlAdForTokenClassification,
        compute_metrics=(entity_metrics if is_entities else tagging_metrics)(tags),
        best="f1" if is_entities else "accuracy",
        evaluate=evaluate_tagger,
        labels={"id2label": dict(enumerate(tags)), "label2id": {tag: index for index, tag in enumerate(tags)}},
        fit_head=fit_tagging_head,
    )
