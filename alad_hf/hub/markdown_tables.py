"""Markdown for model cards: text as it is, code, and tables out of mappings."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real

MISSING = "–"
_HEADERS = {
    "f1": "F1",
    "latency_ms": "latency, ms",
    "macro_f1": "macro F1",
    "stored_megabytes": "stored MB",
    "sentences_per_second": "sentences/s",
}


def header(name: str) -> str:
    """The words for a key such as `stored_megabytes`."""
    return _HEADERS.get(name, name.replace("_", " "))


def number(value: object) -> str:
    """A measured value for readers: integers in full; others with four digits behind the point up to 1, none from 100.

    Args:
        value: The value; a text stays as it is, and None shows as missing.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, Real):
        return str(value)
    if isinstance(value, Integral):
        return f"{int(value):,}"
    measured = float(value)
    digits = 4 if abs(measured) <= 1 else 2 if abs(measured) < 100 else 0
    return f"{measured:,.{digits}f}"


def plain(text: str) -> str:
    """A text that is shown as it is: no markup, tag, link or line break in it has an effect."""
    return re.sub(r"([\\`*\[\]<>])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """A text as a code span, whatever backticks it holds."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def fenced(lines: Sequence[str], language: str) -> str:
    """Lines as a code block, whatever backticks they hold; "" if there are none."""
    if not lines:
        return ""
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right."""
    rule = [":--", *["--:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in (columns, rule, *rows))


def comparison_table(
    rows: Mapping[str, Mapping[str, object]], write: Callable[[str, object], str] = lambda _, value: number(value)
) -> str:
    """A table with one row a key and one column for every key that any row has; empty columns are left out.

    Args:
        rows: Values by row and column.
        write: Turns a column's name and a value into text.
    """
    every = dict.fromkeys(name for row in rows.values() for name in row)
    columns = [name for name in every if any(row.get(name) is not None for row in rows.values())]
    body = [[title, *(write(name, row.get(name)) for name in columns)] for title, row in rows.items()]
    return table(["", *map(plain, map(header, columns))], [[*map(plain, cells)] for cells in body])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


__all__ = ["MISSING", "code", "comparison_table", "fenced", "header", "number", "plain", "table"]
