"""Statistics of the training heads that a run began with, kept so that it can go on."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.training.checkpoints import has_checkpoints
from experiments.training.mesh_vae.settings import TrainSettings
from flamejax.files import write_bytes


@dataclass(frozen=True)
class Frames:
    """Statistics of the training heads that a network is built on."""

    mean: np.ndarray
    """(V, 3) metres."""
    spread: float
    """RMS distance from it per coordinate, metres."""
    components: np.ndarray | None
    """(K, V, 3) metres a standard deviation."""


def kept_frames(settings: TrainSettings, make: Callable[[], Frames]) -> Frames:
    """Those that a run began with, from WORKDIR/frame.npz, or new ones: another computer finds components of other
    signs, which trained weights would not know.

    Raises:
      RuntimeError: there are checkpoints, but the file is missing or damaged.
    """
    path = settings.workdir / "frame.npz"
    if has_checkpoints(settings) and not settings.restart:
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                components = file["components"] if "components" in file.files else None
                return Frames(file["mean"], float(file["spread"]), components)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RuntimeError(f"{path} cannot be read, but its checkpoints need it: give --restart.") from error
    return make()


def write_frames(settings: TrainSettings, frames: Frames) -> None:
    """Keep them for a run that goes on. Raises: OSError."""
    arrays: dict[str, Any] = {"mean": frames.mean, "spread": np.float64(frames.spread)}
    if frames.components is not None:
        arrays["components"] = frames.components
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(settings.workdir / "frame.npz", buffer.getvalue())
