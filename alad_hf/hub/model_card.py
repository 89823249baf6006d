"""Model cards: what a finished AlAd checkpoint is, how well it does, and code that runs it."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedConfig

from ..data.token_labels import usable_positions
from ..models.modeling_alad import AlAdPreTrainedModel
from .card_sections import hyper_parameters, method, overview, sizes
from .markdown_tables import code, comparison_table, fenced, header, number, plain
from .public_names import hub_id, public_name, without_paths
from .usage_snippets import usage_snippets

logger = logging.getLogger(__name__)

Task = Literal["ner", "pos", "question-answering"]

TEMPLATE_FILE = "model_card_template.md"
TRAINING_FILE = "training.json"
BY_TYPE = "f1_"
SIGNATURE = "This card was written by `alad_hf"


class _TaskText(NamedTuple):
    model_class: str
    pipeline_tag: str
    title: str
    summary: str
    limit: str


_TASKS = {
    "ner": _TaskText(
        "AlAdForTokenClassification",
        "token-classification",
        "named entity recognition",
        "This model finds named entities in text.",
        "It finds flat entities, each a run of words; nested or discontinuous ones cannot be expressed by its tags.",
    ),
    "pos": _TaskText(
        "AlAdForTokenClassification",
        "token-classification",
        "part-of-speech tagging",
        "This model tags the words of a text with their part of speech.",
        "Its tags follow the conventions of the treebank that it was trained on, also on how text is cut into words.",
    ),
    "question-answering": _TaskText(
        "AlAdForQuestionAnswering",
        "question-answering",
        "extractive question answering",
        "This model answers questions by a span of a given text.",
        "It can only quote the text that it is given, and it may quote a wrong span with a high score.",
    ),
}


def write_model_card(
    model: AlAdPreTrainedModel,
    folder: str | os.PathLike,
    *,
    task: Task,
    dataset_name: str,
    metrics: Mapping[str, Any],
    split: str = "test",
    training: Mapping[str, object] | None = None,
    baseline: Mapping[str, Mapping[str, object]] | None = None,
    sentences_per_second: float | None = None,
    conditions: str = "",
    about_data: str = "",
    commands: Sequence[str] = (),
    figure: str | None = None,
    language: str | list[str] | None = None,
    license: str | None = None,
    repo_id: str | None = None,
    example: Mapping[str, str] | None = None,
) -> Path:
    """Write `README.md`, the model card, into a checkpoint's folder.

    Paths of this machine do not get into it: of a path the last part is shown, of a cached model its Hub id.

    Args:
        model: The trained model.
        folder: Folder of the checkpoint.
        task: What the model does.
        dataset_name: Hub id, path or name of the labelled data.
        metrics: Scores on `split` by name, as `entity_scores`, `tagging_scores` or `squad_scores` return them; tables
            inside, such as `per_type`, become tables of the card.
        split: The split that was scored.
        training: Hyper-parameters by name, or by stage: mappings or `TrainingArguments`.
        baseline: Rows to compare, such as the teacher, the plain student and this model. Values by column; those of
            an `EfficiencyReport` and `gap_recovered`, a fraction, are known by name.
        sentences_per_second: Throughput of this model.
        conditions: How the rows of `baseline` were measured, in words.
        about_data: Where the labelled data are from and under which licence, in words.
        commands: Lines of the command line that make the model again. They are shown as they are: see to it that no
            path in them says what it should not.
        figure: Picture in the folder, such as `draw_scores` draws, shown below the rows of `baseline`.
        language: ISO 639 code or codes; None leaves it open.
        license: Licence id of the Hub; None leaves it open.
        repo_id: Name in the usage snippet and title; by default the folder's last part.
        example: What the usage snippet reads: `{"text": ...}`, or `{"question": ..., "context": ...}`.

    Returns:
        The path of the card.

    Raises:
        TypeError: The model is no AlAd model for this task.
        ValueError: An unknown task, a score that is not a finite number, or an example for another task.
        FileNotFoundError: `figure` is not in the folder.

    Example:
        >>> write_model_card(model, "out", task="ner", dataset_name="wnut17", metrics=scores)  # doctest: +SKIP
        PosixPath('out/README.md')
    """
    if task not in _TASKS:
        raise ValueError(f"task must be one of {sorted(_TASKS)}, got {task!r}.")
    text = _TASKS[task]
    if text.model_class not in {parent.__name__ for parent in type(model).__mro__}:
        raise TypeError(
            f"The card for task={task!r} describes an {text.model_class}, got {type(model).__name__}. "
            "Pass the trained AlAd model, or the task that it was trained for."
        )
    folder = Path(folder)
    if figure is not None and not (folder / figure).is_file():
        raise FileNotFoundError(f"There is no picture {figure!r} in {folder}: draw it there before the card.")
    name = repo_id or folder.resolve().name
    dataset = "the built-in corpus of alad_hf" if dataset_name == "builtin" else public_name(dataset_name)
    scores, details = _split_metrics(metrics)
    snippet, remote_snippet, example = usage_snippets(task, name, example)
    rows = {without_paths(title): _columns(row) for title, row in (baseline or {}).items()}
    config: Any = model.config
    labels = [] if task == "question-answering" else [config.id2label[index] for index in sorted(config.id2label)]
    sections: dict[str, Any] = {
        "name": plain(name),
        "summary": text.summary,
        "overview": overview(config, text.title, labels, language),
        "snippet": snippet,
        "remote_snippet": remote_snippet,
        **method(config),
        "dataset": plain(dataset),
        "about_data": plain(without_paths(about_data)),
        "conditions": plain(without_paths(conditions)),
        "longest_input": usable_positions(config.text_config),
        "is_pipeline": task != "question-answering",  # for which transformers 5 has none
        "hyper_parameters": hyper_parameters(training or {}),
        "commands": fenced(commands, "bash"),
        "split": code(split),
        "scores": comparison_table({header(key): {"value": value} for key, value in scores.items()}) if scores else "",
        "details": [(plain(f"Scores {header(title)}"), comparison_table(part)) for title, part in details.items()],
        "comparison": comparison_table(rows, _write_measured) if rows else "",
        "figure": figure or "",
        "has_gap": any(row.get("gap_recovered") is not None for row in rows.values()),
        **sizes(model),
        "speed": number(sentences_per_second) if sentences_per_second is not None else "",
        "limit": text.limit,
    }
    card = ModelCard.from_template(
        _card_data(config, text, name, dataset, scores, split, language, license, example),
        template_str=files(__package__).joinpath(TEMPLATE_FILE).read_text(encoding="utf-8"),
        **sections,
    )
    path = folder / "README.md"
    if path.exists() and SIGNATURE not in path.read_text(encoding="utf-8"):
        logger.warning("Replacing the model card at %s.", path)
    card.save(path)
    return path


def record_training(folder: str | os.PathLike, training: Mapping[str, object]) -> None:
    """Keep the hyper-parameters of a training beside its model, for a card that is written later.

    Args:
        folder: Folder of the checkpoint.
        training: Values by name that JSON can hold.
    """
    (Path(folder) / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")


def recorded_training(folder: str | os.PathLike) -> dict[str, object]:
    """The hyper-parameters that `record_training` kept; empty where there are none.

    Raises:
        ValueError: The file holds no values by name.
    """
    path = Path(folder) / TRAINING_FILE
    if not path.is_file():
        return {}
    try:
        training = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON: {error}. Mend it, or delete it to write a card without it.") from error
    if not isinstance(training, dict):
        raise ValueError(f"{path} must hold values by name, got {training!r}.")
    return training


def _card_data(
    config: PreTrainedConfig,
    text: _TaskText,
    name: str,
    dataset: str,
    scores: Mapping[str, float | int],
    split: str,
    language: str | list[str] | None,
    license: str | None,
    example: Mapping[str, str],
) -> ModelCardData:
    """Metadata that the Hub reads; ids only where they are Hub ids."""
    student, dataset_id = hub_id(config.student_name_or_path), hub_id(dataset)
    results = [
        EvalResult(
            task_type=text.pipeline_tag,
            task_name=text.title,
            dataset_type=dataset_id or re.sub(r"[^\w.-]+", "-", dataset.lower()).strip("-"),
            dataset_name=dataset,
            dataset_split=split,
            metric_type=key.removeprefix("macro_"),
            metric_name=header(key),
            metric_value=value,
        )
        for key, value in scores.items()
        if isinstance(value, float)
    ]
    return ModelCardData(
        language=language,
        license=license,
        library_name="transformers",
        pipeline_tag=text.pipeline_tag,
        tags=["alad", "alignment-adapter", "custom_code"],
        base_model=student,
        base_model_relation="finetune" if student else None,
        datasets=[dataset_id] if dataset_id else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=name,
        eval_results=results or None,
        # The Hub's widget calls a question text.
        widget=[{"text" if key == "question" else key: value for key, value in example.items()}],
    )


def _split_metrics(metrics: Mapping[str, Any]) -> tuple[dict[str, float | int], dict[str, Mapping[str, Any]]]:
    """Plain numbers, counts as int and scores as float, and tables of them."""
    scores: dict[str, float | int] = {}
    details: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            if value:
                details[name] = value
        elif name.startswith(BY_TYPE) and isinstance(value, Real) and math.isfinite(value):
            # One for each type of entity or part of speech: a table, and no metric that the Hub would know.
            details.setdefault("by type", {})[name.removeprefix(BY_TYPE)] = {"f1": float(value)}
        elif isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value):
            scores[name] = int(value) if isinstance(value, Integral) else float(value)
        else:
            raise ValueError(f"metrics[{name!r}] must be a finite number or a table of them, got {value!r}.")
    return scores, details


def _columns(row: Mapping[str, object]) -> dict[str, object]:
    """A row without its own title, which dataclasses of rows carry as `name`."""
    return {
        name: without_paths(value) if isinstance(value, str) else value
        for name, value in row.items()
        if name != "name"
    }


def _write_measured(column: str, value: object) -> str:
    if column == "gap_recovered" and isinstance(value, Real):
        return f"{100 * float(value):.0f} %"
    return number(value)


__all__ = ["record_training", "recorded_training", "write_model_card"]
