"""Extractive question answering the whole way: features, a QA teacher's cached states, training, answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny import tiny_config, tiny_tokenizer
from transformers import AutoModel, AutoModelForQuestionAnswering, set_seed

from alad_hf import AlAdForQuestionAnswering
from alad_hf.alignment import cache_teacher_states
from alad_hf.data.question_answering import question_answering_features
from alad_hf.question_answering import QuestionAnswerer
from alad_hf.training import published_arguments, train

PLACES = ["london", "berlin", "new york"]


def questions() -> Dataset:
    rows = []
    for name in ("smith", "jones", "acme"):
        for place in PLACES:
            context = f"the {name} visited {place} and works"
            rows.append(
                {
                    "id": f"{name}-{place}",
                    "title": "",
                    "context": context,
                    "question": f"{name} visited",
                    "answers": {"text": [place], "answer_start": [context.index(place)]},
                }
            )
    return Dataset.from_list(rows)


def test_a_student_learns_from_a_question_answering_teacher(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    data = questions()
    rows = data.map(
        lambda batch: question_answering_features(batch, tokenizer, max_length=48, overlap=8, for_training=True),
        batched=True,
        remove_columns=data.column_names,
    )
    set_seed(0)
    arguments = {"learning_rate": 5e-3, "per_device_train_batch_size": 3, "save_strategy": "no", "disable_tqdm": True}
    teacher = AutoModelForQuestionAnswering.from_config(tiny_config(hidden_size=32))
    train(
        teacher,
        rows,
        tokenizer=tokenizer,
        args=published_arguments("joint", tmp_path / "teacher", num_train_epochs=25, **arguments),
    )
    model = AlAdForQuestionAnswering.from_student_pretrained(
        AutoModel.from_config(tiny_config()), teacher=teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer
    )
    assert torch.equal(model.qa_outputs.weight, teacher.qa_outputs.weight)
    model.detach_teacher()
    cached = cache_teacher_states(
        rows, teacher, tokenizer=tokenizer, teacher_tokenizer=tokenizer, cache_dir=tmp_path / "states"
    )
    trainer = train(
        model,
        cached,
        tokenizer=tokenizer,
        args=published_arguments("joint", tmp_path / "student", num_train_epochs=40, logging_steps=1, **arguments),
        eval_dataset=cached,
    )
    assert {"task_loss", "alignment_mse_loss", "distillation_loss"} <= trainer.state.log_history[0].keys()
    assert trainer.evaluate()["eval_loss"] < 0.5 * trainer.state.log_history[0]["loss"]
    aligned = train(
        model,
        cached.remove_columns(["start_positions", "end_positions"]),
        tokenizer=tokenizer,
        args=published_arguments("joint", tmp_path / "unlabelled", max_steps=2, logging_steps=1, **arguments),
    ).state.log_history[0]
    parts = 0.1 * aligned["alignment_mse_loss"] + aligned["distillation_loss"]
    assert aligned["loss"] == pytest.approx(parts, rel=1e-4)

    model.save_pretrained(tmp_path / "out")
    tokenizer.save_pretrained(tmp_path / "out")
    answerer = QuestionAnswerer.from_pretrained(str(tmp_path / "out"))
    for row in data:
        answer = answerer(question=row["question"], context=row["context"], max_length=48, overlap=8)
        assert answer["answer"] == row["answers"]["text"][0]
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
