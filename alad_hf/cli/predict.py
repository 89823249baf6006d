"""`alad-hf predict`."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ..prediction_records import InputFormat, input_format_of
from ..prediction_stream import OutputFormat
from .application import console, verb
from .models import load_task_model
from .options import BackendChoice, BatchSize, Device, MaxLength, Overlap, Threads


@verb(reports=False)
def predict(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a tagger or a question answerer.")],
    file: Annotated[
        Path | None, typer.Argument(help="What to tag or answer; standard input if omitted.", show_default=False)
    ] = None,
    input_format: Annotated[
        InputFormat | None,
        typer.Option(
            help="text: a text a line; document: one text; conll: a word a line; conllu: CoNLL-U; jsonl: objects with "
            "text, tokens, or question and context. By the file's suffix if omitted, and of standard input text "
            "(jsonl for questions)."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write; standard output if omitted.")] = None,
    output_format: Annotated[
        OutputFormat,
        typer.Option(help="jsonl: entities with character offsets, or tags; conll: a word and a tag a line."),
    ] = "jsonl",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the last complete prediction in the output file.")
    ] = False,
    handle_impossible_answer: Annotated[
        bool,
        typer.Option(
            "--handle-impossible-answer",
            help='Let a question answerer give no answer, "", where that scores best. For models of SQuAD 2.0.',
        ),
    ] = False,
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    overlap: Overlap = None,
    backend: BackendChoice = None,
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Tag text or answer questions, of any number and length, and write what was found as it is found."""
    from ..prediction_stream import answer_stream, tag_stream
    from ..question_answering import QuestionAnswerer

    if resume and output is None:
        raise ValueError("--resume goes on with a file: name it with --output.")
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"{file} is not a file. Name a text file, or pipe text into standard input.")
    kind, loaded, tokenizer = load_task_model(model, device, backend, threads)
    if kind == "answerer" and (input_format not in (None, "jsonl") or output_format != "jsonl"):
        raise ValueError(
            "Questions are read and answered as JSON lines: leave out --input-format and --output-format."
        )
    if kind == "tagger" and handle_impossible_answer:
        raise ValueError("--handle-impossible-answer is for question answerers, and this is a tagger: leave it out.")
    shared: dict[str, Any] = {
        "target": sys.stdout if output is None else output,
        "resume": resume,
        "batch_size": batch_size,
        "max_length": max_length,
        "overlap": overlap,
        "show_progress": output is not None and console.is_terminal and not console.quiet,
    }
    with file.open("rb") if file is not None else nullcontext(sys.stdin.buffer) as source:
        if kind == "answerer":
            answerer = QuestionAnswerer(loaded, tokenizer)
            count = answer_stream(answerer, source, handle_impossible_answer=handle_impossible_answer, **shared)
        else:
            count = tag_stream(
                loaded,
                tokenizer,
                source,
                input_format=input_format or input_format_of(file.suffix if file is not None else ""),
                output_format=output_format,
                **shared,
            )
    if output is not None:
        console.print(f"Wrote {count} predictions to {output}.")
