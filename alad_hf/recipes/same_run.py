"""Whether an interrupted run is gone on with as it was begun: same arguments, same text, same labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers import PreTrainedModel

from ..models.configuration_alad import AlAdConfig
from ..models.modeling_alad import AlAdPreTrainedModel
from ..training.stages import last_complete_checkpoint
from .budget import Budget

_LEARNED = ("input_ids", "labels", "start_positions", "end_positions")


def describe_run(
    model: PreTrainedModel, rows: Dataset, *, steps: int, distilled: bool, budget: Budget
) -> dict[str, Any]:
    """What makes a training the one that it is, as JSON has it."""
    learned = [name for name in _LEARNED if name in rows.column_names]
    digest = hashlib.sha256()
    for table in rows.select_columns(learned).with_format("arrow").iter(batch_size=10_000):
        for column in table.columns:
            values = pc.list_flatten(column) if pa.types.is_nested(column.type) else column
            digest.update(values.to_numpy().tobytes())
    run = {"steps": steps, "distilled": distilled, "rows": digest.hexdigest(), **asdict(budget)}
    if isinstance(model, AlAdPreTrainedModel):
        # Not by what the models are called, which are in other places at times.
        named = {"text_config", "student_name_or_path", "teacher_name_or_path"}
        run |= {name: getattr(model.config, name) for name in AlAdConfig.__annotations__ if name not in named}
    return json.loads(json.dumps(run))


def check_same_run(checkpoints: Path, run: dict[str, Any], resume: bool) -> None:
    """Note what is begun; raise ValueError if what is to go on is something else, and then name the differences."""
    file = checkpoints / "run.json"
    begun = last_complete_checkpoint(checkpoints) is not None
    if begun and resume and file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        other = sorted(name for name in {*before, *run} if before.get(name) != run.get(name))
        if other:
            shown = [f"{name}={before.get(name)!r} and not {run.get(name)!r}" for name in other if name != "rows"]
            raise ValueError(
                f"The checkpoints in {checkpoints} are of a run with {', '.join(shown) or 'other text or labels'}: "
                "go on with the same arguments and data, or name another output_dir (--output)."
            )
    elif not begun:
        checkpoints.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
