"""Sets of heads moved down a loss with a DPP term: the loop of Algorithm 2, for the Mesh-VAE and for the baselines."""

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
from sampling.photo_match import photometric_pull


@dataclasses.dataclass(frozen=True)
class Problem:
    """What is moved and what it costs, for one photo, whose `face` has at least `photo` and `hidden`."""

    heads: Callable[[Any, Array], Array]
    """(face, variables (M, K)) -> (M, V, 3) world."""
    loss: Callable[[Any, Array, Array], Array]
    """(face, heads, variables) -> (): everything but the colours and the DPP."""
    plausible: Callable[[Any, Array], Array]
    """(face, variables) -> (M, D) standard normal where heads are plausible."""
    bounded: bool
    """Whether each of these must lie within n_sigma, too, and not only all together within the shell."""


def set_loss(problem: Problem, face: Any, heads: Array, variables: Array, dpp_params: Array) -> Array:
    """L_dpp of one photo's heads (Eqs. 8-10): (). dpp_params: (2,) k, n_sigma."""
    shapes = jnp.where(face.hidden[None, :, None], heads, 0)
    plausible = problem.plausible(face, variables)
    return diversity_loss(shapes, plausible, k=dpp_params[0], n_sigma=dpp_params[1], each=problem.bounded)


def descend(
    head: HeadModel, problem: Problem, faces: Any, start: Array, dpp_params: Array, config: DiversifyConfig
) -> Array:
    """Move the heads of photos along one leading axis (B,).

    In rounds of `config.photometric_interval` iterations: at the start of each the gradient of the photometric loss with respect to the
    vertices is found, and it stays the same during the round. A photo whose heads have settled is left as it is, and
    when all are, the rest of the rounds is skipped.

    Args:
      faces: leaves (B, ...). start: (B, M, K).

    Returns:
      (B, M, K) variables.
    """
    optimiser = _optimiser(config)

    def photometric_gradient_of(face: Any, heads: Array) -> Array:
        if not config.photometric_weight:
            return jnp.zeros_like(heads)
        return config.photometric_weight * photometric_pull(head, face.photo, heads, config.photometric_scale)

    def total(variables: Array, face: Any, photometric_gradient: Array) -> Array:
        heads = problem.heads(face, variables)
        cost = problem.loss(face, heads, variables) + jnp.sum(photometric_gradient * heads)
        return cost + config.dpp_weight * set_loss(problem, face, heads, variables, dpp_params)

    def iteration(face: Any, photometric_gradient: Array, state: tuple[Array, Any]) -> tuple[Array, Any]:
        variables, moments = state
        gradient = jax.grad(total)(variables, face, photometric_gradient)
        updates, moments = optimiser.update(jnp.nan_to_num(gradient, posinf=0.0, neginf=0.0), moments)
        return optax.apply_updates(variables, updates), moments

    def one_photo(face: Any, variables: Array, moments: Any) -> tuple[Array, Any, Array]:
        before = problem.heads(face, variables)
        photometric_gradient = photometric_gradient_of(face, before)
        state = jax.lax.fori_loop(
            0, config.photometric_interval, lambda _, inner: iteration(face, photometric_gradient, inner), (variables, moments)
        )
        moved = jnp.sum((problem.heads(face, state[0]) - before) ** 2, axis=-1)
        count = moved.shape[0] * jnp.maximum(jnp.sum(face.hidden), 1)
        return *state, jnp.sqrt(jnp.sum(moved * face.hidden[None]) / count) / config.photometric_interval

    def round_of_all(state: tuple[Array, Any, Array]) -> tuple[Array, Any, Array]:
        variables, moments, settled = state
        new, stepped, moved = jax.vmap(one_photo)(faces, variables, moments)

        def keep(old: Array, candidate: Array) -> Array:
            return jnp.where(settled.reshape(-1, *(1,) * (old.ndim - 1)), old, candidate)

        return *jax.tree.map(keep, (variables, moments), (new, stepped)), settled | (moved < config.settled)

    def step(state: tuple[Array, Any, Array], _: None) -> tuple[tuple[Array, Any, Array], None]:
        return jax.lax.cond(jnp.all(state[2]), lambda same: same, round_of_all, state), None

    first = start, jax.vmap(optimiser.init)(start), jnp.zeros(start.shape[0], bool)
    return jax.lax.scan(step, first, length=config.iterations // config.photometric_interval)[0][0]


def _optimiser(config: DiversifyConfig) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(config.learning_rate, max(config.iterations, 1), alpha=0.05)
    scaled = optax.scale_by_adam(b2=0.99) if config.optimiser == "adam" else optax.identity()
    return optax.chain(scaled, optax.scale_by_learning_rate(schedule))
