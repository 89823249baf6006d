"""`alad-hf quickstart`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from .application import Report, console, verb
from .options import Data, Resume, Seed, TextFiles, read_lines
from .progress import training_bars
from .tables import wide_table


@verb()
def quickstart(
    output: Annotated[Path, typer.Option(help="Folder for the models, made anew.")] = Path("runs/quickstart"),
    data: Data = "builtin",
    text: TextFiles = None,
    layers: Annotated[int, typer.Option(help="Layers of the student.", min=1)] = 2,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the labels; about 200 steps if omitted.", min=1)
    ] = None,
    seed: Seed = 0,
    resume: Resume = False,
    sentence: Annotated[str, typer.Option(help="What to tag at the end.")] = (
        "Ingrid Solberg left Halden Robotics in Oslo after the Northern Light Festival ."
    ),
) -> Report:
    """Fine-tune a teacher, cut a small student out of it, align it, and show what that brings."""
    from ..quickstart import quickstart as run
    from ..quickstart import tag_in_fresh_process

    with training_bars() as bars:
        result = run(
            output,
            data=data,
            texts=read_lines(text),
            layers=layers,
            epochs=epochs,
            seed=seed,
            resume=resume,
            report=lambda line: console.print(line, style="bold"),
            callbacks=bars,
        )
    metric = "F1" if result.metric == "f1" else result.metric
    columns = ("", metric, "params", "trained", "stored\nMB", "sentences\nper s", "gap\nrecovered")
    rows = [
        (
            row.name,
            f"{100 * row.score:.1f}",
            f"{row.parameters / 1e6:.1f} M",
            f"{row.trained_parameters / 1e6:.2f} M",
            f"{row.stored_megabytes:.1f}",
            f"{row.sentences_per_second:.0f}",
            "" if row.gap_recovered is None else f"{100 * row.gap_recovered:.0f} %",
        )
        for row in result.rows
    ]
    console.print(f"The jointly trained model and its card are in {result.model_dir} ({result.seconds:.0f} s).")
    console.print(f'In a fresh process, pipeline("ner") reads: {sentence}')
    tagged = tag_in_fresh_process(result.model_dir, sentence)
    return Report(
        [asdict(row) for row in result.rows],
        Group(wide_table(columns, rows, f"{data}: {result.split} score, one seed"), tagged.rstrip("\n")),
    )
