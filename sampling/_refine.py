"""Latents of a Mesh-VAE brought nearer to what is visible: the most likely head under the decoder and its prior."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from flamejax._checks import check_shapes
from models.mesh_vae import MeshVAE


def refine_latents(
    model: MeshVAE,
    latents: Array,
    vertices: Array,
    visible: Array,
    *,
    sigma: float = 3e-4,
    steps: int = 100,
    learning_rate: float = 0.03,
) -> tuple[Array, Array]:
    """Minimise sum over visible coordinates |decode(z) - x|^2 / (2 sigma^2) + |z|^2 / 2 over the latents z, by Adam.

    An encoder answers in one pass, for all heads alike; this looks at the one head again. The result is the latents'
    mode, not a draw: started from draws of the encoder's distribution it ends at several heads only where there are
    several modes.

    Args:
      model: the Mesh-VAE; a trained one, or there is no prior worth the name.
      latents: (*b, L, C) where to start, such as `model.encode(vertices, visible).mean`.
      vertices: (*b, V, 3) metres, head frame; what hidden vertices hold does not matter, NaN included.
      visible: (*b, V) bool.
      sigma: standard deviation of visible coordinates about the decoder, metres: what it cannot express, too.
      steps: of Adam; the step size falls to nothing along a cosine.
      learning_rate: the first step size, in standard deviations of a latent.

    Returns:
      Latents (*b, L, C), each head's best of all steps, so that none is worse than where it started; and what was
      minimised (*b,), at the start and after each step: (*b, steps + 1).

    Raises:
      ValueError: sigma, steps or learning_rate is not positive, or shapes do not agree.
    """
    if sigma <= 0 or steps < 1 or learning_rate <= 0:
        raise ValueError("sigma, steps and learning_rate must be positive.")
    batch, count = latents.shape[:-2], model.num_vertices
    check_shapes(
        latents=(latents, (..., *model.latent_shape)),
        vertices=(vertices, (*batch, count, 3)),
        visible=(visible, (*batch, count)),
    )
    graph, state = nnx.split(model)
    flat = (array.reshape(-1, *array.shape[len(batch) :]) for array in (latents, vertices, visible))
    best, losses = _refine(graph, state, *flat, sigma, learning_rate, steps)
    return best.reshape(latents.shape), losses.reshape(*batch, steps + 1)


@functools.partial(jax.jit, static_argnums=(0, 7))
def _refine(
    graph: nnx.GraphDef, state: nnx.State, latents: Array, vertices: Array, visible: Array, sigma: Array,
    learning_rate: Array, steps: int,
) -> tuple[Array, Array]:  # fmt: skip
    model, seen = nnx.merge(graph, state), visible[..., None]
    optimiser = optax.chain(
        optax.scale_by_adam(b2=0.99), optax.scale_by_learning_rate(optax.cosine_decay_schedule(learning_rate, steps))
    )
    target = jnp.where(seen, vertices, 0)

    def losses(latents: Array) -> tuple[Array, Array]:
        away = jnp.where(seen, model.decode(latents) - target, 0)
        each = (jnp.sum((away / sigma) ** 2, axis=(-2, -1)) + jnp.sum(latents**2, axis=(-2, -1))) / 2
        return jnp.sum(each), each  # heads do not touch each other, and nor do their gradients

    def step(carry: tuple[Array, optax.OptState, Array, Array], _: None) -> tuple[tuple, Array]:
        latents, moments, best, least = carry
        gradient, each = jax.grad(losses, has_aux=True)(latents)
        better = each < least
        best, least = jnp.where(better[:, None, None], latents, best), jnp.where(better, each, least)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(latents, updates), moments, best, least), each

    start = latents, optimiser.init(latents), latents, jnp.full(len(latents), jnp.inf, latents.dtype)
    (latents, _, best, least), track = jax.lax.scan(step, start, length=steps)
    last = losses(latents)[1]
    best = jnp.where((last < least)[:, None, None], latents, best)
    return best, jnp.concatenate([track, last[None]]).T
