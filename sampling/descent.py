"""Gradient descent of a loss with a DPP term over sets of heads: the loop of Algorithm 2, for the Mesh-VAE and the
single-stage baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from flamejax.head import HeadModel
from sampling.config import DiversifyConfig
from sampling.dpp import diversity_loss
from sampling.photo_match import photometric_gradient


@dataclasses.dataclass(frozen=True)
class DescentProblem:
    """The variables and the loss of one photo's heads. `face` is any pytree with at least `photo` and `hidden`."""

    heads: Callable[[Any, Array], Array]
    """(face, variables (M, K)) -> (M, V, 3) world."""
    loss: Callable[[Any, Array, Array], Array]
    """(face, heads, variables) -> (): the loss without its photometric and DPP terms."""
    standardize: Callable[[Any, Array], Array]
    """(face, variables) -> (M, D) variables that are standard normal for plausible heads."""
    bound_each: bool
    """Whether each standardized variable is also bounded by n_sigma, besides their norm (`each` of `dpp.quality`)."""


def dpp_term(problem: DescentProblem, face: Any, heads: Array, variables: Array, dpp_params: Array) -> Array:
    """Return L_dpp (Eqs. 8-10) of one photo's heads (M, V, 3) of variables (M, K): (). dpp_params: (2,) k, n_sigma."""
    shapes = jnp.where(face.hidden[None, :, None], heads, 0)
    latents = problem.standardize(face, variables)
    return diversity_loss(shapes, latents, k=dpp_params[0], n_sigma=dpp_params[1], each=problem.bound_each)


def descend(
    head: HeadModel, problem: DescentProblem, faces: Any, start: Array, dpp_params: Array, config: DiversifyConfig
) -> Array:
    """Minimise the loss of the heads of photos along one leading axis (B,).

    Iterations are grouped in rounds of `config.photometric_interval`. At the start of each round the gradient of the
    photometric loss with respect to the vertices is computed, and it is constant during the round. Photos whose heads
    have converged are not changed any more, and once all have converged the remaining rounds are skipped.

    Args:
      head: for the photometric loss. faces: the photos' constants, leaves (B, ...). start: (B, M, K) initial variables.
      dpp_params: (2,) k, n_sigma.

    Returns:
      The variables (B, M, K) after the last iteration.
    """
    optimiser = _optimiser(config)

    def vertex_gradient(face: Any, heads: Array) -> Array:
        if not config.photometric_weight:
            return jnp.zeros_like(heads)
        return config.photometric_weight * photometric_gradient(head, face.photo, heads, config.photometric_scale)

    def total_loss(variables: Array, face: Any, photo_gradient: Array) -> Array:
        heads = problem.heads(face, variables)
        loss = problem.loss(face, heads, variables) + jnp.sum(photo_gradient * heads)
        return loss + config.dpp_weight * dpp_term(problem, face, heads, variables, dpp_params)

    def iteration(face: Any, photo_gradient: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        variables, moments = state
        gradient = jax.grad(total_loss)(variables, face, photo_gradient)
        updates, moments = optimiser.update(jnp.nan_to_num(gradient, posinf=0.0, neginf=0.0), moments)
        return optax.apply_updates(variables, updates), moments

    def photo_round(face: Any, variables: Array, moments: Any) -> tuple[Array, Any, Array]:
        before = problem.heads(face, variables)
        photo_gradient = vertex_gradient(face, before)
        state = jax.lax.fori_loop(
            0,
            config.photometric_interval,
            lambda _, state: iteration(face, photo_gradient, state),
            (variables, moments),
        )
        squared = jnp.sum((problem.heads(face, state[0]) - before) ** 2, axis=-1)
        count = squared.shape[0] * jnp.maximum(jnp.sum(face.hidden), 1)
        return *state, jnp.sqrt(jnp.sum(squared * face.hidden[None]) / count) / config.photometric_interval

    def batch_round(state: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        variables, moments, converged = state
        new_variables, new_moments, step_sizes = jax.vmap(photo_round)(faces, variables, moments)

        def update(old: Array, new: Array) -> Array:
            return jnp.where(converged.reshape(-1, *(1,) * (old.ndim - 1)), old, new)

        updated = jax.tree.map(update, (variables, moments), (new_variables, new_moments))
        return *updated, converged | (step_sizes < config.settled)

    def step(state: tuple[Array, Any, Array], _: None) -> tuple[tuple[Array, Any, Array], None]:
        return jax.lax.cond(jnp.all(state[2]), lambda same: same, batch_round, state), None

    first = start, jax.vmap(optimiser.init)(start), jnp.zeros(start.shape[0], bool)
    return jax.lax.scan(step, first, length=config.iterations // config.photometric_interval)[0][0]


def _optimiser(config: DiversifyConfig) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(config.learning_rate, max(config.iterations, 1), alpha=0.05)
    scaled = optax.scale_by_adam(b2=0.99) if config.optimiser == "adam" else optax.identity()
    return optax.chain(scaled, optax.scale_by_learning_rate(schedule))
