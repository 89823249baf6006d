"""Tables of results."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_NAME_WIDTH = 12
"""What a long name in the first column of a wide table has at least, on as many lines as it takes."""


def score_table(scores: dict[str, float]) -> Table:
    """One score a row, in percent; counts as they are."""
    table = Table()
    table.add_column("")
    table.add_column("score", justify="right")
    for name, value in scores.items():
        table.add_row(name, _as_score(value))
    return table


def score_columns(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """As `score_table`, side by side of several models that were scored alike."""
    names = list(next(iter(scores.values()), {}))
    return wide_table(["", *scores], [[name, *(_as_score(row[name]) for row in scores.values())] for name in names])


def _as_score(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"


def in_percent(scores: dict[str, float]) -> dict[str, float]:
    """Scores of taggers, which are from 0 to 1, as people read them."""
    return {name: 100 * value for name, value in scores.items()}


def wide_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    """Rows with a name in the first column and numbers in the others; names are folded, numbers never."""
    table = _WideTable(title=title, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.name_width = max((cell_len(row[0]) for row in rows), default=0)
    for index, column in enumerate(columns):
        if index:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


class _WideTable(Table):
    """Lines are longer than those of the console where numbers and a part of the names do not fit."""

    name_width = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = Measurement.get(console, options.update(max_width=sys.maxsize), self).maximum
        needed = whole - max(0, self.name_width - _NAME_WIDTH)
        yield from super().__rich_console__(console, options.update(max_width=max(options.max_width, needed)))


def facts_table(facts: Mapping[str, object]) -> Text:
    """Names and values of one result, each value whole on its line: addresses and paths are there to be copied."""
    width = max(map(cell_len, facts), default=0)
    lines = []
    for name, value in facts.items():
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f" {name.replace('_', ' ')}{' ' * (width - cell_len(name))}   {shown}")
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")
