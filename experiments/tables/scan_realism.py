"""Do samples look like heads, to a linear Gaussian model of heads? And how far apart are they?"""

from __future__ import annotations

import numpy as np

from experiments.tables.masked_heads import Cases
from experiments.tables.scan_pca import ScanPCA
from experiments.tables.statistics import mean_of

COMPONENTS = 100


def realism(pca: ScanPCA, cases: Cases, drawn: dict[str, np.ndarray]) -> list[dict]:
    """Rows, the held-out heads themselves first.

    `mahalanobis`: root of the mean squared coefficient in the training heads' leading 100 components; 1 is what
    training heads have, less is nearer to the mean head than people are. `spread_*_mm`: RMS distance of samples from
    their mean, over vertices. `error_*_mm`: RMS distance of that mean from the truth; about the same if
    the spread is honest.

    Args:
      drawn: method -> (N, samples, V, 3).
    """
    pca = pca.leading(min(COMPONENTS, len(pca.basis)))
    real = {"mahalanobis": _distance(pca, cases.heads)}
    rows = [_row("held-out heads", real, cases)]
    for method, samples in drawn.items():
        values = {"mahalanobis": np.array([_distance(pca, heads).mean() for heads in samples])}
        centre = samples.mean(axis=1)
        spread = np.sqrt(((samples - centre[:, None]) ** 2).sum(axis=-1).sum(axis=1) / (samples.shape[1] - 1))
        error = np.linalg.norm(centre - cases.heads, axis=-1)
        for part, seen in (("visible", cases.visible), ("hidden", ~cases.visible)):
            for name, field in (("spread", spread), ("error", error)):
                # Squares are what a spread and an error have in common.
                means = [np.sqrt((f[s].astype(np.float64) ** 2).mean()) for f, s in zip(field, seen, strict=True)]
                values[f"{name}_{part}_mm"] = 1e3 * np.array(means)
        rows.append(_row(method, values, cases))
    return rows


def _distance(pca: ScanPCA, heads: np.ndarray) -> np.ndarray:
    return np.sqrt((pca.project(heads.astype(np.float64)) ** 2).mean(axis=-1))


def _row(method: str, values: dict[str, np.ndarray], cases: Cases) -> dict:
    row: dict = {"method": method, "heads": len(cases)}
    for name, each in values.items():
        value, low, high = mean_of(each, cases.subject)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row
