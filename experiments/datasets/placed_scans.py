"""Registered scans in the head frame, where the Mesh-VAE and the metrics work."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from experiments.datasets import scans
from flamejax.head import HeadModel, head_frame, root_joint


@dataclass(frozen=True)
class PlacedScans:
    """N scans in the head frame, numpy."""

    vertices: np.ndarray
    """(N, V, 3) float32 metres, head frame."""
    rotations: np.ndarray
    """(N, 5, 3) axis-angle of the joints; the root's is zero."""


def load_placed(head: HeadModel, split: str, options: scans.ScanOptions, console: Console) -> PlacedScans:
    """Load the scans of a split in the head frame.

    Raises:
      ValueError: there are no usable scans.
    """
    open_split = scans.open_scans(head, split, options)
    if open_split is not None:
        return PlacedScans(open_split.vertices, open_split.joint_rotations)
    loaded = scans.load(head, split, options, console)
    if not len(loaded):
        raise ValueError(f"no scans of {split}: at least three subjects are needed.")
    return place_in_head_frame(head, loaded.vertices, f"placing the scans of {split}", console)[0]


def place_in_head_frame(
    head: HeadModel, vertices: np.ndarray, task: str, console: Console
) -> tuple[PlacedScans, np.ndarray]:
    """Transform scans (N, V, 3), metres in any frame, to the head frame, which is known from fits to them.

    Args:
      task: title of the progress bar.

    Returns:
      The scans that can be fitted, and (N,) bool, which ones these are.

    Raises:
      ValueError: no scan can be fitted.
    """
    fitted, succeeded = scans.fit(head, vertices, task, console)
    root = root_joint(head, fitted.params) + fitted.params.transl
    placed = np.asarray(head_frame(vertices, root, fitted.params.global_orient))
    rotations = np.array(fitted.params.joint_rotations(), np.float32)
    rotations[:, 0] = 0
    return PlacedScans(placed[succeeded], rotations[succeeded]), succeeded
