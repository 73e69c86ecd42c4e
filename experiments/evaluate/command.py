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

import flamejax
from experiments.datasets.observations import Landmarks, spread_out
from experiments.progress import progress_bars
from experiments.runtime import use_compilation_cache
from experiments.tables.report import as_csv
from flamejax.io.files import write_text

DEFAULT_LIMITS = {
    "fitting": 96, "completion": 120, "diversity": 24, "hyperparameters": 4, "moving-occlusion": 4, "identity": 240,
    "samples": 240, "ranking": 240, "expression": 24,
}  # fmt: skip
DIVERSE = ("diversity", "hyperparameters", "moving-occlusion")
"""Tables of hypotheses (`diversity_command`)."""
OFER = ("identity", "samples", "ranking")
"""Tables of OFER's identities (`ofer_command`)."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Print one of the papers' tables, computed on the open scans' test split (built when missing).

    Fits are kept in $FLAMEJAX_DATA/evaluate, by photo, method and the version of the code: a stopped run goes on where
    it was, and another table takes what it shares.
    """

    table: Literal[
        "fitting", "completion", "diversity", "hyperparameters", "moving-occlusion", "identity", "samples", "ranking",
        "expression",
    ]  # fmt: skip
    """fitting: mean head, global and global+local fit of occluded photos (Diverse3DFace, Table 1). completion: heads
    completed from their visible vertices by linear models and the Mesh-VAE. diversity: hypotheses by Diverse3DFace
    and its baselines (Tables 2, 3). hyperparameters: by k and n_sigma (Table 4). moving-occlusion: behind a patch
    at five places (Fig. 8). identity: what OFER's IdGen draws for new people, and IdRank picks (OFER, Table 1);
    samples: the best of n, and other samplers (Table 8); ranking: IdRank's order (Tables 9, 10). expression:
    hypotheses by Diverse3DFace, OFER, and both together (Tables 3 to 5)."""
    limit: int | None = None
    """fitting: 96 photos, completion: 120 scans, diversity and expression: 24 photos, hyperparameters and
    moving-occlusion: 4, spread over subjects and occluders; 0 for all 360. identity, samples, ranking: 240 people; 0
    for all 300. The defaults take up to 45 minutes on 2 cores."""
    photos: Path | None = None
    """diversity, hyperparameters, moving-occlusion: photos of this folder instead of the open scans', observed as
    `flamejax reconstruct` does. Nobody knows these heads: no CSE, and what is visible is what the global+local fit
    makes of the photo."""
    frames: Path | None = None
    """expression: a benchmark of the open head that `datasets.occluded_frames` made, instead of the open scans'
    photos."""
    split: Literal["test", "validation"] = "test"
    """Settings are chosen on `validation`."""
    preset: Literal["fast", "paper", "code"] = "fast"
    """How to fit: ours, or Algorithm 1 as in the paper or in its released code (slow)."""
    num_samples: int = 16
    """diversity, hyperparameters, moving-occlusion: hypotheses of each photo."""
    diversify_preset: Literal["fast", "paper"] = "fast"
    """diversity, hyperparameters, moving-occlusion: settings of Algorithm 2."""
    landmarks: Landmarks = "exact"
    """The true landmarks, or those of the default detector."""
    robustness: bool = True
    """fitting: also fit the clean photos and find masks: the tables of robustness and of masks."""
    seed: int = 0
    """Of what a detector would make of hidden landmarks; of masks of vertices, samples and hypotheses."""
    weights: Path | None = None
    """A Mesh-VAE's weights; those that ship when left out."""
    idgen: Path | None = None
    """identity, samples, ranking, expression: weights of IdGen; those that ship when left out."""
    idrank: Path | None = None
    """identity, ranking, expression: weights of IdRank; those that ship when left out."""
    expgen: Path | None = None
    """expression: weights of ExpGen; those that ship when left out."""
    json: Path | None = None
    """Write the rows here as a list of objects; the other tables into a `.more.json` beside it."""
    markdown: Path | None = None
    """Write the tables here as Markdown."""
    csv: Path | None = None
    """Write the rows here as CSV."""
    figure: Path | None = None
    """Write a PNG or JPG here: the histogram of errors (Fig. 6); completed heads, and samples into a `-samples.png`;
    hypotheses by occluder (Fig. 3), and the way from one to another (Fig. 9) into an `-interpolation.png`; heat maps of
    k and n_sigma (Table 4); hypotheses behind the patch at each place (Fig. 8)."""

    def __post_init__(self) -> None:
        if self.photos is not None and self.table not in DIVERSE:
            raise ValueError(f"--photos goes with --table {', '.join(DIVERSE)}, not with {self.table}.")
        if self.frames is not None and self.table != "expression":
            raise ValueError(f"--frames goes with --table expression, not with {self.table}.")
        if self.frames is not None and self.landmarks != "exact":
            raise ValueError(f"--frames goes with the true landmarks, not with --landmarks {self.landmarks}.")
        if not 1 <= self.num_samples <= 100:
            raise ValueError(f"--num-samples is between 1 and 100, not {self.num_samples}.")
        if self.figure is not None and self.table in (*OFER, "expression"):
            raise ValueError(f"--figure does not go with --table {self.table}.")


