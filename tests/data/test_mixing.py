"""`mix_rows`: labelled and unlabelled rows in one training set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Array2D, Dataset, Features, List, Value
from tiny import tiny_tokenizer

from alad_hf.data import DataCollatorForAlignment, mix_rows


def rows(lengths: list[int], seed: int, **columns: list) -> Dataset:
    generator = np.random.default_rng(seed)
    features = Features(
        {"input_ids": List(Value("int64")), "teacher_states": Array2D((None, 4), "float16")}
        | {name: List(Value("int64")) if name == "labels" else Value("int64") for name in columns}
    )
    data = {
        "input_ids": [generator.integers(5, 30, length).tolist() for length in lengths],
        "teacher_states": [generator.normal(size=(length, 4)).astype("float16") for length in lengths],
    }
    return Dataset.from_dict(data | columns, features=features).with_format("torch")


def test_every_row_occurs_as_often_as_asked_and_keeps_its_teacher_states() -> None:
    labelled = rows([2, 3], seed=0, labels=[[0, -100], [1, 2, -100]])
    text = rows([4], seed=1)
    mixed = mix_rows(labelled, text, epochs=2, unlabelled_epochs=3)
    assert mixed.format["type"] == "torch" and mixed.column_names == labelled.column_names
    expected = [*labelled, *labelled, *[text[0]] * 3]
    assert len(mixed) == len(expected)
    for row, source in zip(mixed, expected, strict=True):
        assert torch.equal(row["input_ids"], source["input_ids"])
        assert torch.equal(row["teacher_states"], source["teacher_states"])
        assert row["labels"].tolist() == (source["labels"].tolist() if "labels" in source else [-1] * 4)


def test_a_batch_of_both_kinds_counts_the_tokens_of_text_without_a_task_loss() -> None:
    mixed = mix_rows(rows([3], seed=0, labels=[[0, 1, -100]]), rows([2], seed=1))
    batch = DataCollatorForAlignment(tiny_tokenizer())([mixed[0], mixed[1]])
    assert batch["labels"].tolist() == [[0, 1, -100], [-1, -1, -100]]


def test_answers_of_unlabelled_rows_are_no_positions() -> None:
    mixed = mix_rows(rows([3], seed=0, start_positions=[1], end_positions=[2]), rows([2, 2], seed=1))
    assert list(mixed["start_positions"]) == [1, -1, -1] and list(mixed["end_positions"]) == [2, -1, -1]


def test_labels_of_the_unlabelled_side_are_not_read() -> None:
    mixed = mix_rows(rows([2], seed=0, labels=[[0, 1]]), rows([2], seed=1, labels=[[3, 3]]))
    assert mixed["labels"][1].tolist() == [-1, -1]


def test_what_is_refused() -> None:
    labelled, text = rows([2], seed=0, labels=[[0, 1]]), rows([2], seed=1)
    with pytest.raises(ValueError, match="none of"):
        mix_rows(text, text)
    with pytest.raises(ValueError, match=r"\['teacher_states'\].*cache_teacher_states on both"):
        mix_rows(labelled, text.remove_columns("teacher_states"))
    with pytest.raises(ValueError, match=r"\['teacher_states'\]"):
        mix_rows(labelled.remove_columns("teacher_states"), text)
