"""From unlabelled text to rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..models.teacher import tokenizes_alike
from .token_alignment import TEACHER_COLUMNS, teacher_columns
from .token_labels import check_fast, covered_enough, encode_tagged_words, rows_with_tokens


def encode_text(
    texts: Iterable[str] | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_max_length: int | None = None,
    minimum_coverage: float = 0.9,
) -> Dataset:
    """Tokenize unlabelled text; a text longer than `max_length` tokens becomes several rows, none of it is dropped.

    An empty text of which a tokenizer makes no token, not even special ones, becomes no row.

    Args:
        texts: Strings, which are held in memory, or a dataset with a column `text`, `tokens` (words) or `input_ids`,
            which may be one on disk of any size, such as `load_dataset("text", ...)`.
        tokenizer: The student's tokenizer.
        max_length: Tokens of one row, special ones included.
        teacher_tokenizer: The fast tokenizer of a teacher. If it tokenizes otherwise than `tokenizer`, the rows get
            what `alad_hf.data.teacher_columns` gives; else nothing is added.
        teacher_max_length: Most tokens of the teacher's rows; by default what its tokenizer states.
        minimum_coverage: The share of tokens that must have a counterpart in the teacher's.

    Returns:
        A dataset of the tokenizer's columns, without labels, and, for a teacher that tokenizes otherwise, of the
        teacher's.

    Raises:
        TypeError: `texts` is one string, whose characters would be taken for texts, or a `DatasetDict`.
        ValueError: There is no text, rows of `input_ids` are longer than `max_length`, none of the columns is there, a
            tokenizer is a slow one, the teacher's tokenizer is another one and there are only `input_ids`, or fewer
            tokens than `minimum_coverage` have a counterpart.
    """
    _check_kind(texts)
    check_fast(tokenizer)
    dataset = texts if isinstance(texts, Dataset) else Dataset.from_dict({"text": list(texts)})
    if not len(dataset):
        raise ValueError("There is no text: pass at least one string or row.")
    names = [name for name in tokenizer.model_input_names if name in dataset.column_names]
    if teacher_tokenizer is not None and tokenizes_alike(tokenizer, teacher_tokenizer):
        teacher_tokenizer = None
    if teacher_tokenizer is not None:
        names += [name for name in TEACHER_COLUMNS if name in dataset.column_names]
    if "input_ids" in names and (teacher_tokenizer is None or "teacher_alignment" in names):
        return _short_enough(dataset.select_columns(names), max_length)
    if "tokens" in dataset.column_names:
        words = encode_tagged_words(
            dataset.select_columns(["tokens"]),
            tokenizer,
            max_length=max_length,
            teacher_tokenizer=teacher_tokenizer,
            teacher_max_length=teacher_max_length,
            minimum_coverage=minimum_coverage,
        )
        return words.remove_columns("sentence")
    if "text" not in dataset.column_names:
        raise ValueError(_nothing_to_read(dataset.column_names, teacher_tokenizer is not None))

    def encode(batch: dict[str, list]) -> dict[str, list]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=max_length, return_overflowing_tokens=True)
        columns = {name: encoded[name] for name in tokenizer.model_input_names if name in encoded}
        if teacher_tokenizer is not None:
            columns |= teacher_columns(
                encoded, batch["text"], tokenizer, teacher_tokenizer, max_length=teacher_max_length
            )
        return columns

    encoded = dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")
    encoded = rows_with_tokens(encoded)
    if not len(encoded):
        raise ValueError("There is no text: all strings are empty.")
    return covered_enough(encoded, minimum_coverage) if teacher_tokenizer is not None else encoded


def _short_enough(rows: Dataset, max_length: int) -> Dataset:
    for batch in rows.select_columns("input_ids").with_format(None).iter(1000):
        longest = max(map(len, batch["input_ids"]))
        if longest > max_length:
            raise ValueError(
                f"A row has {longest} tokens, and {max_length} fit: rows of input_ids are not cut. Encode the text "
                f"itself (a column text or tokens), or with max_length={max_length}."
            )
    return rows


def _check_kind(texts: object) -> None:
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of strings or a dataset, got the string {texts[:40]!r}; pass [text].")
    if isinstance(texts, Mapping):
        raise TypeError(
            f"texts must be a list of strings or a dataset, got a {type(texts).__name__} of {list(texts)[:5]}; pass "
            "one of these, such as data['train']."
        )


def _nothing_to_read(columns: list[str], by_teacher: bool) -> str:
    if by_teacher:
        return (
            f"The teacher tokenizes otherwise than the student, so it must read the text itself, and there is only "
            f"{columns}. Pass a column text or tokens (words), or rows that were encoded with teacher_tokenizer=..., "
            "or take a teacher with the student's tokenizer."
        )
    return f"Text is read from a column text, tokens or input_ids; there is only {columns}."
