"""The steps that train a generator and a ranker: examples, loss, gradient, update; a batch shared by all devices."""

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
from jax.sharding import Mesh

from experiments.training.devices import AXIS, compiled_step, share_of
from experiments.training.ofer.examples import Examples, Source, draw_each
from experiments.training.ofer.settings import GeneratorTraining, OferTraining, RankTraining
from experiments.training.state import TrainState, example_keys, rate_schedule, updated
from models.generator import Generator
from models.noise_schedule import make_schedule
from models.rank import FrontalFace, rank_errors, rank_loss
from sampling import SamplerConfig, add_noise, draw_coefficients, noise_error

Losses = dict[str, Array]
"""Means over a batch, () each. `total` of a generator is the denoising loss, and `late` that at the noisier half of the
diffusion steps, where the context decides; of a ranker it is the cross-entropy, and `average_mm`, `ranked_mm` and
`minimum_mm` are the mean absolute distances of a coordinate: of all candidates, of the first and of the best."""
Step = Callable[[TrainState, nnx.State, Any, Examples | None], tuple[TrainState, Losses]]
"""(state, rest, fixed, batch): a batch of None is drawn from the source in `fixed`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankFixed:
    """All that a ranker's step only reads."""

    face: FrontalFace
    idgen: Generator
    source: Source | None


def optimizer_of(config: OferTraining) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine decay and a clipped gradient; the encoders at their own rate."""

    def adamw(rate: float) -> optax.GradientTransformation:
        return optax.adamw(rate_schedule(config, rate, 0.01), b2=0.99, weight_decay=config.weight_decay)

    rates = {"encoder": adamw(config.encoder_rate), "other": adamw(config.learning_rate)}
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.multi_transform(rates, _labels))


def _labels(params: Any) -> Any:
    """Which leaves are an encoder's."""
    flat = [
        (path, leaf.replace("encoder" if path[0] == "encoders" else "other"))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.from_flat_state(flat)


def denoising_loss(
    model: Generator, target: Array, context: Array, keys: Array, config: GeneratorTraining
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
        part = (jnp.arange(config.draws) + jax.random.uniform(when, (config.draws,))) / config.draws
        t = 1 + jnp.floor(part * schedule.steps)
        noise = jax.random.normal(what, (config.draws, x.shape[-1]))
        return add_noise(schedule, jnp.broadcast_to(x, noise.shape), t, noise), t, noise

    noisy, t, noise = jax.vmap(noised)(x, keys)
    predicted = model.noise(noisy, t, context[:, None])
    if config.even:
        alpha = schedule.alpha_sigma(t)[0][..., None]
        predicted, noise = predicted / alpha, noise / alpha
    return noise_error(predicted, noise, config.loss), t


@functools.lru_cache(maxsize=8)
def make_step(graphdef: nnx.GraphDef, config: GeneratorTraining, mesh: Mesh) -> Step:
    """The jitted step of a generator; `fixed` is the source of examples, or None. All draws of an example depend on the
    seed, the step and its place in the batch, not on the devices.

    Raises:
      ValueError: the batch cannot be shared out.
    """
    share, optimizer = share_of(config.batch_size, mesh), optimizer_of(config)

    def shard(state: TrainState, rest: nnx.State, source: Any, batch: Any) -> tuple[TrainState, Losses]:
        keys = example_keys(config.seed, state.step, _places(share), 3)
        examples = _examples(source, batch, keys[:, 0])

        def loss(params: nnx.State) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, params, rest)
            context = examples.context(model)
            context = model.sometimes_without(context, keys[:, 2], config.dropped)
            target = examples.target(model.config.kind)
            error, t = denoising_loss(model, target, context, keys[:, 1], config)
            late = (t > 500).astype(error.dtype)
            return jnp.mean(error), jnp.sum(late * error) / jnp.maximum(jnp.sum(late), 1)

        (total, late), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        gradient, total, late = jax.lax.pmean((gradient, total, late), AXIS)
        losses = {"total": total, "late": late, "gradient_norm": optax.tree.norm(gradient)}
        return updated(state, gradient, optimizer, config.ema), losses

    return compiled_step(shard, mesh)


@functools.lru_cache(maxsize=8)
def make_rank_step(graphdef: nnx.GraphDef, config: RankTraining, mesh: Mesh) -> Step:
    """The jitted step of a ranker, whose candidates a frozen IdGen draws; `fixed` is a `RankFixed`."""
    share, optimizer = share_of(config.batch_size, mesh), optimizer_of(config)

    def shard(state: TrainState, rest: nnx.State, fixed: RankFixed, batch: Any) -> tuple[TrainState, Losses]:
        keys = example_keys(config.seed + 1, state.step, _places(share), 2)
        examples = _examples(fixed.source, batch, keys[:, 0])
        drawn = candidates_of(fixed.idgen, examples, keys[:, 1], config.candidates, config.sampler_steps)
        errors = rank_errors(fixed.face, drawn, examples.betas)

        def loss(params: nnx.State) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, params, rest)
            scores = model.of_betas(fixed.face, drawn, examples.context(model))
            return jnp.mean(rank_loss(scores, errors, config.sharpness)), scores

        (total, scores), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        best = jnp.take_along_axis(errors, jnp.argmax(scores, axis=-1)[:, None], axis=-1)
        means = {"average_mm": errors.mean(), "ranked_mm": best.mean(), "minimum_mm": errors.min(axis=-1).mean()}
        gradient, losses = jax.lax.pmean((gradient, {"total": total, **means}), AXIS)
        losses["gradient_norm"] = optax.tree.norm(gradient)
        return updated(state, gradient, optimizer, config.ema), losses

    return compiled_step(shard, mesh)


def candidates_of(idgen: Generator, examples: Examples, keys: Array, count: int, steps: int) -> Array:
    """IdGen's candidates of examples (B,), without gradient; keys (B,) -> (B, count, S)."""
    contexts = examples.context(idgen)
    config = SamplerConfig(steps=steps)
    drawn = jax.vmap(lambda c, k: draw_coefficients(idgen, c, k, count, config))(contexts, keys)
    return jax.lax.stop_gradient(drawn)


def _places(share: int) -> Array:
    """The places of a device's examples in the whole batch, (share,)."""
    return jax.lax.axis_index(AXIS) * share + jnp.arange(share)


def _examples(source: Source | None, batch: Examples | None, keys: Array) -> Examples:
    """A batch in single precision, in which features are not kept; or examples drawn, one of each key."""
    if batch is not None:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), batch)
    if source is None:
        raise ValueError("neither a batch nor a source to draw it from.")
    return draw_each(source, keys)
