"""`alad-hf distill`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from .application import Report, console, verb
from .options import Output, Resume, Seed, check_new_or_resumed
from .progress import training_bars
from .tables import facts_table


@verb()
def distill(
    student: Annotated[
        str, typer.Argument(help="Folder or Hub id of the student, such as `compress --method recursive` makes.")
    ],
    output: Output,
    teacher: Annotated[str, typer.Option(help="Folder or Hub id of the encoder that it was made of.")],
    text: Annotated[list[Path], typer.Option(help="Text, read as a stream over and over; repeat for more files.")],
    steps: Annotated[int, typer.Option(help="Optimiser steps.", min=1)],
    batch_size: Annotated[int, typer.Option(help="Rows of a step.", min=1)] = 32,
    max_tokens: Annotated[int, typer.Option(help="Tokens of the longest row.", min=3)] = 128,
    learning_rate: Annotated[float | None, typer.Option(help="Peak; the published one if omitted.")] = None,
    seed: Seed = 0,
    resume: Resume = False,
) -> Report:
    """Teach a student a larger encoder's attention, hidden states and predictions on text without labels."""
    from transformers import AutoModelForMaskedLM, set_seed

    from ..alignment.weights_digest import weights_digest
    from ..hub.pretrained_weights import resolve_pretrained
    from ..models.alad_construction import load_tokenizer
    from ..recipes.same_run import CHECKPOINTS, check_same_run, files_digest
    from ..training.encoder_distillation import (
        distill_encoder,
        load_predicting_teacher,
        published_distillation_arguments,
    )

    begun = check_new_or_resumed(output, resume)
    source = resolve_pretrained(student)
    set_seed(seed)
    model = AutoModelForMaskedLM.from_pretrained(source, trust_remote_code=False)
    tokenizer = load_tokenizer(source, "tokenizer")
    teaching = load_predicting_teacher(resolve_pretrained(teacher))
    call = {  # not the steps: a longer training may follow
        "rows": files_digest(text),
        "student": weights_digest(model),
        "teacher": weights_digest(teaching),
        "batch_size": batch_size,
        "max_tokens": max_tokens,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    check_same_run(output / CHECKPOINTS, call, resume, begun=begun)
    overrides = {} if learning_rate is None else {"learning_rate": learning_rate}
    args = published_distillation_arguments(
        output / CHECKPOINTS,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        seed=seed,
        **overrides,
    )
    with training_bars() as bars:
        trainer = distill_encoder(
            model,
            text,
            teacher=teaching,
            tokenizer=tokenizer,
            args=args,
            max_tokens=max_tokens,
            resume=resume,
            print_logs=False,
            callbacks=bars,
        )
    trainer.save_model(str(output))
    distilled: Any = trainer.model
    log = trainer.state.log_history
    losses = [row["loss"] for row in log if "loss" in row]
    last = next(row for row in reversed(log) if "train_loss" in row)
    facts = {
        "steps": trainer.state.global_step,
        "mean_loss": last["train_loss"],
        "last_loss": losses[-1] if losses else last["train_loss"],
        "seconds": last["train_runtime"],
    }
    console.print(f"Saved in {output}.")
    return Report(
        {"output": str(output), **facts, "weights": asdict(distilled.weights), "log": log}, facts_table(facts)
    )
