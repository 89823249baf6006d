"""The command line `alad-hf`: every verb is one call that a Python user could make."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from rich import box
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

app = typer.Typer(
    help="Alignment adapters for compressed encoders: train, evaluate and use them.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
console = Console(stderr=True)

Data = Annotated[
    str,
    typer.Option(
        help='Tagged words: a folder or file (CoNLL, CoNLL-U, JSON lines), a Hub id, or "builtin". For question '
        "answering: a folder or file of SQuAD JSON, or a Hub id."
    ),
]
TextFiles = Annotated[
    Optional[list[Path]],
    typer.Option("--text", help="Unlabelled text, one sentence a line; repeat for more files."),
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]


def main() -> None:
    """Run the command line; errors that a user can mend are shown without a traceback."""
    try:
        app()
    except (OSError, ValueError, TypeError) as error:
        console.print(f"[bold red]Error:[/] {_escape(str(error))}")
        sys.exit(1)


@app.callback()
def _configure(
    verbose: Annotated[bool, typer.Option("--verbose", help="Also show what the libraries say.")] = False,
) -> None:
    from datasets import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=console, show_path=False, show_time=False)],
    )
    logging.getLogger("alad_hf").setLevel(logging.INFO)
    if not verbose:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        disable_progress_bars()


@app.command()
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the models, made anew.")] = Path("runs/quickstart"),
    data: Data = "builtin",
    text: TextFiles = None,
    layers: Annotated[int, typer.Option(help="Layers of the student.")] = 2,
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the labels; about 200 steps if omitted.")] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted run's checkpoints.")] = False,
    sentence: Annotated[str, typer.Option(help="What to tag at the end.")] = (
        "Ingrid Solberg left Halden Robotics in Oslo after the Northern Light Festival ."
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Fine-tune a teacher, cut a small student out of it, align it, and show what that brings."""
    from .quickstart import quickstart as run
    from .quickstart import tag_in_fresh_process

    result = run(
        output,
        data=data,
        texts=_read_lines(text) if text else None,
        layers=layers,
        epochs=epochs,
        seed=seed,
        resume=resume,
        report=lambda line: console.print(f"[bold]{line}[/]"),
    )
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in result.rows], indent=1))
    else:
        table = Table(title=f"{data}: test score, one seed", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for column in ("", "F1", "params", "trained", "stored\nMB", "sentences\nper s", "gap\nrecovered"):
            table.add_column(column, justify="right" if column else "left", no_wrap=not column)
        for row in result.rows:
            gap = "" if row.gap_recovered is None else f"{100 * row.gap_recovered:.0f} %"
            table.add_row(
                row.name,
                f"{100 * row.score:.1f}",
                f"{row.parameters / 1e6:.1f} M",
                f"{row.trained_parameters / 1e6:.2f} M",
                f"{row.stored_megabytes:.1f}",
                f"{row.sentences_per_second:.0f}",
                gap,
            )
        Console().print(table)
    console.print(f"The jointly trained model and its card are in {result.model_dir} ({result.seconds:.0f} s).")
    console.print(f'In a fresh process, pipeline("ner") reads: {_escape(sentence)}')
    typer.echo(tag_in_fresh_process(result.model_dir, sentence), nl=False)


@app.command()
def train(
    encoder: Annotated[
        str, typer.Argument(help="Folder or Hub id of the encoder to train; the student, with --teacher.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for the model.")],
    data: Data,
    task: Annotated[Literal["tagging", "qa"], typer.Option(help="What to learn: tags, or answers.")] = "tagging",
    teacher: Annotated[
        Optional[str], typer.Option(help="Folder or Hub id of a model fine-tuned for the task.")
    ] = None,
    text: TextFiles = None,
    frozen: Annotated[bool, typer.Option("--frozen", help="Plug-and-play: train adapter and head only.")] = False,
    keep_layers: Annotated[Optional[str], typer.Option(help="Layers of the encoder to keep, such as 0,1.")] = None,
    window_size: Annotated[int, typer.Option(help="Student positions that the adapter sees at once; odd.")] = 5,
    adapter_type: Annotated[str, typer.Option(help='"light", "linear" or "mlp" (as published).')] = "light",
    epochs: Annotated[Optional[int], typer.Option(help="Passes over the labels.")] = None,
    alignment_epochs: Annotated[Optional[int], typer.Option(help="Passes over the unlabelled text.")] = None,
    batch_size: Annotated[int, typer.Option(help="Sentences, or windows of a context, of one step.")] = 32,
    learning_rate: Annotated[Optional[float], typer.Option(help="On the labels.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from an interrupted run's checkpoints.")] = False,
    seed: Seed = 0,
) -> None:
    """Fine-tune an encoder; with --teacher, as the student under an alignment adapter."""
    from .data.loading import load_question_answering, load_token_classification
    from .hub.pretrained_weights import resolve_pretrained
    from .recipes import Budget, train_question_answerer, train_tagger

    if task == "qa" and text:
        raise ValueError(
            "--text is for tagging. For --task qa, call train_question_answerer(..., pairs=...) in Python."
        )
    source = resolve_pretrained(encoder)
    budget = Budget(
        epochs=epochs,
        alignment_epochs=alignment_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    adapter: dict[str, Any] = {"window_size": window_size, "adapter_type": adapter_type} if teacher else {}
    arguments: dict[str, Any] = {
        "teacher": resolve_pretrained(teacher) if teacher else None,
        "keep_layers": [int(index) for index in keep_layers.split(",")] if keep_layers else None,
        "freeze_student": frozen,
        "budget": budget,
        "dataset_name": data,
        "resume": resume,
        **adapter,
    }
    if task == "qa":
        answerer = train_question_answerer(source, load_question_answering(data), output, **arguments)
        _print_scores(answerer.scores)
        split = answerer.split
    else:
        texts = _read_lines(text) if text else None
        tagger = train_tagger(source, load_token_classification(data), output, texts=texts, **arguments)
        _print_scores(_in_percent(tagger.scores))
        split = tagger.split
    console.print(f"Saved in {output}; the scores are on {split}.")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a tagger or a question answerer.")],
    data: Data,
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    batch_size: Annotated[int, typer.Option(help="Sentences at once.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score a tagger on tagged words, or a question answerer on questions."""
    from .data.loading import load_question_answering, load_token_classification
    from .question_answering import evaluate_question_answerer
    from .tagging import evaluate_tagger

    answers = _answers_questions(model)
    splits = load_question_answering(data) if answers else load_token_classification(data)
    if split not in splits:
        raise ValueError(f"{data} has no split {split!r}; it has {sorted(splits)}.")
    loaded, tokenizer = _load_answerer(model) if answers else _load_tagger(model)
    score = evaluate_question_answerer if answers else evaluate_tagger
    scores = score(loaded, tokenizer, splits[split], batch_size=batch_size)
    if as_json:
        typer.echo(json.dumps(scores, indent=1))
    else:
        _print_scores(scores if answers else _in_percent(scores))


@app.command()
def predict(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a tagger or a question answerer.")],
    file: Annotated[
        Optional[Path],
        typer.Argument(
            help='Text, one sentence a line; for questions, one {"question": ..., "context": ...} a line. Standard '
            "input if omitted."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Sentences at once.")] = 32,
) -> None:
    """Tag lines of text, or answer questions; one JSON object a line comes out, with character offsets."""
    from .question_answering import QuestionAnswerer
    from .tagging import tag_text

    answers = _answers_questions(model)
    loaded, tokenizer = _load_answerer(model) if answers else _load_tagger(model)
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"{file} is not a file. Name a text file, or pipe text into standard input.")

    def lines() -> Iterator[str]:
        stream = file.open(encoding="utf-8", newline="") if file is not None else sys.stdin
        with stream:
            for line in stream:
                yield line.rstrip("\r\n")

    if answers:
        answerer = QuestionAnswerer(loaded, tokenizer)
        for number, line in enumerate(lines(), start=1):
            question, context = _read_question(line, number)
            answer = answerer(question, context, batch_size=batch_size)
            typer.echo(json.dumps({"question": question, "context": context, "answer": answer}, ensure_ascii=False))
        return

    seen: deque[str] = deque()

    def remembered() -> Iterator[str]:
        for line in lines():
            seen.append(line)
            yield line

    for entities in tag_text(loaded, tokenizer, remembered(), batch_size=batch_size):
        typer.echo(json.dumps({"text": seen.popleft(), "entities": entities}, ensure_ascii=False))


def _answers_questions(name: str) -> bool:
    from transformers import AutoConfig

    architectures = AutoConfig.from_pretrained(name).architectures or []
    return any("ForQuestionAnswering" in architecture for architecture in architectures)


def _load_answerer(name: str) -> tuple:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    return AutoModelForQuestionAnswering.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)


def _load_tagger(name: str) -> tuple:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    return AutoModelForTokenClassification.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)


def _read_lines(paths: list[Path]) -> list[str]:
    lines = [line.strip() for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def _read_question(line: str, number: int) -> tuple[str, str]:
    try:
        row = json.loads(line)
        return str(row["question"]), str(row["context"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'Line {number} is {line[:60]!r}, expected JSON such as {{"question": "Who?", "context": "Ada did."}}.'
        ) from error


def _in_percent(scores: dict[str, float]) -> dict[str, float]:
    return {name: 100 * value for name, value in scores.items()}


def _print_scores(scores: dict[str, float]) -> None:
    table = Table()
    table.add_column("")
    table.add_column("score", justify="right")
    for name, value in scores.items():
        table.add_row(name, str(value) if isinstance(value, int) else f"{value:.2f}")
    Console().print(table)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
