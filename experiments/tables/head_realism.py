"""Which hypotheses are heads of people, as the training scans know people? Diversity is cheap without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.datasets.open_faces import Scans
from experiments.tables.scan_pca import ScanPCA, fit_pca

COMPONENTS = 100
QUANTILE = 0.99
MOST_DEVIATIONS = 3.0
AT_ONCE = 64


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

    def distance(self, heads: np.ndarray) -> np.ndarray:
        """(M, V, 3) -> (M,) root of the mean squared coefficient in the leading components; 1 is what training heads
        have."""
        return np.concatenate([np.sqrt(np.mean(self.pca.project(part) ** 2, axis=-1)) for part in _in_parts(heads)])

    def inside(self, heads: np.ndarray) -> np.ndarray:
        """(M,) bool: heads whose distance is at most the threshold."""
        return self.distance(heads) <= self.threshold

    def vertices_inside(self, heads: np.ndarray) -> np.ndarray:
        """(M,) the share of a head's vertices all of whose coordinates lie within three standard deviations of the
        training scans' mean."""
        found = [
            np.all(np.abs(part - self.pca.mean) <= MOST_DEVIATIONS * self.deviation, axis=-1).mean(axis=-1)
            for part in _in_parts(heads)
        ]
        return np.concatenate(found)


def learn(train: Scans, validation: Scans, folder: Path | None = None) -> Realism:
    """From the training scans, with the threshold from the validation scans. folder: as in `fit_pca`."""
    pca = fit_pca(train.vertices, COMPONENTS, folder)
    squares = sum(np.sum((part - pca.mean) ** 2, axis=0) for part in _in_parts(train.vertices))
    deviation = np.sqrt(np.asarray(squares) / max(len(train.vertices) - 1, 1))
    free = Realism(pca, deviation, np.inf)
    return Realism(pca, deviation, float(np.quantile(free.distance(validation.vertices), QUANTILE)))


def _in_parts(heads: np.ndarray) -> Iterator[np.ndarray]:
    """In double precision, some at a time."""
    return (heads[k : k + AT_ONCE].astype(np.float64) for k in range(0, max(len(heads), 1), AT_ONCE))
