"""Realism of heads: how likely they are under the distribution of training scans, since diversity without realism is
cheap. Also the training heads' spectrum, and how far their coefficients are from a normal distribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.tables.masked_heads import MaskedHeads
from experiments.tables.scan_pca import ScanPCA, fit_pca
from experiments.tables.statistics import bootstrap, columns, mean_of

COMPONENTS = 100
"""Number of leading components in Mahalanobis distances."""
QUANTILE = 0.99
MOST_DEVIATIONS = 3.0
BATCH = 64
COUNTS = (10, 30, 64, 100, 210, 400, 640, 1000, 1500)
LEADING = 20
DRAWS = 500


@dataclass(frozen=True)
class Realism:
    """The distribution of the training scans in the head frame."""

    pca: ScanPCA
    """Leading components."""
    deviation: np.ndarray
    """(V, 3) standard deviation of each coordinate of each vertex over the training scans, metres."""
    threshold: float
    """Mahalanobis distance per dimension up to which a head counts as inside: the 99 % quantile over the validation
    scans, which are of other people."""

    def measures(self, heads: np.ndarray) -> dict[str, np.ndarray]:
        """Returns measures of heads (M, V, 3), (M,) each: `inside`, 1 if the distance is at most the threshold, else 0;
        `vertices_inside`, the share of vertices whose coordinates are all within three standard deviations of the
        training scans' mean; `mahalanobis`, the distance."""
        distances = mahalanobis(self.pca, heads)
        limit = MOST_DEVIATIONS * self.deviation
        shares = [np.all(np.abs(part - self.pca.mean) <= limit, axis=-1).mean(axis=-1) for part in _batches(heads)]
        inside = (distances <= self.threshold).astype(float)
        return {"inside": inside, "vertices_inside": np.concatenate(shares), "mahalanobis": distances}


def learn_realism(train: Scans, validation: Scans, folder: Path | None = None) -> Realism:
    """Returns the distribution of the training scans, with the threshold from the validation scans. folder: as in
    `fit_pca`."""
    pca = fit_pca(train.vertices, COMPONENTS, folder)
    squares = sum(np.sum((part - pca.mean) ** 2, axis=0) for part in _batches(train.vertices))
    deviation = np.sqrt(np.asarray(squares) / max(len(train.vertices) - 1, 1))
    return Realism(pca, deviation, float(np.quantile(mahalanobis(pca, validation.vertices), QUANTILE)))


def mahalanobis(pca: ScanPCA, heads: np.ndarray) -> np.ndarray:
    """Returns the root mean square coefficient of heads (M, V, 3), (M,). It is about 1 for training heads, and less for
    heads closer to the mean."""
    return np.concatenate([np.sqrt(np.mean(pca.project(part) ** 2, axis=-1)) for part in _batches(heads)])


def _batches(heads: np.ndarray) -> Iterator[np.ndarray]:
    """Returns an iterator over batches of the heads in double precision."""
    return (heads[k : k + BATCH].astype(np.float64) for k in range(0, max(len(heads), 1), BATCH))


