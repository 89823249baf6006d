"""`alad-hf card`: score a model, put it beside others, and write its model card."""

from __future__ import annotations

import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.efficiency import count_parameters, latency, stored_bytes
from ..evaluation.matplotlib_figure import figure_class
from ..evaluation.score_picture import draw_scores
from ..hub.markdown_tables import header
from ..hub.public_names import public_name
from ..models.modeling_alad import AlAdPreTrainedModel
from .application import Report, console, verb
from .evaluate import Split, load_split, score
from .models import Kind, load_task_model
from .options import BatchSize, Data
from .tables import facts_table

FIGURE = "score_and_latency.png"
LATENCY_TOKENS = 64
LATENCY_ROUNDS = 5
CALLS_A_ROUND = 10


@dataclass
class _Compared:
    """A model of the card's table."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    scores: dict[str, float]
    milliseconds: list[float] = field(default_factory=list)


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
        list[str] | None, typer.Option(help="A command that made the models, for the card; repeat for more.")
    ] = None,
    about_data: Annotated[str, typer.Option(help="Where the data are from and their licence, for the card.")] = "",
    batch_size: BatchSize = 32,
    language: Annotated[str | None, typer.Option(help="ISO 639 code of the model's language.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence id of the Hub, such as apache-2.0.")] = None,
    repo_id: Annotated[str | None, typer.Option(help="Name on the Hub; the folder's if omitted.")] = None,
) -> Report:
    """Score a model and write its model card, with a picture of score against latency if there is what to compare."""
    from ..hub.model_card import recorded_training, write_model_card
    from ..tagging import marks_spans
    from ..word_prediction import label_names

    kind, loaded, tokenizer = load_task_model(str(model))
    if not isinstance(loaded, AlAdPreTrainedModel):
        raise ValueError(f"{model} holds a {type(loaded).__name__}: a card is written for AlAd models.")
    others = {"teacher": teacher, "plain student": plain_student}
    given = {title: _of_the_same_task(name, kind) for title, name in others.items() if name is not None}
    if given:
        figure_class()  # it may not be there: better known before anything is measured
    rows = load_split(kind, data, split)
    compared: dict[str, _Compared] = {}
    for title, (one, its_tokenizer) in {**given, "this model": (loaded, tokenizer)}.items():
        console.print(f"Scoring: {title}", highlight=False)
        compared[title] = _Compared(one, its_tokenizer, score(kind, one, its_tokenizer, rows, batch_size=batch_size))
    scores = compared["this model"].scores
    main = "f1" if "f1" in scores else "accuracy"
    baseline: dict[str, dict[str, Any]] = {}
    if given:
        baseline = _measured(compared, main)
        percent = 1 if kind == "answerer" else 100
        draw_scores(
            {title: (row["latency_ms"], percent * row[main]) for title, row in baseline.items()},
            model / FIGURE,
            score=f"{header(main)} on {public_name(data)}",
            time=f"milliseconds for one sentence of {LATENCY_TOKENS} tokens",
        )
    path = write_model_card(
        loaded,
        model,
        task="question-answering" if kind == "answerer" else "ner" if marks_spans(label_names(loaded)) else "pos",
        dataset_name=data,
        metrics=scores,
        split=split,
        training=recorded_training(model),
        baseline=baseline,
        conditions=_conditions() if baseline else "",
        about_data=about_data,
        commands=command or (),
        figure=FIGURE if baseline else None,
        language=language,
        license=license,
        repo_id=repo_id,
    )
    console.print(f"Wrote {path}.")
    if license is None:
        console.print("It names no licence: your data and the models you started from decide, see --license.")
    return Report({"path": str(path), "scores": scores, "comparison": baseline}, facts_table({"card": path}))


def _of_the_same_task(name: str, kind: Kind) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    other, model, tokenizer = load_task_model(name)
    if other != kind:
        raise ValueError(f"{name} is a {other} and the model of the card a {kind}: name models of one task.")
    return model, tokenizer


def _measured(compared: dict[str, _Compared], main: str) -> dict[str, dict[str, Any]]:
    """Score, size and latency of each model, and what part of the gap between the others the card's model closes."""
    for _ in range(LATENCY_ROUNDS):  # in turns, so that what else the machine does meets all of them
        for one in compared.values():
            times = latency(one.model, one.tokenizer, batch_size=1, tokens=LATENCY_TOKENS, repeats=CALLS_A_ROUND)
            one.milliseconds.append(times["median_ms"])
    baseline: dict[str, dict[str, Any]] = {
        title: {
            main: one.scores[main],
            "parameters": count_parameters(one.model),
            "stored_megabytes": stored_bytes(one.model) / 1e6,
            "latency_ms": statistics.median(one.milliseconds),
        }
        for title, one in compared.items()
    }
    teacher, plain, own = (baseline.get(title, {}).get(main) for title in ("teacher", "plain student", "this model"))
    if teacher is not None and plain is not None and own is not None and teacher > plain:
        baseline["this model"]["gap_recovered"] = (own - plain) / (teacher - plain)
    return baseline


def _conditions() -> str:
    threads = torch.get_num_threads()
    return (
        f"Latency: one sentence of {LATENCY_TOKENS} tokens without tokenization, the models in turns, the median of "
        f"{LATENCY_ROUNDS} rounds of {CALLS_A_ROUND} calls; torch {torch.__version__}, {threads} "
        f"thread{'s' if threads > 1 else ''}, {platform.machine()}."
    )
