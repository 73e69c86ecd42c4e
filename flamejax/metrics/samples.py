"""Errors, diversity and plausibility of samples of one face, and of their ranking, as OFER (CVPR 2025, section 4.4 and
supplement) names them. Formulas: docs/method/sample-metrics.md.

The paper leaves several of them open, or prints them so that they cannot be computed; each has one definition here.
Plain numpy. Heads are (M, V, 3) metres in the head frame, the truth is (V, 3), and `chosen` vertices are (V,) bool, all
when left out. Nothing is aligned unless a function says so; lengths come out x 1000. What cannot be measured (no vertex
chosen, too few samples, a head that is not finite) is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flamejax.metrics.heads import PAPER_UNIT, aligned, rms, self_distances

QUANTILE = 0.99
"""Of the training heads' own distances, below which a vertex counts as inside."""
RIDGE = 1e-4
"""Metres: the deviation that is added to every vertex in every direction, so that vertices which no training head moves
(borders, symmetric ones) have a finite distance. A tenth of a millimetre is about what a registration is true to."""
AT_ONCE = 128
"""Vertices, or heads, that are worked on at a time."""


def sample_error(heads: np.ndarray, truth: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """SE x 1000: mean_i |(S_i - S)_x|_F / sqrt(|x|) over the chosen vertices x (OFER, section 4.4, metric 1).

    The paper says "landmark vertices" there, and "all front face vertices" or "only unoccluded vertices" under Table 3;
    ours are the caller's.
    """
    return float(np.mean([rms(head, truth, chosen) for head in heads])) if len(heads) else float("nan")


@dataclass(frozen=True)
class Distribution:
    """What training heads say of each vertex by itself: a normal distribution, and how far out they reach."""

    mean: np.ndarray
    """(V, 3) metres."""
    whitening: np.ndarray
    """(V, 3, 3) W with W^T W = (C + RIDGE^2 I)^-1, C the covariance of a vertex's place."""
    threshold: np.ndarray
    """(V,) Mahalanobis distance up to which a vertex counts as inside."""

    def distance(self, heads: np.ndarray) -> np.ndarray:
        """MD_v(x) = |W_v (x_v - mean_v)|: heads (*b, V, 3) -> (*b, V)."""
        return self.length(heads - self.mean)

    def length(self, displacements: np.ndarray) -> np.ndarray:
        """|W_v d_v|, the Mahalanobis length of displacements (*b, V, 3) -> (*b, V)."""
        return np.linalg.norm(self.whitening @ np.asarray(displacements, np.float64)[..., None], axis=(-2, -1))


def learn_distribution(heads: np.ndarray, quantile: float = QUANTILE) -> Distribution:
    """From training heads (N, V, 3) in the head frame (with their mirror images, if those count as heads, too).

    The threshold of a vertex is a quantile of the training heads' own distances there, at least 1. OFER takes the
    maximum (section 4.4, metric 5), which grows with the number of heads and with a single odd one.

    Raises:
      ValueError: fewer than two heads, heads that are not finite, or a quantile outside of (0, 1].
    """
    if heads.ndim != 3 or heads.shape[2] != 3 or len(heads) < 2:
        raise ValueError(f"a distribution needs heads (N, V, 3), at least two, not {heads.shape}.")
    if not 0 < quantile <= 1:
        raise ValueError(f"a quantile lies in (0, 1], {quantile} does not.")
    # Some vertices at a time: all heads in double precision would be several copies of the training set.
    parts = [_of_vertices(heads[:, k : k + AT_ONCE], quantile) for k in range(0, heads.shape[1], AT_ONCE)]
    return Distribution(*map(np.concatenate, zip(*parts, strict=True)))


def _of_vertices(heads: np.ndarray, quantile: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    heads = heads.astype(np.float64)
    if not np.isfinite(heads).all():
        raise ValueError("the training heads hold numbers that are not finite.")
    mean = heads.mean(axis=0)
    away = (heads - mean).transpose(1, 2, 0)  # (V, 3, N)
    covariance = away @ away.transpose(0, 2, 1) / (len(heads) - 1)
    whitening = np.linalg.inv(np.linalg.cholesky(covariance + RIDGE**2 * np.eye(3)))
    distances = np.linalg.norm(whitening @ away, axis=1)
    return mean, whitening, np.maximum(np.quantile(distances, quantile, axis=1), 1.0)


def out_of_distribution(distribution: Distribution, heads: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """ODE: mean over samples i and chosen vertices v of max(0, MD_v(x_i) - threshold_v) (OFER, section 4.4, metric 6).

    The excess, not the plain distance: a head that is inside everywhere has 0. Lower is better. No unit. ODE-O is that
    of the occluded, ODE-V that of the visible vertices.
    """
    if not heads.size or not np.isfinite(heads).all() or (chosen is not None and not chosen.any()):
        return float("nan")
    excess = [np.maximum(distribution.distance(head) - distribution.threshold, 0.0) for head in heads]
    return float(np.mean([e if chosen is None else e[chosen] for e in excess]))


def shape_deviation(distribution: Distribution, heads: np.ndarray, chosen: np.ndarray | None = None) -> float:
    """STD-S x 1000: sqrt(mean_v trace(C_v)), C_v the covariance of vertex v's place over the samples that are inside
    there, MD_v(x_i) <= threshold_v (OFER, section 4.4, metric 5: "excluding data which falls outside").

    Vertices with fewer than two samples inside do not count; the covariance has n - 1 in its denominator.
    """
    if not heads.size or not np.isfinite(heads).all():
        return float("nan")
    inside = np.stack([distribution.distance(head) <= distribution.threshold for head in heads])
    count = inside.sum(axis=0)
    counted = count >= 2 if chosen is None else (count >= 2) & chosen
    if not counted.any():
        return float("nan")
    kept, taken = inside[:, counted, None], heads[:, counted].astype(np.float64)
    mean = np.sum(taken, axis=0, where=kept) / count[counted, None]
    variance = np.sum((taken - mean) ** 2, axis=(0, 2), where=kept) / (count[counted] - 1)
    return float(PAPER_UNIT * np.sqrt(variance.mean()))


def harmonic_diversity(
    distribution: Distribution, heads: np.ndarray, truth: np.ndarray, visible: np.ndarray, occluded: np.ndarray
) -> float:
    """OFER's ASD-O (section 4.4, metric 4): near the truth where the photo shows, far apart where it hides.

        d_v(i) = min(1, RMS over visible v of |W_v (x_i - truth)_v| / threshold_v)
        d_o(i) = min(1, RMS over occluded v of |W_v (x_i - x_j)_v| / threshold_v), j = nearest to i, L2 over occluded
        HM = mean_i 2 (1 - d_v) d_o / ((1 - d_v) + d_o), 0 where both terms are

    The paper prints d_v and d_o swapped, divides lengths by Mahalanobis distances, and takes a square root in one of
    them. Measured by the Mahalanobis length both are free of a unit, and HM is in [0, 1]. Higher is better. Not
    Diverse3DFace's ASD-O, which is `asd` over occluded vertices. visible, occluded: (V,) bool.
    """
    measurable = len(heads) > 1 and visible.any() and occluded.any()
    if not (measurable and np.isfinite(heads).all() and np.isfinite(truth[visible]).all()):
        return float("nan")
    hidden = heads[:, occluded].astype(np.float64)
    distances = self_distances(hidden)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argmin(axis=1)
    found = []
    for head, one, other in zip(heads, hidden, hidden[nearest], strict=True):
        near = 1.0 - _relative_length(distribution, head[visible] - truth[visible], visible)
        apart = _relative_length(distribution, one - other, occluded)
        found.append(2 * near * apart / (near + apart) if near + apart > 0 else 0.0)
    return float(np.mean(found))


def _relative_length(distribution: Distribution, displacement: np.ndarray, chosen: np.ndarray) -> float:
    """min(1, RMS of Mahalanobis lengths over thresholds) of the chosen vertices' displacement."""
    part = Distribution(*(a[chosen] for a in (distribution.mean, distribution.whitening, distribution.threshold)))
    return float(min(1.0, np.sqrt(np.mean((part.length(displacement) / part.threshold) ** 2))))


@dataclass(frozen=True)
class IdentityErrors:
    """Of N candidates, millimetres; NaN for a candidate that is not finite."""

    median: np.ndarray
    """(N,) over vertices, as the next two."""
    mean: np.ndarray
    std: np.ndarray


def identity_errors_mm(candidates: np.ndarray, truth: np.ndarray) -> IdentityErrors:
    """Distances of frontal vertices, candidates (N, E, 3) and truth (E, 3) metres, after the similarity that is best
    over these, each candidate's own: what IdRank is to rank by (OFER, section 3.3), NoW's error where vertices
    correspond. Raises ValueError for fewer than three vertices."""
    if len(truth) < 3:
        raise ValueError(f"a similarity needs three vertices or more, there are {len(truth)}.")
    finite = np.isfinite(candidates).all(axis=(1, 2))
    # A singular value decomposition refuses what is not finite.
    away = aligned(np.where(finite[:, None, None], candidates, 0.0), truth) - truth
    distances = 1e3 * np.sqrt(np.einsum("...i,...i->...", away, away))
    distances[~finite] = np.nan
    return IdentityErrors(np.median(distances, axis=1), distances.mean(axis=1), distances.std(axis=1))


def precision_at(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """|top_k(scores) & top_k(errors)| / k with k = round(share N), at least 1: Tables 9 and 10 of OFER's supplement.

    By chance k / N. In [0, 1].

    Args:
      scores: (N,) predicted, higher is better. errors: (N,) true, lower is better. Of equal ones the first counts as
        better; what is not a number comes last.
      share: in (0, 1].
    """
    predicted, best = _top_sets(scores, errors, share)
    return len(predicted & best) / len(best)


def iou_at(scores: np.ndarray, errors: np.ndarray, share: float) -> float:
    """|top_k(scores) & top_k(errors)| / |top_k(scores) | top_k(errors)|, as `precision_at`: p / (2 - p) of one image's
    precision p. By chance about k / (2 N - k)."""
    predicted, best = _top_sets(scores, errors, share)
    return len(predicted & best) / len(predicted | best)


def error_ratio(scores: np.ndarray, errors: np.ndarray, count: int) -> float:
    """Mean true error of the truly best `count` over that of the `count` predicted best: Tables 9 and 10's "error
    (GT/Pred)". In (0, 1], 1 is ideal; by chance about the best ones' mean error over all candidates'.

    scores, errors: (N,) as `precision_at`. count: at least 1; all where there are not so many. 1 where both are 0.
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
    """(N,) places from the lowest cost on."""
    return np.argsort(costs, kind="stable")
