"""Refine latents of a Mesh-VAE to the most likely head under the decoder and its prior given the visible vertices."""

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

    The encoder approximates this in one pass; the optimisation improves on it for each head. The result is a mode of
    the latents' distribution, not a sample: different starts give different heads only if there are several modes.

    Args:
      model: a trained Mesh-VAE; an untrained one has no meaningful prior.
      latents: (*b, L, C) start, such as `model.encode(vertices, visible).mean`.
      vertices: (*b, V, 3) metres, head frame; the values of hidden vertices have no effect, even NaN.
      visible: (*b, V) bool.
      sigma: standard deviation of visible coordinates about the decoded ones, including model errors, metres.
      steps: number of steps of Adam; the learning rate decays to 0 along a cosine.
      learning_rate: the initial learning rate, in standard deviations of a latent.

    Returns:
      Latents (*b, L, C), each head's best over all steps, so that none is worse than at the start; and the loss at the
      start and after each step: (*b, steps + 1).

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
    model, mask = nnx.merge(graph, state), visible[..., None]
    optimiser = optax.chain(
        optax.scale_by_adam(b2=0.99), optax.scale_by_learning_rate(optax.cosine_decay_schedule(learning_rate, steps))
    )
    target = jnp.where(mask, vertices, 0)

    def total_and_losses(latents: Array) -> tuple[Array, Array]:
        residuals = jnp.where(mask, model.decode(latents) - target, 0)
        losses = (jnp.sum((residuals / sigma) ** 2, axis=(-2, -1)) + jnp.sum(latents**2, axis=(-2, -1))) / 2
        return jnp.sum(losses), losses  # the gradient of the sum is that of each head

    def step(carry: tuple[Array, optax.OptState, Array, Array], _: None) -> tuple[tuple, Array]:
        latents, moments, best, best_loss = carry
        gradient, losses = jax.grad(total_and_losses, has_aux=True)(latents)
        improved = losses < best_loss
        best, best_loss = jnp.where(improved[:, None, None], latents, best), jnp.where(improved, losses, best_loss)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(latents, updates), moments, best, best_loss), losses

    start = latents, optimiser.init(latents), latents, jnp.full(len(latents), jnp.inf, latents.dtype)
    (latents, _, best, best_loss), history = jax.lax.scan(step, start, length=steps)
    last = total_and_losses(latents)[1]
    best = jnp.where((last < best_loss)[:, None, None], latents, best)
    return best, jnp.concatenate([history, last[None]]).T
