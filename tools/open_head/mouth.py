"""Parts the lips, and takes the parting of lips or lids out of other displacements."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from experiments.datasets.open_people.mouth import SHARE, Opening


def shut(operator: sparse.csr_matrix, field: np.ndarray, times: int = 3) -> np.ndarray:
    """The part of a displacement field (V, 3) that leaves the gap as it is."""
    out = field.copy()
    for _ in range(times):
        out[:, 1] -= operator @ out[:, 1]
    return out


def parting(operator: sparse.csr_matrix, template: np.ndarray, lips: Opening) -> np.ndarray:
    """(3, V, 3) displacements that part the lips by a metre: in the middle, on the subject's right, on the left."""
    half = np.abs(template[lips.upper, 0]).max()
    out = np.zeros((3, *template.shape))
    for k, centre in enumerate((0.0, -0.55, 0.55)):
        tent = np.zeros(len(template))
        for ring, sign in ((lips.upper, 0.5), (lips.lower, -0.5)):
            s = template[ring, 0] / half
            tent[ring] = sign * np.cos(np.pi / 2 * np.clip((s - centre) / 0.55, -1, 1)) ** 2
        out[k, :, 1] = operator @ tent / SHARE
    return out
