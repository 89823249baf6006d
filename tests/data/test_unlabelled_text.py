"""`encode_text`: unlabelled text, also for a teacher that tokenizes otherwise than the student."""

from __future__ import annotations

import pytest
from datasets import Dataset, DatasetDict
from tiny import VOCABULARY, tiny_tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_python import PythonBackend

from alad_hf.data import encode_tagged_words, encode_text

TEXTS = ["smith works for acme in unberlinable york .", "", "jones visited the unplayedable new london"]
MORE_TEXTS = [
    "smith works for acme in york .",
    "jones visited the unplayedable new london",
    "a zeta",
    "the berlin of smith and jones , played in new york for acme .",
    "",
    "acme works",
]
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


def test_a_text_without_any_token_becomes_no_row() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    for arguments in ({}, {"teacher_tokenizer": teacher_tokenizer()}):
        rows = encode_text(["a b", "", "c"], tokenizer, max_length=8, **arguments)
        assert [len(ids) for ids in rows["input_ids"]] == [2, 1]
    with pytest.raises(ValueError, match="There is no text: all strings are empty"):
        encode_text(["", ""], tokenizer, max_length=8)
    assert len(encode_text(["a", ""], tiny_tokenizer(), max_length=8)) == 2  # special tokens can be read


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


def test_strings_and_a_text_column() -> None:
    tokenizer = tiny_tokenizer()
    encoded = encode_text(iter(MORE_TEXTS), tokenizer, max_length=64)
    assert encoded["input_ids"][:] == [tokenizer(text)["input_ids"] for text in MORE_TEXTS]
    assert encoded.column_names == tokenizer.model_input_names
    columns = Dataset.from_dict({"text": MORE_TEXTS, "label": list(range(len(MORE_TEXTS)))})
    assert encode_text(columns, tokenizer, max_length=64)["input_ids"][:] == encoded["input_ids"][:]


@pytest.mark.parametrize("max_length", [3, 7, 12])
def test_long_text_loses_no_token(max_length: int) -> None:
    tokenizer = tiny_tokenizer()
    rows = encode_text(MORE_TEXTS, tokenizer, max_length=max_length)["input_ids"][:]
    assert len(rows) > len(MORE_TEXTS)
    assert all(len(row) <= max_length for row in rows)
    start, end = tokenizer("")["input_ids"]
    assert all(row[0] == start and row[-1] == end for row in rows)
    whole = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in MORE_TEXTS]
    assert [token for row in rows for token in row[1:-1]] == [token for ids in whole for token in ids]


def test_words() -> None:
    words = Dataset.from_dict({"tokens": [text.split() for text in MORE_TEXTS], "tags": [[0]] * len(MORE_TEXTS)})
    encoded = encode_text(words, tiny_tokenizer(), max_length=9)
    expected = encode_tagged_words(words.remove_columns("tags"), tiny_tokenizer(), max_length=9)
    assert encoded["input_ids"][:] == expected["input_ids"][:]
    assert encoded.column_names == tiny_tokenizer().model_input_names


def test_encoded_rows_pass_without_their_labels() -> None:
    rows = Dataset.from_dict(dict(tiny_tokenizer()(MORE_TEXTS)))
    rows = rows.add_column("labels", rows["input_ids"][:]).with_format("torch")
    encoded = encode_text(rows, tiny_tokenizer(), max_length=64)
    assert encoded.column_names == ["input_ids", "token_type_ids", "attention_mask"]
    assert [ids.tolist() for ids in encoded["input_ids"]] == [ids.tolist() for ids in rows["input_ids"]]


def test_rows_that_do_not_fit_and_no_rows_are_refused() -> None:
    rows = Dataset.from_dict(dict(tiny_tokenizer()(MORE_TEXTS)))
    longest = max(map(len, rows["input_ids"]))
    assert encode_text(rows, tiny_tokenizer(), max_length=longest)["input_ids"][:] == rows["input_ids"][:]
    with pytest.raises(ValueError, match=f"A row has {longest} tokens, and {longest - 1} fit"):
        encode_text(rows, tiny_tokenizer(), max_length=longest - 1)
    with pytest.raises(ValueError, match="There is no text"):
        encode_text([], tiny_tokenizer(), max_length=9)


def test_what_is_refused() -> None:
    class SlowTokenizer(PythonBackend):
        vocab_size = 0

        def get_vocab(self) -> dict[str, int]:
            return {}

    with pytest.raises(ValueError, match=r"column text, tokens or input_ids; there is only \['sentence'\]"):
        encode_text(Dataset.from_dict({"sentence": MORE_TEXTS}), tiny_tokenizer(), max_length=9)
    with pytest.raises(TypeError, match=r"got the string 'new york'; pass \[text\]"):
        encode_text("new york", tiny_tokenizer(), max_length=9)
    with pytest.raises(TypeError, match=r"got a DatasetDict of \['train', 'test'\]; pass one of these"):
        splits = DatasetDict({name: Dataset.from_dict({"text": MORE_TEXTS}) for name in ("train", "test")})
        encode_text(splits, tiny_tokenizer(), max_length=9)
    with pytest.raises(ValueError, match=r"SlowTokenizer is a slow tokenizer.*drops what it cuts off"):
        encode_text(MORE_TEXTS, SlowTokenizer(), max_length=9)
