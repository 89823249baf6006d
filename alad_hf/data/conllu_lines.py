"""One line of CoNLL-U below the comments: a syntactic word, or something that carries no tag."""

from __future__ import annotations

import re
from collections.abc import Iterable

BLANK = " \t"
"""Only these two pad columns: other white space, such as the no-break space, occurs inside tokens."""

_WIDTH = 10
_SKIPPED_ID = re.compile(r"\d+-\d+|\d+\.\d+")
_ID = re.compile(rf"\d+|{_SKIPPED_ID.pattern}")


def word_columns(line: str, expected_id: int) -> list[str] | None:
    """The ten columns of a word; None of a multiword token (id `1-2`) and of an empty node (id `1.1`).

    Args:
        line: Without its end.
        expected_id: Words are counted from 1 in each sentence.

    Raises:
        ValueError: The line is malformed; the message says how.
    """
    fields = [field.strip(BLANK) for field in line.split("\t")]
    if len(fields) != _WIDTH:
        raise ValueError(f"found {len(fields)} columns, expected {_WIDTH} separated by tabs")
    if _SKIPPED_ID.fullmatch(fields[0]):
        return None
    if fields[0] != str(expected_id):
        raise ValueError(f"found word id {fields[0]!r}, expected {expected_id} (sentences end with a blank line)")
    if not fields[1]:
        raise ValueError("found an empty word in column FORM, expected text")
    return fields


def is_conllu(lines: Iterable[str]) -> bool:
    """Whether a sentence is of CoNLL-U: all of its lines but comments have ten columns, the first of them an id."""
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return bool(rows) and all(len(row) == _WIDTH and _ID.fullmatch(row[0]) for row in rows)