def main(args: Sequence[str] | None = None, prog: str = "python -m experiments.evaluate") -> int:
    """Print the table. Returns the exit status: 2 when it could not be made."""
    config = tyro.cli(EvaluateConfig, args=args, prog=prog)
    use_compilation_cache()
    console = Console(width=None if sys.stdout.isatty() else 190 if config.table in (*DIVERSE, "expression") else 150)
    try:
        if config.table in DIVERSE:
            from experiments.evaluate import diversity_command

            return diversity_command.run(config, console)
        if config.table == "expression":
            from experiments.evaluate import expression_command

            return expression_command.run(config, console)
        if config.table in OFER:
            from experiments.evaluate import ofer_command

            return ofer_command.run(config, console)
        return _completion(config, console) if config.table == "completion" else _fitting(config, console)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _fitting(config: EvaluateConfig, console: Console) -> int:
    from experiments.datasets.open_faces import data_source, load_photos
    from experiments.tables import fitting_table, report
    from experiments.tables.fits import Fitter
    from fitting.detector import LiteRTDetector

    head = flamejax.load_head()
    data = "test" if config.split == "test" else "full"
    places = spread_out(len(data_source(config.split, data)), limit_of(config))
    photos = list(load_photos(config.split, data, indices=list(places)))
    wanted = fitting_table.jobs(config.preset, config.landmarks, config.seed, config.robustness)
    fitter = Fitter(head, LiteRTDetector)
    with progress_bars() as advance:
        table = fitting_table.make(
            head, fitter, photos, wanted, lambda name, count: advance(name, len(photos), count)
        )  # fmt: skip
    for each in report.tables(report.sheets(table)):
        console.print(each)
    write_rows(config, dataclasses.asdict(table))
    if config.markdown:
        write_text(config.markdown, report.markdown(table, config.preset, config.landmarks, len(photos)))
    if config.figure:
        report.histogram(table, config.figure)
    return 0


def _completion(config: EvaluateConfig, console: Console) -> int:
    from experiments.datasets.open_faces import load_scans
    from experiments.tables import completion, completion_figure, completion_report, report
    from experiments.training.mesh_vae.heads import augmentation

    head = flamejax.load_head()
    model = completion.load_vae(head, config.weights)
    train, scans = load_scans("train"), load_scans(config.split)
    settings = completion.CompletionConfig(seed=config.seed)
    with progress_bars() as advance:
        more = augmentation(head, train.vertices, train.joint_rotations)
        table, pictured = completion.make(head, train, scans, model, limit_of(config), advance, settings, more=more)
    made = completion_report.sheets(table)
    for each in report.tables(made):
        console.print(each)
    write_rows(config, dataclasses.asdict(table))
    if config.markdown:
        used = len(pictured.cases) // 2
        introduction = completion_report.introduction(used, config.split, config.seed)
        write_text(config.markdown, report.as_markdown(introduction, made))
    if config.figure:
        completion_figure.figure(head, pictured, config.figure)
        completion_figure.sample_grid(head, pictured, config.figure.with_stem(config.figure.stem + "-samples"))
    return 0


def limit_of(config: EvaluateConfig) -> int | None:
    """None: all."""
    return DEFAULT_LIMITS[config.table] if config.limit is None else config.limit or None


def write_rows(config: EvaluateConfig, tables: dict) -> None:
    """The rows as JSON, with the other tables beside them, and as CSV, as far as files are asked for."""
    rows = tables.pop("rows")
    if config.csv:
        write_text(config.csv, as_csv(rows))
    if config.json:
        write_text(config.json, json.dumps(rows, indent=1) + "\n")
        write_text(config.json.with_suffix(".more.json"), json.dumps(tables, indent=1) + "\n")
