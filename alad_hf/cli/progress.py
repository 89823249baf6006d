"""A progress bar for a run of the Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .application import console


class _Bar(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.task = self.progress.add_task("Training", total=state.max_steps, completed=state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        loss = (state.log_history or [{}])[-1].get("loss")
        if self.task is not None and loss is not None:
            self.progress.update(self.task, description=f"Training, loss {loss:.3f}")


@contextmanager
def training_bars() -> Iterator[list[TrainerCallback]]:
    """Callbacks that show a bar of steps for every training inside the block; nothing with `--quiet` or in a log."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console, disable=console.quiet or not console.is_terminal) as progress:
        yield [_Bar(progress)]
