"""Errors of heads, as the papers define them, in NumPy. Heads are in metres, and errors are returned x 1000.

`vertex_mask`: (V,) bool, the vertices x that are measured; all by default.
"""

from __future__ import annotations

import numpy as np

from flamejax.geometry import similarity_transform_double

PAPER_UNIT = 1e3
"""The papers print metres x 1000."""


def rms(predicted: np.ndarray, truth: np.ndarray, vertex_mask: np.ndarray | None = None) -> float:
    """Root mean square distance x 1000 of `predicted` and `truth` (V, 3). NaN for an empty mask.

    Table 1 of Diverse3DFace calls it mean shape error."""
    squared = np.sum((np.asarray(predicted, np.float64) - truth) ** 2, axis=-1)
    squared = squared if vertex_mask is None else squared[vertex_mask]
    return float(PAPER_UNIT * np.sqrt(squared.mean())) if len(squared) else float("nan")


def aligned(predicted: np.ndarray, truth: np.ndarray, vertex_mask: np.ndarray | None = None) -> np.ndarray:
    """Align `predicted` to `truth` by the least-squares similarity over the mask's vertices (Umeyama 1991).

    Args:
      predicted: (*b, V, 3); each gets its own similarity. Returned unchanged if the mask has fewer than three vertices.
      truth: (V, 3), or (*b, V, 3).

    Returns:
      (*b, V, 3), in double precision.
    """
    source, target = (a[..., vertex_mask, :] if vertex_mask is not None else a for a in (predicted, truth))
    if source.shape[-2] < 3:
        return predicted
    scale, rotation, translation = similarity_transform_double(source, target)
    rotated = np.asarray(predicted, np.float64) @ np.swapaxes(rotation, -1, -2)
    return scale[..., None, None] * rotated + translation[..., None, :]


def mask_counts(predicted: np.ndarray, truth: np.ndarray, area: np.ndarray) -> tuple[int, int]:
    """Count the pixels of the intersection and the union of two masks (H, W) within `area` (H, W).

    Summed over photos they give the IoU."""
    predicted, truth, area = (np.asarray(m) > 0.5 for m in (predicted, truth, area))
    return int((predicted & truth & area).sum()), int(((predicted | truth) & area).sum())


def cse(heads: np.ndarray, truth: np.ndarray, vertex_mask: np.ndarray | None = None) -> float:
    """Closest sample error x 1000: min_j |(S_j - S)_x|_F / sqrt(|x|) (Diverse3DFace, section 5, Metrics) of heads
    (M, V, 3) and a truth (V, 3) in the same frame.

    No alignment. Lower is better: at least one hypothesis should be near the truth. NaN if there is no head, the mask
    is empty, or a head is not finite.
    """
    # One head at a time: all of them in double precision would take three copies of M heads.
    return float(np.min([rms(head, truth, vertex_mask) for head in heads])) if len(heads) else float("nan")


def asd(heads: np.ndarray, vertex_mask: np.ndarray | None = None) -> float:
    """Average self distance x 1000 of heads (M, V, 3): mean_i min_{j != i} |(S_i - S_j)_x|_F / sqrt(|x|)
    (Diverse3DFace, section 5). ASD-V over visible vertices x (lower is better), ASD-O over occluded ones (higher is
    better). NaN as in `asd_extremes`."""
    return asd_extremes(heads, vertex_mask)[0]


def asd_extremes(heads: np.ndarray, vertex_mask: np.ndarray | None = None) -> tuple[float, float]:
    """minASD and maxASD x 1000: mean_i of min_{j != i} and of max_{j != i} |(S_i - S_j)_x|_F / sqrt(|x|) of heads
    (M, V, 3) (OFER, section 4.4, metric 3). The first is `asd`. NaN for fewer than two heads, an empty mask,
    or heads that are not finite."""
    distances = self_distances(heads, vertex_mask)
    if len(distances) < 2:
        return float("nan"), float("nan")
    others = distances[~np.eye(len(distances), dtype=bool)].reshape(len(distances), -1)
    return float(np.mean(others.min(axis=1))), float(np.mean(others.max(axis=1)))


def self_distances(heads: np.ndarray, vertex_mask: np.ndarray | None = None) -> np.ndarray:
    """Returns the pairwise `rms` (M, M) of heads (M, V, 3) over the mask's vertices. NaN for an empty mask."""
    selected = np.asarray(heads) if vertex_mask is None else np.asarray(heads)[:, np.asarray(vertex_mask, bool)]
    count, size = selected.shape[:2]
    squared = np.zeros((count, count))
    if not size:
        return np.full_like(squared, np.nan)
    flat = selected.reshape(count, 3 * size).astype(np.float64)
    # One row at a time, from differences: a Gram matrix loses precision where heads nearly agree.
    for i in range(count - 1):
        squared[i, i + 1 :] = np.sum((flat[i + 1 :] - flat[i]) ** 2, axis=-1)
    return PAPER_UNIT * np.sqrt((squared + squared.T) / size)
