"""Errors, diversity, plausibility and ranking of samples of one face: the metrics of OFER (CVPR 2025), in NumPy.

See OFER's section 4.4 and supplement; formulas are in docs/method/sample-metrics.md. Where the paper leaves a metric
open or prints a formula that cannot be computed, this module fixes one definition.

Heads are (M, V, 3) metres in the head frame, the truth is (V, 3), and `vertex_mask` is (V,) bool, all vertices by
default. Heads are not aligned unless a function says so; lengths are returned x 1000. A metric is NaN if it cannot be
measured: an empty mask, too few samples, or a head that is not finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flamejax.metrics.heads import PAPER_UNIT, aligned, rms, self_distances

QUANTILE = 0.99
"""Quantile of the training heads' distances up to which a vertex counts as inside."""
RIDGE = 1e-4
"""Metres: standard deviation added to every vertex in every direction. It keeps distances finite for vertices that no
training head moves (borders, the symmetry plane). A registration is accurate to about 0.1 mm."""
CHUNK_SIZE = 128
"""Vertices processed at a time."""


def sample_error(heads: np.ndarray, truth: np.ndarray, vertex_mask: np.ndarray | None = None) -> float:
    """SE x 1000: mean_i |(S_i - S)_x|_F / sqrt(|x|) over the vertices x of the mask (OFER, section 4.4, metric 1).

    The paper says "landmark vertices" there, and "all front face vertices" or "only unoccluded vertices" under Table 3;
    here the caller decides.
    """
    return float(np.mean([rms(head, truth, vertex_mask) for head in heads])) if len(heads) else float("nan")


@dataclass(frozen=True)
class Distribution:
    """A normal distribution of each vertex's position over training heads, and the largest distance that is inside."""

    mean: np.ndarray
    """(V, 3) metres."""
    whitening: np.ndarray
    """(V, 3, 3) W with W^T W = (C + RIDGE^2 I)^-1, C the covariance of a vertex's position."""
    threshold: np.ndarray
    """(V,) Mahalanobis distance up to which a vertex counts as inside."""

    def distance(self, heads: np.ndarray) -> np.ndarray:
        """Returns Mahalanobis distances MD_v(x) = |W_v (x_v - mean_v)|: heads (*b, V, 3) -> (*b, V)."""
        return self.length(heads - self.mean)

    def length(self, displacements: np.ndarray) -> np.ndarray:
        """Returns Mahalanobis lengths |W_v d_v|: displacements (*b, V, 3) -> (*b, V)."""
        return np.linalg.norm(self.whitening @ np.asarray(displacements, np.float64)[..., None], axis=(-2, -1))


def learn_distribution(heads: np.ndarray, quantile: float = QUANTILE) -> Distribution:
    """Estimate the distribution from training heads (N, V, 3) in the head frame (and mirror images, if they count).

    The threshold of a vertex is a quantile of the training heads' distances there, at least 1. OFER takes the maximum
    (section 4.4, metric 5), which grows with the number of heads and with a single outlier.

    Raises:
      ValueError: there are fewer than two heads, a head is not finite, or the quantile is outside of (0, 1].
    """
    if heads.ndim != 3 or heads.shape[2] != 3 or len(heads) < 2:
        raise ValueError(f"a distribution needs heads (N, V, 3), at least two, not {heads.shape}.")
    if not 0 < quantile <= 1:
        raise ValueError(f"a quantile lies in (0, 1], {quantile} does not.")
    # In chunks: double precision would take several copies of the training set.
    starts = range(0, heads.shape[1], CHUNK_SIZE)
    chunks = [_vertex_statistics(heads[:, k : k + CHUNK_SIZE], quantile) for k in starts]
    return Distribution(*map(np.concatenate, zip(*chunks, strict=True)))


