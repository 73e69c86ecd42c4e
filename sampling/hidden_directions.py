"""Along which latents the hidden part of a head varies most, given what is visible of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from models.linear_branch import to_coefficients, to_latents
from models.mesh_vae import MeshVAE, Posterior

SPARE = 8
"""Further directions that the iteration carries along, so that the last wanted ones are found, too."""
ROUNDS = 1
"""Of the subspace iteration: the spectrum falls steeply, and two found nothing more diverse."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whitening:
    """A posterior as an affine map of standard normal vectors of D = L C numbers."""

    posterior: Posterior

    def latents(self, white: Array) -> Array:
        """(*m, D) -> (*m, L, C) for the posterior of one face."""
        shape = (self.posterior.mean.shape[-2], self.posterior.mean.shape[-1])
        mean = jnp.broadcast_to(self.posterior.mean, (*white.shape[:-1], *shape))
        return mean + self.deviations(white)

    def deviations(self, white: Array) -> Array:
        """The linear part: (*m, D) -> (*m, L, C)."""
        found, shape = self.posterior, (self.posterior.mean.shape[-2], self.posterior.mean.shape[-1])
        lead, flat = white.shape[:-1], white.reshape(-1, white.shape[-1])
        if found.factor is not None and found.scale is not None:
            solved = jax.scipy.linalg.solve_triangular(found.factor, flat.T, lower=True, trans="T").T
            moved = to_latents(found.scale[None] * solved, shape)
        else:
            moved = to_latents(flat, shape)
        return (jnp.exp(0.5 * found.log_variance)[None] * moved).reshape(*lead, *shape)

    def white(self, latents: Array) -> Array:
        """The other way round: (*m, L, C) -> (*m, D)."""
        found = self.posterior
        lead, flat = latents.shape[:-2], latents.reshape(-1, *latents.shape[-2:])
        moved = to_coefficients((flat - found.mean[None]) * jnp.exp(-0.5 * found.log_variance)[None])
        if found.factor is not None and found.scale is not None:
            moved = jnp.matmul(moved / found.scale[None], found.factor, precision="highest")
        return moved.reshape(*lead, -1)


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
    whitening, mask = Whitening(posterior), hidden[:, None].astype(jnp.float32)
    size = posterior.mean.shape[-2] * posterior.mean.shape[-1]
    wide = min(count + SPARE, size)
    _, push = jax.linearize(lambda white: vae.decode(whitening.latents(white)) * mask, jnp.zeros(size))
    pull = jax.linear_transpose(push, jnp.zeros(size))

    def rotate(rows: Array, _: None) -> tuple[Array, None]:
        back = jax.lax.map(lambda row: pull(push(row))[0], rows, batch_size=SPARE)
        return jnp.linalg.qr(back.T)[0].T, None

    rows, _ = jax.lax.scan(rotate, jax.random.normal(key, (wide, size)), length=ROUNDS)
    moved = jax.lax.map(push, rows, batch_size=SPARE).reshape(wide, -1)
    energy, turn = jnp.linalg.eigh(jnp.matmul(moved, moved.T, precision="highest"))
    best = jnp.matmul(turn.T, rows, precision="highest")[::-1][:count]
    return best, jnp.maximum(energy[::-1][:count], 0) / jnp.maximum(3 * jnp.sum(mask), 1)
