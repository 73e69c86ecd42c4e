"""Displacements that part the lips, and removing changes of the gap of lips or lids from other displacements."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from experiments.datasets.open_people.mouth import SHARE, Opening


def remove_gap_change(operator: sparse.csr_matrix, field: np.ndarray, iterations: int = 3) -> np.ndarray:
    """Return the part of a displacement field (V, 3) that does not change the gap of `gap_operator`."""
    result = field.copy()
    for _ in range(iterations):
        result[:, 1] -= operator @ result[:, 1]
    return result


def lip_partings(operator: sparse.csr_matrix, template: np.ndarray, lips: Opening) -> np.ndarray:
    """Return displacements (3, V, 3) that part the lips by a metre: in the middle, on the subject's right, left."""
    half = np.abs(template[lips.upper, 0]).max()
    fields = np.zeros((3, *template.shape))
    for k, centre in enumerate((0.0, -0.55, 0.55)):
        tent = np.zeros(len(template))
        for ring, sign in ((lips.upper, 0.5), (lips.lower, -0.5)):
            s = template[ring, 0] / half
            tent[ring] = sign * np.cos(np.pi / 2 * np.clip((s - centre) / 0.55, -1, 1)) ** 2
        fields[k, :, 1] = operator @ tent / SHARE
    return fields
