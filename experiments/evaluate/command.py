"""`python -m experiments.evaluate --table NAME`: options, progress, tables in the terminal and in files."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
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

import flamejax
from experiments.evaluate.observations import Landmarks, spread_out
from experiments.runtime import use_compilation_cache
from flamejax.io.files import write_text

DEFAULT_LIMITS = {"fitting": 96, "completion": 120}


@dataclass(frozen=True)
class EvaluateConfig:
    """Print one of the papers' tables, computed on the open scans' test split (built when missing).

    Fits are kept in $FLAMEJAX_DATA/evaluate, by photo, method and the version of the code: a stopped run goes on where
    it was, and another table takes what it shares.
    """

    table: Literal["fitting", "completion"]
    """fitting: mean head, global and global+local fit of occluded photos (Diverse3DFace, Table 1). completion: heads
    completed from their visible vertices by linear models and the Mesh-VAE."""
    limit: int | None = None
    """Photos (96) or scans (120), spread over all subjects and occluders; 0 for all 360. The defaults take up to 45
    minutes on 2 cores."""
    split: Literal["test", "validation"] = "test"
    """Settings are chosen on `validation`."""
    preset: Literal["fast", "paper", "code"] = "fast"
    """fitting: how to fit: ours, or Algorithm 1 as in the paper or in its released code (slow)."""
    landmarks: Landmarks = "exact"
    """fitting: the true landmarks, or those of the default detector."""
    robustness: bool = True
    """fitting: also fit the clean photos and find masks: the tables of robustness and of masks."""
    seed: int = 0
    """Of what a detector would make of hidden landmarks; of masks of vertices and samples."""
    weights: Path | None = None
    """completion: a Mesh-VAE's weights; those that ship when left out."""
    json: Path | None = None
    """Write the rows here as a list of objects; the other tables into a `.more.json` beside it."""
    markdown: Path | None = None
    """Write the tables here as Markdown."""
    figure: Path | None = None
    """Write a PNG here: the histogram of errors (Fig. 6); or completed heads, and samples into a `-samples.png`."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.evaluate") -> int:
    """Print the table. Returns the exit status: 2 when it could not be made."""
    config = tyro.cli(EvaluateConfig, args=args, prog=prog)
    use_compilation_cache()
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        return _completion(config, console) if config.table == "completion" else _fitting(config, console)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _fitting(config: EvaluateConfig, console: Console) -> int:
    from experiments.data.open_faces import data_source, load_photos
    from experiments.evaluate import fitting_table, report
    from experiments.evaluate.fits import Fitter
    from fitting.detector import LiteRTDetector

    head = flamejax.load_head()
    data = "test" if config.split == "test" else "full"
    places = spread_out(len(data_source(config.split, data)), _limit(config))
    photos = list(load_photos(config.split, data, indices=list(places)))
    wanted = fitting_table.jobs(config.preset, config.landmarks, config.seed, config.robustness)
    fitter = Fitter(head, LiteRTDetector)
    with _progress() as progress:
        tasks: dict[str, int] = {}

        def advance(name: str, count: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=len(photos))
            progress.advance(tasks[name], count)  # type: ignore[arg-type]

        table = fitting_table.make(head, fitter, photos, wanted, advance)
    for each in report.tables(report.sheets(table)):
        console.print(each)
    _write_json(config, dataclasses.asdict(table))
    if config.markdown:
        write_text(config.markdown, report.markdown(table, config.preset, config.landmarks, len(photos)))
    if config.figure:
        report.histogram(table, config.figure)
    return 0


def _completion(config: EvaluateConfig, console: Console) -> int:
    from experiments.data.open_faces import load_scans
    from experiments.evaluate import completion, completion_figure, completion_report, report
    from experiments.mesh_vae.heads import augmentation

    head = flamejax.load_head()
    model = completion.load_vae(head, config.weights)
    train, scans = load_scans("train"), load_scans(config.split)
    settings = completion.CompletionConfig(seed=config.seed)
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, total: int, count: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
            progress.advance(tasks[name], count)

        more = augmentation(head, train.vertices, train.joint_rotations)
        table, pictured = completion.make(head, train, scans, model, _limit(config), advance, settings, more=more)
    made = completion_report.sheets(table)
    for each in report.tables(made):
        console.print(each)
    _write_json(config, dataclasses.asdict(table))
    if config.markdown:
        used = len(pictured.cases) // 2
        introduction = completion_report.introduction(used, config.split, config.seed)
        write_text(config.markdown, report.as_markdown(introduction, made))
    if config.figure:
        completion_figure.figure(head, pictured, config.figure)
        completion_figure.sample_grid(head, pictured, config.figure.with_stem(config.figure.stem + "-samples"))
    return 0


def _limit(config: EvaluateConfig) -> int | None:
    """None: all."""
    return DEFAULT_LIMITS[config.table] if config.limit is None else config.limit or None


def _write_json(config: EvaluateConfig, tables: dict) -> None:
    if config.json:
        write_text(config.json, json.dumps(tables.pop("rows"), indent=1) + "\n")
        write_text(config.json.with_suffix(".more.json"), json.dumps(tables, indent=1) + "\n")


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(file=sys.stderr))
