"""Options that several verbs have, and those that come from the fields of a dataclass."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import typer

Data = Annotated[
    str,
    typer.Option(
        help='Tagged words: a folder or file (CoNLL, CoNLL-U, JSON lines), a Hub id, or "builtin". For question '
        "answering: a folder or file of SQuAD JSON, or a Hub id."
    ),
]
TextFiles = Annotated[
    list[Path] | None,
    typer.Option("--text", help="Unlabelled text, one sentence a line; repeat for more files."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
BatchSize = Annotated[int, typer.Option(help="Sentences, or windows of a long text, at once.", min=1)]
MaxLength = Annotated[
    int | None, typer.Option(help="Tokens of one chunk of a long text; as many as the model takes if omitted.")
]
Overlap = Annotated[
    int | None,
    typer.Option(help="Tokens that consecutive chunks share; a quarter if omitted, for answers a third."),
]
Device = Annotated[str, typer.Option(help='Where the model runs, such as "cpu" or "cuda".')]
BackendChoice = Annotated[
    Literal["torch", "onnx"] | None,
    typer.Option("--backend", help="What runs the model; by default onnx for a folder that `export` wrote."),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of the CPU; as many as the backend takes if omitted.", min=1)
]
Output = Annotated[Path, typer.Option(help="Folder for the model.", file_okay=False)]
Teacher = Annotated[str | None, typer.Option(help="Folder or Hub id of a model fine-tuned for the task.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from an interrupted run's checkpoints.")]


class FieldsOf(NamedTuple):
    """Fields of a dataclass that are options of a verb; see `field_options`."""

    dataclass: type
    names: tuple[str, ...]


def field_options(chosen: FieldsOf) -> list[inspect.Parameter]:
    """Make options of a dataclass's fields: the type is the field's, the help is what the docstring says of it.

    All of them may be left out, and the dataclass then has its own default, which the help shows.

    Args:
        chosen: The dataclass and the names of some of its fields.
    """
    hints = inspect.get_annotations(chosen.dataclass, eval_str=True)
    texts = _documented_arguments(chosen.dataclass)
    defaults = {field.name: field.default for field in fields(chosen.dataclass)}
    parameters = []
    for name in chosen.names:
        default = defaults[name]
        shown = "" if default in (None, MISSING) else str(default)
        option = typer.Option(help=texts[name], show_default=shown or False)
        annotation: Any = Annotated[_plain_type(hints[name]) | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    return parameters


def check_no_model(output: Path) -> None:
    """Raise FileExistsError if a folder holds a model, whose card and other files would outlive it."""
    if (output / "config.json").exists():
        raise FileExistsError(f"{output} holds a model already: name another folder, or remove that one first.")


def check_new_or_resumed(output: Path, resume: bool) -> bool:
    """Whether a training that saves its model in a folder has begun there.

    Raises:
        FileExistsError: It has not, and there is another model.
        ValueError: It has, and is not to go on.
    """
    from ..recipes.same_run import CHECKPOINTS
    from ..training.stages import checkpoint_to_resume, last_complete_checkpoint

    if last_complete_checkpoint(output / CHECKPOINTS) is None:
        check_no_model(output)
        return False
    if not resume:
        checkpoint_to_resume(output / CHECKPOINTS, resume)
    return True


def read_lines(paths: list[Path] | None) -> list[str] | None:
    """The lines of text files that are not blank; None without a file."""
    if not paths:
        return None
    from ..data.text_lines import read_lines

    lines = (line.strip() for path in paths for _, line in read_lines(path))
    return [line for line in lines if line]


def _plain_type(hint: Any) -> Any:  # noqa: ANN401 - an annotation
    """What one value on the command line is turned into: a union without None, and float for `float | int`."""
    if (
        get_origin(hint) is list
        or not get_args(hint)
        or NoneType not in get_args(hint)
        and float not in get_args(hint)
    ):
        return hint
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    return float if float in kinds else kinds[0]


def _documented_arguments(dataclass: type) -> dict[str, str]:
    """The descriptions under `Args:` of a Google docstring, by name."""
    _, _, text = inspect.cleandoc(dataclass.__doc__ or "").partition("\nArgs:\n")
    section = re.split(r"\n\n(?=\S)", text)[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(description.split()) for name, description in entries}
