"""Principal components of N long rows from their N x N Gram matrix."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh


def gram_components(rows: np.ndarray, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute eigenvalues and eigenvectors of A A^T for the rows A (N, D).

    With A = U S W^T these are S^2 and U; the components themselves are U^T A / S, up to their sign.

    Args:
      rows: multiplied in their own precision; the Gram matrix is decomposed in double precision.
      count: number of largest eigenvalues to compute; by default all N.

    Returns:
      Eigenvalues (count,), largest first, and eigenvectors (N, count) as columns.
    """
    gram = (rows @ rows.T).astype(np.float64)
    if count is None:
        values, vectors = np.linalg.eigh(gram)
    else:
        values, vectors = eigh(gram, subset_by_index=[len(rows) - count, len(rows) - 1], overwrite_a=True)
    return values[::-1], vectors[:, ::-1]
