"""Is the world of the open scans a Gaussian one? The training heads' spectrum, and how their coefficients spread."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.tables.scan_pca import ScanPCA

COUNTS = (10, 30, 64, 100, 210, 400, 640, 1000, 1500)
LEADING = 20
DRAWS = 500


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


def spectrum(pca: ScanPCA, subjects: np.ndarray, held_out: np.ndarray, seed: int = 0) -> Spectrum:
    """pca: of the training heads. subjects (N,): whose they are. held_out: (M, V, 3) heads of others."""
    total, away = pca.variances.sum(), float(((held_out - pca.mean) ** 2).sum())
    found = pca.project(held_out)
    left = []
    for count in (k for k in COUNTS if k <= len(pca.basis)):
        taken = (found[:, :count] ** 2 * pca.variances[:count]).sum()
        left.append({
            "components": count, "train": float(1 - pca.variances[:count].sum() / total),
            "held_out": float(1 - taken / away),
        })  # fmt: skip
    used = min(LEADING, len(pca.basis))
    coefficients = _moments(pca.coefficients[:, :used], subjects, seed)
    train, other = ((z[:, :used] ** 2).sum(axis=1) for z in (pca.coefficients, found))
    distance = {"components": used, "train": float(train.var() / (2 * used)), "train_mean": float(train.mean() / used)}
    distance |= {"held_out": float(other.var() / (2 * used)), "held_out_mean": float(other.mean() / used)}
    return Spectrum(left, coefficients, distance, _statement(coefficients))


def _moments(coefficients: np.ndarray, subjects: np.ndarray, seed: int) -> list[dict]:
    """Skewness and excess kurtosis of each column from sums of powers by subject, so that drawing is cheap."""
    names, place = np.unique(subjects, return_inverse=True)
    powers = np.stack([coefficients**p for p in range(5)], axis=-1)  # (N, K, 5)
    sums = np.zeros((len(names), *powers.shape[1:]))
    np.add.at(sums, place, powers)
    picks = np.random.default_rng(seed).integers(0, len(names), (DRAWS, len(names)))
    weight = np.stack([np.bincount(pick, minlength=len(names)) for pick in picks]).astype(float)
    drawn, whole = np.tensordot(weight, sums, axes=1), sums.sum(axis=0)
    rows = []
    for k in range(coefficients.shape[1]):
        row: dict = {"component": k + 1}
        for name, function in (("skewness", _skewness), ("kurtosis", _kurtosis)):
            low, high = np.percentile(function(drawn[:, k]), [2.5, 97.5])
            row |= {name: float(function(whole[k])), f"{name}_low": float(low), f"{name}_high": float(high)}
        rows.append(row)
    return rows


def _central(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Second, third and fourth central moments of sums of powers (..., 5)."""
    m1, m2, m3, m4 = np.moveaxis(sums[..., 1:] / sums[..., :1], -1, 0)
    second = m2 - m1**2
    return second, m3 - 3 * m1 * m2 + 2 * m1**3, m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4


def _skewness(sums: np.ndarray) -> np.ndarray:
    second, third, _ = _central(sums)
    return third / second**1.5


def _kurtosis(sums: np.ndarray) -> np.ndarray:
    second, _, fourth = _central(sums)
    return fourth / second**2 - 3


def _statement(rows: list[dict]) -> str:
    def off(name: str) -> int:
        return sum(not row[f"{name}_low"] <= 0 <= row[f"{name}_high"] for row in rows)

    middle = float(np.median([abs(row["kurtosis"]) for row in rows]))
    return (
        f"Of the {len(rows)} leading coefficients {off('skewness')} are skewed and {off('kurtosis')} have another "
        f"kurtosis than a normal distribution (95 % intervals without 0); the median |excess kurtosis| is {middle:.2f}."
    )
