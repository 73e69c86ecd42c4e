"""Errors of heads, as the papers define them. Plain numpy; heads are in metres, and errors come out x 1000.

`chosen`: (V,) bool, the vertices x that count; all when left out.
"""

from __future__ import annotations

import numpy as np

from flamejax.geometry import similarity_transform_double

PAPER_UNIT = 1e3
"""The papers print metres x 1000."""


def rms(found: np.ndarray, truth: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """Root mean square distance x 1000 of found and truth (V, 3) (Table 1 of Diverse3DFace calls it mean shape error).
    NaN where no vertex is chosen."""
    squared = np.sum((np.asarray(found, np.float64) - truth) ** 2, axis=-1)
    squared = squared if chosen is None else squared[chosen]
    return float(PAPER_UNIT * np.sqrt(squared.mean())) if len(squared) else float("nan")


def aligned(found: np.ndarray, truth: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """`found` moved onto `truth` by the similarity that is best over the chosen vertices (Umeyama 1991).

    Args:
      found: (*b, V, 3), each of which is moved by its own similarity; as it is where fewer than three are chosen.
      truth: (V, 3), or (*b, V, 3).

    Returns:
      (*b, V, 3), in double precision.
    """
    source, target = (a[..., chosen, :] if chosen is not None else a for a in (found, truth))
    if source.shape[-2] < 3:
        return found
    scale, rotation, translation = similarity_transform_double(source, target)
    moved = np.asarray(found, np.float64) @ np.swapaxes(rotation, -1, -2)
    return scale[..., None, None] * moved + translation[..., None, :]


def mask_counts(found: np.ndarray, truth: np.ndarray, area: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks (H, W) within an area (H, W): pooled over photos they
    give the IoU."""
    found, truth, area = (np.asarray(m) > 0.5 for m in (found, truth, area))
    return int((found & truth & area).sum()), int(((found | truth) & area).sum())


def cse(heads: np.ndarray, truth: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """Closest sample error x 1000: min_j |(S_j - S)_x|_F / sqrt(|x|) (Diverse3DFace, section 5, Metrics) of heads
    (M, V, 3) and a truth (V, 3) in the same frame.

    No alignment. Lower is better: at least one hypothesis should be near the truth. NaN where there is no head, no
    vertex is chosen, or a head is not finite.
    """
    # One head after the other: all of them in double precision would be three copies of M heads.
    return float(np.min([rms(head, truth, chosen) for head in heads])) if len(heads) else float("nan")


def asd(heads: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """Average self distance x 1000 of heads (M, V, 3): mean_i min_{j != i} |(S_i - S_j)_x|_F / sqrt(|x|)
    (Diverse3DFace, section 5). ASD-V over visible vertices x (lower is better), ASD-O over occluded ones (higher is
    better). NaN as in `asd_extremes`."""
    return asd_extremes(heads, chosen)[0]


def asd_extremes(heads: np.ndarray, chosen: np.ndarray | None = None) -> tuple[float, float]:
    """minASD and maxASD x 1000: mean_i of min_{j != i} and of max_{j != i} |(S_i - S_j)_x|_F / sqrt(|x|) of heads
    (M, V, 3) (OFER, section 4.4, metric 3). The first is `asd`. NaN for fewer than two heads, where no vertex is
    chosen, or where a head is not finite."""
    distances = self_distances(heads, chosen)
    if len(distances) < 2:
        return float("nan"), float("nan")
    others = distances[~np.eye(len(distances), dtype=bool)].reshape(len(distances), -1)
    return float(np.mean(others.min(axis=1))), float(np.mean(others.max(axis=1)))


def self_distances(heads: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """(M, M): `rms` between every two of the heads (M, V, 3), over the chosen vertices. NaN where none is."""
    taken = np.asarray(heads) if chosen is None else np.asarray(heads)[:, np.asarray(chosen, bool)]
    count, size = taken.shape[:2]
    found = np.zeros((count, count))
    if not size:
        return np.full_like(found, np.nan)
    flat = taken.reshape(count, 3 * size).astype(np.float64)
    # A row of the pairs at a time, by differences: a Gram matrix loses the digits of heads that nearly agree.
    for i in range(count - 1):
        found[i, i + 1 :] = np.sum((flat[i + 1 :] - flat[i]) ** 2, axis=-1)
    return PAPER_UNIT * np.sqrt((found + found.T) / size)
