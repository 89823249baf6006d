"""What a stream of predictions reads: texts, lists of words and questions, one record after the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, get_args

from .data.conllu_lines import BLANK, is_conllu, word_columns
from .data.json_lines import load_object
from .data.text_lines import check_characters
from .data.word_boundaries import split_words

InputFormat = Literal["text", "document", "conll", "conllu", "jsonl"]
"""A text a line, one text, a word a line and blank lines between sentences, the same as CoNLL-U, or a JSON object a
line."""

_SUFFIXES: dict[str, InputFormat] = {
    "": "text",
    ".txt": "text",
    ".text": "text",
    ".conll": "conll",
    ".conllu": "conllu",
    ".bio": "conll",
    ".iob": "conll",
    ".tsv": "conll",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
_EXPECTED_TAGGING = 'expected {"text": "Ada ..."} or {"tokens": ["Ada", ...]}'
_EXPECTED_QUESTION = 'expected {"question": "Who?", "context": "Ada did."}'


@dataclass(frozen=True)
class Record:
    """One text, sentence or question of the input."""

    source: dict[str, Any]
    """What its line of JSON holds beside the prediction."""
    line_number: int
    """Where it begins in the input, counted from 1."""
    words: list[str] = field(default_factory=list)
    offsets: list[tuple[int, int]] | None = None
    """First and exclusive last character of each word in `source["text"]`; None where words came without a text."""
    lines: list[str] | None = None
    """Its lines of columns, to which a tag is added; None where it came otherwise."""


def input_format_of(suffix: str) -> InputFormat:
    """The format of a file, by its suffix.

    Args:
        suffix: Such as `.jsonl`, in any case.

    Raises:
        ValueError: The suffix says nothing.
    """
    if suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"The suffix {suffix!r} does not say what the file holds, as do {sorted(filter(None, _SUFFIXES))}: pass "
            f"--input-format, one of {list(get_args(InputFormat))}."
        )
    return _SUFFIXES[suffix.lower()]


def read_records(stream: BinaryIO, input_format: InputFormat) -> Iterator[Record]:
    r"""Read texts and sentences, one at a time.

    - `text`: each line, empty ones too, is a text; a `\r` at its end is no part of it.
    - `document`: all of it is one text, line ends as they are.
    - `conll`: words are the first of the columns, which tabs separate, or else blanks. Blank lines end a sentence.
    - `conllu`: words are the forms of the syntactic words, as in `read_conllu`. Comments, multiword tokens (id `1-2`)
      and empty nodes (id `1.1`) are not tagged; neither they nor the columns beside the form come out again.
    - `jsonl`: objects with `text`, or with `tokens`. Other keys are kept.

    Args:
        stream: UTF-8; a byte order mark is left out.
        input_format: See above.

    Raises:
        ValueError: While iterating, a line is malformed; the message has its number.
    """
    readers: dict[str, Callable[[BinaryIO], Iterator[Record]]] = {
        "text": lambda lines: (_text_record({"text": line}, number) for number, line in _decoded(lines)),
        "document": lambda whole: iter([_text_record({"text": _decode(whole.read(), 1).removeprefix("\ufeff")}, 1)]),
        "conll": _conll_records,
        "conllu": _conllu_records,
        "jsonl": lambda lines: (_tagging_record(row, number) for number, row in _objects(lines, _EXPECTED_TAGGING)),
    }
    if input_format not in readers:
        raise ValueError(f"input_format must be one of {list(readers)}, got {input_format!r}.")
    return readers[input_format](stream)


def read_questions(stream: BinaryIO) -> Iterator[Record]:
    """Read JSON objects with `question` and `context`, one a line; other keys are kept.

    Raises:
        ValueError: While iterating, a line is malformed, or a text is empty; the message has its number.
    """
    for number, row in _objects(stream, _EXPECTED_QUESTION):
        for key in ("question", "context"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise ValueError(f"Line {number}: {key!r} is {row.get(key)!r}, {_EXPECTED_QUESTION}.")
        yield Record(row, number)


def _decoded(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        text = _decode(line, number).removesuffix("\n").removesuffix("\r")
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def _decode(content: bytes, first_line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        number = first_line + content.count(b"\n", 0, error.start)
        raise ValueError(
            f"Line {number}: byte 0x{content[error.start]:02x} is not valid UTF-8. Convert the input, for example by "
            "`iconv -f latin1 -t utf-8` if it is Latin-1."
        ) from error


def _objects(lines: Iterable[bytes], expected: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _decoded(lines):
        if not line.strip():
            continue
        try:
            row = load_object(line, expected)
        except ValueError as error:
            raise ValueError(f"Line {number}: {error}.") from None
        if "\\ud" in line.lower():
            try:
                check_characters(json.dumps(row, ensure_ascii=False))
            except ValueError as error:
                raise ValueError(f"Line {number}: {error}.") from None
        yield number, row


def _tagging_record(row: dict[str, Any], number: int) -> Record:
    if isinstance(row.get("text"), str) and "tokens" not in row:
        return _text_record(row, number)
    words = row.get("tokens")
    if "text" in row or not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"Line {number} has the keys {sorted(row)}, {_EXPECTED_TAGGING}.")
    return Record(row, number, words)


def _text_record(row: dict[str, Any], number: int) -> Record:
    text = row["text"]
    offsets = split_words(text)
    return Record(row, number, [text[start:end] for start, end in offsets], offsets)


def _conll_records(lines: Iterable[bytes]) -> Iterator[Record]:
    for first, sentence in _sentences(lines):
        _refuse_conllu(sentence, first)
        words = [_first_column(line.strip(BLANK)) for line in sentence]
        yield Record({"tokens": words}, first, words, lines=sentence)


def _conllu_records(lines: Iterable[bytes]) -> Iterator[Record]:
    for first, sentence in _sentences(lines):
        words: list[str] = []
        for number, line in enumerate(sentence, start=first):
            if line.startswith("#") and not words:
                continue
            try:
                fields = word_columns(line, expected_id=len(words) + 1)
            except ValueError as error:
                raise ValueError(f"Line {number}: {error}; the line is {line!r}.") from None
            if fields is not None:
                words.append(fields[1])
        if words:
            yield Record({"tokens": words}, first, words)


def _sentences(lines: Iterable[bytes]) -> Iterator[tuple[int, list[str]]]:
    """The lines between blank ones, with the number of the first."""
    sentence: list[str] = []
    number = 0
    for number, line in _decoded(lines):
        if "\r" in line:
            raise ValueError(
                f"Line {number}: found a carriage return inside {line[:60]!r}, expected lines that end with it and a "
                "line feed, or with a line feed alone. Convert the input, for example by `tr '\\r' '\\n'`."
            )
        if line.strip(BLANK):
            sentence.append(line)
        elif sentence:
            yield number - len(sentence), sentence
            sentence = []
    if sentence:
        yield number - len(sentence) + 1, sentence


def _refuse_conllu(sentence: list[str], first: int) -> None:
    """Refuse a sentence of CoNLL-U, lest its ids be taken for words."""
    if is_conllu(sentence):
        number, line = next((place, line) for place, line in enumerate(sentence, first) if not line.startswith("#"))
        raise ValueError(
            f"Line {number}: {line!r} is CoNLL-U, whose words are not in the first column: pass "
            "input_format='conllu' (--input-format conllu)."
        )


def _first_column(line: str) -> str:
    return line.split("\t" if "\t" in line else " ", maxsplit=1)[0].rstrip(" ")
