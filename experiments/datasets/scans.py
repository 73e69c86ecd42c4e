"""The scans of each split, from the open faces or from a folder of one's own."""

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
    from experiments.datasets.open_faces import Scans as OpenScans

OPEN_HEAD = "flamejax-open-head"
SHOWN = 5
"""Files left out that are named; the others are counted."""


@dataclass(frozen=True)
class ScanOptions:
    """Options of commands that read scans."""

    head: Path | None = None
    """Head model file; the embedded open head unless given."""
    scans: Path | None = None
    """Folder of registered scans in the head's topology (CoMA, D3DFACS): DIR/<subject>/<expression>/*.ply|obj|npy|npz.
    Without it: the open faces, which are built when they are missing."""
    unit: Unit = "m"
    """Of the scans' coordinates."""
    every: int = 1
    """Take every n-th scan of a folder: neighbours in a sequence are alike."""
    smoke: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """A few small steps on little data, in WORKDIR/smoke: does it run?"""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError("--every is at least 1.")


@dataclass(frozen=True)
class Scans:
    """N registered scans."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres."""
    subject: np.ndarray
    """(N,) labels."""

    def __len__(self) -> int:
        return len(self.vertices)

    def spaced(self, count: int) -> Scans:
        """At most `count` of them, evenly spaced."""
        index = evenly_spaced(len(self), count)
        return Scans(self.vertices[index], self.subject[index])


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """At most `count` of the indices below `size`, ascending, first and last among them."""
    return np.unique(np.linspace(0, size - 1, min(count, size)).round().astype(int))


def open_scans(head: HeadModel, split: str, options: ScanOptions) -> OpenScans | None:
    """A split of the open faces; None where a folder is given, or the head is another.

    Raises:
      As `open_faces.load_scans`.
    """
    if options.scans is not None or head.name != OPEN_HEAD:
        return None
    from experiments.datasets.open_faces import load_scans

    return load_scans(split, "slice" if options.smoke else "full")


def load(head: HeadModel, split: str, options: ScanOptions, console: Console) -> Scans:
    """A split's scans.

    Raises:
      ValueError: the open faces are asked for with another head, or the folder has no scans that can be used.
    """
    found = open_scans(head, split, options)
    if found is not None:
        return Scans(found.vertices, found.subject)
    if options.scans is None:
        raise ValueError(
            f"the open faces are scans of the open head, not of '{head.name}'. Give --scans DIR with scans of its "
            "topology (FLAME's: the registered CoMA or D3DFACS)."
        )
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task(f"reading {split}", total=None)
        read = read_scans(
            options.scans, split, head.num_vertices, unit=options.unit, every=options.every,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    report_left_out(read.skipped, console)
    return Scans(read.vertices, read.subject)


def report_left_out(reasons: Sequence[str], console: Console) -> None:
    """Name the first few files that were left out, and count the others."""
    for line in reasons[:SHOWN]:
        console.print(f"left out: {line}", markup=False)
    if len(reasons) > SHOWN:
        console.print(f"left out: {len(reasons) - SHOWN} more")


def fit(head: HeadModel, vertices: np.ndarray, what: str, console: Console) -> tuple[ScanFit, np.ndarray]:
    """Fit the head to scans (N, V, 3) metres with a progress bar.

    Returns:
      The fits as numpy, and which of them are sound, (N,) bool.

    Raises:
      ValueError: none is.
    """
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task(what, total=len(vertices))
        found = fit_scans(head, vertices, advance=lambda count: progress.advance(task, count))
    codes = np.asarray(found.code)
    for code in sorted(set(codes.tolist()) - {0}):
        count = int((codes == code).sum())
        console.print(f"{count} of {len(codes)} scans left out: {SCAN_REASONS[code]}", markup=False)
    if len(codes) and not (codes == 0).any():
        reason = SCAN_REASONS[int(codes[0])]
        raise ValueError(f"no scan can be fitted: {reason} (--unit mm says they are in millimetres.)")
    return found, codes == 0
