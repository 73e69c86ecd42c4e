"""Runs the groups of the benchmark and prints their table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable

import jax
from rich.table import Table

from experiments.benchmark import dpp, head, networks, photos, render
from experiments.benchmark.config import BenchmarkConfig, Group
from experiments.benchmark.timing import Row, Setting
from experiments.command_line import message_console
from experiments.results import load_head
from flamejax.files import write_text

GROUPS: dict[Group, Callable[[Setting], list[Row]]] = {
    "head": head.head_rows,
    "render": render.render_rows,
    "memory": render.memory_rows,
    "fit": photos.fit_rows,
    "mesh_conv": networks.mesh_conv_rows,
    "diversity": lambda setting: dpp.dpp_rows(setting) + photos.algorithm_rows(setting),
    "ofer": lambda setting: networks.unet_rows(setting) + photos.ofer_rows(setting),
}


def run(config: BenchmarkConfig) -> int:
    """Time the groups, and print and write the table. Returns 0. Raises: UsageError, the head cannot be used."""
    # Compile times are part of what is measured.
    jax.config.update("jax_enable_compilation_cache", False)
    console = message_console(stderr=False, soft_wrap=False, width=None if sys.stdout.isatty() else 160)
    setting = Setting(
        load_head(config.head)[0], jax.random.key(config.seed), config.limit, config.comparison.peers,
        config.comparison.jaxrenderer_python, lambda line: console.print(line, soft_wrap=True),
    )  # fmt: skip
    rows: list[Row] = []
    for group in dict.fromkeys(config.groups):
        with console.status(f"timing {group} ..."):
            rows += GROUPS[group](setting)
    console.print(make_table(rows))
    if config.json:
        write_text(config.json, json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    return 0


def make_table(rows: list[Row]) -> Table:
    """Return the rows as a table to print, without columns that no row fills."""
    columns: dict[str, Callable[[Row], str]] = {
        "name": lambda row: row.name,
        "batch": lambda row: str(row.batch),
        "forward ms": lambda row: _number(row.forward_ms),
        "gradient ms": lambda row: _number(row.gradient_ms),
        "ratio": lambda row: _number(row.ratio_forward),
        "ratio gradient": lambda row: _number(row.ratio_gradient),
        "reference": lambda row: row.reference,
        "compile s": lambda row: f"{row.compile_s:.1f}",
        "s per photo": lambda row: _number(row.seconds_per_photo),
        "memory MB": lambda row: "" if row.memory_mb is None else f"{row.memory_mb:,.0f}",
    }
    table = Table(title=f"{jax.devices()[0].device_kind}, jax {jax.__version__}, medians")
    filled = {title: [cell(row) for row in rows] for title, cell in columns.items()}
    filled = {title: cells for title, cells in filled.items() if any(cells)}
    for title in filled:
        table.add_column(title, justify="left" if title in ("name", "reference") else "right")
    for cells in zip(*filled.values(), strict=True):
        table.add_row(*cells)
    return table


def _number(value: float | None) -> str:
    """Format a number with about two digits: ratios to other libraries range from thousandths to tens."""
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
