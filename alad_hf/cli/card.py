"""`alad-hf card`: score a model, put it beside others, and write its model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .application import Report, console, verb
from .evaluate import Split, load_split, score
from .models import Kind, load_task_model
from .options import BatchSize, Data
from .tables import facts_table

FIGURE = "score_and_latency.png"
LATENCY_TOKENS = 64
LATENCY_REPEATS = 50


@verb()
def card(
    model: Annotated[Path, typer.Argument(help="Folder of a trained AlAd model; its README.md is written.")],
    data: Data,
    split: Split = "test",
    teacher: Annotated[
        str | None, typer.Option(help="Folder or Hub id of its teacher, to be scored and timed beside it.")
    ] = None,
    plain_student: Annotated[
        str | None, typer.Option(help="Folder or Hub id of its student fine-tuned alone, to be put beside it as well.")
    ] = None,
    command: Annotated[
        list[str] | None, typer.Option(help="A command that made the model, for the card; repeat for more.")
    ] = None,
    batch_size: BatchSize = 32,
    language: Annotated[str | None, typer.Option(help="ISO 639 code of the model's language.")] = "en",
    license: Annotated[str | None, typer.Option(help="Licence id of the Hub.")] = "apache-2.0",
    repo_id: Annotated[str | None, typer.Option(help="Name on the Hub; the folder's if omitted.")] = None,
) -> Report:
    """Score a model and write its model card, with a picture of score against latency if there is what to compare."""
    from ..hub.model_card import recorded_training, write_model_card
    from ..models.modeling_alad import AlAdPreTrainedModel
    from ..tagging import marks_spans
    from ..word_prediction import label_names

    kind, loaded, tokenizer = load_task_model(str(model))
    rows = load_split(kind, data, split)
    scores = score(kind, loaded, tokenizer, rows, batch_size)
    task = "question-answering" if kind == "answerer" else "ner" if marks_spans(label_names(loaded)) else "pos"
    others = {"teacher": teacher, "plain student": plain_student}
    baseline: dict[str, dict[str, Any]] = {}
    # A model that cannot have a card is refused below, before anything else is measured.
    if isinstance(loaded, AlAdPreTrainedModel) and any(others.values()):
        for title, name in others.items():
            if name is not None:
                console.print(f"Measuring {name}", highlight=False)
                baseline[title] = _measured(*_of_the_same_task(name, kind), rows, batch_size)
        main = _main_score(scores)
        baseline["this model"] = {main: scores[main], **_size_and_speed(loaded, tokenizer)}
        _add_gap(baseline, main)
        _draw(baseline, main, model / FIGURE, data, percent=1 if kind == "answerer" else 100)
    path = write_model_card(
        loaded,
        model,
        task=task,  # type: ignore[arg-type]
        dataset_name=data,
        metrics=scores,
        split=split,
        training=recorded_training(model),
        baseline=baseline,
        commands=command or (),
        figure=FIGURE if baseline else None,
        language=language,
        license=license,
        repo_id=repo_id,
    )
    console.print(f"Wrote {path}.")
    return Report({"path": str(path), "scores": scores, "comparison": baseline}, facts_table({"card": path}))


def _main_score(scores: dict[str, float]) -> str:
    return "f1" if "f1" in scores else "accuracy"


def _of_the_same_task(name: str, kind: Kind) -> tuple[Kind, Any, PreTrainedTokenizerBase]:
    other, model, tokenizer = load_task_model(name)
    if other != kind:
        raise ValueError(f"{name} is a {other} and the model of the card a {kind}: name models of one task.")
    return other, model, tokenizer


def _measured(
    kind: Kind, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, batch_size: int
) -> dict[str, Any]:
    scores = score(kind, model, tokenizer, rows, batch_size)
    main = _main_score(scores)
    return {main: scores[main], **_size_and_speed(model, tokenizer)}


def _size_and_speed(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    from ..evaluation.efficiency import count_parameters, latency, stored_bytes

    times = latency(model, tokenizer, batch_size=1, tokens=LATENCY_TOKENS, repeats=LATENCY_REPEATS)
    return {
        "parameters": count_parameters(model),
        "stored_megabytes": stored_bytes(model) / 1e6,
        "latency_ms": times["median_ms"],
    }


def _add_gap(baseline: dict[str, dict[str, Any]], main: str) -> None:
    """What part of the way from the plain student to the teacher the model makes, where both are known."""
    if not {"teacher", "plain student"} <= baseline.keys():
        return
    teacher, plain, own = (baseline[title][main] for title in ("teacher", "plain student", "this model"))
    if teacher > plain:
        baseline["this model"]["gap_recovered"] = (own - plain) / (teacher - plain)


def _draw(baseline: dict[str, dict[str, Any]], main: str, path: Path, data: str, percent: int) -> None:
    from ..evaluation.score_picture import draw_scores
    from ..hub.markdown_tables import header
    from ..hub.public_names import public_name

    draw_scores(
        {title: (row["latency_ms"], percent * row[main]) for title, row in baseline.items()},
        path,
        score=f"{header(main)} on {public_name(data)}",
        time=f"milliseconds for one sentence of {LATENCY_TOKENS} tokens",
    )
