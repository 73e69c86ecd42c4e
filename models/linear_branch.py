"""A factor analysis inside a Mesh-VAE: principal components of the training heads, and how to find their coefficients
when part of a head is hidden. The convolutions beside it add what is not linear, or local.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from models.mesh_conv import over_batch

HIGHEST = jax.lax.Precision.HIGHEST


class Frame(nnx.Variable):
    """Statistics of the training heads. Saved with the weights, not trained."""


class LinearBranch(nnx.Module):
    """K components in the network's units, V vertices, D latents; nothing is trained."""

    def __init__(self, components: np.ndarray, num_latents: int, noise: float, *, rngs: nnx.Rngs):
        """Args:
        components: (K, V, 3), one standard deviation each, orthogonal.
        num_latents: D >= K. Coefficients are spread over the latents by a random orthonormal matrix, so that latents of
          N(0, 1) are coefficients of N(0, 1).
        noise: standard deviation of a coordinate about the components.
        """
        self.noise = noise
        rows = components.reshape(len(components), -1).astype(np.float64)
        scales = np.sqrt((rows**2).sum(1))
        draws = np.random.default_rng(np.asarray(jax.random.key_data(rngs.params()))).standard_normal
        mixing = np.linalg.qr(draws((num_latents, len(rows))))[0]
        self.rows = Frame(jnp.asarray(rows / np.maximum(scales, 1e-12)[:, None], jnp.float32))
        self.scales = Frame(jnp.asarray(scales, jnp.float32))
        self.mixing = Frame(jnp.asarray(mixing, jnp.float32))

    def fitted(self, x: Array, visible: Array) -> Array:
        """Coefficients (*b, K) of the likeliest head, from its visible vertices: x (*b, V, 3), visible (*b, V).

        With unit rows U of the visible coordinates and the scales S: (U U^T + noise^2 S^-2) (S c) = U x, which is well
        conditioned although the components' variances span six orders of magnitude.
        """
        marked = jnp.concatenate([x, visible[..., None].astype(x.dtype)], axis=-1)
        return over_batch(self._fitted, jax.lax.stop_gradient(marked))

    def _fitted(self, marked: Array) -> Array:
        rows, scales = self.rows[...], jnp.maximum(self.scales[...], 1e-6)
        seen = jnp.repeat(marked[:, 3], 3)
        part = rows * seen[None]
        normal = jnp.matmul(part, rows.T, precision=HIGHEST) + jnp.diag((self.noise / scales) ** 2 + 1e-6)
        right = jnp.matmul(part, marked[:, :3].reshape(-1), precision=HIGHEST)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(normal), right) / scales

    def to_latents(self, coefficients: Array) -> Array:
        """(*b, K) -> (*b, D)."""
        return coefficients @ self.mixing[...].T

    def to_coefficients(self, latents: Array) -> Array:
        """(*b, D) -> (*b, K)."""
        return latents @ self.mixing[...]

    def to_vertices(self, coefficients: Array) -> Array:
        """(*b, K) -> (*b, V, 3)."""
        scaled = coefficients * self.scales[...].reshape((1,) * (coefficients.ndim - 1) + (-1,))
        return (scaled @ self.rows[...]).reshape(*coefficients.shape[:-1], -1, 3)
