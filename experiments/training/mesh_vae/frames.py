"""Statistics of the training heads that a run began with, kept so that it can go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from experiments.cache import read_arrays
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
