"""Progress bars, or lines where no terminal shows them, and tables that the commands print."""

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

LINE_SHARE, MIN_SECONDS, MAX_SECONDS = 0.1, 5.0, 60.0
"""A line of progress follows after this share of a task, but not sooner or later than this many seconds."""


class ProgressLines(Progress):
    """Prints plain lines instead of drawing bars, for files and pipes: one at a task's start, others on its way."""

    def __init__(self, console: Console, fields: Sequence[str] = ()):
        """Args: console: where the lines are printed. fields: names of the task fields that they show."""
        # Without refreshing, `track` advances at each step. Nothing is ever drawn.
        super().__init__(console=console, disable=True, auto_refresh=False, speed_estimate_period=5 * MAX_SECONDS)
        self._shown_fields = fields
        self._last_lines: dict[TaskID, tuple[float, float]] = {}
        """Task -> the number of steps and the time, seconds, of its last line."""

    def add_task(self, *args: Any, **kwargs: Any) -> TaskID:
        """Add a task as `Progress.add_task`, and print its first line."""
        task_id = super().add_task(*args, **kwargs)
        self._print_line(task_id)
        return task_id

    def update(self, task_id: TaskID, **kwargs: Any) -> None:
        """Update a task as `Progress.update`, and print a line if one is due."""
        super().update(task_id, **kwargs)
        self._print_line_if_due(task_id)

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task as `Progress.advance`, and print a line if one is due."""
        super().advance(task_id, advance)
        self._print_line_if_due(task_id)

    def _print_line_if_due(self, task_id: TaskID) -> None:
        task, (steps, time) = self._tasks[task_id], self._last_lines[task_id]
        waited = self.get_time() - time
        new_steps = task.completed - steps
        far = task.total is not None and (new_steps >= LINE_SHARE * task.total or task.finished)
        if new_steps > 0 and waited >= (MIN_SECONDS if far else MAX_SECONDS):
            self._print_line(task_id)

    def _print_line(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        self._last_lines[task_id] = task.completed, self.get_time()
        count = f"{task.completed:g}" if task.total is None else f"{task.completed:g} of {task.total:g}"
        shown = [str(task.fields.get(name, "")) for name in self._shown_fields]
        seconds = task.elapsed or 0
        times = [_duration(seconds)] if seconds >= 1 else []
        if times and task.time_remaining:
            times.append(f"about {_duration(task.time_remaining)} left")
        parts = [f"{task.description}: {count}", *(text for text in shown if text), *times]
        self.console.print(", ".join(parts), markup=False, highlight=False)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def progress_bar(console: Console | None = None, *fields: str, transient: bool = False) -> Progress:
    """Create a progress bar that shows the count, the elapsed time and the remaining time.

    Where the console is no terminal, it prints a line at the start of a task and on its way instead.

    Args:
      console: where it is drawn; stderr by default.
      fields: names of further task fields to show, set by `bar.add_task(..., NAME=text)`.
      transient: whether the bar disappears at the end.
    """
    console = console or message_console()
    if not (console.is_terminal or console.is_jupyter):
        return ProgressLines(console, fields)
    extra = (TextColumn("{task.fields[%s]}" % name, markup=False) for name in fields)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *extra)
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
