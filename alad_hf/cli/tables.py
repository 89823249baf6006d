"""Tables of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table


def score_table(scores: dict[str, float]) -> Table:
    """One score a row, in percent; counts as they are."""
    table = Table()
    table.add_column("")
    table.add_column("score", justify="right")
    for name, value in scores.items():
        table.add_row(name, str(value) if isinstance(value, int) else f"{value:.2f}")
    return table


def in_percent(scores: dict[str, float]) -> dict[str, float]:
    """Scores of taggers, which are from 0 to 1, as people read them."""
    return {name: 100 * value for name, value in scores.items()}


def wide_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Rows with a name in the first column and numbers in the others."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*row)
    return table


def facts_table(facts: Mapping[str, object]) -> Table:
    """Names and values of one result."""
    table = Table(box=box.SIMPLE, show_header=False, pad_edge=False)
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value))
    return table
