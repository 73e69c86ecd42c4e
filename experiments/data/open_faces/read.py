"""Reading the open scans; what is missing is built first."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from . import store
from .subjects import Config, check


@dataclasses.dataclass(frozen=True)
class Scans:
    """Registered head meshes in the open head's topology: N scans, V vertices, numpy."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, head frame: neck, jaw and eyes posed, the root joint at the origin."""
    unposed: np.ndarray
    """(N, V, 3) float32 metres: identity, expression and details before pose correctives and skinning."""
    joint_rotations: np.ndarray
    """(N, 5, 3) float32 axis-angle in radians: root (zero), neck, jaw, left eye, right eye."""
    subject: np.ndarray
    """(N,) int32"""
    expression: np.ndarray
    """(N,) int32 into `EXPRESSIONS`."""

    @property
    def keys(self) -> list[str]:
        """Names such as subject_0271-mouth_open."""
        return [store.key(int(s), int(e)) for s, e in zip(self.subject, self.expression, strict=True)]


def ensure_scans(config: Config = "full", workers: int | None = None) -> Path:
    """Build the meshes that are missing, and say so on stderr. Returns the data's folder."""
    check(config)
    if store.missing_scans(config):
        print(f"open faces: building the scans of '{config}' in {store.folder()}", file=sys.stderr)
        store.make_scans(config, workers)
    return store.folder()


def load_scans(split: str, config: Config = "full", limit: int | None = None) -> Scans:
    """All meshes of a split, stacked; no photo is made or decoded.

    Args:
      split: train, validation or test. limit: the first so many scans; a subject's twelve lie together.

    Raises:
      ValueError: an unknown split or config. RuntimeError: they could not be built.
    """
    check(config, split)
    ensure_scans(config)
    wanted = store.scan_list(config, split)[:limit]
    count = store.read_scans(store.scans_path(wanted[0][0])).vertices.shape[1] if wanted else 0
    vertices, unposed = (np.empty((len(wanted), count, 3), np.float32) for _ in range(2))
    rotations = np.empty((len(wanted), 5, 3), np.float32)
    for k, (subject, expression) in enumerate(wanted):
        if k == 0 or subject != wanted[k - 1][0]:
            found = store.read_scans(store.scans_path(subject))
        vertices[k], unposed[k] = found.vertices[expression], found.unposed[expression]
        rotations[k] = found.joint_rotations[expression]
    numbers = np.array(wanted, np.int32).reshape(-1, 2)
    return Scans(vertices, unposed, rotations, numbers[:, 0], numbers[:, 1])
