"""Registered scans in the head frame, where the Mesh-VAE and the metrics work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from experiments.datasets import scans
from flamejax.head import HeadModel, head_frame, root_joint


@dataclass(frozen=True)
class PlacedScans:
    """N heads, numpy."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, head frame."""
    rotations: np.ndarray
    """(N, 5, 3) axis-angle of the joints; the root's is zero."""


def load_placed(head: HeadModel, split: str, options: scans.ScanOptions, console: Console) -> PlacedScans:
    """A split's heads.

    Raises:
      ValueError: no scans that can be used.
    """
    found = scans.open_scans(head, split, options)
    if found is not None:
        return PlacedScans(found.vertices, found.joint_rotations)
    read = scans.load(head, split, options, console)
    if not len(read):
        raise ValueError(f"no scans of {split}: at least three subjects are needed.")
    return place(head, read.vertices, f"placing the scans of {split}", console)[0]


def place(head: HeadModel, vertices: np.ndarray, what: str, console: Console) -> tuple[PlacedScans, np.ndarray]:
    """Scans (N, V, 3) metres, which lie anywhere, in the head frame: their fits say where that is.

    Args:
      what: is done, for the progress bar.

    Returns:
      Those that can be fitted, and which they are, (N,) bool.

    Raises:
      ValueError: none can.
    """
    fitted, sound = scans.fit(head, vertices, what, console)
    root = root_joint(head, fitted.params) + fitted.params.transl
    placed = np.asarray(head_frame(vertices, root, fitted.params.global_orient))
    rotations = np.array(fitted.params.joint_rotations(), np.float32)
    rotations[:, 0] = 0
    return PlacedScans(placed[sound], rotations[sound]), sound
