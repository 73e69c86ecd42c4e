"""Principal components of registered heads, and completion of heads with them: the linear Gaussian baseline.

A head is x = mean + B z with z ~ N(0, 1). Given visible coordinates with noise of standard deviation sigma,
the most likely head has z = argmin |B_v z - (x - mean)_v|^2 / sigma^2 + |z|^2. Computed in double precision, since
variances span ten orders of magnitude.
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

MAX_COMPONENTS = 1500
"""Number of components that are stored."""


@dataclasses.dataclass(frozen=True)
class ScanPCA:
    """Principal components of N heads, largest variance first; NumPy, float64, metres."""

    mean: np.ndarray
    """(V, 3)"""
    basis: np.ndarray
    """(K, V, 3) displacement per standard deviation."""
    variances: np.ndarray
    """(N - 1,) variances of all components, summed over coordinates, metres^2."""
    coefficients: np.ndarray
    """(N, K) coefficients of the N heads, standard deviations."""

    def leading(self, count: int) -> ScanPCA:
        """Returns the same with only the first `count` components."""
        return dataclasses.replace(self, basis=self.basis[:count], coefficients=self.coefficients[:, :count])

    def project(self, heads: np.ndarray) -> np.ndarray:
        """Returns the coefficients (*b, K) of heads (*b, V, 3), standard deviations, by orthogonal projection."""
        offset = (heads - self.mean).reshape(*heads.shape[:-2], -1)
        return offset @ self.basis.reshape(len(self.basis), -1).T / self.variances[: len(self.basis)]

    def heads(self, coefficients: np.ndarray) -> np.ndarray:
        """Returns heads (*b, V, 3) of coefficients (*b, K)."""
        flat = coefficients @ self.basis.reshape(len(self.basis), -1)
        return self.mean + flat.reshape(*coefficients.shape[:-1], *self.mean.shape)


def fit_pca(heads: np.ndarray, count: int = MAX_COMPONENTS, folder: Path | None = None) -> ScanPCA:
    """Compute at most `count` components of heads (N, V, 3) from their Gram matrix, fewer if the heads span fewer.

    Takes a minute for 3,000 heads. The decomposition is cached in `folder`, by default the data folder's `evaluate`,
    under a digest of the heads.
    """
    path = (folder or data_folder() / "evaluate") / f"pca-{array_digest(heads)}.npz"
    centred = heads.reshape(len(heads), -1).astype(np.float64)
    mean = centred.mean(axis=0)
    centred -= mean
    cached, needed = read_arrays(path) or {}, min(count, len(heads) - 1)
    if {"values", "vectors"} <= cached.keys() and cached["vectors"].shape[1] >= needed:
        values, vectors = cached["values"], cached["vectors"]
    else:  # the file is missing, damaged or has too few components
        values, vectors = gram_components(centred)
        # The smallest value is zero, since the mean is subtracted.
        values, vectors = np.maximum(values[:-1], 0.0), vectors[:, : min(max(count, MAX_COMPONENTS), len(values) - 1)]
        write_arrays(path, {"values": values, "vectors": vectors})
    used = min(count, vectors.shape[1], int(np.count_nonzero(values > 1e-12 * values[0])))
    scale = np.sqrt(len(heads) - 1.0)
    # With X = U S W^T the components are W = X^T U / S, and a standard deviation of one is S / sqrt(N - 1).
    basis = (vectors[:, :used].T @ centred) / scale
    shape = heads.shape[1:]
    variances, coefficients = values / (len(heads) - 1), vectors[:, :used] * scale
    return ScanPCA(mean.reshape(shape), basis.reshape(used, *shape), variances, coefficients)


@dataclasses.dataclass(frozen=True)
class GaussianPosterior:
    """A normal distribution of coefficients, given the visible part of a head."""

    mean: np.ndarray
    """(K,)"""
    factor: np.ndarray
    """(K, K) lower Cholesky factor of the precision matrix."""

    def sample(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw samples, (count, K)."""
        noise = rng.standard_normal((len(self.mean), count))
        return self.mean + solve_triangular(self.factor, noise, lower=True, trans="T").T


def posteriors(
    pca: ScanPCA, head: np.ndarray, visible: np.ndarray, settings: Sequence[tuple[int, float]]
) -> list[GaussianPosterior]:
    """Returns the posterior of coefficients given a head's visible part, for each (components, sigma in metres).

    Args:
      head: (V, 3) metres; values of hidden vertices are ignored. visible: (V,) bool.
    """
    # The Gram matrix of the visible part serves all settings. It is that of all vertices, which is diagonal, minus that
    # of the hidden part, which is smaller.
    most = max(count for count, _ in settings)
    basis = pca.basis[:most]
    hidden = basis[:, ~visible].reshape(most, -1)
    gram = np.diag(pca.variances[:most]) - hidden @ hidden.T
    offset = np.where(visible[:, None], head - pca.mean, 0.0).reshape(-1)
    projection = basis.reshape(most, -1) @ offset
    result = []
    for count, sigma in settings:
        factor = cholesky(gram[:count, :count] / sigma**2 + np.eye(count), lower=True)
        result.append(GaussianPosterior(cho_solve((factor, True), projection[:count] / sigma**2), factor))
    return result


def complete(pca: ScanPCA, head: np.ndarray, visible: np.ndarray, count: int, sigma: float) -> np.ndarray:
    """Returns the most likely head (V, 3)."""
    (posterior,) = posteriors(pca, head, visible, [(count, sigma)])
    return pca.leading(count).heads(posterior.mean)
