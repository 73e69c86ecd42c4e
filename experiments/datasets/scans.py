"""Load the scans of a split, from the open faces or from a folder of registered scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro
from rich.console import Console

from experiments.datasets.registered_scans import Unit, read_scans
from experiments.progress import progress_bar
from fitting.scan_fit import SCAN_REASONS, ScanFit, fit_scans
from flamejax.head import HeadModel

if TYPE_CHECKING:
    from experiments.datasets import open_faces

OPEN_HEAD = "flamejax-open-head"
MAX_LISTED = 5
"""Number of skipped files that are listed; the others are counted."""


@dataclass(frozen=True)
class ScanOptions:
    """Options of commands that read scans."""

    head: Path | None = None
    """Head model file; by default the open head."""
    scans: Path | None = None
    """Folder of registered scans in the head's topology (CoMA, D3DFACS): DIR/<subject>/<expression>/*.ply|obj|npy|npz.
    By default the open faces, which are built if they are missing."""
    unit: Unit = "m"
    """Unit of the scans' coordinates."""
    every: int = 1
    """Use every n-th scan of a folder: neighbours in a sequence are similar."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Smoke test: run a few small steps on little data, in WORKDIR/smoke."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("--every is at least 1.")


@dataclass(frozen=True)
class LabelledScans:
    """N registered scans with subject labels."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres."""
    subject: np.ndarray
    """(N,) labels."""

    def __len__(self) -> int:
        return len(self.vertices)

    def spaced(self, count: int) -> LabelledScans:
        """Select at most `count` scans, evenly spaced."""
        index = evenly_spaced(len(self), count)
        return LabelledScans(self.vertices[index], self.subject[index])


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """Returns at most `count` evenly spaced indices below `size`, ascending, including the first and the last."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int))


def open_scans(head: HeadModel, split: str, options: ScanOptions) -> open_faces.Scans | None:
    """Load a split of the open faces; None if a folder is given or the head is not the open head.

    Raises:
      As `open_faces.load_scans`.
    """
    if options.scans is not None or head.name != OPEN_HEAD:
        return None
    from experiments.datasets.open_faces import load_scans

    return load_scans(split, "slice" if options.smoke else "full")


def load(head: HeadModel, split: str, options: ScanOptions, console: Console) -> LabelledScans:
    """Load the scans of a split.

    Raises:
      ValueError: the open faces are requested with another head, or the folder has no usable scans.
    """
    open_split = open_scans(head, split, options)
    if open_split is not None:
        return LabelledScans(open_split.vertices, open_split.subject)
    if options.scans is None:
        raise ValueError(
            f"the open faces are scans of the open head, not of '{head.name}'. Give --scans DIR with scans of its "
            "topology (FLAME's: the registered CoMA or D3DFACS)."
        )
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task(f"reading {split}", total=None)
        scans = read_scans(
            options.scans, split, head.num_vertices, unit=options.unit, every=options.every,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    report_skipped(scans.skipped, console)
    return LabelledScans(scans.vertices, scans.subject)


def report_skipped(reasons: Sequence[str], console: Console) -> None:
    """Print the reasons of the first few skipped files, and count the others."""
    for line in reasons[:MAX_LISTED]:
        console.print(f"left out: {line}", markup=False)
    if len(reasons) > MAX_LISTED:
        console.print(f"left out: {len(reasons) - MAX_LISTED} more")


def fit(head: HeadModel, vertices: np.ndarray, task: str, console: Console) -> tuple[ScanFit, np.ndarray]:
    """Fit the head to scans (N, V, 3) metres, with a progress bar titled `task`.

    Returns:
      The fits as numpy, and (N,) bool, which of them succeeded.

    Raises:
      ValueError: all fits failed.
    """
    with progress_bar(console, transient=True) as progress:
        bar = progress.add_task(task, total=len(vertices))
        fits = fit_scans(head, vertices, advance=lambda count: progress.advance(bar, count))
    codes = np.asarray(fits.code)
    for code in sorted(set(codes.tolist()) - {0}):
        count = int((codes == code).sum())
        console.print(f"{count} of {len(codes)} scans left out: {SCAN_REASONS[code]}", markup=False)
    if len(codes) and not (codes == 0).any():
        reason = SCAN_REASONS[int(codes[0])]
        raise ValueError(f"no scan can be fitted: {reason} (--unit mm says they are in millimetres.)")
    return fits, codes == 0
