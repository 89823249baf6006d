"""Which teacher a model is aligned with, and how long its inputs may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_config, tiny_teacher, tiny_tokenizer
from transformers import AutoModel, XLNetConfig

from alad_hf import AlAdModel
from alad_hf.alignment.find_teacher import FoundTeacher, find_teacher


def make_model(**arguments: object) -> AlAdModel:
    return AlAdModel.from_student_pretrained(
        AutoModel.from_config(tiny_config()), tokenizer=tiny_tokenizer(), **arguments
    )


def test_the_given_one_goes_before_the_attached_one() -> None:
    attached, own = tiny_teacher(), tiny_tokenizer()
    model = make_model(teacher=attached, teacher_tokenizer=own)
    given, other = tiny_teacher(seed=2), tiny_tokenizer(lowercase=False)
    for arguments, expected in (
        ((None, None), (attached, own)),
        ((attached, None), (attached, own)),
        ((None, other), (attached, other)),
        ((given, other), (given, other)),
    ):
        found = find_teacher(model, *arguments)
        assert found.model is expected[0] and found.tokenizer is expected[1]
    with pytest.raises(ValueError, match="no name to load its tokenizer from. Pass teacher_tokenizer="):
        find_teacher(model, given, None)  # and never with the attached one's tokenizer


def test_by_name(tmp_path: Path) -> None:
    tiny_teacher().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = find_teacher(make_model(hidden_size=32), str(tmp_path), None)
    assert found.model.name_or_path == str(tmp_path)
    assert found.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    with pytest.raises(ValueError, match=r"Alignment needs a teacher: pass teacher=\.\.\."):
        find_teacher(make_model(hidden_size=32), None, None)


def test_longest_input() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 16
    assert FoundTeacher(tiny_teacher(), tokenizer).max_length == 16
    tokenizer.model_max_length = int(1e30)
    assert FoundTeacher(tiny_teacher(), tokenizer).max_length == 64
    unlimited = AutoModel.from_config(XLNetConfig(vocab_size=99, d_model=16, n_layer=1, n_head=2, d_inner=16))
    assert FoundTeacher(unlimited, tokenizer).max_length is None


def test_a_row_fits_into_a_teacher_that_reads_the_same_tokens() -> None:
    short = tiny_tokenizer()
    short.model_max_length = 16
    config = tiny_config()
    assert FoundTeacher(tiny_teacher(), short).longest_row(config, tiny_tokenizer()) == 16
    assert FoundTeacher(tiny_teacher(), tiny_tokenizer()).longest_row(config, short) == 16
    # One with other tokens reads its own row, whose length is its own.
    vocabulary = {token: index for index, token in enumerate(reversed(short.get_vocab()))}
    other = tiny_tokenizer(vocabulary=vocabulary)
    other.model_max_length = 16
    assert FoundTeacher(tiny_teacher(), other).longest_row(config, tiny_tokenizer()) == 64
