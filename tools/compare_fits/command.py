"""The command `compare_fits`: fit the photos under every variant, print tables, draw a comparison sheet."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.console import Console

import fitting
import flamejax
from experiments import runtime
from experiments.calibrate_landmarks.evaluation import Row, observe_photos
from experiments.command_line import message_console, print_error
from experiments.progress import print_rows, progress_bar
from fitting import Fit, FitConfig, Observation
from fitting.detector import FaceDetector, LiteRTDetector
from fitting.mediapipe_models import MissingDependencyError
from flamejax.files import write_bytes, write_text
from flamejax.head import HeadFileError, HeadModel
from tools.compare_fits.held_out import PARTS, hide_part, part_error
from tools.compare_fits.known_heads import known_head_rows
from tools.compare_fits.picture import comparison_sheet

VARIANTS = {
    "68 points": FitConfig(dense_weight=0.0, photometric_steps=0),
    "68 + colours": FitConfig(dense_weight=0.0),
    "468 points": FitConfig(photometric_steps=0),
    "468 + colours": FitConfig(),
}
PORTRAIT = "astronaut"


@dataclass(frozen=True)
class CompareFitsConfig:
    """Fit photos with 68 or 468 landmarks, with and without colours, and show the fits side by side.

    The public-domain portrait of scikit-image is always included. Prints the reprojection error of the landmarks under
    every variant, before and after calibrating them, the error of landmarks that were hidden from the fit, and the
    error of heads of known shape with the photos' skin.
    """

    photos: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Photos, folders or globs."""
    output: Path = Path("output/compare_fits")
    """Folder for comparison.png and tables.json."""
    head: Path | None = None
    """Head model file; the embedded open head unless given."""
    hidden: bool = True
    """Also hide each part of the face in turn and measure the fit there (minutes)."""
    known: bool = True
    """Also fit renders of heads of known shape, with the photos' skin and with the model's (minutes)."""


def main(args: Sequence[str] | None = None, prog: str = "python -m tools.compare_fits") -> int:
    """Run the command. Returns the exit status: 0, or 2 after an error."""
    console = message_console(stderr=False, width=None if sys.stdout.isatty() else 140)
    config = tyro.cli(CompareFitsConfig, args=None if args is None else list(args), prog=prog)
    runtime.use_compilation_cache()
    try:
        run(config, console)
    except (HeadFileError, MissingDependencyError, ImportError, OSError, ValueError) as error:
        print_error(error)
        return 2
    return 0


def run(config: CompareFitsConfig, console: Console, detector: FaceDetector | None = None) -> dict[str, list[Row]]:
    """Fit the photos, print the tables and write the files. Returns the rows of each table."""
    started = time.perf_counter()
    config.output.mkdir(parents=True, exist_ok=True)
    head = flamejax.load_head(config.head)
    detector = detector or LiteRTDetector()
    names, observation = observe(config, detector, console)
    fits = {}
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("variants", total=len(VARIANTS) + 1)
        for variant, settings in VARIANTS.items():
            fits[variant] = jax.block_until_ready(fitting.fit(head, observation, settings))
            progress.advance(task)
        uncalibrated = fitting.fit(flamejax.load_head(config.head, calibrate=False), observation, FitConfig())
        progress.advance(task)
    tables = {"reprojection": reprojection_rows(names, {"not calibrated": uncalibrated, **fits})}
    print_rows(console, "Inner 51 landmarks, mean distance in outer-eye distances", tables["reprojection"])
    if config.hidden:
        tables["hidden"] = hidden_rows(head, observation, console)
        print_rows(console, "Landmarks hidden from the fit, outer-eye distances", tables["hidden"])
    if config.known:
        tables["known"] = known_head_rows(head, names, observation, fits["468 + colours"], detector)
        print_rows(console, "Known heads, frontal error in millimetres", tables["known"])
    write_text(config.output / "tables.json", json.dumps({"photos": names, **tables}, indent=1) + "\n")
    buffer = io.BytesIO()
    comparison_sheet(head, names, observation, fits).save(buffer, format="PNG")
    write_bytes(config.output / "comparison.png", buffer.getvalue())
    console.print(f"{config.output / 'comparison.png'}; {time.perf_counter() - started:.0f} s in all")
    return tables


def observe(config: CompareFitsConfig, detector: FaceDetector, console: Console) -> tuple[list[str], Observation]:
    """Return names and observations of the photos and the portrait; prints and skips photos without a face."""
    from skimage import data

    def say(line: str) -> None:
        console.print(line, markup=False)

    names, observations = observe_photos(config.photos, config.output, detector, say)
    portrait = data.astronaut().astype(np.float32) / 255.0
    observations.append(fitting.observe_photo(portrait, detector=detector)[0])
    return [*names, PORTRAIT], fitting.stack(observations)


def reprojection_rows(names: list[str], fits: dict[str, Fit]) -> list[Row]:
    """Return a row per photo and one of their median: `Fit.losses["nme"]` under each variant."""
    values = {variant: np.asarray(fit.losses["nme"], np.float64) for variant, fit in fits.items()}
    rows: list[Row] = [{"photo": name, **{v: float(e[i]) for v, e in values.items()}} for i, name in enumerate(names)]
    return [*rows, {"photo": "median", **{v: float(np.median(e)) for v, e in values.items()}}]


def hidden_rows(head: HeadModel, observation: Observation, console: Console) -> list[Row]:
    """Return a row per hidden part and one of their mean.

    A row has the mean error under each variant over photos that show the part, in outer-eye distances. `better` is the
    number of these photos in which the fit to 468 points has a lower error with colours.
    """
    errors: dict[str, dict[str, np.ndarray]] = {}
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("hidden parts", total=len(PARTS) * len(VARIANTS))
        for part in PARTS:
            hidden = hide_part(head, observation, part)
            errors[part] = {}
            for variant, settings in VARIANTS.items():
                errors[part][variant] = part_error(fitting.fit(head, hidden, settings), observation, part)
                progress.advance(task)
    rows: list[Row] = []
    for part, part_errors in errors.items():
        colours, points = part_errors["468 + colours"], part_errors["468 points"]
        rows.append({
            "hidden": part, **{variant: float(np.nanmean(error)) for variant, error in part_errors.items()},
            "better": f"{int(np.sum(colours < points))} of {int(np.sum(~np.isnan(points)))}",
        })  # fmt: skip
    means = {variant: float(np.mean([row[variant] for row in rows])) for variant in VARIANTS}
    return [*rows, {"hidden": "mean of the parts", **means, "better": ""}]
