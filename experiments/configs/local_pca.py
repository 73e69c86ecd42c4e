"""Local PCA models of a head's 14 regions (Diverse3DFace, section 4.1).

python -m experiments.train --config local_pca --output fitting/assets/open_head_local.npz
python -m experiments.train --config local_pca --variant full --output fitting/assets/open_head_local_full.npz

Expected of the paper's variant: 454 shape and 206 expression components, 5.1 MB; on 60 test scans the face's median
error is 1.43 mm with the global components it keeps, 0.27 mm with all global ones, 0.15 mm with the local models.
Of the variant full: 387 and 201 components, 4.3 MB; 0.08 mm on 30 test scans. 9 to 16 minutes each, judging included,
on two cores that other work shared.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console

import flamejax
from experiments.datasets import scans
from experiments.datasets.registered_scans import Unit
from experiments.progress import print_rows, progress_bar
from experiments.training.local_models import evaluation
from experiments.training.local_models.picture import jpeg, sheet
from fitting.local_files import write_local_model
from fitting.local_model import LocalModel, top_components, with_local
from fitting.local_training import LocalConfig, residuals, train_local_model
from flamejax.files import write_bytes, write_text
from flamejax.head import HeadModel

SUMMARY = "local PCA models of the head's regions, from registered scans (about 10 minutes)"
PICTURED = 3


@dataclass(frozen=True)
class Config:
    """Train local PCA models of a head's 14 regions from registered scans, and judge them on scans of other subjects.

    Writes the local models, `tables.json` and a picture of scans beside their fits. Without --scans it uses the open
    faces, which are built when they are missing.
    """

    head: Path | None = None
    """Head model file; the embedded open head unless given."""
    scans: Path | None = None
    """Folder of registered scans in the head's topology: DIR/<subject>/<expression>/*.ply|obj|npy|npz."""
    unit: Unit = "m"
    """Of the scans' coordinates."""
    every: int = 1
    """Take every n-th scan of a folder: neighbours in a sequence are alike."""
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
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A few scans only: does it run?"""

    def __post_init__(self) -> None:
        if self.every < 1 or self.evaluate < 0:
            raise ValueError("--every must be positive, --evaluate not negative.")
        if self.explained is not None and not 0 < self.explained <= 1:
            raise ValueError("--explained is a share, above 0 and at most 1.")


def settings(config: Config, head: HeadModel) -> LocalConfig:
    """The variant's settings with what the command line changes."""
    found = LocalConfig()
    if config.variant == "full":
        found = LocalConfig(head.num_betas, head.num_expression, explained=0.95, max_shape=40, max_expression=25)
    names = [field.name for field in dataclasses.fields(LocalConfig)]
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    found = dataclasses.replace(found, **given)
    # A small head has fewer than the paper's ten.
    return dataclasses.replace(
        found,
        num_betas=found.num_betas if "num_betas" in given else min(found.num_betas, head.num_betas),
        num_expression=(
            found.num_expression if "num_expression" in given else min(found.num_expression, head.num_expression)
        ),
    )


def run(config: Config, console: Console) -> dict[str, list[evaluation.Row]]:
    """Do what `config` asks. Returns the rows of each table."""
    started = time.perf_counter()
    head = flamejax.load_head(config.head)
    output = config.output or config.workdir / "local_model.npz"
    for folder in (config.workdir, output.parent):
        folder.mkdir(parents=True, exist_ok=True)
    local = train(config, head, console)
    write_local_model(output, local)
    console.print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB; {local.num_shape} shape and {local.num_local_expression} "
        f"expression components beside {local.num_betas} + {local.num_expression} global ones",
        markup=False,
    )
    tables = {"regions": evaluation.region_table(local)}
    print_rows(console, "Regions", tables["regions"])
    judge(config, head, local, tables, console)
    write_text(config.workdir / "tables.json", json.dumps(tables, indent=1) + "\n")
    console.print(f"{time.perf_counter() - started:.0f} s in all")
    return tables


def train(config: Config, head: HeadModel, console: Console) -> LocalModel:
    """Fit the training scans, take the residuals, and the PCA of each region."""
    chosen = settings(config, head)
    training = load(config, head, "train", console)
    if config.smoke:
        training = training.spaced(24)
    if len(training) < 2:
        raise ValueError(f"{len(training)} training scans: local models need many, of many subjects.")
    found, sound = scans.fit(head, training, "fitting the training scans", console)
    rms = 1e3 * np.asarray(found.rms)[sound]
    console.print(f"{int(sound.sum())} training scans; RMS of the global fit: median {np.median(rms):.3f} mm")
    unposed, betas, expression = (
        np.asarray(array)[sound] for array in (found.unposed, found.params.betas, found.params.expression)
    )
    left = residuals(head, unposed, betas, expression, training.subject[sound], chosen)
    people = len(left.shape)
    source = (
        "the open scans (experiments.datasets.open_faces), CC0" if config.scans is None else "scans of the user's own"
    )
    notes = {
        "source": source,
        "scans": f"{int(sound.sum())} of {people} subjects",
        "settings": ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(chosen).items()),
        "made_with": f"flamejax {flamejax.__version__}; python -m experiments.train --config local_pca",
        "licence": "CC0-1.0" if config.scans is None else "that of the head and the scans",
    }
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task("regions", total=len(head.regions))
        return train_local_model(head, left, chosen, notes, lambda: progress.advance(task))


def judge(
    config: Config, head: HeadModel, local: LocalModel, tables: dict[str, list[evaluation.Row]], console: Console
) -> None:
    """Add and print the tables of the held-out splits, and draw the picture of the last."""
    if not config.evaluate:
        return
    for split in ("validation", "test"):
        held_out = load(config, head, split, console).spaced(6 if config.smoke else config.evaluate)
        if not len(held_out):
            console.print(f"no scans of {split}: at least three subjects are needed for that")
            continue
        tables[split] = evaluation.table(head, local, held_out, split, console, brief=config.smoke)
        print_rows(console, f"{len(held_out)} scans of {split}: 3D fits, vertex to vertex", tables[split])
        if split == "test":
            draw(config, head, local, held_out.spaced(PICTURED), console)


def draw(config: Config, head: HeadModel, local: LocalModel, chosen: scans.Scans, console: Console) -> None:
    """The picture: scans, global fits, and the fit with local models."""
    kept = local.num_betas, local.num_expression
    heads = {f"global {kept[0]} + {kept[1]}": top_components(head, *kept)}
    if kept != (head.num_betas, head.num_expression):
        heads[f"global {head.num_betas} + {head.num_expression}"] = head
    heads[f"global {kept[0]} + {kept[1]} and local"] = with_local(head, local)
    path = config.workdir / "local-models.jpg"
    write_bytes(path, jpeg(sheet(head, heads, chosen)))
    console.print(str(path), markup=False)


def load(config: Config, head: HeadModel, split: str, console: Console) -> scans.Scans:
    """A split's scans, as the config says."""
    return scans.load(head, split, config.scans, config.unit, config.every, config.smoke, console)
