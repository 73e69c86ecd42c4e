"""Principal components of registered heads, and completion of heads by them: what a linear Gaussian model can do.

A head is x = mean + B z with z ~ N(0, 1). From visible coordinates, known to a standard deviation sigma, the most
likely head has z = argmin |B_v z - (x - mean)_v|^2 / sigma^2 + |z|^2. In double precision: variances span ten orders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from experiments.cache import array_digest, read_arrays, write_arrays
from experiments.datasets.principal_components import gram_components
from experiments.runtime import data_folder

MOST = 1500
"""Components that are kept."""


@dataclasses.dataclass(frozen=True)
class ScanPCA:
    """Components of N heads, largest variance first; numpy, float64, metres."""

    mean: np.ndarray
    """(V, 3)"""
    basis: np.ndarray
    """(K, V, 3) displacement per standard deviation."""
    variances: np.ndarray
    """(N - 1,) all of them, summed over coordinates, metres^2."""
    coefficients: np.ndarray
    """(N, K) of the heads themselves, standard deviations."""

    def leading(self, count: int) -> ScanPCA:
        """The same with fewer components."""
        return dataclasses.replace(self, basis=self.basis[:count], coefficients=self.coefficients[:, :count])

    def project(self, heads: np.ndarray) -> np.ndarray:
        """Coefficients (*b, K) of whole heads (*b, V, 3), standard deviations, by the orthogonal projection."""
        away = (heads - self.mean).reshape(*heads.shape[:-2], -1)
        return away @ self.basis.reshape(len(self.basis), -1).T / self.variances[: len(self.basis)]

    def heads(self, coefficients: np.ndarray) -> np.ndarray:
        """(*b, K) -> (*b, V, 3)."""
        flat = coefficients @ self.basis.reshape(len(self.basis), -1)
        return self.mean + flat.reshape(*coefficients.shape[:-1], *self.mean.shape)


def fit_pca(heads: np.ndarray, count: int = MOST, folder: Path | None = None) -> ScanPCA:
    """At most `count` components of heads (N, V, 3), fewer where the heads span less, through their N x N products: a
    minute for 3,000 heads. The decomposition is kept in `folder`, by default the data folder's `evaluate`, under a
    digest of the heads."""
    path = (folder or data_folder() / "evaluate") / f"pca-{array_digest(heads)}.npz"
    away = heads.reshape(len(heads), -1).astype(np.float64)
    mean = away.mean(axis=0)
    away -= mean
    kept, needed = read_arrays(path) or {}, min(count, len(heads) - 1)
    if {"values", "vectors"} <= kept.keys() and kept["vectors"].shape[1] >= needed:
        values, vectors = kept["values"], kept["vectors"]
    else:  # nothing is kept, too little, or the file is damaged
        values, vectors = gram_components(away)
        # The smallest is zero: the mean is taken off.
        values, vectors = np.maximum(values[:-1], 0.0), vectors[:, : min(max(count, MOST), len(values) - 1)]
        write_arrays(path, {"values": values, "vectors": vectors})
    used = min(count, vectors.shape[1], int(np.count_nonzero(values > 1e-12 * values[0])))
    scale = np.sqrt(len(heads) - 1.0)
    # With X = U S W^T the components are W = X^T U / S, and a standard deviation of one is S / sqrt(N - 1).
    basis = (vectors[:, :used].T @ away) / scale
    shape = heads.shape[1:]
    variances, coefficients = values / (len(heads) - 1), vectors[:, :used] * scale
    return ScanPCA(mean.reshape(shape), basis.reshape(used, *shape), variances, coefficients)


@dataclasses.dataclass(frozen=True)
class Normal:
    """A normal distribution over coefficients, given what is visible of a head."""

    mean: np.ndarray
    """(K,)"""
    factor: np.ndarray
    """(K, K) lower, of the precision matrix."""

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count, K)"""
        noise = rng.standard_normal((len(self.mean), count))
        return self.mean + solve_triangular(self.factor, noise, lower=True, trans="T").T


def posteriors(
    pca: ScanPCA, head: np.ndarray, visible: np.ndarray, settings: Sequence[tuple[int, float]]
) -> list[Normal]:
    """What a head's visible part says of its coefficients, for several (components, sigma in metres). head: (V, 3)
    metres; what hidden vertices hold does not matter. visible: (V,) bool."""
    # The products over the visible part serve all settings: those over all vertices, which are diagonal, minus those
    # over the hidden part, which is the smaller one.
    most = max(count for count, _ in settings)
    basis = pca.basis[:most]
    hidden = basis[:, ~visible].reshape(most, -1)
    gram = np.diag(pca.variances[:most]) - hidden @ hidden.T
    away = np.where(visible[:, None], head - pca.mean, 0.0).reshape(-1)
    seen = basis.reshape(most, -1) @ away
    found = []
    for count, sigma in settings:
        factor = cholesky(gram[:count, :count] / sigma**2 + np.eye(count), lower=True)
        found.append(Normal(cho_solve((factor, True), seen[:count] / sigma**2), factor))
    return found


def complete(pca: ScanPCA, head: np.ndarray, visible: np.ndarray, count: int, sigma: float) -> np.ndarray:
    """The most likely whole head (V, 3)."""
    (normal,) = posteriors(pca, head, visible, [(count, sigma)])
    return pca.leading(count).heads(normal.mean)
