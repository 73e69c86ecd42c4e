"""`python -m experiments.evaluate TABLE`: progress, tables in the terminal and in files."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.command_line import UsageError, message_console, print_error
from experiments.evaluate.config import DIVERSE, EvaluateConfig, FigureOutputOptions, parse, usage

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.tables.report import Report


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.evaluate") -> int:
    """Print the table. Returns the exit status: 2 when it could not be computed."""
    args = sys.argv[1:] if args is None else list(args)
    if not args or args[0] in ("-h", "--help"):
        print(usage(prog), file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    try:
        return run(parse(args, prog))
    except (UsageError, OSError, ValueError, RuntimeError, ImportError) as error:
        print_error(error)
        return 2


def run(config: EvaluateConfig) -> int:
    """Compute, print and write the table. Returns 0. Raises: OSError, ValueError, RuntimeError, ImportError."""
    # Late: these take seconds to import, and help and wrong calls need not wait for them.
    import flamejax
    from experiments.evaluate.reports import REPORTS
    from experiments.progress import progress_bars
    from experiments.runtime import use_compilation_cache

    use_compilation_cache()
    width = 190 if config.table in (*DIVERSE, "expression") else 150
    with progress_bars() as progress:
        report = REPORTS[config.table](config, flamejax.load_head(), progress)
    console = message_console(stderr=False, soft_wrap=False, width=None if sys.stdout.isatty() else width)
    _show(config, report, console)
    return 0


def _show(config: EvaluateConfig, report: Report, console: Console) -> None:
    """Print the report, and write the files that are asked for."""
    from experiments.tables.report import as_csv, as_markdown, as_rich_tables
    from flamejax.files import write_text

    for line in report.left_out:
        console.print(f"left out: {line}", markup=False)
    for table in as_rich_tables(report.sheets):
        console.print(table)
    further, files = dataclasses.asdict(report.table), config.output
    rows = further.pop("rows")
    if files.csv:
        write_text(files.csv, as_csv(rows))
    if files.json:
        write_text(files.json, json.dumps(rows, indent=1) + "\n")
        write_text(files.json.with_suffix(".more.json"), json.dumps(further, indent=1) + "\n")
    if files.markdown:
        write_text(files.markdown, as_markdown(report.introduction, report.sheets))
    if isinstance(files, FigureOutputOptions) and files.figure and report.draw:
        report.draw(files.figure)
