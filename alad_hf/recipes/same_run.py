"""Whether an interrupted run is gone on with as it was begun: same models, arguments, text and labels."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedModel

from ..alignment.weights_digest import weights_digest
from ..models.configuration_alad import AlAdConfig
from ..models.modeling_alad import AlAdPreTrainedModel
from .budget import Budget

CHECKPOINTS = "checkpoints"
"""The folder in that of a model where its training keeps them."""
_LEARNED = ("input_ids", "labels", "start_positions", "end_positions")
_PART = 2**20  # bytes
_DIGESTS = {
    "rows": "other text or labels",
    "validation": "other validation data",
    "student": "another student",
    "teacher": "another teacher",
}


def describe_run(
    model: PreTrainedModel,
    rows: Dataset,
    *,
    validation: Dataset | None,
    teacher: PreTrainedModel | None,
    steps: int,
    distilled: bool,
    budget: Budget,
) -> dict[str, Any]:
    """What makes a training the one that it is."""
    run = {"steps": steps, "distilled": distilled, "rows": _rows_digest(rows), **asdict(budget)}
    run["validation"] = _rows_digest(validation) if validation is not None else None
    # Without the head and the adapter, which may be fitted, and need not come out alike to the last bit.
    encoder = model.base_model.encoder if isinstance(model, AlAdPreTrainedModel) else model.base_model
    run["student"] = weights_digest(encoder)
    run["teacher"] = weights_digest(teacher) if teacher is not None else None
    if isinstance(model, AlAdPreTrainedModel):
        # Not by what the models are called, which are in other places at times.
        named = {"text_config", "student_name_or_path", "teacher_name_or_path"}
        run |= {name: getattr(model.config, name) for name in AlAdConfig.__annotations__ if name not in named}
    return run


def _rows_digest(rows: Dataset) -> str:
    """SHA-256 of what is learned from encoded rows."""
    learned = [name for name in _LEARNED if name in rows.column_names]
    digest = hashlib.sha256()
    for table in rows.select_columns(learned).with_format("arrow").iter(batch_size=10_000):
        for column in table.columns:
            values = pc.list_flatten(column) if pa.types.is_nested(column.type) else column
            digest.update(values.to_numpy().tobytes())
    return digest.hexdigest()


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 of what is in files, one behind the other; they may be larger than the memory."""
    digest = hashlib.sha256()
    for path in files:
        own = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(_PART):
                own.update(part)
        digest.update(own.digest())
    return digest.hexdigest()


def check_same_run(folder: Path, run: dict[str, Any], resume: bool, *, begun: bool) -> None:
    """Note what is begun; raise ValueError if what is to go on is something else, and then name the differences.

    Args:
        folder: Of the checkpoints or stages.
        run: What makes it the one that it is; values under "rows", "validation", "student" and "teacher" are digests.
        resume: Whether to go on.
        begun: Whether there is something to go on with.
    """
    file = folder / "run.json"
    run = json.loads(json.dumps(run, default=operator.index))  # as it will be read; of numpy's integers, too
    if begun and resume and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        other = sorted(name for name in {*before, *run} if before.get(name) != run.get(name))
        if other:
            shown = [_DIGESTS.get(name, f"{name}={before.get(name)!r} and not {run.get(name)!r}") for name in other]
            raise ValueError(
                f"What is in {folder} is of a run with {', '.join(shown)}: go on with the same models, arguments and "
                "data, or name another output_dir (--output)."
            )
    elif not begun:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
