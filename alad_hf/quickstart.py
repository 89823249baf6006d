"""The whole idea in one call: a teacher, its compressed student, and what an alignment adapter brings back."""

from __future__ import annotations

import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from datasets import DatasetDict
from transformers import AutoConfig, AutoTokenizer, TrainerCallback

from .data.loading import load_token_classification
from .evaluation.efficiency import count_parameters, efficiency_report
from .hub.model_card import write_model_card
from .hub.pretrained_weights import resolve_pretrained
from .models.modeling_alad import AlAdPreTrainedModel
from .recipes import EXCHANGED_COPIES, EXCHANGED_EPOCHS, Budget, TrainedTagger, exchange_mentions, train_tagger
from .recipes.same_run import CHECKPOINTS
from .recipes.validation_split import with_validation

logger = logging.getLogger(__name__)

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
FOLDERS = ("teacher", "plain", "plug_and_play", "alad")
MARKER = ".quickstart"
"""A file that says whose the folders beside it are."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    score: float
    """From 0 to 1: entity F1, or accuracy for tags without entities."""
    parameters: int
    trained_parameters: int
    stored_megabytes: float
    sentences_per_second: float
    gap_recovered: float | None = None
    """(method - plain student) / (teacher - plain student); None where the teacher is not better than the student."""


@dataclass(frozen=True)
class QuickstartResult:
    """What the quickstart measured and where it left the model."""

    rows: list[Row]
    model_dir: Path
    seconds: float
    metric: str
    """What the scores are, "f1" or "accuracy"."""
    split: str
    """What they are of: "test", or "validation" where there is no test split."""


def quickstart(
    output_dir: str | os.PathLike,
    *,
    data: str | DatasetDict = "builtin",
    encoder: str = ENCODER,
    layers: int = 2,
    texts: list[str] | None = None,
    epochs: int | None = None,
    seed: int = 0,
    resume: bool = False,
    report: Callable[[str], None] = logger.info,
    callbacks: list[TrainerCallback] | None = None,
) -> QuickstartResult:
    """Fine-tune a teacher, cut a student out of the encoder, align it, and compare.

    Every arm over the student takes the same number of optimiser steps; the plain student spends all of them on the
    labels. The best of up to five evaluations on the validation split is kept, the scores are on the test split, or on
    validation where there is none. One seed: a demonstration; `benchmarks/` has the measurements.

    Args:
        output_dir: Folder for the models. Its folders `teacher`, `plain`, `plug_and_play` and `alad` are made anew if
            an earlier quickstart made them; the last one is the finished model with its card.
        data: A source for `load_token_classification`, or the splits themselves.
        encoder: Pretrained encoder: fine-tuned as the teacher, its lowest layers are the student.
        layers: Number of layers of the student.
        texts: Unlabelled text for the alignment; by default made from the training sentences.
        epochs: Passes over the labels; by default enough for about 200 steps, at least 5.
        seed: Of everything random.
        resume: Keep those folders and go on from the checkpoints of an interrupted call.
        report: Called with a line of text at every step of the way.
        callbacks: More callbacks for the Trainer.

    Returns:
        The table, and the folder of the jointly trained model.

    Raises:
        FileExistsError: Such a folder is there, and no quickstart made it.
        ValueError: `layers` or `epochs` is below 1, or the encoder has fewer layers.
    """
    start = time.time()
    for name, value in (("layers", layers), ("epochs", epochs)):
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} (--{name}) must be 1 or more.")
    output_dir = Path(output_dir)
    _claim(output_dir)
    splits = with_validation(data if isinstance(data, DatasetDict) else load_token_classification(data), "tokens")
    dataset_name = data if isinstance(data, str) else "the data given"
    source = resolve_pretrained(encoder)
    depth = AutoConfig.from_pretrained(source, trust_remote_code=False).num_hidden_layers
    if layers > depth:  # else it is known only when the teacher is trained
        raise ValueError(f"layers={layers} (--layers) must be from 1 to {depth}, which {encoder} has.")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    steps_per_epoch = math.ceil(len(splits["train"]) / 32)
    if texts is not None:
        alignment_steps = math.ceil(len(texts) / 32)
    else:
        exchanged = exchange_mentions(splits["train"], copies=EXCHANGED_COPIES, seed=seed)
        alignment_steps = EXCHANGED_EPOCHS * math.ceil(len(exchanged) / 32)
    if epochs is None:
        epochs = max(5, round(200 / steps_per_epoch))

    def train_and_measure(name: str, folder: str, **arguments: Any) -> tuple[TrainedTagger, Row]:
        report(f"Training: {name}")
        if not resume:
            shutil.rmtree(output_dir / folder, ignore_errors=True)
        tagger = train_tagger(
            source,
            splits,
            output_dir / folder,
            tokenizer=tokenizer,
            dataset_name=dataset_name,
            resume=resume,
            callbacks=callbacks,
            **arguments,
        )
        size = efficiency_report(tagger.model, tokenizer, splits[tagger.split]["tokens"])
        return tagger, Row(
            name=name,
            score=tagger.scores[_metric(tagger)],
            parameters=size.parameters,
            trained_parameters=count_parameters(tagger.model, trainable_only=True),
            stored_megabytes=size.stored_megabytes,
            sentences_per_second=size.sentences_per_second,
        )

    budget = Budget(epochs=epochs, seed=seed)
    student = {"keep_layers": range(layers)}
    aligned = {**student, "texts": texts, "budget": budget}
    teacher, teacher_row = train_and_measure("teacher", "teacher", budget=budget)
    _, plain_row = train_and_measure(
        "plain student",
        "plain",
        budget=replace(budget, epochs=epochs + round(alignment_steps / steps_per_epoch)),
        **student,
    )
    _, frozen_row = train_and_measure(
        "AlAd plug-and-play", "plug_and_play", teacher=teacher.model, freeze_student=True, **aligned
    )
    joint, joint_row = train_and_measure("AlAd joint", "alad", teacher=teacher.model, **aligned)
    rows = [teacher_row, plain_row, *(_with_gap(row, plain_row, teacher_row) for row in (frozen_row, joint_row))]
    # Once more, for only now there is something to compare with.
    write_model_card(
        cast(AlAdPreTrainedModel, joint.model),
        output_dir / "alad",
        task="ner" if _metric(joint) == "f1" else "pos",
        dataset_name=dataset_name,
        metrics=joint.scores,
        split=joint.split,
        language="en" if dataset_name == "builtin" else None,
        training=asdict(joint.budget),
        baseline={row.name: asdict(row) for row in rows},
        sentences_per_second=joint_row.sentences_per_second,
    )
    for folder in FOLDERS:  # many times the size of the models, and of no more use
        shutil.rmtree(output_dir / folder / CHECKPOINTS, ignore_errors=True)
    return QuickstartResult(rows, output_dir / "alad", time.time() - start, _metric(joint), joint.split)


def _metric(tagger: TrainedTagger) -> str:
    return "f1" if "f1" in tagger.scores else "accuracy"


def _claim(output_dir: Path) -> None:
    """Raise unless the folders that will be made anew are a quickstart's own."""
    taken = [folder for folder in FOLDERS if (output_dir / folder).exists()]
    if taken and not (output_dir / MARKER).exists():
        raise FileExistsError(
            f"{output_dir} holds {', '.join(taken)}, which no quickstart made and this one would replace: name "
            "another folder (--output)."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    (output_dir / MARKER).touch()


def _with_gap(row: Row, plain: Row, teacher: Row) -> Row:
    gap = teacher.score - plain.score
    return replace(row, gap_recovered=(row.score - plain.score) / gap if gap > 0 else None)


def tag_in_fresh_process(model_dir: str | os.PathLike, text: str) -> str:
    """Load a saved model in a new Python process through `pipeline("ner")` and tag a text.

    Returns:
        What the process printed: one entity a line.
    """
    script = (
        "import sys, alad_hf\n"
        "from transformers import pipeline\n"
        "ner = pipeline('ner', model=sys.argv[1], aggregation_strategy='first')\n"
        "for entity in ner(sys.argv[2]):\n"
        "    found = sys.argv[2][entity['start']:entity['end']]\n"
        "    print(f\"{entity['entity_group']:6} {entity['score']:.2f}  {found}\")\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_dir), text],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"The saved model at {model_dir} could not be used in a fresh process:\n{done.stderr}")
    return done.stdout
