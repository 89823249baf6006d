"""Models, text and measurements for the tests of the closed-form fit; `accelerate launch` runs it in each process."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from tiny import tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, PreTrainedModel

from alad_hf import AlAdForTokenClassification
from alad_hf.alignment.closed_form import ClosedFormFit, fit_adapter
from alad_hf.alignment.least_squares import AlignmentMoments

WORDS = "the in of new york london berlin smith jones acme works for visited played ing table unable , .".split()
LINES = [
    " ".join(
        WORDS[(7 * line + position * (line % 5 + 1) + line * position**2) % len(WORDS)]
        for position in range(3 + line % 9)
    )
    for line in range(60)
]


def make_model(
    student: PreTrainedModel | None = None, teacher: PreTrainedModel | None = None, **changes: object
) -> AlAdForTokenClassification:
    """A tiny student of a wider teacher with large weights, so that neighbours matter; always the same."""
    torch.manual_seed(0)
    if student is None:
        student = AutoModel.from_config(tiny_config(initializer_range=0.3))
    if teacher is None:
        teacher = tiny_teacher()
        with torch.no_grad():
            for parameter in teacher.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    tokenizers = {"tokenizer": tiny_tokenizer(), "teacher_tokenizer": tiny_tokenizer()}
    return AlAdForTokenClassification.from_student_pretrained(student, teacher=teacher, **tokenizers, **changes)


def fit(model: PreTrainedModel, **arguments: object) -> ClosedFormFit:
    """Fit on `LINES`."""
    return fit_adapter(model, LINES, tokenizer=tiny_tokenizer(), **{"batch_size": 7, **arguments})


def measured_error(
    model: PreTrainedModel, head: torch.Tensor | None = None, gradient: bool = False
) -> dict[str, float | torch.Tensor]:
    """Squared error of the running model on `LINES`: a mean over tokens and width, or of logits."""
    teacher = make_model().teacher.to(model.dtype)
    inputs = tiny_tokenizer()(LINES, padding=True, return_tensors="pt")
    real = inputs["attention_mask"] == 1
    with torch.set_grad_enabled(gradient):
        aligned = model.base_model(**inputs).last_hidden_state[real]
    with torch.no_grad():
        goal = teacher.base_model(**inputs).last_hidden_state[real].double()
    error = aligned.double() - goal
    if head is not None:
        error = error @ head.double().T
    mse = error.square().mean()
    variance = (goal - goal.mean(dim=0)).square().mean().item()
    return {"mse": mse if gradient else mse.item(), "variance": variance, "tokens": len(goal)}


if __name__ == "__main__":
    assert os.environ["WORLD_SIZE"] == "2"
    read = []
    update = AlignmentMoments.update

    def counted(moments: AlignmentMoments, *arguments: torch.Tensor) -> None:
        """Count what this process reads."""
        read.append(int(arguments[2].sum()))
        update(moments, *arguments)

    AlignmentMoments.update = counted
    fitted = make_model(adapter_type="light", window_size=3, adapter_size=6)
    report = fit(fitted)
    result = {"adapter": fitted.model.adapter.state_dict(), "report": asdict(report), "tokens_read": sum(read)}
    torch.save(result, Path(sys.argv[1]) / f"process-{os.environ['RANK']}.pt")
