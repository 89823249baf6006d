"""How many of a student's tokens have a counterpart in the teacher's, and whether that is enough."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TypedDict

logger = logging.getLogger(__name__)

EXPECTED_COVERAGE = 0.99
"""A smaller share of covered tokens is worth a warning."""


class RowCoverage(TypedDict):
    """What `teacher_columns` found out about one row. Special tokens and tokens of blanks only are not counted."""

    tokens: int
    covered: int
    cut: bool
    """Whether the teacher's tokenizer had to cut the text."""
    uncovered: str
    """The characters of the first token without a counterpart, or an empty string."""


def report_coverage(rows: Iterable[RowCoverage]) -> None:
    """Log the covered share of all rows in one line: as information, or as a warning below `EXPECTED_COVERAGE`."""
    rows = list(rows)
    level = logging.WARNING if _share(rows) < EXPECTED_COVERAGE else logging.INFO
    logger.log(level, "%s Tokens without a counterpart carry no loss against the teacher.", _summary(rows))


def check_coverage(rows: Iterable[RowCoverage], minimum: float) -> None:
    """Raise ValueError if the share of covered tokens in all rows is below `minimum`."""
    rows = list(rows)
    if _share(rows) >= minimum:
        return
    if any(row["cut"] for row in rows):
        remedy = "Encode shorter rows (a smaller max_length), or pass a larger teacher_max_length if the model has it"
    else:
        remedy = "Clean the text of what the teacher's tokenizer drops, or take another teacher"
    raise ValueError(
        f"{_summary(rows)} That is less than minimum_coverage={minimum:g}. {remedy}; or pass a lower minimum_coverage."
    )


def _share(rows: list[RowCoverage]) -> float:
    tokens = sum(row["tokens"] for row in rows)
    return sum(row["covered"] for row in rows) / tokens if tokens else 1.0


def _summary(rows: list[RowCoverage]) -> str:
    tokens, cut = sum(row["tokens"] for row in rows), sum(row["cut"] for row in rows)
    share = _share(rows)
    # Not 100.0% as long as one token of a million is missing.
    percent = f"{100 * share:.1f}%" if share == 1 else f"{min(100 * share, 99.99):.2f}%"
    summary = f"The teacher's tokens cover {percent} of the student's {tokens} tokens"
    example = next((row["uncovered"] for row in rows if row["uncovered"]), "")
    if example:
        summary += f"; nothing stands for {ascii(example)}, for one"
    if cut:
        summary += f"; {cut} of {len(rows)} rows are too long for the teacher and were cut"
    return summary + "."