def _vertex_statistics(heads: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean, whitening and threshold as in `Distribution`."""
    heads = heads.astype(np.float64)
    if not np.isfinite(heads).all():
        raise ValueError("the training heads contain numbers that are not finite.")
    mean = heads.mean(axis=0)
    centred = (heads - mean).transpose(1, 2, 0)  # (V, 3, N)
    covariance = centred @ centred.transpose(0, 2, 1) / (len(heads) - 1)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance + RIDGE**2 * np.eye(3)))
    distances = np.linalg.norm(whitening @ centred, axis=1)
    return mean, whitening, np.maximum(np.quantile(distances, quantile, axis=1), 1.0)


def out_of_distribution(distribution: Distribution, heads: np.ndarray, vertex_mask: np.ndarray | None = None) -> float:
    """ODE: mean over samples i and vertices v of the mask of max(0, MD_v(x_i) - threshold_v).

    OFER, section 4.4, metric 6. It measures the excess, not the plain distance: a head whose vertices are all inside
    has 0. Lower is better. No unit. ODE-O is over occluded, ODE-V over visible vertices.
    """
    if not heads.size or not np.isfinite(heads).all() or (vertex_mask is not None and not vertex_mask.any()):
        return float("nan")
    excess = [np.maximum(distribution.distance(head) - distribution.threshold, 0.0) for head in heads]
    return float(np.mean([e if vertex_mask is None else e[vertex_mask] for e in excess]))


def shape_deviation(distribution: Distribution, heads: np.ndarray, vertex_mask: np.ndarray | None = None) -> float:
    """STD-S x 1000: sqrt(mean_v trace(C_v)), C_v the covariance of vertex v's position over the samples inside.

    OFER, section 4.4, metric 5: "excluding data which falls outside". Inside means MD_v(x_i) <= threshold_v. Vertices
    with fewer than two samples inside do not count; the covariance has n - 1 in its denominator.
    """
    if not heads.size or not np.isfinite(heads).all():
        return float("nan")
    inside = np.stack([distribution.distance(head) <= distribution.threshold for head in heads])
    count = inside.sum(axis=0)
    counted = count >= 2 if vertex_mask is None else (count >= 2) & vertex_mask
    if not counted.any():
        return float("nan")
    where, positions = inside[:, counted, None], heads[:, counted].astype(np.float64)
    mean = np.sum(positions, axis=0, where=where) / count[counted, None]
    variance = np.sum((positions - mean) ** 2, axis=(0, 2), where=where) / (count[counted] - 1)
    return float(PAPER_UNIT * np.sqrt(variance.mean()))


def harmonic_diversity(
    distribution: Distribution, heads: np.ndarray, truth: np.ndarray, visible: np.ndarray, occluded: np.ndarray
) -> float:
    """OFER's ASD-O (section 4.4, metric 4): near the truth on visible vertices, diverse on occluded ones.

        d_v(i) = min(1, RMS over visible v of |W_v (x_i - truth)_v| / threshold_v)
        d_o(i) = min(1, RMS over occluded v of |W_v (x_i - x_j)_v| / threshold_v), j = nearest to i, L2 over occluded
        HM = mean_i 2 (1 - d_v) d_o / ((1 - d_v) + d_o), 0 where both terms are 0

    The paper prints d_v and d_o swapped, divides lengths by Mahalanobis distances, and takes a square root in one of
    them. Mahalanobis lengths have no unit, so that HM is in [0, 1]. Higher is better. This is not Diverse3DFace's
    ASD-O, which is `asd` over occluded vertices. visible, occluded: (V,) bool.
    """
    measurable = len(heads) > 1 and visible.any() and occluded.any()
    if not (measurable and np.isfinite(heads).all() and np.isfinite(truth[visible]).all()):
        return float("nan")
    hidden_parts = heads[:, occluded].astype(np.float64)
    distances = self_distances(hidden_parts)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    harmonic_means = []
    for head, hidden, neighbour in zip(heads, hidden_parts, hidden_parts[nearest], strict=True):
        accuracy = 1.0 - _relative_length(distribution, head[visible] - truth[visible], visible)
        diversity = _relative_length(distribution, hidden - neighbour, occluded)
        total = accuracy + diversity
        harmonic_means.append(2 * accuracy * diversity / total if total > 0 else 0.0)
    return float(np.mean(harmonic_means))


def _relative_length(distribution: Distribution, displacement: np.ndarray, vertex_mask: np.ndarray) -> float:
    """Returns min(1, RMS of Mahalanobis length / threshold) for the displacements of the mask's vertices."""
    subset = Distribution(*(array[vertex_mask] for array in vars(distribution).values()))
    return float(min(1.0, np.sqrt(np.mean((subset.length(displacement) / subset.threshold) ** 2))))


@dataclass(frozen=True)
class IdentityErrors:
    """Errors of N candidates, millimetres; NaN for a candidate that is not finite."""

    median: np.ndarray
    """(N,) over vertices, as `mean` and `std`."""
    mean: np.ndarray
    std: np.ndarray


def identity_errors_mm(candidates: np.ndarray, truth: np.ndarray) -> IdentityErrors:
    """Measure distances of frontal vertices after aligning each candidate by its least-squares similarity.

    candidates (N, E, 3) and truth (E, 3), metres. IdRank is trained to rank by these errors (OFER, section 3.3). They
    are NoW's errors for meshes whose vertices correspond. Raises ValueError for fewer than three vertices."""
    if len(truth) < 3:
        raise ValueError(f"a similarity needs three vertices or more, there are {len(truth)}.")
    finite = np.isfinite(candidates).all(axis=(1, 2))
    # A singular value decomposition refuses numbers that are not finite.
    offsets = aligned(np.where(finite[:, None, None], candidates, 0.0), truth) - truth
    distances = 1e3 * np.sqrt(np.einsum("...i,...i->...", offsets, offsets))
    distances[~finite] = np.nan
    return IdentityErrors(np.median(distances, axis=1), distances.mean(axis=1), distances.std(axis=1))


def precision_at(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """|top_k(scores) & top_k(errors)| / k with k = round(share N), at least 1: Tables 9 and 10 of OFER's supplement.

    In [0, 1]; k / N by chance.

    Args:
      scores: (N,) predicted, higher is better. errors: (N,) true, lower is better. Ties go to the first; NaN
        comes last.
      share: in (0, 1].
    """
    predicted, best = _top_sets(scores, errors, share)
    return len(predicted & best) / len(best)


def iou_at(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """|top_k(scores) & top_k(errors)| / |top_k(scores) | top_k(errors)|, as `precision_at`.

    It is p / (2 - p) for one image's precision p; about k / (2 N - k) by chance."""
    predicted, best = _top_sets(scores, errors, share)
    return len(predicted & best) / len(predicted | best)


def error_ratio(scores: np.ndarray, errors: np.ndarray, count: int) -> float:
    """Mean true error of the best `count` divided by that of the `count` predicted best.

    Tables 9 and 10 call it "error (GT/Pred)". In (0, 1], 1 is ideal. By chance it is about the mean error of the best
    divided by that of all candidates. scores, errors: (N,) as `precision_at`. count: at least 1; larger than N means
    all. The ratio of 0 and 0 is 1.
    """
    if count < 1:
        raise ValueError(f"a mean needs one candidate or more, not {count}.")
    errors = np.asarray(errors, np.float64)
    best, predicted = (errors[order[:count]].mean() for order in (_ranked(errors), _ranked(-np.asarray(scores))))
    return float(best / predicted) if best != predicted else 1.0


def _top_sets(scores: np.ndarray, errors: np.ndarray, share: float) -> tuple[set[int], set[int]]:
    if not 0 < share <= 1:
        raise ValueError(f"a share lies in (0, 1], {share} does not.")
    if np.shape(scores) != np.shape(errors) or np.ndim(errors) != 1 or not len(errors):
        raise ValueError(f"scores and errors are (N,), not {np.shape(scores)} and {np.shape(errors)}.")
    k = max(1, round(share * len(errors)))
    return set(_ranked(-np.asarray(scores))[:k].tolist()), set(_ranked(errors)[:k].tolist())


def _ranked(costs: np.ndarray) -> np.ndarray:
    """Returns indices (N,) by ascending cost."""
    return np.argsort(costs, kind="stable")
