"""The state of a training, and what a step makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from experiments.training.settings import TrainingConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes."""

    params: nnx.State
    optimizer: optax.OptState
    step: Array
    """() int32: steps done."""
    average: nnx.State | None = None
    """Moving average of the parameters, where one is kept."""

    @property
    def kept(self) -> nnx.State:
        """The parameters that a network is worth."""
        return self.params if self.average is None else self.average


def start_state(params: nnx.State, optimizer: optax.GradientTransformation, averaged: bool = False) -> TrainState:
    """Before the first step."""
    # Copies: a step gives its state's memory away, and encoders or networks that others use may have lent theirs.
    first, average = jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, params) if averaged else None
    return TrainState(first, optimizer.init(params), jnp.zeros((), jnp.int32), average)


def updated(
    state: TrainState, gradient: nnx.State, optimizer: optax.GradientTransformation, ema: float = 0.0
) -> TrainState:
    """After a step. An average keeps `ema` of itself, and less at first, so that it does not remember the start."""
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
    params, average = optax.apply_updates(state.params, updates), state.average
    if average is not None:
        keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step)) if ema else jnp.zeros(())
        average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, average, params)
    return TrainState(params, opt_state, state.step + 1, average)


def rate_schedule(config: TrainingConfig, highest: float, last: float) -> optax.Schedule:
    """Linear warm-up to `highest` and cosine decay to the share `last` of it."""
    warmup = min(config.warmup, config.steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, highest, warmup, config.steps, last * highest)


def example_keys(seed: int, step: Array, places: Array, count: int) -> Array:
    """`count` keys for each place in a whole batch, (B, count): they depend on the seed, the step and the place, not on
    the devices."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda place: jax.random.split(jax.random.fold_in(key, place), count))(places)
