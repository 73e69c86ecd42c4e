"""Find the directions in latent space along which the hidden part of a head varies most, given its visible part."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from models.mesh_vae import MeshVAE, Posterior

OVERSAMPLING = 8
"""Number of additional directions in the subspace iteration, which makes the last wanted ones accurate."""
POWER_ITERATIONS = 1
"""Number of iterations. The spectrum decays fast, and a second iteration did not increase diversity."""


def hidden_directions(vae: MeshVAE, posterior: Posterior, hidden: Array, count: int, key: Array) -> tuple[Array, Array]:
    """Return orthonormal directions of the whitened posterior that move hidden vertices most, to first order.

    Up to the decoder's curvature these are the principal components of the hidden part of decoded samples. They are
    computed by randomised subspace iteration (Halko, Martinsson & Tropp 2011) with the decoder's derivative at the
    posterior's mean. That takes some tens of forward and reverse derivatives instead of one for each latent.

    Args:
      posterior: of one face. hidden: (V,) bool. count: K, at most the number of latents.

    Returns:
      Directions (K, D), the strongest first, and the mean squared displacement (K,) of hidden coordinates for a unit
      step along each, square metres.
    """
    mask, size = hidden[:, None].astype(jnp.float32), posterior.mean.size
    num_rows = min(count + OVERSAMPLING, size)

    def hidden_part(white: Array) -> Array:
        return vae.decode(posterior.mean + posterior.unwhiten(white)) * mask

    _, jvp = jax.linearize(hidden_part, jnp.zeros(size))
    vjp = jax.linear_transpose(jvp, jnp.zeros(size))

    def power_iteration(rows: Array, _: None) -> tuple[Array, None]:
        products = jax.lax.map(lambda row: vjp(jvp(row))[0], rows, batch_size=OVERSAMPLING)
        return jnp.linalg.qr(products.T)[0].T, None

    rows, _ = jax.lax.scan(power_iteration, jax.random.normal(key, (num_rows, size)), length=POWER_ITERATIONS)
    displacements = rearrange(jax.lax.map(jvp, rows, batch_size=OVERSAMPLING), "k v c -> k (v c)")
    eigenvalues, eigenvectors = jnp.linalg.eigh(jnp.matmul(displacements, displacements.T, precision="highest"))
    directions = jnp.matmul(eigenvectors.T, rows, precision="highest")[::-1][:count]
    return directions, jnp.maximum(eigenvalues[::-1][:count], 0) / jnp.maximum(3 * jnp.sum(mask), 1)
