"""`alad-hf train`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from ..models.configuration_alad import AlAdConfig
from ..recipes.budget import Budget
from .application import Report, console, verb
from .options import Data, FieldsOf, Output, Resume, Teacher, TextFiles, check_new_or_resumed, read_lines
from .progress import training_bars
from .tables import in_percent, score_table

ADAPTER_FIELDS = ("window_size", "adapter_type", "adapter_size", "mix_student_layers", "teacher_layers")
LOSS_FIELDS = (
    "alignment_mse_weight",
    "alignment_cosine_weight",
    "distillation_weight",
    "distillation_temperature",
)
BUDGET_FIELDS = ("epochs", "alignment_epochs", "batch_size", "learning_rate", "seed")


@verb(
    adapter=FieldsOf(AlAdConfig, (*ADAPTER_FIELDS, *LOSS_FIELDS, "freeze_embeddings")),
    budget=FieldsOf(Budget, BUDGET_FIELDS),
)
def train(
    encoder: Annotated[
        str, typer.Argument(help="Folder or Hub id of the encoder to train; the student, with --teacher.")
    ],
    output: Output,
    data: Data,
    adapter: dict[str, Any],
    budget: dict[str, Any],
    task: Annotated[Literal["tagging", "qa"], typer.Option(help="What to learn: tags, or answers.")] = "tagging",
    teacher: Teacher = None,
    text: TextFiles = None,
    no_adapter: Annotated[
        bool, typer.Option("--no-adapter", help="Distil the encoder itself, without an adapter: a stock model.")
    ] = False,
    frozen: Annotated[bool, typer.Option("--frozen", help="Plug-and-play: train adapter and head only.")] = False,
    keep_layers: Annotated[str | None, typer.Option(help="Layers of the encoder to keep, such as 0,1.")] = None,
    resume: Resume = False,
) -> Report:
    """Fine-tune an encoder; with --teacher, as the student under an alignment adapter."""
    from ..data.loading import load_question_answering, load_token_classification
    from ..hub.pretrained_weights import resolve_pretrained
    from ..recipes import train_question_answerer, train_tagger

    if task == "qa" and text:
        raise ValueError(
            "--text is for tagging. For --task qa, call train_question_answerer(..., pairs=...) in Python."
        )
    check_new_or_resumed(output, resume)
    arguments: dict[str, Any] = {
        "teacher": resolve_pretrained(teacher) if teacher else None,
        "keep_layers": layer_indices(keep_layers),
        "adapter": not no_adapter,
        "freeze_student": frozen,
        "budget": Budget(**budget),
        "dataset_name": data,
        "resume": resume,
        **adapter,
    }
    source = resolve_pretrained(encoder)
    with training_bars() as bars:
        if task == "qa":
            trained: Any = train_question_answerer(
                source, load_question_answering(data), output, callbacks=bars, **arguments
            )
        else:
            trained = train_tagger(
                source, load_token_classification(data), output, texts=read_lines(text), callbacks=bars, **arguments
            )
    console.print(f"Saved in {output}; the scores are on {trained.split}.")
    return Report(
        {"output": str(output), "split": trained.split, "scores": trained.scores},
        score_table(trained.scores if task == "qa" else in_percent(trained.scores)),
    )


def layer_indices(listed: str | None) -> list[int] | None:
    """Indices from an option such as `0,1`.

    Raises:
        ValueError: One of them is no number.
    """
    if listed is None:
        return None
    try:
        return [int(index) for index in listed.split(",")]
    except ValueError:
        raise ValueError(f"Layers are listed by their indices, such as 0,1; got {listed!r}.") from None
