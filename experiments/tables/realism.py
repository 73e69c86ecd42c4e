"""Which heads are those of people, as the training scans know people? Diversity is cheap without it. And is the world
of the open scans a Gaussian one: the training heads' spectrum, and how their coefficients spread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.tables.masked_heads import Cases
from experiments.tables.scan_pca import ScanPCA, fit_pca
from experiments.tables.statistics import bootstrap, columns, mean_of

COMPONENTS = 100
"""Leading components that distances are measured in."""
QUANTILE = 0.99
MOST_DEVIATIONS = 3.0
AT_ONCE = 64
COUNTS = (10, 30, 64, 100, 210, 400, 640, 1000, 1500)
LEADING = 20
DRAWS = 500


@dataclass(frozen=True)
class Realism:
    """What the training scans say of heads in the head frame."""

    pca: ScanPCA
    """Its leading components."""
    deviation: np.ndarray
    """(V, 3) standard deviation of each coordinate of each vertex over the training scans, metres."""
    threshold: float
    """Mahalanobis distance per dimension below which a head counts as inside: the 99 % quantile over the validation
    scans, other people than those of training."""

    def measures(self, heads: np.ndarray) -> dict[str, np.ndarray]:
        """Of heads (M, V, 3), (M,) each: `inside`, 1 where the distance is at most the threshold, else 0;
        `vertices_inside`, the share of a head's vertices all of whose coordinates lie within three standard deviations
        of the training scans' mean; `mahalanobis`, the distance."""
        away = distance(self.pca, heads)
        most = MOST_DEVIATIONS * self.deviation
        near = [np.all(np.abs(part - self.pca.mean) <= most, axis=-1).mean(axis=-1) for part in _in_parts(heads)]
        inside = (away <= self.threshold).astype(float)
        return {"inside": inside, "vertices_inside": np.concatenate(near), "mahalanobis": away}


def learn(train: Scans, validation: Scans, folder: Path | None = None) -> Realism:
    """From the training scans, with the threshold from the validation scans. folder: as in `fit_pca`."""
    pca = fit_pca(train.vertices, COMPONENTS, folder)
    squares = sum(np.sum((part - pca.mean) ** 2, axis=0) for part in _in_parts(train.vertices))
    deviation = np.sqrt(np.asarray(squares) / max(len(train.vertices) - 1, 1))
    return Realism(pca, deviation, float(np.quantile(distance(pca, validation.vertices), QUANTILE)))


def distance(pca: ScanPCA, heads: np.ndarray) -> np.ndarray:
    """(M, V, 3) -> (M,) root of the mean squared coefficient; 1 is what training heads have, less is nearer to the mean
    head than people are."""
    return np.concatenate([np.sqrt(np.mean(pca.project(part) ** 2, axis=-1)) for part in _in_parts(heads)])


def _in_parts(heads: np.ndarray) -> Iterator[np.ndarray]:
    """Heads in double precision, some at a time."""
    return (heads[k : k + AT_ONCE].astype(np.float64) for k in range(0, max(len(heads), 1), AT_ONCE))


def samples_realism(pca: ScanPCA, cases: Cases, drawn: dict[str, np.ndarray]) -> list[dict]:
    """Do samples look like heads, and how far apart are they? Rows, the held-out heads themselves first.

    `mahalanobis`: `distance` in the training heads' leading 100 components. `spread_*_mm`: RMS distance of samples from
    their mean, over vertices. `error_*_mm`: RMS distance of that mean from the truth; about the same if the spread is
    honest.

    Args:
      drawn: method -> (N, samples, V, 3).
    """
    pca = pca.leading(min(COMPONENTS, len(pca.basis)))
    values = {"held-out heads": {"mahalanobis": distance(pca, cases.heads)}}
    for method, samples in drawn.items():
        values[method] = found = {"mahalanobis": np.array([distance(pca, heads).mean() for heads in samples])}
        centre = samples.mean(axis=1)
        spread = np.sqrt(((samples - centre[:, None]) ** 2).sum(axis=-1).sum(axis=1) / (samples.shape[1] - 1))
        error = np.linalg.norm(centre - cases.heads, axis=-1)
        for part, seen in (("visible", cases.visible), ("hidden", ~cases.visible)):
            for name, field in (("spread", spread), ("error", error)):
                # Squares are what a spread and an error have in common.
                means = [np.sqrt((f[s].astype(np.float64) ** 2).mean()) for f, s in zip(field, seen, strict=True)]
                found[f"{name}_{part}_mm"] = 1e3 * np.array(means)
    rows = []
    for method, found in values.items():
        row: dict = {"method": method, "heads": len(cases)}
        for name, each in found.items():
            row |= columns(name, mean_of(each, cases.subject))
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Spectrum:
    """What is printed and written of the training heads' components."""

    left: list[dict]
    """`components`, and the share of the variance that is left after them: `train`, and `held_out` (about the training
    heads' mean)."""
    coefficients: list[dict]
    """The leading coefficients of the training heads: `skewness` and excess `kurtosis` (0 for a normal distribution)
    with 95 % intervals, subjects drawn with replacement."""
    distance: dict
    """|z|^2 of the leading coefficients: variance over what a normal distribution has (2 K), `train`, `held_out`; and
    its mean over K."""
    statement: str
    """In words."""


def spectrum(pca: ScanPCA, subjects: np.ndarray, held_out: np.ndarray) -> Spectrum:
    """pca: of the training heads. subjects (N,): whose they are. held_out: (M, V, 3) heads of others."""
    total, away = pca.variances.sum(), float(((held_out - pca.mean) ** 2).sum())
    found = pca.project(held_out)
    left = []
    for count in (k for k in COUNTS if k <= len(pca.basis)):
        taken = (found[:, :count] ** 2 * pca.variances[:count]).sum()
        train = float(1 - pca.variances[:count].sum() / total)
        left.append({"components": count, "train": train, "held_out": float(1 - taken / away)})
    used, rows = min(LEADING, len(pca.basis)), []
    for k in range(used):
        powers = np.stack([pca.coefficients[:, k] ** p for p in range(1, 5)], axis=-1)
        row: dict = {"component": k + 1}
        row |= columns("skewness", bootstrap(powers, subjects, lambda means: _shape(means)[0], DRAWS))
        row |= columns("kurtosis", bootstrap(powers, subjects, lambda means: _shape(means)[1], DRAWS))
        rows.append(row)
    squares: dict = {"components": used}
    for name, coefficients in (("train", pca.coefficients), ("held_out", found)):
        length = (coefficients[:, :used] ** 2).sum(axis=1)
        squares |= {name: float(length.var() / (2 * used)), f"{name}_mean": float(length.mean() / used)}
    return Spectrum(left, rows, squares, _statement(rows))


def _shape(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skewness and excess kurtosis (...) of the means of four powers (..., 4)."""
    m1, m2, m3, m4 = np.moveaxis(means, -1, 0)
    second, third = m2 - m1**2, m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    return third / second**1.5, fourth / second**2 - 3


def _statement(rows: list[dict]) -> str:
    def off(name: str) -> int:
        return sum(not row[f"{name}_low"] <= 0 <= row[f"{name}_high"] for row in rows)

    middle = float(np.median([abs(row["kurtosis"]) for row in rows]))
    return (
        f"Of the {len(rows)} leading coefficients {off('skewness')} are skewed and {off('kurtosis')} have another "
        f"kurtosis than a normal distribution (95 % intervals without 0); the median |excess kurtosis| is {middle:.2f}."
    )
