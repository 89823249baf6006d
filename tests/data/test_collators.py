"""The collator: tokens, labels and teacher columns padded on the same side, unlabelled rows marked, alignments."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer

from alad_hf.data.collators import DataCollatorForAlignment

LENGTHS = (3, 5, 1)


def rows(
    convert: Callable[[np.ndarray], object] = np.ndarray.tolist, labelled: bool = True
) -> list[dict[str, object]]:
    """Rows of different lengths with every column of a cached dataset."""
    random = np.random.default_rng(0)
    result = []
    for length in LENGTHS:
        row = {
            "input_ids": random.integers(5, 50, length),
            "attention_mask": np.ones(length, dtype=np.int64),
            "teacher_states": random.normal(size=(length, 4)).astype(np.float32),
            "teacher_logits": random.normal(size=(length, 2)).astype(np.float32),
        }
        if labelled:
            row["labels"] = random.integers(-1, 3, length)
        result.append({name: convert(value) for name, value in row.items()})
    return result


def collator(padding_side: str = "right", **settings: int) -> DataCollatorForAlignment:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = padding_side
    return DataCollatorForAlignment(tokenizer, **settings)


@pytest.mark.parametrize("convert", [np.ndarray.tolist, torch.from_numpy, lambda array: array], ids=["l", "t", "n"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_every_column_is_padded_like_the_tokens(padding_side: str, convert: Callable) -> None:
    batch = collator(padding_side)(rows(convert))
    fillers = {"input_ids": 0, "attention_mask": 0, "labels": -100, "teacher_states": 0.0, "teacher_logits": 0.0}
    assert batch.keys() == fillers.keys()
    for name, filler in fillers.items():
        for index, row in enumerate(rows()):
            values = torch.tensor(row[name])
            empty = torch.full((5 - len(values), *values.shape[1:]), filler, dtype=values.dtype)
            expected = [empty, values] if padding_side == "left" else [values, empty]
            assert torch.equal(batch[name][index], torch.cat(expected)), name


@pytest.mark.parametrize(("multiple", "tokens"), [(None, 5), (4, 8), (5, 5), (64, 64)])
def test_pad_to_multiple_of(multiple: int | None, tokens: int) -> None:
    batch = collator(pad_to_multiple_of=multiple)(rows())
    assert {name: value.shape[:2] for name, value in batch.items()} == dict.fromkeys(batch, (3, tokens))
    assert batch["attention_mask"].sum().item() == sum(LENGTHS)


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_unlabelled_rows_count_their_real_tokens(padding_side: str) -> None:
    batch = collator(padding_side)(rows(labelled=False))
    assert torch.equal(batch["labels"], torch.where(batch["attention_mask"] == 1, -1, -100))
    assert (batch["labels"] != -100).sum(dim=1).tolist() == list(LENGTHS)


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_rows_without_a_label_are_text_if_a_teacher_speaks_of_them(padding_side: str) -> None:
    """Or the Trainer would count nothing of them, and accumulated batches would not add up to one."""
    some = rows()
    some[0]["labels"] = [-100] * LENGTHS[0]
    some[1]["labels"] = [-100, 2, -100, -100, -100]
    batch = collator(padding_side)(some)
    assert (batch["labels"][0][batch["attention_mask"][0] == 1] == -1).all()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    assert (batch["labels"][1] != -100).sum() == 1
    without = [{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in some]
    assert (collator(padding_side)(without)["labels"][0] == -100).all()


def test_precision_of_the_cache_is_kept() -> None:
    half = [{**row, "teacher_states": torch.tensor(row["teacher_states"]).half()} for row in rows()]
    assert collator()(half)["teacher_states"].dtype == torch.float16


def test_answer_positions_are_stacked_and_get_no_labels() -> None:
    answers = [(1, 2), (0, 4), (0, 0)]
    questions = [
        {**row, "start_positions": start, "end_positions": end}
        for row, (start, end) in zip(rows(labelled=False), answers, strict=True)
    ]
    batch = collator()(questions)
    assert "labels" not in batch
    assert list(zip(batch["start_positions"].tolist(), batch["end_positions"].tolist(), strict=True)) == answers
    assert batch["teacher_logits"].shape == (3, 5, 2)


def test_labels_of_whole_rows_are_stacked() -> None:
    batch = collator()([{**row, "labels": index} for index, row in enumerate(rows(labelled=False))])
    assert batch["labels"].tolist() == [0, 1, 2]


def test_rows_are_not_changed() -> None:
    given = rows()
    collator()(given)
    assert given == rows()


def test_the_column_for_grouping_by_length_is_no_input() -> None:
    grouped = [{**row, "length": len(row["input_ids"])} for row in rows()]
    assert collator()(grouped).keys() == collator()(rows()).keys()


def test_answer_positions_move_with_padding_on_the_left() -> None:
    columns, positions = ("start_positions", "end_positions"), [0, 4, -1]
    questions = [
        {**row, **dict.fromkeys(columns, position)}
        for row, position in zip(rows(labelled=False), positions, strict=True)
    ]
    left, right = collator("left")(questions), collator()(questions)
    for name in columns:
        assert right[name].tolist() == positions
        assert left[name].tolist() == [2, 4, -1], "row 0 has two positions of padding, row 1 none; row 2 no answer"
    for row, position in enumerate(positions[:2]):
        assert left["input_ids"][row, left["start_positions"][row]] == questions[row]["input_ids"][position]


TEACHER_LENGTHS = (4, 2, 6)


def aligned_rows(convert: Callable[[np.ndarray], object] = np.ndarray.tolist) -> list[dict[str, object]]:
    """Rows with the tokens of a teacher: many to many, a student's token without a counterpart, and none at all."""
    triples = [
        [[0, 0, 1.0], [1, 1, 0.25], [1, 2, 0.75], [2, 2, 1.0]],
        [[0, 0, 1.0], [4, 1, 1.0]],
        [],
    ]
    result = []
    for row, length, alignment in zip(rows(convert), TEACHER_LENGTHS, triples, strict=True):
        ids = np.arange(100, 100 + length)
        row |= {
            "teacher_input_ids": convert(ids),
            "teacher_token_type_ids": convert(ids % 2),
            "teacher_alignment": convert(np.array(alignment, dtype=np.float32)),
            "teacher_mask": convert(np.ones(len(row["input_ids"]), dtype=np.int8)),
        }
        result.append(row)
    return result


