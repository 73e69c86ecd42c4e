"""Tables of text, for the terminal, Markdown and CSV; and what a command prints, writes and draws of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

Column = tuple[str, Callable[[dict], str]]
"""A heading, and the text of a row below it."""


class Sheet(NamedTuple):
    """A table of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Report:
    """What a command prints and writes of a run."""

    table: Any
    """A dataclass whose `rows` are lists of dictionaries of numbers and texts; other fields are further tables."""
    sheets: list[Sheet]
    introduction: str
    """What the tables are of, for Markdown."""
    left_out: Sequence[str] = ()
    """A line for every photo that is in no table."""
    draw: Callable[[Path], None] | None = None
    """Writes pictures."""


def sheet(title: str, rows: Sequence[dict], *columns: str | Column) -> Sheet:
    """Rows as text. columns: with a heading, or what is shown as it is."""
    shown = [plain(one) if isinstance(one, str) else one for one in columns]
    return Sheet(title, [heading for heading, _ in shown], [[text(row) for _, text in shown] for row in rows])


def plain(name: str) -> Column:
    """A text or a number as it is."""
    return name, lambda row: f"{row[name]:g}" if isinstance(row[name], float) else str(row[name])


def number(name: str, digits: int = 3, heading: str | None = None) -> Column:
    """A number, "-" where it could not be measured."""
    return heading or name, lambda row: "-" if row[name] is None else f"{row[name]:.{digits}f}"


def interval(name: str, digits: int = 3, heading: str | None = None, between: str = "-") -> Column:
    """A number with its interval, such as 1.02 (0.98-1.05)."""
    return heading or name, lambda row: interval_text(row, name, digits, between)


def intervals(names: Sequence[str], digits: int = 3) -> list[Column]:
    """`interval` of each."""
    return [interval(name, digits) for name in names]


def counts(name: str = "photos") -> Column:
    """How many, and how many of these failed."""
    return name, lambda row: f"{row[name]}" + (f" ({row['failed']} failed)" if row["failed"] else "")


def interval_text(row: dict, name: str, digits: int = 3, between: str = "-") -> str:
    """A number with its interval; without one where there is none, and "-" for what could not be measured."""
    if row[name] is None:
        return "-"
    value = f"{row[name]:.{digits}f}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return value if low is None or high is None else f"{value} ({low:.{digits}f}{between}{high:.{digits}f})"


def tables(made: Sequence[Sheet]) -> list[Table]:
    """For rich; what has no rows is left out."""
    out = []
    for title, columns, rows in (one for one in made if one.rows):
        shown = Table(title=title)
        for k, name in enumerate(columns):
            shown.add_column(name, justify="left" if k < 2 and not name.startswith("rms") else "right")
        for row in rows:
            shown.add_row(*row)
        out.append(shown)
    return out


def as_markdown(introduction: str, made: Sequence[Sheet]) -> str:
    """Tables as Markdown; what has no rows is left out."""
    parts = [introduction]
    for title, columns, rows in (one for one in made if one.rows):
        head = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
        parts.append(f"**{title}**\n\n{head}\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(parts) + "\n"


def as_csv(rows: Sequence[dict]) -> str:
    """Rows under one heading; what could not be measured is empty."""
    if not rows:
        return ""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
