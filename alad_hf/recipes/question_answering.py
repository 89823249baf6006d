"""A question answerer from data in one call: plain fine-tuning, or a student under a teacher."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import AutoModelForQuestionAnswering, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from ..data.loading import Source, load_question_answering
from ..data.question_answering import encode_questions
from ..evaluation.question_answering_metrics import question_answering_metrics
from ..models.modeling_alad import AlAdForQuestionAnswering
from ..models.modeling_compressed_encoder import ANSWER_LABELS
from ..question_answering import evaluate_question_answerer, window_sizes
from .budget import EXCHANGED_PARAGRAPHS, Budget
from .exchanged_questions import exchange_questions
from .stages import Task, TrainedModel, load_parts, score_and_describe, train_and_save
from .validation_split import with_validation


@dataclass(frozen=True)
class TrainedQuestionAnswerer(TrainedModel):
    """What `train_question_answerer` made; the scores are those of `evaluate_question_answerer`, from 0 to 100."""


def train_question_answerer(
    encoder: str | PreTrainedModel,
    data: Source,
    output_dir: str | os.PathLike,
    *,
    teacher: str | PreTrainedModel | None = None,
    pairs: Iterable[tuple[str, str]] | Dataset | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    keep_layers: Iterable[int] | None = None,
    adapter: bool = True,
    freeze_student: bool = False,
    budget: Budget | None = None,
    max_length: int | None = None,
    overlap: int | None = None,
    dataset_name: str = "questions and answers",
    resume: bool = False,
    callbacks: list[TrainerCallback] | None = None,
    **config_arguments: Any,
) -> TrainedQuestionAnswerer:
    """Fine-tune an encoder to answer questions by spans of a text; with a teacher, as the student of an AlAd model.

    With a teacher, the adapter (and, unless frozen, the student) learns the answers and, on them and on `pairs` mixed
    among them, the teacher's states and its distributions over the start and the end of an answer. Of up to five
    evaluations on `data["validation"]` the one with the best F1 is kept. Model and tokenizer are saved in
    `output_dir`, checkpoints below it.

    The two modes are one argument apart. `freeze_student=True` is plug-and-play: adapter and head only, minutes on a
    CPU, and the student stays as it is for its other uses. `freeze_student=False` is joint training, for the best
    quality.

    Args:
        encoder: Folder, Hub id or model of the encoder: the student, or without a teacher simply the model to train.
        data: Splits `train`, `validation` and, for the scores, `test` with the columns of SQuAD, or what
            `load_question_answering` makes them of, such as a folder. Without `validation`, a tenth of the training
            paragraphs is held out with all their questions.
        output_dir: Where the model goes, with its tokenizer and, for an AlAd model, its card.
        teacher: Folder, Hub id or model with a question-answering head.
        pairs: Unlabelled (question, context) pairs for the alignment, or a dataset with these two columns; by default
            the training questions with their own and with other paragraphs, see `exchange_questions`.
        tokenizer: By default loaded from the encoder's name.
        teacher_tokenizer: By default loaded from the teacher's name; it may be another one than the student's.
        keep_layers: Keep only these layers of the encoder, such as `range(2)`.
        adapter: With a teacher, put an adapter on the encoder. Without one the encoder itself learns the teacher's
            logits and, where it is as wide, its states: ordinary distillation, of which a stock model comes out.
        freeze_student: Plug-and-play: train adapter and head only.
        budget: Epochs, batch size and learning rates; by default those of the mode in `DEFAULTS`.
        max_length: Most tokens of a window of question and context; by default 384, or as many as fit encoder and
            teacher.
        overlap: Context tokens that consecutive windows share; by default a third of `max_length`.
        dataset_name: What the card calls the data: a Hub id, path or name.
        resume: Go on from the checkpoints of an interrupted call with the same arguments.
        callbacks: More callbacks for the Trainer.
        **config_arguments: More fields of `AlAdConfig`, such as `window_size`.

    Returns:
        The trained model, in eval mode, and its scores. `QuestionAnswerer(trained.model, trained.tokenizer)` asks it.

    Raises:
        TypeError: The teacher has no question-answering head.
        ValueError: The data lack a column or a training split, an argument needs a teacher, or `output_dir` holds
            another run's checkpoints and `resume` is False.

    Example:
        >>> data = load_question_answering("path/to/squad-files")  # doctest: +SKIP
        >>> train_question_answerer("student", data, "out", teacher="answerer").scores  # doctest: +SKIP
        {'exact_match': ..., 'f1': ..., 'total': ...}
    """
    budget = budget or Budget()
    parts = load_parts(
        encoder,
        tokenizer=tokenizer,
        teacher=teacher,
        teacher_tokenizer=teacher_tokenizer,
        keep_layers=keep_layers,
        seed=budget.seed,
        pairs=pairs,
        adapter=adapter,
        freeze_student=freeze_student,
        config_arguments=config_arguments,
    )
    mode = parts.mode(AutoModelForQuestionAnswering, adapter=adapter, freeze_student=freeze_student)
    budget = budget.completed(mode, width=parts.width, exchanged=pairs is None)
    data = with_validation(load_question_answering(data), "context")
    if max_length is None and parts.teacher_max_length is not None:
        max_length = min(window_sizes(parts.encoder, parts.tokenizer)[0], parts.teacher_max_length)
    elif parts.teacher_max_length is not None and max_length > parts.teacher_max_length and parts.read_alike:
        raise ValueError(
            f"max_length={max_length} is more than the {parts.teacher_max_length} tokens that the teacher takes; it "
            "reads the student's: pass that, or leave it out."
        )
    max_length, overlap = window_sizes(parts.encoder, parts.tokenizer, max_length, overlap)
    windows = partial(
        encode_questions,
        tokenizer=parts.tokenizer,
        max_length=max_length,
        overlap=overlap,
        teacher_max_length=parts.teacher_max_length,
    )
    unlabelled = None
    if parts.teacher is not None:
        _check_finds_answers(parts.teacher)
        if pairs is None:
            pairs = exchange_questions(data["train"], copies=EXCHANGED_PARAGRAPHS, seed=budget.seed)
        unlabelled = windows(_as_examples(pairs), for_training=False, teacher_tokenizer=parts.teacher_tokenizer)
    task = Task(
        card="question-answering",
        stock_class=AutoModelForQuestionAnswering,
        alad_class=AlAdForQuestionAnswering,
        compute_metrics=question_answering_metrics(
            data["validation"], windows(data["validation"], for_training=False), parts.tokenizer
        ),
        best="f1",
        evaluate=partial(evaluate_question_answerer, max_length=max_length, overlap=overlap),
        labels={"id2label": dict(ANSWER_LABELS), "label2id": {name: index for index, name in ANSWER_LABELS.items()}},
    )
    model = train_and_save(
        task,
        parts,
        DatasetDict(
            train=windows(data["train"], for_training=True, teacher_tokenizer=parts.teacher_tokenizer),
            validation=windows(data["validation"], for_training=True),
        ),
        unlabelled,
        output_dir,
        adapter=adapter,
        freeze_student=freeze_student,
        budget=budget,
        resume=resume,
        callbacks=callbacks,
        config_arguments=config_arguments,
    )
    scores, split = score_and_describe(task, model, parts.tokenizer, data, dataset_name=dataset_name, budget=budget)
    return TrainedQuestionAnswerer(model, parts.tokenizer, scores, split, budget)


def _as_examples(pairs: Iterable[tuple[str, str]] | Dataset) -> Dataset:
    if isinstance(pairs, Dataset):
        missing = {"question", "context"} - set(pairs.column_names)
        if missing:
            raise ValueError(f"The pairs have the columns {pairs.column_names}; {sorted(missing)} are missing.")
        pairs = pairs.select_columns(["question", "context"])
    else:
        pairs = list(pairs)
        wrong = [pair for pair in pairs if isinstance(pair, str) or len(pair) != 2]
        if wrong:
            raise ValueError(
                f"pairs must be (question, context) tuples or a dataset with these columns; got {wrong[0]!r}."
            )
        questions, contexts = ([pair[part] for pair in pairs] for part in (0, 1))
        pairs = Dataset.from_dict({"question": questions, "context": contexts})
    if not len(pairs):
        raise ValueError("pairs is empty: pass (question, context) pairs, or leave it out to exchange the data's own.")
    return pairs.add_column("id", list(range(len(pairs))))


def _check_finds_answers(teacher: PreTrainedModel) -> None:
    if "ForQuestionAnswering" not in type(teacher).__name__:
        raise TypeError(
            f"The teacher is a {type(teacher).__name__}, which has no question-answering head: fine-tune it first, by "
            "train_question_answerer(teacher, data, ...), and pass what that made."
        )
