"""Coefficients of registered scans: the expressions that training examples are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from experiments.datasets import scans
from flamejax.head import HeadModel

RIDGE_MM = 1.0
"""A vertex may lie so far from the head's components, against a coefficient's prior of one standard deviation."""


@dataclass(frozen=True)
class ScanCoefficients:
    """A split's scans as coefficients of a head, numpy, N scans."""

    betas: np.ndarray
    """(N, S) of each scan by itself."""
    expression: np.ndarray
    """(N, E)"""
    jaw: np.ndarray
    """(N, 3) axis-angle, radians."""
    subject: np.ndarray
    """(N,) labels."""


def scan_coefficients(head: HeadModel, split: str, options: scans.ScanOptions, console: Console) -> ScanCoefficients:
    """A split's scans of the open faces, or of a folder.

    Raises:
      ValueError: no scans that can be used.
    """
    found = scans.open_scans(head, split, options)
    if found is not None:
        betas, expression = rest_coefficients(head, found.unposed)
        return ScanCoefficients(betas, expression, found.joint_rotations[:, 2], found.subject)
    read = scans.load(head, split, options, console)
    fits, sound = scans.fit(head, read.vertices, f"coefficients of the scans of {split}", console)
    params = fits.params
    betas, expression, jaw = (np.asarray(part)[sound] for part in (params.betas, params.expression, params.jaw_pose))
    return ScanCoefficients(betas, expression, jaw, read.subject[sound])


def rest_coefficients(head: HeadModel, unposed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Identity and expression of heads at rest with the root joint at the origin, by ridge regression.

    Args:
      unposed: (N, V, 3) metres.

    Returns:
      (N, S), (N, E) float32.
    """
    components = head.num_betas + head.num_expression
    basis = np.asarray(head.basis[:components], np.float32).swapaxes(1, 2)
    basis = (basis - np.asarray(head.joint_dirs[0], np.float32).T[:, None]).reshape(components, -1)
    mean = np.asarray(head.v_template) - np.asarray(head.joint_template[0])
    gram = (basis @ basis.T).astype(np.float64)
    ridge = (1e-3 * RIDGE_MM) ** 2
    found = []
    for start in range(0, len(unposed), 256):  # all at once would be a second copy of the scans
        offsets = (unposed[start : start + 256] - mean[None]).reshape(-1, basis.shape[1]).astype(np.float32)
        found.append(np.linalg.solve(gram + ridge * np.eye(components), (basis @ offsets.T).astype(np.float64)).T)
    joined = np.concatenate(found).astype(np.float32)
    return joined[:, : head.num_betas], joined[:, head.num_betas :]