@pytest.mark.parametrize("convert", [np.ndarray.tolist, torch.from_numpy, lambda array: array], ids=["l", "t", "n"])
@pytest.mark.parametrize("multiple", [None, 8])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_the_tokens_of_a_teacher_have_their_own_length(
    padding_side: str, multiple: int | None, convert: Callable
) -> None:
    batch = collator(padding_side, pad_to_multiple_of=multiple)(aligned_rows(convert))
    tokens, teacher_tokens = (8, 8) if multiple else (5, 6)
    expected = torch.zeros(3, tokens, teacher_tokens)
    for index, (row, length) in enumerate(zip(aligned_rows(), TEACHER_LENGTHS, strict=True)):
        ids = torch.zeros(teacher_tokens, dtype=torch.long)
        ids[:length] = torch.arange(100, 100 + length)
        assert torch.equal(batch["teacher_input_ids"][index], ids)
        assert torch.equal(batch["teacher_token_type_ids"][index], ids % 2)
        assert batch["teacher_attention_mask"][index].tolist() == [1] * length + [0] * (teacher_tokens - length)
        first = tokens - LENGTHS[index] if padding_side == "left" else 0
        for own, teacher, weight in row["teacher_alignment"]:
            expected[index, first + int(own), int(teacher)] = weight
    assert torch.equal(batch["teacher_alignment"], expected)
    assert torch.equal(batch["teacher_mask"], batch["attention_mask"].to(batch["teacher_mask"].dtype))
    without = collator(padding_side, pad_to_multiple_of=multiple)(rows())
    assert all(torch.equal(batch[name], value) for name, value in without.items()), "the student's columns changed"


def test_token_types_of_the_teacher_are_not_needed() -> None:
    given = aligned_rows()
    for row in given:
        del row["teacher_token_type_ids"]
    assert collator()(given).keys() == collator()(aligned_rows()).keys() - {"teacher_token_type_ids"}


@pytest.mark.parametrize("padding_side", ["left", "right"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_text_may_stand_beside_labelled_rows(order: tuple[int, ...], padding_side: str) -> None:
    labelled, text = rows(), rows()
    del text[1]["labels"]
    text[2]["labels"] = None  # as a column of a concatenated dataset has it
    given = [labelled[0], text[1], text[2]]
    labels = collator(padding_side)([given[index] for index in order])["labels"]
    expected = {0: labelled[0]["labels"], 1: [-1] * 5, 2: [-1]}
    for row, index in zip(labels.tolist(), order, strict=True):
        padding = [-100] * (5 - len(expected[index]))
        both = padding + expected[index] if padding_side == "left" else expected[index] + padding
        assert row == both


def test_rows_of_different_columns_are_refused() -> None:
    given = rows()
    del given[1]["teacher_states"]
    with pytest.raises(ValueError, match="have teacher_states and others have not.*mix_rows"):
        collator()(given)
