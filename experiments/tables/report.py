"""Tables of text, for the terminal, Markdown and CSV; and the report of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

Column = tuple[str, Callable[[dict], str]]
"""A heading, and a function from a row to the text in its cell."""


class Sheet(NamedTuple):
    """A table of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Report:
    """The results of a run, as a command prints and writes them."""

    table: Any
    """A dataclass whose `rows` are a list of dictionaries of numbers and texts; other fields are further tables."""
    sheets: list[Sheet]
    introduction: str
    """Description of the tables, for Markdown."""
    left_out: Sequence[str] = ()
    """A line for every photo that is in no table."""
    draw: Callable[[Path], None] | None = None
    """Writes pictures to a path and beside it."""


def sheet(title: str, rows: Sequence[dict], *columns: str | Column) -> Sheet:
    """Returns rows as text. columns: columns, or names of `plain` ones."""
    formatted = [plain(column) if isinstance(column, str) else column for column in columns]
    return Sheet(title, [heading for heading, _ in formatted], [[text(row) for _, text in formatted] for row in rows])


def plain(name: str) -> Column:
    """Returns a column of a text or a number as it is."""
    return name, lambda row: f"{row[name]:g}" if isinstance(row[name], float) else str(row[name])


def number(name: str, digits: int = 3, heading: str | None = None) -> Column:
    """Returns a column of a number, "-" if it could not be measured."""
    return heading or name, lambda row: "-" if row[name] is None else f"{row[name]:.{digits}f}"


def interval(name: str, digits: int = 3, heading: str | None = None, between: str = "-") -> Column:
    """Returns a column of a number with its interval, such as 1.02 (0.98-1.05)."""
    return heading or name, lambda row: interval_text(row, name, digits, between)


def intervals(names: Sequence[str], digits: int = 3) -> list[Column]:
    """Returns the column `interval` of each name."""
    return [interval(name, digits) for name in names]


def counts(name: str = "photos") -> Column:
    """Returns a column of a count, with the number of failures."""
    return name, lambda row: f"{row[name]}" + (f" ({row['failed']} failed)" if row["failed"] else "")


def interval_text(row: dict, name: str, digits: int = 3, between: str = "-") -> str:
    """Returns a number with its interval, if it has one, as text; "-" if it could not be measured."""
    if row[name] is None:
        return "-"
    value = f"{row[name]:.{digits}f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return value if low is None or high is None else f"{value} ({low:.{digits}f}{between}{high:.{digits}f})"


def as_rich_tables(sheets: Sequence[Sheet]) -> list[Table]:
    """Returns the sheets that have rows as tables of rich."""
    rich_tables = []
    for title, columns, rows in (each for each in sheets if each.rows):
        table = Table(title=title)
        for k, name in enumerate(columns):
            table.add_column(name, justify="left" if k < 2 and not name.startswith("rms") else "right")
        for row in rows:
            table.add_row(*row)
        rich_tables.append(table)
    return rich_tables


def as_markdown(introduction: str, sheets: Sequence[Sheet]) -> str:
    """Returns the sheets that have rows as Markdown."""
    parts = [introduction]
    for title, columns, rows in (each for each in sheets if each.rows):
        head = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
        parts.append(f"**{title}**\n\n{head}\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def as_csv(rows: Sequence[dict]) -> str:
    """Returns rows as CSV with one header; values that could not be measured are empty."""
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
