"""The benchmark's command line and table."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from rich.console import Console
from rich.table import Table

import flamejax
from experiments.benchmark import dpp, head, networks, photos, render
from experiments.benchmark.timing import Row, Setting
from flamejax.files import write_text

Group = Literal["head", "render", "memory", "fit", "mesh_conv", "diversity", "ofer"]
GROUPS: dict[Group, Callable[[Setting], list[Row]]] = {
    "head": head.rows,
    "render": render.rows,
    "memory": render.memory_rows,
    "fit": photos.fit_rows,
    "mesh_conv": networks.mesh_conv_rows,
    "diversity": lambda setting: dpp.rows(setting) + photos.algorithm_rows(setting),
    "ofer": lambda setting: networks.unet_rows(setting) + photos.ofer_rows(setting),
}


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """Time the parts of flamejax on this machine; medians, and ratios to a reference timed in turn in the same run.

    On shared machines only the ratios are worth quoting. `compile s` is tracing and compiling without any cache. Tables
    and how to get the other libraries: docs/results/benchmark.md.
    """

    groups: Annotated[tuple[Group, ...], tyro.conf.Positional] = tuple(GROUPS)
    """What to time."""
    json: Path | None = None
    """Write the rows here as a list of objects."""
    peers: bool = False
    """Also time other libraries at the same work, in turn with ours: smplx, flame-pytorch and body-models for `head`,
    deodr for `render`. pip install 'flamejax[bench]', then pip install --no-deps flame-pytorch==0.0.1."""
    jaxrenderer_python: Path | None = None
    """Also time jaxrenderer for `render`: the interpreter of an environment of its own, since it pins another JAX than
    ours. python3.12 -m venv jr && jr/bin/pip install jaxrenderer==0.4.0, then --jaxrenderer-python jr/bin/python."""
    limit: int = 7
    """Timed runs of each row (a third of it, at least 2, for what takes seconds)."""
    seed: int = 0
    """Of the random heads."""
    head: Path | None = None
    """Head model file; the embedded open head unless given."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.benchmark") -> int:
    """Print the table. Returns the exit status."""
    config = tyro.cli(BenchmarkConfig, args=args, prog=prog)
    # Compile times are part of what is measured.
    jax.config.update("jax_enable_compilation_cache", False)
    console = Console(width=None if sys.stdout.isatty() else 160)
    setting = Setting(
        flamejax.load_head(config.head), jax.random.key(config.seed), config.limit, config.peers,
        config.jaxrenderer_python, lambda line: console.print(line, markup=False, soft_wrap=True),
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
    """The rows for people; columns that no row fills are left out."""
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
    """Three digits: ratios to other libraries go from thousandths to tens."""
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
