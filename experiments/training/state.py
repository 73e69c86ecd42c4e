"""The state of a training run, and its update by one step."""

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
    """Everything that a step changes."""

    params: nnx.State
    optimizer: optax.OptState
    step: Array
    """() int32, number of steps done."""
    average: nnx.State | None = None
    """Exponential moving average of the parameters, if the run has one."""

    @property
    def eval_params(self) -> nnx.State:
        """The parameters to evaluate and save: the average, if there is one."""
        return self.params if self.average is None else self.average


def initial_state(params: nnx.State, optimizer: optax.GradientTransformation, averaged: bool = False) -> TrainState:
    """Returns the state before the first step."""
    # Copies: a step donates its state's memory, and other networks may share these parameters.
    first, average = jax.tree.map(jnp.copy, params), jax.tree.map(jnp.copy, params) if averaged else None
    return TrainState(first, optimizer.init(params), jnp.zeros((), jnp.int32), average)


def apply_gradient(
    state: TrainState, gradient: nnx.State, optimizer: optax.GradientTransformation, ema: float = 0.0
) -> TrainState:
    """Returns the state after a step. The average's decay is `ema`, but lower at first, to forget the start."""
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
    params, average = optax.apply_updates(state.params, updates), state.average
    if average is not None:
        decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step)) if ema else jnp.zeros(())
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, average, params)
    return TrainState(params, opt_state, state.step + 1, average)


def learning_rate_schedule(config: TrainingConfig, peak: float, final_share: float) -> optax.Schedule:
    """Returns a linear warm-up to `peak` and a cosine decay to `final_share * peak`."""
    warmup = min(config.warmup, config.steps // 2)
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, config.steps, final_share * peak)


def example_keys(seed: int, step: Array, positions: Array, count: int) -> Array:
    """Returns `count` keys for each position in the whole batch, (B, count). They depend on the seed, the step and the
    position, but not on the devices."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(lambda k: jax.random.split(jax.random.fold_in(key, k), count))(positions)