def samples_realism(pca: ScanPCA, cases: MaskedHeads, drawn: dict[str, np.ndarray]) -> list[dict]:
    """Returns rows of the realism and the spread of samples, after a row of the held-out heads themselves.

    `mahalanobis`: the distance in the training heads' leading 100 components. `spread_*_mm`: RMS distance of samples
    from their mean, over vertices. `error_*_mm`: RMS distance of that mean from the truth, which is about as large if
    samples are calibrated.

    Args:
      drawn: method -> (N, samples, V, 3).
    """
    pca = pca.leading(min(COMPONENTS, len(pca.basis)))
    values = {"held-out heads": {"mahalanobis": mahalanobis(pca, cases.heads)}}
    for method, samples in drawn.items():
        distances = np.array([mahalanobis(pca, heads).mean() for heads in samples])
        values[method] = {"mahalanobis": distances}
        centre = samples.mean(axis=1)
        spread = np.sqrt(((samples - centre[:, None]) ** 2).sum(axis=-1).sum(axis=1) / (samples.shape[1] - 1))
        error = np.linalg.norm(centre - cases.heads, axis=-1)
        for part, mask in (("visible", cases.visible), ("hidden", ~cases.visible)):
            for name, field in (("spread", spread), ("error", error)):
                # Root mean squares, in which spread and error are comparable.
                means = [np.sqrt((f[m].astype(np.float64) ** 2).mean()) for f, m in zip(field, mask, strict=True)]
                values[method][f"{name}_{part}_mm"] = 1e3 * np.array(means)
    rows = []
    for method, measures in values.items():
        row: dict = {"method": method, "heads": len(cases)}
        for name, array in measures.items():
            row |= columns(name, mean_of(array, cases.subject))
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Spectrum:
    """Statistics of the training heads' components, as printed and as written."""

    left: list[dict]
    """Number of `components`, and the share of the variance that they do not explain: `train`, and `held_out` (about
    the training heads' mean)."""
    coefficients: list[dict]
    """The leading coefficients of the training heads: `skewness` and excess `kurtosis` (0 for a normal distribution)
    with 95 % intervals, subjects drawn with replacement."""
    distance: dict
    """|z|^2 of the K leading coefficients: its variance over that of a normal distribution (2 K), `train` and
    `held_out`; and its mean over K."""
    statement: str
    """Summary of the coefficients in words."""


def spectrum(pca: ScanPCA, subjects: np.ndarray, held_out: np.ndarray) -> Spectrum:
    """Compute the statistics. pca: of training heads. subjects: (N,) of these. held_out: (M, V, 3) other heads."""
    total, held_out_total = pca.variances.sum(), float(((held_out - pca.mean) ** 2).sum())
    held_out_coefficients = pca.project(held_out)
    left = []
    for count in (k for k in COUNTS if k <= len(pca.basis)):
        explained = (held_out_coefficients[:, :count] ** 2 * pca.variances[:count]).sum()
        train = float(1 - pca.variances[:count].sum() / total)
        left.append({"components": count, "train": train, "held_out": float(1 - explained / held_out_total)})
    used, rows = min(LEADING, len(pca.basis)), []
    for k in range(used):
        powers = np.stack([pca.coefficients[:, k] ** p for p in range(1, 5)], axis=-1)
        row: dict = {"component": k + 1}
        row |= columns("skewness", bootstrap(powers, subjects, lambda means: _skew_and_kurtosis(means)[0], DRAWS))
        row |= columns("kurtosis", bootstrap(powers, subjects, lambda means: _skew_and_kurtosis(means)[1], DRAWS))
        rows.append(row)
    squares: dict = {"components": used}
    for name, coefficients in (("train", pca.coefficients), ("held_out", held_out_coefficients)):
        length = (coefficients[:, :used] ** 2).sum(axis=1)
        squares |= {name: float(length.var() / (2 * used)), f"{name}_mean": float(length.mean() / used)}
    return Spectrum(left, rows, squares, _statement(rows))


def _skew_and_kurtosis(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns skewness and excess kurtosis (...) from the means of four powers (..., 4)."""
    m1, m2, m3, m4 = np.moveaxis(means, -1, 0)
    second, third = m2 - m1**2, m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return third / second**1.5, fourth / second**2 - 3


def _statement(rows: list[dict]) -> str:
    def significant(name: str) -> int:
        return sum(not row[f"{name}_low"] <= 0 <= row[f"{name}_high"] for row in rows)

    middle = float(np.median([abs(row["kurtosis"]) for row in rows]))
    return (
        f"Of the {len(rows)} leading coefficients {significant('skewness')} are skewed and {significant('kurtosis')} "
        "have another kurtosis than a normal distribution (95 % intervals without 0); the median |excess kurtosis| is "
        f"{middle:.2f}."
    )
