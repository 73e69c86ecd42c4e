"""A factor analysis inside a Mesh-VAE: the posterior of the training heads' principal components given the visible
vertices of a head. The convolutions parallel to it model what is not linear, or local.

The leading components are stored at all vertices. The others are small: they are stored at the first coarser level of
the mesh hierarchy and interpolated, with weights fitted to the components. That takes a quarter of the memory.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from flax import nnx
from jax import Array

from models.gather import gather
from models.hierarchy import MeshHierarchy, centres_near, neighbour_lists
from models.mesh_conv import Connectivity, map_batch

HIGHEST = jax.lax.Precision.HIGHEST
RIDGE = 1e-6
"""Ridge penalty on the interpolation weights, relative to the mean variance of the sources."""
COARSE_GAIN = 10.0
"""Factor on the interpolated components' part of a head as input of the convolutions, because it is small."""
JITTER = 1e-6
"""Added to the diagonal of a matrix of unit diagonal before its Cholesky factorisation in single precision."""


class Normalization(nnx.Variable):
    """Statistics of the training heads: saved with the weights, but not trained."""


class LinearBranch(nnx.Module):
    """K principal components, in the network's units, on V vertices, of which P are the hierarchy's first centres."""

    def __init__(self, hierarchy: MeshHierarchy, components: np.ndarray, fine: int, noise: float):
        """Args:
        components: (K, V, 3), scaled to one standard deviation, orthogonal, largest first. A component of zeros belongs
          to a latent that is independent of the vertices.
        fine: number of leading components that are stored at all vertices.
        noise: standard deviation of the noise of a centre's coordinate about the components.
        """
        self.noise = noise
        centres, radius = hierarchy.steps[0].centres, hierarchy.steps[0].stride + 1
        lists = centres_near(hierarchy, 0, radius)
        rows = np.asarray(components, np.float64)
        scales = np.sqrt((rows**2).sum((1, 2)))
        rows = rows / np.maximum(scales, 1e-12)[:, None, None]
        coarse = rows[fine:, centres]
        weights = _interpolation_weights(rows[fine:] * scales[fine:, None, None], lists, centres)
        self.centres = Connectivity(jnp.asarray(centres))
        self.lists = Connectivity(neighbour_lists(lists, len(centres)))
        self.scales = Normalization(jnp.asarray(scales, jnp.float32))
        self.fine = Normalization(jnp.asarray(rearrange(rows[:fine], "k v c -> k (v c)"), jnp.float32))
        self.coarse = Normalization(jnp.asarray(rearrange(coarse, "k v c -> k (v c)"), jnp.float32))
        self.weights = Normalization(jnp.asarray(weights, jnp.float32))

    def posterior(self, x: Array, visible: Array) -> tuple[Array, Array, Array]:
        """Return the coefficients' normal distribution given the visible centres of x (*b, V, 3); visible (*b, V).

        With unit rows U of the visible centres' coordinates and the scales S, the precision of S c is
        A / noise^2, A = U U^T + noise^2 S^-2. A is scaled to a unit diagonal, D A D = L L^T, because the components'
        variances span six orders of magnitude, too many for single precision.

        Returns:
          The mean (*b, K); L (*b, K, K), lower triangular; and S^-1 D noise (*b, K). A sample is
          mean + S^-1 D noise L^-T e with e from N(0, 1).
        """
        centres = self.centres.get_value()
        masked = jnp.concatenate([x, visible[..., None].astype(x.dtype)], axis=-1)[..., centres, :]
        rows = self._rows_at_centres()
        # map_batch takes functions of one output: the mean and the scale are two more columns.
        packed = map_batch(lambda example: self._posterior_of_example(rows, example), masked)
        return packed[..., 0], packed[..., 2:], packed[..., 1]

    def _rows_at_centres(self) -> Array:
        """Return the unit components at the centres: (K, 3 P)."""
        fine = rearrange(self.fine[...], "k (v c) -> k v c", c=3)[:, self.centres.get_value()]
        return jnp.concatenate([rearrange(fine, "k p c -> k (p c)"), self.coarse[...]])

    def _posterior_of_example(self, rows: Array, masked: Array) -> Array:
        scales = jnp.maximum(self.scales[...], 1e-6)
        visible_rows = rows * repeat(masked[:, 3], "p -> 1 (p c)", c=3)
        normal = jnp.matmul(visible_rows, rows.T, precision=HIGHEST) + jnp.diag((self.noise / scales) ** 2)
        diagonal = jax.lax.rsqrt(jnp.diagonal(normal))
        unit = diagonal[:, None] * normal * diagonal[None] + JITTER * jnp.eye(len(diagonal))
        factor = jnp.linalg.cholesky(unit)
        right = diagonal * jnp.matmul(visible_rows, masked[:, :3].reshape(-1), precision=HIGHEST)
        mean = diagonal * jax.scipy.linalg.cho_solve((factor, True), right) / scales
        return jnp.concatenate([mean[:, None], (self.noise * diagonal / scales)[:, None], factor], axis=1)

    def to_vertices(self, coefficients: Array) -> Array:
        """Map coefficients (*b, K) to vertices (*b, V, 3)."""
        fine, coarse = self._split_scaled(coefficients)
        return _as_points(fine @ self.fine[...]) + map_batch(self._interpolate, _as_points(coarse @ self.coarse[...]))

    def at_centres(self, coefficients: Array) -> Array:
        """Map (*b, K) to (*b, P, 6): the head at the centres, and `COARSE_GAIN` times its interpolated components."""
        fine, coarse = self._split_scaled(coefficients)
        count, rows = self.fine.shape[0], self._rows_at_centres()
        leading, others = _as_points(fine @ rows[:count]), _as_points(coarse @ rows[count:])
        return jnp.concatenate([leading + others, COARSE_GAIN * others], axis=-1)

    def _split_scaled(self, coefficients: Array) -> tuple[Array, Array]:
        """Scale (*b, K) by the components' standard deviations, and split them into fine and coarse components."""
        scaled = coefficients * self.scales[...].reshape((1,) * (coefficients.ndim - 1) + (-1,))
        return scaled[..., : self.fine.shape[0]], scaled[..., self.fine.shape[0] :]

    def _interpolate(self, values: Array) -> Array:
        """Interpolate values at the centres (P, 3) to all vertices (V, 3)."""
        return (self.weights[...][:, None] @ gather(self.lists.get_value(), values))[:, 0]


