"""`alad-hf export` and `alad-hf push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group

from .application import Report, verb
from .evaluate import SplitIfData, check_split, load_split
from .models import kind_of
from .tables import facts_table, in_percent, score_columns


@verb()
def export(
    model: Annotated[str, typer.Argument(help="Folder or Hub id of a tagger or a question answerer.")],
    output: Annotated[Path, typer.Option(help="Folder for the ONNX model, new or empty.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantize the weights to int8.")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative difference of the logits from torch; 1e-4 in float, 0.2 in int8."),
    ] = None,
    opset: Annotated[int, typer.Option(help="Version of the ONNX operators.")] = 18,
    data: Annotated[str | None, typer.Option(help="Score the model before and after on this data.")] = None,
    split: SplitIfData = None,
) -> Report:
    """Write a model as ONNX, and check that it computes what torch does."""
    from ..export import export_onnx
    from ..hub.pretrained_weights import resolve_pretrained

    check_split(data, split)
    source = resolve_pretrained(model)
    done = export_onnx(
        source,
        output,
        quantize="int8" if int8 else None,
        tolerance=tolerance,
        opset=opset,
        dataset=None if data is None else load_split(kind_of(source), data, split or "test"),
    )
    facts = done.as_dict()
    shown = facts_table({name: value for name, value in facts.items() if isinstance(value, (str, int, float))})
    if not done.scores:
        return Report(facts, shown)
    scores = {name: row if done.task == "question-answering" else in_percent(row) for name, row in done.scores.items()}
    return Report(facts, Group(shown, "", score_columns(scores)))


@verb()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a checkpoint with its tokenizer and its card.")],
    repo_id: Annotated[str, typer.Argument(help="organisation/model on the Hub.")],
    private: Annotated[
        bool | None,
        typer.Option(help="Whether the repository shall be private; as the organisation has set if omitted."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; main if omitted.")] = None,
    message: Annotated[str, typer.Option(help="What the history of the repository shows.")] = (
        "Upload model, tokenizer, card and code"
    ),
) -> Report:
    """Upload a checkpoint to the Hub in one commit, as the user of `hf auth login` or HF_TOKEN."""
    from ..hub.push import push_checkpoint

    done = push_checkpoint(folder, repo_id, private=private, revision=revision, commit_message=message)
    facts = {"commit_url": done.commit_url, "oid": done.oid}
    return Report(facts, facts_table(facts))
