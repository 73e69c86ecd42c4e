"""Principal components of many long rows, through their N x N products (Gram matrix)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh


def gram_components(rows: np.ndarray, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of A A^T for the rows A (N, D).

    With A = U S W^T these are S^2 and U; the components themselves are U^T A / S, of either sign.

    Args:
      rows: multiplied in their own precision; the product is decomposed in double precision.
      count: how many of the largest ones are found; all N when left out.

    Returns:
      (count,) largest first, and (N, count) columns.
    """
    product = (rows @ rows.T).astype(np.float64)
    if count is None:
        values, vectors = np.linalg.eigh(product)
    else:
        values, vectors = eigh(product, subset_by_index=[len(rows) - count, len(rows) - 1], overwrite_a=True)
    return values[::-1], vectors[:, ::-1]
