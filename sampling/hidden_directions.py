"""Along which latents the hidden part of a head varies most, given what is visible of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from models.mesh_vae import MeshVAE, Posterior

SPARE = 8
"""Further directions that the iteration carries along, so that the last wanted ones are found, too."""
ROUNDS = 1
"""Of the subspace iteration: the spectrum falls steeply, and two found nothing more diverse."""


def hidden_directions(vae: MeshVAE, posterior: Posterior, hidden: Array, count: int, key: Array) -> tuple[Array, Array]:
    """Orthonormal directions of the whitened posterior that move hidden vertices most, by the decoder's derivative at
    its mean: principal components of the hidden part of decoded draws, up to the decoder's curvature.

    By randomised subspace iteration (Halko, Martinsson & Tropp 2011): some tens of the decoder's forward and reverse
    derivatives instead of as many as there are latents.

    Args:
      posterior: of one face. hidden: (V,) bool. count: K, at most the number of latents.

    Returns:
      (K, D) directions, the strongest first, and (K,) the mean squared movement of hidden coordinates along each,
      square metres.
    """
    mask, size = hidden[:, None].astype(jnp.float32), posterior.mean.size
    wide = min(count + SPARE, size)

    def head(white: Array) -> Array:
        return vae.decode(posterior.mean + posterior.deviation(white)) * mask

    _, push = jax.linearize(head, jnp.zeros(size))
    pull = jax.linear_transpose(push, jnp.zeros(size))

    def rotate(rows: Array, _: None) -> tuple[Array, None]:
        back = jax.lax.map(lambda row: pull(push(row))[0], rows, batch_size=SPARE)
        return jnp.linalg.qr(back.T)[0].T, None

    rows, _ = jax.lax.scan(rotate, jax.random.normal(key, (wide, size)), length=ROUNDS)
    moved = rearrange(jax.lax.map(push, rows, batch_size=SPARE), "k v c -> k (v c)")
    energy, turn = jnp.linalg.eigh(jnp.matmul(moved, moved.T, precision="highest"))
    best = jnp.matmul(turn.T, rows, precision="highest")[::-1][:count]
    return best, jnp.maximum(energy[::-1][:count], 0) / jnp.maximum(3 * jnp.sum(mask), 1)
