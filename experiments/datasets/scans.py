"""The scans of each split, from the open faces or from a folder of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.datasets.registered_scans import Unit, read_scans
from experiments.progress import progress_bar
from fitting.scan_fit import SCAN_REASONS, ScanFit, fit_scans
from flamejax.head import HeadModel

OPEN_HEAD = "flamejax-open-head"
SHOWN = 5
"""Files left out that are named; the others are counted."""


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
        index = np.unique(np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(int))
        return Scans(self.vertices[index], self.subject[index])


def load(
    head: HeadModel, split: str, folder: Path | None, unit: Unit, every: int, smoke: bool, console: Console
) -> Scans:
    """A split's scans.

    Raises:
      ValueError: the open faces are asked for with another head, or the folder has no scans that can be used.
    """
    if folder is None:
        if head.name != OPEN_HEAD:
            raise ValueError(
                f"the open faces are scans of the open head, not of '{head.name}'. Give --scans DIR with scans of its "
                "topology (FLAME's: the registered CoMA or D3DFACS)."
            )
        from experiments.datasets.open_faces import load_scans

        found = load_scans(split, "slice" if smoke else "full")
        return Scans(found.vertices, found.subject)
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task(f"reading {split}", total=None)
        read = read_scans(
            folder, split, head.num_vertices, unit=unit, every=every,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    for line in read.skipped[:SHOWN]:
        console.print(f"left out: {line}", markup=False)
    if len(read.skipped) > SHOWN:
        console.print(f"left out: {len(read.skipped) - SHOWN} more")
    return Scans(read.vertices, read.subject)


def fit(head: HeadModel, scans: Scans, what: str, console: Console) -> tuple[ScanFit, np.ndarray]:
    """Fit the head to scans with a progress bar. Returns the fits as numpy, and which of them are sound, (N,) bool.

    Raises:
      ValueError: none is.
    """
    with progress_bar(console, transient=True) as progress:
        task = progress.add_task(what, total=len(scans))
        found = fit_scans(head, scans.vertices, advance=lambda count: progress.advance(task, count))
    codes = np.asarray(found.code)
    for code in sorted(set(codes.tolist()) - {0}):
        count = int((codes == code).sum())
        console.print(f"{count} of {len(codes)} scans left out: {SCAN_REASONS[code]}", markup=False)
    if len(codes) and not (codes == 0).any():
        reason = SCAN_REASONS[int(codes[0])]
        raise ValueError(f"no scan can be fitted: {reason} (--unit mm says they are in millimetres.)")
    return found, codes == 0
