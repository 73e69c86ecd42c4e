"""`python -m experiments.evaluate --table NAME`: options, progress, tables in the terminal and in files."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

import flamejax
from experiments.evaluate.config import DIVERSE, EvaluateConfig
from experiments.progress import progress_bars
from experiments.runtime import use_compilation_cache
from experiments.tables.report import Report, as_csv, as_markdown, tables
from flamejax.files import write_text


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.evaluate") -> int:
    """Print the table. Returns the exit status: 2 when it could not be made."""
    config = tyro.cli(EvaluateConfig, args=args, prog=prog)
    use_compilation_cache()
    console = Console(width=None if sys.stdout.isatty() else 190 if config.table in (*DIVERSE, "expression") else 150)
    try:
        with progress_bars() as progress:
            # What the tables need takes seconds to import.
            from experiments.evaluate.reports import REPORTS

            report = REPORTS[config.table](config, flamejax.load_head(), progress)
        _show(config, report, console)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _show(config: EvaluateConfig, report: Report, console: Console) -> None:
    """Print the report, and write the files that are asked for."""
    for line in report.left_out:
        console.print(f"left out: {line}", markup=False)
    for each in tables(report.sheets):
        console.print(each)
    further = dataclasses.asdict(report.table)
    rows = further.pop("rows")
    if config.csv:
        write_text(config.csv, as_csv(rows))
    if config.json:
        write_text(config.json, json.dumps(rows, indent=1) + "\n")
        write_text(config.json.with_suffix(".more.json"), json.dumps(further, indent=1) + "\n")
    if config.markdown:
        write_text(config.markdown, as_markdown(report.introduction, report.sheets))
    if config.figure and report.draw:
        report.draw(config.figure)
