"""The command: calibrate the landmarks, report on held-out renders and write them; or evaluate a written file."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console

import flamejax
from experiments import runtime
from experiments.calibrate_landmarks.embedding import calibrate
from experiments.calibrate_landmarks.evaluation import Row, photo_table, render_table
from experiments.calibrate_landmarks.views import DetectedViews, observe_views, render_views
from experiments.command_line import message_console, print_error
from experiments.progress import print_rows, progress_bar
from fitting.detector import FaceDetector, LiteRTDetector
from fitting.mediapipe_models import MissingDependencyError
from flamejax.files import write_bytes, write_text
from flamejax.head import (
    DENSE_FORMAT_VERSION,
    NUM_DENSE,
    NUM_INNER,
    DenseLandmarks,
    HeadFileError,
    HeadModel,
    check_landmarks,
    dense_landmarks_path,
    geometry_hash,
    load_dense_landmarks,
)

CALIBRATION, EVALUATION = 0, 1
"""Purposes of renders, which have different random numbers."""
HELD_OUT_SHARE = 0.2
"""Fraction of the renders that are not used for the calibration."""
EVALUATION_COUNT = 100


@dataclass(frozen=True)
class CalibrateConfig:
    """Calibrate the positions of the detector's landmarks on a head, from renders of known heads.

    Writes MediaPipe's 468 points and the 51 inner iBUG landmarks as triangle, barycentric coordinates and spread. One
    render in five is held out, and the agreement on those is reported.
    """

    head: Path | None = None
    """Head model file; by default the open head."""
    count: int | None = None
    """Number of renders; by default 400 for a calibration, 100 for --evaluate."""
    seed: int = 0
    """Seed of the renders. The same seed gives the same file."""
    output: Path | None = None
    """File to write; by default HEAD_landmarks.npz in the head's folder."""
    evaluate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Do not calibrate: evaluate the file --output, on renders that no calibration has used."""
    photos: Path | None = None
    """With --evaluate: folder of photos, to report their reprojection error with and without the calibration."""
    json: Path | None = None
    """Also write the rows of the tables to this file."""
    picture: Path | None = None
    """PNG to write: the landmarks drawn on the mean head at three yaws."""


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.calibrate_landmarks") -> int:
    """Run the command. Returns the exit status: 0, or 2 on an error."""
    # In a log file, rich would cut the tables to 80 columns.
    console = message_console(stderr=False, width=None if sys.stdout.isatty() else 110)
    config = tyro.cli(CalibrateConfig, args=None if args is None else list(args), prog=prog)
    runtime.use_compilation_cache()
    try:
        run(config, console)
    except (HeadFileError, MissingDependencyError, OSError, ValueError) as error:
        print_error(error)
        return 2
    return 0


def run(config: CalibrateConfig, console: Console, detector: FaceDetector | None = None) -> list[Row]:
    """Calibrate or evaluate, as configured. Returns the rows of the tables."""
    started = time.perf_counter()
    head = flamejax.load_head(config.head, calibrate=False)
    check_landmarks(head)
    detector = LiteRTDetector() if detector is None else detector
    if config.photos and not config.evaluate:
        raise ValueError("--photos goes with --evaluate.")
    if config.evaluate:
        dense = load_dense_landmarks(head, config.output or (config.head and output_path(config)))
        if dense is None:
            raise ValueError(f"no landmarks were measured for '{head.name}' yet: run without --evaluate.")
        views = detect_in_renders(head, config.seed, config.count or EVALUATION_COUNT, EVALUATION, detector, console)
        rows = render_table(head, dense, views)
        print_rows(console, f"{len(views)} renders not used in the calibration; outer-eye distances", rows)
        if config.photos:
            photo_rows = photo_table(head, dense, config.photos, detector, console.print)
            print_rows(console, "Fits to photos: reprojection error of the inner 51, outer-eye distances", photo_rows)
            rows += photo_rows
    else:
        views = detect_in_renders(head, config.seed, config.count or 400, CALIBRATION, detector, console)
        dense, rows = calibrate_and_write(head, views, config, console)
    if config.json:
        write_text(config.json, json.dumps(rows, indent=1) + "\n")
    if config.picture:
        from experiments.calibrate_landmarks.picture import draw

        draw(head, dense, config.picture)
    console.print(f"{time.perf_counter() - started:.0f} s in all")
    return rows


def detect_in_renders(
    head: HeadModel, seed: int, count: int, purpose: int, detector: FaceDetector, console: Console
) -> DetectedViews:
    """Detect landmarks in renders, with a progress bar, and print the elapsed time."""
    if count < 10:
        raise ValueError(f"--count {count}: at least 10 renders are needed.")
    started = time.perf_counter()
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("renders", total=count)
        views = observe_views(
            head, render_views(head, seed, count, purpose=purpose), detector, lambda: progress.advance(task)
        )
    failed = f"; the detector failed in {views.dropped}" if views.dropped else ""
    console.print(f"{count} renders in {time.perf_counter() - started:.0f} s{failed}")
    return views


def calibrate_and_write(
    head: HeadModel, views: DetectedViews, config: CalibrateConfig, console: Console
) -> tuple[DenseLandmarks, list[Row]]:
    """Calibrate on four fifths of the renders, report on the others, and write the file."""
    started = time.perf_counter()
    order = np.random.default_rng(config.seed).permutation(len(views))
    held_out, training = np.split(order, [round(HELD_OUT_SHARE * len(views))])
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("landmarks", total=NUM_DENSE + NUM_INNER)
        dense = calibrate(head, views.take(training), lambda: progress.advance(task))
    console.print(f"{len(training)} renders used in {time.perf_counter() - started:.0f} s")
    rows = render_table(head, dense, views.take(held_out))
    print_rows(console, f"{len(held_out)} held-out renders; outer-eye distances", rows)
    path = output_path(config)
    write_bytes(path, to_bytes(head, dense, provenance(config, views, len(training))))
    sliding = int(np.asarray(dense.sliding).sum())
    console.print(f"{path}: {path.stat().st_size / 1024:.0f} kB; {sliding} of 468 points slide on the surface")
    return dense, rows


def output_path(config: CalibrateConfig) -> Path:
    """Returns the path of the file to write."""
    if config.output:
        return config.output
    return dense_landmarks_path() if config.head is None else config.head.with_name(f"{config.head.stem}_landmarks.npz")


def provenance(config: CalibrateConfig, views: DetectedViews, used: int) -> dict[str, str]:
    """Describe how the file was made, as strings for the file."""
    return {
        "source": "MediaPipe face mesh (468 points) on renders of known heads; experiments.calibrate_landmarks",
        "renders": f"{used} used, {len(views) - used} held out, {views.dropped} without a face",
        "seed": str(config.seed),
        "made_with": f"flamejax {flamejax.__version__}, jax {jax.__version__}",
        "units": "spreads: standard deviation per image axis in outer-eye distances",
    }


def to_bytes(head: HeadModel, dense: DenseLandmarks, notes: dict[str, str]) -> bytes:
    """Serialize the calibration as .npz; the same input gives the same bytes."""
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in vars(dense).items()}
    arrays |= {f"provenance_{name}": np.asarray(text) for name, text in notes.items()}
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        format_version=np.int32(DENSE_FORMAT_VERSION),
        head_name=np.asarray(head.name),
        head_version=np.asarray(head.version),
        head_hash=np.asarray(geometry_hash(head)),
        **arrays,
    )
    return buffer.getvalue()