def to_latents(coefficients: Array, shape: tuple[int, int]) -> Array:
    """Reshape coefficients (*b, L C) to latents (*b, L, C), with the leading ones spread over the L vertices."""
    return rearrange(coefficients, "... (c l) -> ... l c", l=shape[0])


def to_coefficients(latents: Array) -> Array:
    """Reshape latents (*b, L, C) to coefficients (*b, L C); inverse of `to_latents`."""
    return rearrange(latents, "... l c -> ... (c l)")


def _as_points(flat: Array) -> Array:
    """(*b, 3 V) -> (*b, V, 3)."""
    return rearrange(flat, "... (v c) -> ... v c", c=3)


def _interpolation_weights(components: np.ndarray, lists: list[np.ndarray], centres: np.ndarray) -> np.ndarray:
    """Fit weights (V, N) of each vertex's centres to components (K, V, 3) by least squares; padding holds 0."""
    weights = np.zeros((len(lists), max(map(len, lists))))
    if not components.any():
        return weights
    number = {int(vertex): index for index, vertex in enumerate(centres)}
    for vertex, near in enumerate(lists):
        if vertex in number:
            weights[vertex, : len(near)] = near == number[vertex]
            continue
        sources = rearrange(components[:, centres[near]], "k n c -> (k c) n")
        normal = sources.T @ sources
        normal += (RIDGE * np.trace(normal) / len(near) + 1e-30) * np.eye(len(near))
        weights[vertex, : len(near)] = np.linalg.solve(normal, sources.T @ components[:, vertex].reshape(-1))
    return weights
