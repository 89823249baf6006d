"""`alad-hf evaluate` and `alad-hf benchmark`: how good, how large and how fast."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import Dataset

from .application import Report, console, verb
from .models import Kind, load_model, load_task_model
from .options import BackendChoice, BatchSize, Data, Device, MaxLength, Overlap, Threads
from .tables import in_percent, score_table, wide_table

Split = Annotated[str, typer.Option(help="Which split of the data.")]
SplitIfData = Annotated[str | None, typer.Option("--split", help="Which split of --data; test if omitted.")]


@verb()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a tagger or a question answerer.")],
    data: Data,
    split: Split = "test",
    batch_size: BatchSize = 32,
    max_length: MaxLength = None,
    overlap: Overlap = None,
    backend: BackendChoice = None,
    device: Device = "cpu",
) -> Report:
    """Score a tagger on tagged words, or a question answerer on questions."""
    kind, loaded, tokenizer = load_task_model(model, device, backend)
    rows = load_split(kind, data, split)
    scores = score(kind, loaded, tokenizer, rows, batch_size=batch_size, max_length=max_length, overlap=overlap)
    return Report(scores, score_table(scores if kind == "answerer" else in_percent(scores)))


@verb()
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Folders or Hub ids, side by side.")],
    data: Annotated[
        str | None,
        typer.Option(help="Score the models on this data as well, and measure their throughput on it."),
    ] = None,
    split: SplitIfData = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Rows of a batch whose time is measured; repeat for more. 1 and 32.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a row whose time is measured.")] = 128,
    repeats: Annotated[int, typer.Option(help="Timed passes, of which the median counts.")] = 20,
    threads: Threads = None,
    device: Device = "cpu",
) -> Report:
    """Measure size, latency and throughput of models, and with --data how good they are."""
    from ..evaluation.efficiency import efficiency_report, latency
    from ..export import is_onnx_folder

    check_split(data, split)
    sizes = batch_size or [1, 32]
    rows = []
    for name in models:
        console.print(f"Measuring {name}", highlight=False)
        kind, model, tokenizer = load_model(name, device, threads=threads)
        measured: dict[str, Any] = {"model": name}
        rows_of_data = None if data is None else load_split(kind, data, split or "test")
        measured |= asdict(efficiency_report(model, tokenizer, _sentences(rows_of_data)))
        if is_onnx_folder(name):  # its weights are in the file, and none of torch
            measured |= {"parameters": None, "stored_megabytes": (Path(name) / "model.onnx").stat().st_size / 1e6}
        measured["latency"] = [
            {
                "batch_size": size,
                "tokens": tokens,
                **latency(model, tokenizer, batch_size=size, tokens=tokens, repeats=repeats),
            }
            for size in sizes
        ]
        if rows_of_data is not None:
            measured["scores"] = score(kind, model, tokenizer, rows_of_data)
        rows.append(measured)
    return Report(rows, _comparison(rows, sizes, tokens))


def check_split(data: str | None, split: str | None) -> None:
    """Raise ValueError where a split is named of no data."""
    if data is None and split is not None:
        raise ValueError(f"--split {split} is a part of --data, which is missing: name the data, or leave it out.")


def load_split(kind: Kind, data: str, split: str) -> Dataset:
    """A split of labelled data for a kind of model.

    Raises:
        ValueError: There is no such split, or the model has no task.
    """
    from ..data.loading import load_question_answering, load_token_classification

    if kind == "encoder":
        raise ValueError("A model without a head cannot be scored: leave out --data, or name trained models only.")
    splits = load_question_answering(data) if kind == "answerer" else load_token_classification(data)
    if split not in splits:
        raise ValueError(f"{data} has no split {split!r}; it has {sorted(splits)}.")
    return splits[split]


def score(kind: Kind, model: Any, tokenizer: Any, rows: Dataset, **sizes: Any) -> dict[str, float]:  # noqa: ANN401
    """Score a model by the metrics of its task: of taggers from 0 to 1, of question answerers from 0 to 100."""
    from ..question_answering import evaluate_question_answerer
    from ..tagging import evaluate_tagger

    evaluate_one = evaluate_question_answerer if kind == "answerer" else evaluate_tagger
    return evaluate_one(model, tokenizer, rows, **sizes)


def _sentences(rows: Dataset | None) -> list:
    """What throughput is measured on: the data that models are scored on, or sentences of the built-in corpus."""
    if rows is None:
        from ..data.builtin import load_builtin_corpus

        rows = load_builtin_corpus()["test"]
    return rows["tokens"][:] if "tokens" in rows.column_names else rows["context"][:]


def _comparison(rows: list[dict[str, Any]], sizes: list[int], tokens: int) -> Any:  # noqa: ANN401 - of rich
    columns = ["", "params", "stored\nMB", *(f"ms, {size} x\n{tokens} tokens" for size in sizes), "sentences\nper s"]
    cells = []
    for row in rows:
        times = [f"{one['median_ms']:.1f}" for one in row["latency"]]
        line = [
            row["model"],
            "" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M",
            f"{row['stored_megabytes']:.1f}",
            *times,
            f"{row['sentences_per_second']:.0f}",
        ]
        if "scores" in row:
            main = "f1" if "f1" in row["scores"] else "accuracy"
            percent = row["scores"][main] if "exact_match" in row["scores"] else 100 * row["scores"][main]
            line.append(f"{percent:.2f}")
        cells.append(line)
    if "scores" in rows[0]:
        columns.append("F1" if "f1" in rows[0]["scores"] else "accuracy")
    return wide_table(columns, cells)
