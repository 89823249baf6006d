"""Train every task for two steps and save weights and logs; `accelerate launch` starts it in each process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from tiny_distillation import distill, tiny_mlm
from tiny_training import TASKS, make_model, make_rows, make_trainer, step_logs, weights_of

DISTILLATION = ("distillation", False)
CASES = [*((task, frozen) for task in TASKS for frozen in (False, True)), DISTILLATION]


def train_all(folder: Path, per_device_train_batch_size: int) -> dict[tuple[str, bool], tuple[dict, list]]:
    """Weights and log lines after two steps of SGD, by task and whether the student was frozen."""
    results = {}
    for task, frozen in CASES:
        if (task, frozen) == DISTILLATION:
            student = tiny_mlm()
            trainer = distill(
                student,
                folder,
                teacher=tiny_mlm(layers=4, seed=1, hidden_size=32),
                per_device_train_batch_size=per_device_train_batch_size,
                gradient_accumulation_steps=2,
            )
            results[task, frozen] = (weights_of(trainer.model), step_logs(trainer))
            continue
        trainer = make_trainer(
            make_model(task, freeze_student=frozen),
            make_rows(task, rows=16),
            folder,
            per_device_train_batch_size=per_device_train_batch_size,
            gradient_accumulation_steps=2,
        )
        trainer.train()
        results[task, frozen] = (weights_of(trainer.model), step_logs(trainer))
    return results


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    output = Path(sys.argv[1])
    torch.save(train_all(output, per_device_train_batch_size=2), output / f"process-{os.environ['RANK']}.pt")
