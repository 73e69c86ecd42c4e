"""One step of training a generator: examples, noise, loss, gradient, update; a batch shared by all devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from experiments.training.devices import AXIS
from experiments.training.ofer.examples import Examples, Source, draw_each
from experiments.training.ofer.settings import GeneratorSettings, OferSettings
from models.generator import Generator
from models.noise_schedule import make_schedule
from sampling import add_noise, noise_error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes."""

    params: nnx.State
    average: nnx.State
    """Moving average of the parameters."""
    optimizer: optax.OptState
    step: Array
    """() int32: steps done."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Losses:
    """Means over a batch, () each."""

    total: Array
    late: Array
    """The loss at the noisier half of the diffusion steps, where the context decides."""
    gradient_norm: Array


def start_state(params: nnx.State, optimizer: optax.GradientTransformation) -> TrainState:
    """Before the first step."""
    # Copies: a step gives its state's memory away, and encoders or an IdGen that others use may have lent theirs.
    first, average = (jax.tree.map(jnp.copy, params) for _ in range(2))
    return TrainState(first, average, optimizer.init(params), jnp.zeros((), jnp.int32))


def optimizer_of(settings: OferSettings) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay and a clipped gradient; the encoders at their own rate."""
    warmup = min(settings.warmup, settings.steps // 2)

    def adamw(rate: float) -> optax.GradientTransformation:
        schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warmup, settings.steps, 0.01 * rate)
        return optax.adamw(schedule, b2=0.99, weight_decay=settings.weight_decay)

    rates = {"encoder": adamw(settings.encoder_rate), "other": adamw(settings.learning_rate)}
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.multi_transform(rates, _labels))


def _labels(params: Any) -> Any:
    """Which leaves are an encoder's."""
    flat = [
        (path, leaf.replace("encoder" if path[0] == "encoders" else "other"))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.from_flat_state(flat)


def updated(state: TrainState, gradient: nnx.State, optimizer: optax.GradientTransformation, ema: float) -> TrainState:
    """After a step. The average forgets faster at first, so that it does not remember the start."""
    updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    keep = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step)) if ema else jnp.zeros(())
    average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, params)
    return TrainState(params, average, opt_state, state.step + 1)


def denoising_loss(
    model: Generator, target: Array, context: Array, keys: Array, settings: GeneratorSettings
) -> tuple[Array, Array]:
    """OFER's loss (Eqs. 2 and 6) at `draws` diffusion steps of each example.

    Args:
      target: (B, S) coefficients. context: (B, D). keys: (B,).

    Returns:
      (B, draws) errors and (B, draws) diffusion steps.
    """
    schedule = make_schedule(model.config.schedule)
    x = model.scaled(target)

    def noised(x: Array, key: Array) -> tuple[Array, Array, Array]:
        when, what = jax.random.split(key)
        # One step of each of `draws` equal parts of 1..T.
        part = (jnp.arange(settings.draws) + jax.random.uniform(when, (settings.draws,))) / settings.draws
        t = 1 + jnp.floor(part * schedule.steps)
        noise = jax.random.normal(what, (settings.draws, x.shape[-1]))
        return add_noise(schedule, jnp.broadcast_to(x, noise.shape), t, noise), t, noise

    noisy, t, noise = jax.vmap(noised)(x, keys)
    predicted = model.noise(noisy, t, context[:, None])
    if settings.even:
        alpha = schedule.alpha_sigma(t)[0][..., None]
        predicted, noise = predicted / alpha, noise / alpha
    return noise_error(predicted, noise, settings.loss), t


def make_step(
    graphdef: nnx.GraphDef, settings: GeneratorSettings, optimizer: optax.GradientTransformation, mesh: Mesh,
    online: bool = True,
) -> Callable[[TrainState, nnx.State, Source | Examples], tuple[TrainState, Losses]]:  # fmt: skip
    """The jitted step. All draws of an example depend on the seed, the step and its place in the batch, not on the
    devices.

    Args:
      online: it takes a source, and draws its examples; otherwise a batch of examples, spread over the devices.

    Raises:
      ValueError: the batch cannot be shared out.
    """
    share = share_of(settings, mesh)

    def shard(state: TrainState, rest: nnx.State, data: Any) -> tuple[TrainState, Losses]:
        step_key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        places = jax.lax.axis_index(AXIS) * share + jnp.arange(share)
        keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(step_key, k), 3))(places)
        examples = draw_each(data, keys[:, 0]) if online else in_single(data)

        def loss(params: nnx.State) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, params, rest)
            context = examples.context(model)
            context = model.sometimes_without(context, keys[:, 2], settings.dropped)
            target = examples.target(model.config.kind)
            error, t = denoising_loss(model, target, context, keys[:, 1], settings)
            late = (t > 500).astype(error.dtype)
            return jnp.mean(error), jnp.sum(late * error) / jnp.maximum(jnp.sum(late), 1)

        (total, late), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        gradient, total, late = jax.lax.pmean((gradient, total, late), AXIS)
        return updated(state, gradient, optimizer, settings.ema), Losses(total, late, optax.tree.norm(gradient))

    everywhere, spread = PartitionSpec(), PartitionSpec() if online else PartitionSpec(AXIS)
    sharded = jax.shard_map(
        shard, mesh=mesh, in_specs=(everywhere, everywhere, spread), out_specs=everywhere, check_vma=False
    )
    return functools.partial(jax.jit, donate_argnums=0)(sharded)


def in_single(examples: Examples) -> Examples:
    """Examples whose features are kept in half precision, in single precision."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), examples)


def share_of(settings: OferSettings, mesh: Mesh) -> int:
    """Examples of a device. Raises: ValueError, the batch cannot be shared out evenly."""
    if settings.batch_size % mesh.devices.size:
        raise ValueError(f"--batch-size {settings.batch_size} cannot be shared by {mesh.devices.size} devices evenly.")
    return settings.batch_size // mesh.devices.size
