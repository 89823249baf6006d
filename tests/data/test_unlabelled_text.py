"""Text for a teacher that tokenizes otherwise than the student."""

from __future__ import annotations

import pytest
from datasets import Dataset
from tiny import VOCABULARY, tiny_tokenizer
from transformers import PreTrainedTokenizerFast

from alad_hf.data import encode_text

TEXTS = ["smith works for acme in unberlinable york .", "", "jones visited the unplayedable new london"]
ADDED = ["teacher_input_ids", "teacher_token_type_ids", "teacher_alignment"]


def teacher_tokenizer() -> PreTrainedTokenizerFast:
    """Other ids than the student's, and fewer words."""
    entries = [token for token in reversed(VOCABULARY) if not token.isalpha() or len(token) < 5]
    return tiny_tokenizer(vocabulary={token: index for index, token in enumerate(entries)})


@pytest.mark.parametrize("max_length", [64, 6])
def test_strings_text_and_words_give_the_same(max_length: int) -> None:
    student, teacher = tiny_tokenizer(), teacher_tokenizer()
    arguments = {"max_length": max_length, "teacher_tokenizer": teacher}
    encoded = encode_text(TEXTS, student, **arguments)
    plain = encode_text(TEXTS, student, max_length=max_length)
    assert encoded.column_names == [*plain.column_names, *ADDED]
    assert encoded.select_columns(plain.column_names)[:] == plain[:]
    assert any(weight != 1 for row in encoded["teacher_alignment"] for _, _, weight in row)
    for text, ids in zip(TEXTS, encoded["teacher_input_ids"], strict=False):
        assert max_length == 6 or ids == teacher(text)["input_ids"]
    for columns in ({"text": TEXTS}, {"tokens": [text.split() for text in TEXTS]}):
        assert encode_text(Dataset.from_dict(columns), student, **arguments)[:] == encoded[:]


def test_the_same_tokenizer_adds_nothing() -> None:
    encoded = encode_text(TEXTS, tiny_tokenizer(), max_length=64, teacher_tokenizer=tiny_tokenizer())
    assert encoded[:] == encode_text(TEXTS, tiny_tokenizer(), max_length=64)[:]


def test_rows_that_are_encoded_already() -> None:
    student, arguments = tiny_tokenizer(), {"max_length": 64, "teacher_tokenizer": teacher_tokenizer()}
    encoded = encode_text(TEXTS, student, **arguments)
    assert encode_text(encoded.add_column("labels", TEXTS), student, **arguments)[:] == encoded[:]
    ids = encode_text(TEXTS, student, max_length=64)
    with pytest.raises(ValueError, match=r"tokenizes otherwise.*only \['input_ids'.*Pass a column text or tokens"):
        encode_text(ids, student, **arguments)
    assert encode_text(ids.add_column("text", TEXTS), student, **arguments)[:] == encoded[:]
    assert encode_text(ids, student, max_length=64, teacher_tokenizer=tiny_tokenizer())[:] == ids[:]


def test_a_teacher_that_cannot_read_the_text_is_refused() -> None:
    arguments = {"max_length": 64, "teacher_tokenizer": teacher_tokenizer(), "teacher_max_length": 5}
    with pytest.raises(ValueError, match=r"2 of 3 rows are too long for the teacher.*minimum_coverage=0\.9"):
        encode_text(TEXTS, tiny_tokenizer(), **arguments)
    assert len(encode_text(TEXTS, tiny_tokenizer(), **arguments, minimum_coverage=0)) == 3
