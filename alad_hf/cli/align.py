"""`alad-hf align`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

import typer

from ..models.configuration_alad import AlAdConfig
from .application import Report, console, verb
from .models import kind_of
from .options import (
    BatchSize,
    FieldsOf,
    Output,
    Resume,
    Seed,
    TextFiles,
    check_new_or_resumed,
    read_lines,
)
from .progress import training_bars
from .tables import facts_table
from .train import ADAPTER_FIELDS, LOSS_FIELDS


@verb(adapter=FieldsOf(AlAdConfig, (*ADAPTER_FIELDS, *LOSS_FIELDS)))
def align(
    student: Annotated[str, typer.Argument(help="Folder or Hub id of the student.")],
    output: Output,
    teacher: Annotated[str, typer.Option(help="Folder or Hub id of the teacher; its head is taken over.")],
    text: TextFiles,
    adapter: dict[str, Any],
    method: Annotated[
        Literal["training", "closed-form"],
        typer.Option(help="Train by the alignment loss, or solve for the adapter of least squared error."),
    ] = "training",
    train_student: Annotated[
        bool, typer.Option("--train-student", help="Train the student too; else it stays as it is.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the text, by training; 1 if omitted.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of the training; the published one.")] = None,
    regularisation: Annotated[
        float | None, typer.Option(help="Penalty of the closed form, a share of the variance.")
    ] = None,
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    resume: Resume = False,
) -> Report:
    """Align a student with a teacher on text without labels, and save it under an adapter and the teacher's head."""
    from transformers import set_seed

    from .. import AlAdForQuestionAnswering, AlAdForTokenClassification, AlAdModel
    from ..alignment.closed_form import fit_adapter
    from ..alignment.weights_digest import weights_digest
    from ..hub.pretrained_weights import resolve_pretrained
    from ..long_documents import state_length
    from ..models.alad_construction import load_tokenizer
    from ..recipes.same_run import CHECKPOINTS, check_same_run, files_digest
    from ..training.stages import align as run
    from ..training.stages import published_arguments

    closed = method == "closed-form"
    of_the_other = {"epochs": epochs, "learning_rate": learning_rate} if closed else {"regularisation": regularisation}
    useless = [name for name, value in of_the_other.items() if value is not None]
    useless += [name for name in LOSS_FIELDS if closed and name in adapter]
    useless += [name for name, value in (("train_student", train_student), ("resume", resume)) if closed and value]
    if useless:
        flags = ", ".join("--" + name.replace("_", "-") for name in useless)
        raise ValueError(f"With --method {method} there is nothing that {flags} could do: leave it out.")
    begun = check_new_or_resumed(output, resume)
    texts = read_lines(text) or []
    student, teacher = resolve_pretrained(student), resolve_pretrained(teacher)
    set_seed(seed)
    classes: dict[str, Any] = {
        "tagger": AlAdForTokenClassification,
        "answerer": AlAdForQuestionAnswering,
        "encoder": AlAdModel,
    }
    model = classes[kind_of(teacher)].from_student_pretrained(
        student, teacher=teacher, freeze_student=not train_student, **adapter
    )
    tokenizer = load_tokenizer(student, "tokenizer")
    if closed:
        given: dict[str, Any] = {} if regularisation is None else {"regularisation": regularisation}
        facts: dict[str, Any] = asdict(fit_adapter(model, texts, tokenizer=tokenizer, batch_size=batch_size, **given))
    else:
        call = {
            "rows": files_digest(text or []),
            "student": weights_digest(model.base_model.encoder),
            "teacher": weights_digest(model.teacher),
            "train_student": train_student,
            "epochs": epochs,
            "learning_rate": learning_rate,
            "batch_size": batch_size,
            "seed": seed,
            **adapter,
        }
        check_same_run(output / CHECKPOINTS, call, resume, begun=begun)
        overrides = {"num_train_epochs": epochs, "learning_rate": learning_rate}
        arguments = published_arguments(
            "general_alignment",
            output / CHECKPOINTS,
            per_device_train_batch_size=batch_size,
            seed=seed,
            logging_steps=10,
            **{name: value for name, value in overrides.items() if value is not None},
        )
        with training_bars() as bars:
            trainer = run(
                model, texts, tokenizer=tokenizer, args=arguments, resume=resume, print_logs=False, callbacks=bars
            )
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        last = next(row for row in reversed(trainer.state.log_history) if "train_loss" in row)
        facts = {
            "steps": trainer.state.global_step,
            "mean_loss": last["train_loss"],
            "last_loss": losses[-1] if losses else last["train_loss"],
            "seconds": last["train_runtime"],
        }
    state_length(tokenizer, model.config)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    console.print(f"Saved in {output}.")
    return Report({"output": str(output), **facts}, facts_table(facts))
