"""Statistics of the training heads that a run began with, kept so that it can go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cache import read_arrays, write_arrays
from experiments.training.checkpoints import Place


@dataclass(frozen=True)
class Frames:
    """Statistics of the training heads that a network is built on."""

    mean: np.ndarray
    """(V, 3) metres."""
    spread: float
    """RMS distance from it per coordinate, metres."""
    components: np.ndarray | None
    """(K, V, 3) metres a standard deviation."""


def kept_frames(place: Place, make: Callable[[], Frames]) -> Frames:
    """Those that a run began with, from WORKDIR/frame.npz, or new ones: another computer finds components of other
    signs, which trained weights would not know.

    Raises:
      RuntimeError: there are checkpoints, but the file is missing or damaged.
    """
    if place.workdir is None or not place.goes_on():
        return make()
    path = place.workdir / "frame.npz"
    found = read_arrays(path)
    if found is None or not {"mean", "spread"} <= found.keys():
        raise RuntimeError(f"{path} cannot be read, but its checkpoints need it: give --restart.")
    return Frames(found["mean"], float(found["spread"]), found.get("components"))


def write_frames(workdir: Path, frames: Frames) -> None:
    """Keep them for a run that goes on. Raises: OSError."""
    arrays: dict[str, Any] = {"mean": frames.mean, "spread": np.float64(frames.spread)}
    if frames.components is not None:
        arrays["components"] = frames.components
    write_arrays(workdir / "frame.npz", arrays)
