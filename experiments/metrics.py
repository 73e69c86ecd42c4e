"""Errors of heads, as the papers define them. Plain numpy; lengths in metres unless a name ends in `_mm`."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from flamejax.head import rotation_matrix

PAPER_UNIT = 1e3
"""The papers print metres x 1000."""


def head_frame(vertices: np.ndarray, root: np.ndarray, global_orient: np.ndarray) -> np.ndarray:
    """Vertices in the head frame: the global rotation undone, the root joint at the origin.

    Args:
      vertices: (*b, V, 3) metres.
      root: (*b, 3) the root joint, metres, which the global rotation leaves where it is.
      global_orient: (*b, 3) axis-angle.

    Returns:
      (*b, V, 3) metres.
    """
    rotation = np.asarray(rotation_matrix(jnp.asarray(global_orient)))
    return np.einsum("...vi,...ij->...vj", vertices - root[..., None, :], rotation)


def rms(found: np.ndarray, truth: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """Root mean square distance x 1000 over the chosen vertices (Table 1 of Diverse3DFace calls it mean shape error).

    found, truth (V, 3) metres; chosen (V,) bool, all when left out. NaN where none is chosen.
    """
    squared = np.sum((np.asarray(found, np.float64) - truth) ** 2, axis=-1)
    squared = squared if chosen is None else squared[chosen]
    return float(PAPER_UNIT * np.sqrt(squared.mean())) if len(squared) else float("nan")


def aligned(found: np.ndarray, truth: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """`found` moved onto `truth` by the similarity that is best over the chosen vertices (Umeyama 1991). (V, 3)."""
    source, target = (a[chosen] if chosen is not None else a for a in (found, truth))
    if len(source) < 3:
        return found
    source_mean, target_mean = source.mean(axis=0, dtype=np.float64), target.mean(axis=0, dtype=np.float64)
    a, b = source - source_mean, target - target_mean
    u, singular, vt = np.linalg.svd(b.T @ a)
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    scale = (singular * flip).sum() / max((a**2).sum(), 1e-30)
    return scale * (found - source_mean) @ ((u * flip) @ vt).T + target_mean


def mask_counts(found: np.ndarray, truth: np.ndarray, area: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks (H, W) within an area (H, W): pooled over photos they
    give the IoU."""
    found, truth, area = (np.asarray(m) > 0.5 for m in (found, truth, area))
    return int((found & truth & area).sum()), int(((found | truth) & area).sum())


def cse(heads: np.ndarray, truth: np.ndarray) -> float:
    """Closest sample error x 1000: min_j |S_j - S|_F / sqrt(V) (Diverse3DFace, section 5, Metrics).

    No alignment. Lower is better: at least one hypothesis should be near the truth.

    Args:
      heads: (M, V, 3) metres. truth: (V, 3) metres, same frame.

    Returns:
      NaN where there is no head, or a head is not finite.
    """
    if not len(heads):
        return float("nan")
    # One head after the other: all of them in double precision would be three copies of M heads.
    squared = [np.mean(np.sum((np.asarray(head, np.float64) - truth) ** 2, axis=-1)) for head in heads]
    return float(PAPER_UNIT * np.sqrt(np.min(squared)))


def asd(heads: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """Average self distance x 1000: mean_i min_{j != i} |(S_i - S_j)_x|_F / sqrt(|x|) (Diverse3DFace, section 5).

    ASD-V over visible vertices x (lower is better), ASD-O over occluded ones (higher is better).

    Args:
      heads: (M, V, 3) metres. chosen: (V,) bool, all vertices when left out.

    Returns:
      NaN for fewer than two heads, where no vertex is chosen, or where a head is not finite.
    """
    taken = np.asarray(heads) if chosen is None else np.asarray(heads)[:, np.asarray(chosen, bool)]
    count, size = taken.shape[:2]
    if count < 2 or not size:
        return float("nan")
    flat = taken.reshape(count, -1).astype(np.float64)
    nearest = np.full(count, np.inf)
    # A row of the pairs at a time, by differences: a Gram matrix loses the digits of heads that nearly agree.
    for i in range(count - 1):
        squared = np.sum((flat[i + 1 :] - flat[i]) ** 2, axis=-1)
        nearest[i] = np.minimum(nearest[i], squared.min())
        nearest[i + 1 :] = np.minimum(nearest[i + 1 :], squared)
    return float(PAPER_UNIT * np.mean(np.sqrt(nearest / size)))
