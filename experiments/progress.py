"""What commands show: what is done, how much of it, the time gone and the time to come; and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


def progress_bar(console: Console | None = None, *fields: str, transient: bool = False) -> Progress:
    """A bar.

    Args:
      console: where it is drawn; stderr when left out.
      fields: further fields of a task that are shown, `bar.add_task(..., NAME=text)`.
      transient: whether it goes away at the end.
    """
    shown = (TextColumn("{task.fields[%s]}" % name) for name in fields)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *shown)
    console = console or Console(stderr=True)
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=transient)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for each thing that is done: yields what is called with its name, how many there are, and how
    many were done since the last call."""
    tasks: dict[str, TaskID] = {}
    with progress_bar() as bars:

        def advance(name: str, total: int, count: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.advance(tasks[name], count)

        yield advance


@contextlib.contextmanager
def counted(title: str, total: int) -> Iterator[Callable[[], None]]:
    """One bar on stderr; yields what moves it on by one."""
    with progress_bars() as advance:
        yield lambda: advance(title, total, 1)


def print_rows(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal columns as a table; the first column stands to the left, the others to the right."""
    table = Table(title=title, box=None, title_justify="left")
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        cells = (f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values())
        table.add_row(*cells)
    console.print(table)
