"""One line of CoNLL-U below the comments: a syntactic word, or something that carries no tag."""

from __future__ import annotations

import re

BLANK = " \t"
"""Only these two pad columns: other white space, such as the no-break space, occurs inside tokens."""

_WIDTH = 10
_SKIPPED_ID = re.compile(r"\d+-\d+|\d+\.\d+")


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


def looks_like_conllu(line: str) -> bool:
    """Whether a line has ten columns, of which the first is an id."""
    fields = line.split("\t")
    return len(fields) == _WIDTH and (fields[0].isdecimal() or _SKIPPED_ID.fullmatch(fields[0]) is not None)
