"""The command that trains local models: reads scans, trains, writes, and evaluates on scans of other subjects."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from rich.console import Console

import flamejax
from experiments.clay import ClayView, clay_pictures, save_rows
from experiments.datasets import scans
from experiments.progress import print_rows
from experiments.training.local_models import evaluation
from experiments.training.local_models.train import limit_components, train_local_models
from fitting.local_files import write_local_model
from fitting.local_model import LocalModel, top_components, with_local
from fitting.local_training import LocalConfig
from fitting.scan_fit import fit_scans
from flamejax.files import write_text
from flamejax.head import HeadModel

PICTURE_SCANS, SIDE = 3, 300
MAX_ERROR_MM = 1.5
"""Error at the end of the colour scale."""
STOPS = np.array([[0.19, 0.35, 0.75], [0.35, 0.75, 0.85], [0.95, 0.93, 0.45], [0.93, 0.45, 0.2], [0.55, 0.05, 0.1]])
"""Evenly spaced colours of the scale, RGB in [0, 1]."""
SMOKE_SCANS, SMOKE_EVAL_SCANS = 24, 6


@dataclass(frozen=True)
class LocalOptions(scans.ScanOptions):
    """Train local PCA models of a head's 14 regions from registered scans; evaluate them on scans of other subjects.

    Writes the local models, `tables.json` and a picture of scans beside their fits. Without --scans it uses the open
    faces, which are built if they are missing.
    """

    output: Path | None = None
    """File to write; WORKDIR/local_model.npz unless given."""
    workdir: Path = Path("output/local_pca")
    """Folder for the tables and the picture."""
    variant: Literal["paper", "full"] = "paper"
    """paper: local models explain 99 % of the residual variance after the top 10 identity and 10 expression components.
    full: 95 % of the residual variance after all components."""
    num_betas: int | None = None
    """Number of global identity components (N_S); the variant's unless given."""
    num_expression: int | None = None
    """Number of global expression components (N_E)."""
    explained: float | None = None
    """Share of a region's residual variance to explain."""
    max_shape: int | None = None
    """Largest number of shape components of a region."""
    max_expression: int | None = None
    """Largest number of expression components of a region."""
    evaluate: int = 60
    """Number of scans of each of the validation and test splits to evaluate on, which takes longer than training;
    0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate < 0:
            raise ValueError("--evaluate must be at least 0.")
        if self.explained is not None and not 0 < self.explained <= 1:
            raise ValueError("--explained is a share, above 0 and at most 1.")

    def local_config(self, head: HeadModel) -> LocalConfig:
        """Returns the variant's settings with the command line's changes."""
        config = limit_components(LocalConfig(), head)
        if self.variant == "full":
            config = LocalConfig(head.num_betas, head.num_expression, explained=0.95, max_shape=40, max_expression=25)
        names = [field.name for field in dataclasses.fields(LocalConfig)]
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(config, **changes)

    def run(self, console: Console) -> dict[str, list[evaluation.Row]]:
        """Train, write and evaluate local models. Returns the rows of each table."""
        started = time.perf_counter()
        head = flamejax.load_head(self.head)
        output = self.output or self.workdir / "local_model.npz"
        for folder in (self.workdir, output.parent):
            folder.mkdir(parents=True, exist_ok=True)
        training = scans.load(head, "train", self, console)
        if self.smoke:
            training = training.spaced(SMOKE_SCANS)
        own = self.scans is not None
        notes = {
            "source": "scans of the user's own" if own else "the open scans (experiments.datasets.open_faces), CC0",
            "made_with": f"flamejax {flamejax.__version__}; flamejax train --config local_pca",
            "licence": "that of the head and the scans" if own else "CC0-1.0",
        }
        local = train_local_models(
            head, training.vertices, self.local_config(head), subjects=training.subject, notes=notes, console=console
        )
        write_local_model(output, local)
        console.print(
            f"{output}: {output.stat().st_size / 1e6:.1f} MB; {local.num_shape} shape and {local.num_local_expression} "
            f"expression components beside {local.num_betas} + {local.num_expression} global ones",
            markup=False,
        )
        tables = {"regions": evaluation.region_table(local)}
        print_rows(console, "Regions", tables["regions"])
        trained = time.perf_counter()
        if note := evaluation.rank_note(local, len(np.unique(training.subject))):
            console.print(note)
        if self.evaluate:
            tables |= evaluate_splits(self, head, local, console)
        write_text(self.workdir / "tables.json", json.dumps(tables, indent=1) + "\n")
        evaluated = time.perf_counter() - trained
        console.print(f"{trained - started:.0f} s for reading and training, {evaluated:.0f} s for the evaluation")
        return tables


def evaluate_splits(
    options: LocalOptions, head: HeadModel, local: LocalModel, console: Console
) -> dict[str, list[evaluation.Row]]:
    """Print the tables of the held-out splits, and write the picture of the last. Returns the rows of each table."""
    tables = {}
    for split in ("validation", "test"):
        count = SMOKE_EVAL_SCANS if options.smoke else options.evaluate
        held_out = scans.load(head, split, options, console).spaced(count)
        if not len(held_out):
            console.print(f"no {split} scans: at least three subjects are needed for that")
            continue
        tables[split] = evaluation.error_table(head, local, held_out, split, console, brief=options.smoke)
        print_rows(console, f"{len(held_out)} scans of {split}: 3D fits, vertex to vertex", tables[split])
        if split == "test":
            path = options.workdir / "local-models.jpg"
            write_picture(head, local, held_out.spaced(PICTURE_SCANS), path)
            console.print(str(path), markup=False)
    return tables


def write_picture(head: HeadModel, local: LocalModel, examples: scans.LabelledScans, path: Path) -> None:
    """Write a picture with a column per scan: the scan, its fits by global heads and by the head with local models as
    clay renders, and below each fit its errors as colours."""
    leading, full = (local.num_betas, local.num_expression), (head.num_betas, head.num_expression)
    heads = {f"global {leading[0]} + {leading[1]}": top_components(head, *leading)}
    if leading != full:
        heads[f"global {full[0]} + {full[1]}"] = head
    heads[f"global {leading[0]} + {leading[1]}\nand local"] = with_local(head, local)

    def clay_row(vertices: np.ndarray, colours: np.ndarray | None = None) -> list[np.ndarray]:
        # One scale for all, from the mean head; each scan is centred.
        centred = vertices - vertices.mean(axis=1, keepdims=True)
        scale = 1.2 / float(np.ptp(np.asarray(head.v_template)[:, 1]))
        view = ClayView(scale, (0.0, 0.0, 0.0), (0.44, 0.55), yaw=0.3)
        if colours is not None:  # colours stand for errors, so no shading
            view = dataclasses.replace(view, ambient=1.0, diffuse=0.0)
        # Drawn at twice the size and reduced, for smooth edges.
        large = clay_pictures(head.faces, centred, colours, 2 * SIDE, view)
        return [np.asarray(Image.fromarray(pixels).reduce(2)) for pixels in large]

    rows = [("scan", clay_row(examples.vertices))]
    for name, model in heads.items():
        fitted = np.asarray(fit_scans(model, examples.vertices).vertices)
        level = 1e3 * np.linalg.norm(fitted - examples.vertices, axis=-1) / MAX_ERROR_MM
        stops = np.linspace(0, 1, len(STOPS))
        colours = np.stack([np.interp(level, stops, channel) for channel in STOPS.T], axis=-1)
        rows += [(name, clay_row(fitted)), ("its error", clay_row(fitted, colours))]
    save_rows(rows, path, f"errors from blue, 0 mm, through yellow to red, {MAX_ERROR_MM:g} mm and more")
