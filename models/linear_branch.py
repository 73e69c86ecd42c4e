"""A factor analysis inside a Mesh-VAE: principal components of the training heads, and what the visible part of a head
says of their coefficients. The convolutions beside it add what is not linear, or local.

The leading components are kept at all vertices. The others, which are small, are kept at the first coarser level of the
mesh's hierarchy only, and interpolated between with weights that fit the training heads best: a quarter of the numbers.
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
from models.mesh_conv import Connectivity, over_batch

HIGHEST = jax.lax.Precision.HIGHEST
RIDGE = 1e-6
"""Of the interpolation's weights, of the mean variance."""
ENLARGED = 10.0
"""Factor on what the interpolated components make of a head, where convolutions see it: they are small."""
JITTER = 1e-6
"""Added to a matrix of unit diagonal before it is factored in single precision."""


class Normalization(nnx.Variable):
    """Statistics of the training heads. Saved with the weights, not trained."""


class LinearBranch(nnx.Module):
    """K components in the network's units on V vertices, P of them the hierarchy's first centres."""

    def __init__(self, hierarchy: MeshHierarchy, components: np.ndarray, fine: int, noise: float):
        """Args:
        components: (K, V, 3), one standard deviation each, orthogonal, largest first. One of zeros stands for a latent
          that the visible part says nothing of.
        fine: how many are kept at all vertices.
        noise: standard deviation about the components of a centre's coordinate.
        """
        self.noise = noise
        centres, radius = hierarchy.steps[0].centres, hierarchy.steps[0].stride + 1
        lists = centres_near(hierarchy, 0, radius)
        rows = np.asarray(components, np.float64)
        scales = np.sqrt((rows**2).sum((1, 2)))
        rows = rows / np.maximum(scales, 1e-12)[:, None, None]
        coarse = rows[fine:, centres]
        weights = _interpolation(rows[fine:] * scales[fine:, None, None], lists, centres)
        self.centres = Connectivity(jnp.asarray(centres))
        self.lists = Connectivity(neighbour_lists(lists, len(centres)))
        self.scales = Normalization(jnp.asarray(scales, jnp.float32))
        self.fine = Normalization(jnp.asarray(rearrange(rows[:fine], "k v c -> k (v c)"), jnp.float32))
        self.coarse = Normalization(jnp.asarray(rearrange(coarse, "k v c -> k (v c)"), jnp.float32))
        self.weights = Normalization(jnp.asarray(weights, jnp.float32))

    def fitted(self, x: Array, visible: Array) -> tuple[Array, Array, Array]:
        """The normal distribution of the coefficients, given the visible centres: x (*b, V, 3), visible (*b, V).

        With unit rows U of the visible centres' coordinates and the scales S, the precision of S c is
        A / noise^2, A = U U^T + noise^2 S^-2. A is scaled to a unit diagonal, D A D = L L^T, or single precision would
        not do: the components' variances span six orders of magnitude.

        Returns:
          The mean (*b, K); L (*b, K, K), lower; and S^-1 D noise (*b, K). A draw is mean + S^-1 D noise L^-T e with e
          of N(0, 1).
        """
        centres = self.centres.get_value()
        marked = jnp.concatenate([x, visible[..., None].astype(x.dtype)], axis=-1)[..., centres, :]
        rows = self._rows_at_centres()
        # One output of over_batch: the mean and the scale ride along as two more columns.
        packed = over_batch(lambda one: self._fitted(rows, one), marked)
        return packed[..., 0], packed[..., 2:], packed[..., 1]

    def _rows_at_centres(self) -> Array:
        """(K, 3 P)"""
        fine = rearrange(self.fine[...], "k (v c) -> k v c", c=3)[:, self.centres.get_value()]
        return jnp.concatenate([rearrange(fine, "k p c -> k (p c)"), self.coarse[...]])

    def _fitted(self, rows: Array, marked: Array) -> Array:
        scales = jnp.maximum(self.scales[...], 1e-6)
        part = rows * repeat(marked[:, 3], "p -> 1 (p c)", c=3)
        normal = jnp.matmul(part, rows.T, precision=HIGHEST) + jnp.diag((self.noise / scales) ** 2)
        even = jax.lax.rsqrt(jnp.diagonal(normal))
        unit = even[:, None] * normal * even[None] + JITTER * jnp.eye(len(even))
        factor = jnp.linalg.cholesky(unit)
        right = even * jnp.matmul(part, marked[:, :3].reshape(-1), precision=HIGHEST)
        mean = even * jax.scipy.linalg.cho_solve((factor, True), right) / scales
        return jnp.concatenate([mean[:, None], (self.noise * even / scales)[:, None], factor], axis=1)

    def to_vertices(self, coefficients: Array) -> Array:
        """(*b, K) -> (*b, V, 3)."""
        fine, coarse = self._scaled(coefficients)
        return _as_fields(fine @ self.fine[...]) + over_batch(self._between, _as_fields(coarse @ self.coarse[...]))

    def at_centres(self, coefficients: Array) -> Array:
        """(*b, K) -> (*b, P, 6): the head at the centres, and, enlarged, the interpolated components' part of it."""
        fine, coarse = self._scaled(coefficients)
        count, rows = self.fine.shape[0], self._rows_at_centres()
        leading, others = _as_fields(fine @ rows[:count]), _as_fields(coarse @ rows[count:])
        return jnp.concatenate([leading + others, ENLARGED * others], axis=-1)

    def _scaled(self, coefficients: Array) -> tuple[Array, Array]:
        """(*b, K) times the components' deviations: those kept at all vertices, and the others."""
        scaled = coefficients * self.scales[...].reshape((1,) * (coefficients.ndim - 1) + (-1,))
        return scaled[..., : self.fine.shape[0]], scaled[..., self.fine.shape[0] :]

    def _between(self, values: Array) -> Array:
        """Values of the centres (P, 3) -> (V, 3)."""
        return (self.weights[...][:, None] @ gather(self.lists.get_value(), values))[:, 0]


def to_latents(coefficients: Array, shape: tuple[int, int]) -> Array:
    """Coefficients (*b, L C) as latents (*b, L, C), the leading ones spread over the L vertices."""
    return rearrange(coefficients, "... (c l) -> ... l c", l=shape[0])


def to_coefficients(latents: Array) -> Array:
    """The other way round: (*b, L, C) -> (*b, L C)."""
    return rearrange(latents, "... l c -> ... (c l)")


def _as_fields(flat: Array) -> Array:
    """(*b, 3 V) -> (*b, V, 3)."""
    return rearrange(flat, "... (v c) -> ... v c", c=3)


def _interpolation(components: np.ndarray, lists: list[np.ndarray], centres: np.ndarray) -> np.ndarray:
    """(V, N) weights of each vertex's centres: least squares over components (K, V, 3), padded with zeros."""
    weights = np.zeros((len(lists), max(map(len, lists))))
    if not components.any():
        return weights
    number = {int(vertex): place for place, vertex in enumerate(centres)}
    for vertex, near in enumerate(lists):
        if vertex in number:
            weights[vertex, : len(near)] = near == number[vertex]
            continue
        sources = rearrange(components[:, centres[near]], "k n c -> (k c) n")
        normal = sources.T @ sources
        normal += (RIDGE * np.trace(normal) / len(near) + 1e-30) * np.eye(len(near))
        weights[vertex, : len(near)] = np.linalg.solve(normal, sources.T @ components[:, vertex].reshape(-1))
    return weights
