"""Progress bars and tables that the commands print."""

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

from experiments.command_line import message_console


def progress_bar(console: Console | None = None, *fields: str, transient: bool = False) -> Progress:
    """Create a progress bar that shows the count, the elapsed time and the remaining time.

    Args:
      console: where it is drawn; stderr by default.
      fields: names of further task fields to show, set by `bar.add_task(..., NAME=text)`.
      transient: whether the bar disappears at the end.
    """
    extra = (TextColumn("{task.fields[%s]}" % name, markup=False) for name in fields)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *extra)
    console = console or message_console()
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=transient)


@contextlib.contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr for each task.

    Yields:
      A function of the task's name, its total number of steps and the number of steps done since the last call.
    """
    tasks: dict[str, TaskID] = {}
    with progress_bar() as bars:

        def advance(name: str, total: int, count: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.advance(tasks[name], count)

        yield advance


@contextlib.contextmanager
def progress_counter(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show one bar on stderr; yields a function that advances it by one."""
    with progress_bars() as advance:
        yield lambda: advance(title, total, 1)


def print_rows(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with the same keys as a table; the first column is left-aligned, the others right-aligned."""
    table = Table(title=title, box=None, title_justify="left")
    for i, column in enumerate(rows[0]):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        cells = (f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in row.values())
        table.add_row(*cells)
    console.print(table)
