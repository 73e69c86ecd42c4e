"""The command that trains local models: reads scans, trains, writes, and judges on scans of other subjects."""

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
from experiments.clay import View, clay_pictures, save_rows
from experiments.datasets import scans
from experiments.progress import print_rows
from experiments.training.local_models import evaluation
from experiments.training.local_models.train import train_local_models, within
from fitting.local_files import write_local_model
from fitting.local_model import LocalModel, top_components, with_local
from fitting.local_training import LocalConfig
from fitting.scan_fit import fit_scans
from flamejax.files import write_text
from flamejax.head import HeadModel

PICTURED, SIDE = 3, 300
MOST_MM = 1.5
"""Error at the end of the colour scale."""
STOPS = np.array([[0.19, 0.35, 0.75], [0.35, 0.75, 0.85], [0.95, 0.93, 0.45], [0.93, 0.45, 0.2], [0.55, 0.05, 0.1]])
SMOKE_SCANS, SMOKE_JUDGED = 24, 6


@dataclass(frozen=True)
class LocalOptions(scans.ScanOptions):
    """Train local PCA models of a head's 14 regions from registered scans, and judge them on scans of other subjects.

    Writes the local models, `tables.json` and a picture of scans beside their fits. Without --scans it uses the open
    faces, which are built when they are missing.
    """

    output: Path | None = None
    """File to write; WORKDIR/local_model.npz unless given."""
    workdir: Path = Path("output/local_pca")
    """Folder for the tables and the picture."""
    variant: Literal["paper", "full"] = "paper"
    """paper: local models of what the top 10 identity and 10 expression components leave, 99 % of its variance. full:
    of what all components leave, 95 %."""
    num_betas: int | None = None
    """Identity components that stay global (N_S); the variant's unless given."""
    num_expression: int | None = None
    """Expression components that stay global (N_E)."""
    explained: float | None = None
    """Share of a region's residual variance to hold."""
    max_shape: int | None = None
    """Shape components of a region at most."""
    max_expression: int | None = None
    """Expression components of a region at most."""
    evaluate: int = 60
    """Scans of validation and of test to be judged on, each; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluate < 0:
            raise ValueError("--evaluate is not negative.")
        if self.explained is not None and not 0 < self.explained <= 1:
            raise ValueError("--explained is a share, above 0 and at most 1.")

    def training(self, head: HeadModel) -> LocalConfig:
        """The variant's settings with what the command line changes."""
        found = within(LocalConfig(), head)
        if self.variant == "full":
            found = LocalConfig(head.num_betas, head.num_expression, explained=0.95, max_shape=40, max_expression=25)
        names = [field.name for field in dataclasses.fields(LocalConfig)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(found, **given)

    def run(self, console: Console) -> dict[str, list[evaluation.Row]]:
        """Do what the options ask. Returns the rows of each table."""
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
            "made_with": f"flamejax {flamejax.__version__}; python -m experiments.train --config local_pca",
            "licence": "that of the head and the scans" if own else "CC0-1.0",
        }
        local = train_local_models(
            head, training.vertices, self.training(head), subjects=training.subject, notes=notes, console=console
        )
        write_local_model(output, local)
        console.print(
            f"{output}: {output.stat().st_size / 1e6:.1f} MB; {local.num_shape} shape and {local.num_local_expression} "
            f"expression components beside {local.num_betas} + {local.num_expression} global ones",
            markup=False,
        )
        tables = {"regions": evaluation.region_table(local)}
        print_rows(console, "Regions", tables["regions"])
        if self.evaluate:
            tables |= judged(self, head, local, console)
        write_text(self.workdir / "tables.json", json.dumps(tables, indent=1) + "\n")
        console.print(f"{time.perf_counter() - started:.0f} s in all")
        return tables


def judged(
    options: LocalOptions, head: HeadModel, local: LocalModel, console: Console
) -> dict[str, list[evaluation.Row]]:
    """Print the tables of the held-out splits, and draw the picture of the last. Returns the rows of each."""
    tables = {}
    for split in ("validation", "test"):
        count = SMOKE_JUDGED if options.smoke else options.evaluate
        held_out = scans.load(head, split, options, console).spaced(count)
        if not len(held_out):
            console.print(f"no scans of {split}: at least three subjects are needed for that")
            continue
        tables[split] = evaluation.table(head, local, held_out, split, console, brief=options.smoke)
        print_rows(console, f"{len(held_out)} scans of {split}: 3D fits, vertex to vertex", tables[split])
        if split == "test":
            path = options.workdir / "local-models.jpg"
            picture(head, local, held_out.spaced(PICTURED), path)
            console.print(str(path), markup=False)
    return tables


def picture(head: HeadModel, local: LocalModel, shown: scans.Scans, path: Path) -> None:
    """Write a column per scan: it and its fits by global heads and by the one with local models as clay, each above its
    errors as colours."""
    kept, whole = (local.num_betas, local.num_expression), (head.num_betas, head.num_expression)
    heads = {f"global {kept[0]} + {kept[1]}": top_components(head, *kept)}
    if kept != whole:
        heads[f"global {whole[0]} + {whole[1]}"] = head
    heads[f"global {kept[0]} + {kept[1]}\nand local"] = with_local(head, local)

    def line(vertices: np.ndarray, colours: np.ndarray | None = None) -> list[np.ndarray]:
        # The mean head's size gives the scale; the scan's own centre the place.
        moved = vertices - vertices.mean(axis=1, keepdims=True)
        scale = 1.2 / float(np.ptp(np.asarray(head.v_template)[:, 1]))
        view = View(scale, (0.0, 0.0, 0.0), (0.44, 0.55), yaw=0.3)
        if colours is not None:  # shown as they are
            view = dataclasses.replace(view, ambient=1.0, diffuse=0.0)
        # Four pixels for each, so that edges are smooth.
        large = clay_pictures(head.faces, moved, colours, 2 * SIDE, view)
        return [np.asarray(Image.fromarray(one).reduce(2)) for one in large]

    rows = [("scan", line(shown.vertices))]
    for name, model in heads.items():
        fitted = np.asarray(fit_scans(model, shown.vertices).vertices)
        share = 1e3 * np.linalg.norm(fitted - shown.vertices, axis=-1) / MOST_MM
        at = np.linspace(0, 1, len(STOPS))
        colours = np.stack([np.interp(share, at, channel) for channel in STOPS.T], axis=-1)
        rows += [(name, line(fitted)), ("its error", line(fitted, colours))]
    save_rows(rows, path, f"errors from blue, 0 mm, through yellow to red, {MOST_MM:g} mm and more")
