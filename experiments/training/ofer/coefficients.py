"""Head-model coefficients of registered scans, for the expressions of training examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console

from experiments.datasets import scans
from flamejax.head import HeadModel

RIDGE_MM = 1.0
"""Standard deviation of a vertex about the head model, millimetres; coefficients have a standard normal prior."""


@dataclass(frozen=True)
class ScanCoefficients:
    """Coefficients of a split's N scans, NumPy."""

    betas: np.ndarray
    """(N, S) identity, fitted to each scan separately."""
    expression: np.ndarray
    """(N, E)"""
    jaw: np.ndarray
    """(N, 3) axis-angle, radians."""
    subject: np.ndarray
    """(N,) labels."""


def scan_coefficients(head: HeadModel, split: str, options: scans.ScanOptions, console: Console) -> ScanCoefficients:
    """Returns the coefficients of a split's scans, of the open faces or of a folder.

    Raises:
      ValueError: there are no usable scans.
    """
    open_scans = scans.open_scans(head, split, options)
    if open_scans is not None:
        betas, expression = rest_coefficients(head, open_scans.unposed)
        return ScanCoefficients(betas, expression, open_scans.joint_rotations[:, 2], open_scans.subject)
    loaded = scans.load(head, split, options, console)
    fits, usable = scans.fit(head, loaded.vertices, f"coefficients of the scans of {split}", console)
    params = fits.params
    betas, expression, jaw = (np.asarray(part)[usable] for part in (params.betas, params.expression, params.jaw_pose))
    return ScanCoefficients(betas, expression, jaw, loaded.subject[usable])


def rest_coefficients(head: HeadModel, unposed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns identity and expression of heads in the rest pose with the root joint at the origin, by ridge regression.

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
    solutions = []
    for start in range(0, len(unposed), 256):  # all at once would be a second copy of the scans
        offsets = (unposed[start : start + 256] - mean[None]).reshape(-1, basis.shape[1]).astype(np.float32)
        solutions.append(np.linalg.solve(gram + ridge * np.eye(components), (basis @ offsets.T).astype(np.float64)).T)
    coefficients = np.concatenate(solutions).astype(np.float32)
    return coefficients[:, : head.num_betas], coefficients[:, head.num_betas :]
