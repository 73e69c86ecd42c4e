"""Training steps of a generator and a ranker: examples, loss, gradient, update; all devices share a batch."""

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

from experiments.training.devices import AXIS, compiled_step, examples_per_device
from experiments.training.ofer.examples import Examples, ExampleSource, draw_keyed_examples
from experiments.training.ofer.settings import GeneratorTraining, OferTraining, RankTraining
from experiments.training.state import TrainState, apply_gradient, example_keys, learning_rate_schedule
from models.generator import Generator
from models.noise_schedule import make_schedule
from models.rank import FrontalFace, rank_errors, rank_loss
from sampling import SamplerConfig, add_noise, draw_coefficients, noise_error

Losses = dict[str, Array]
"""Means over a batch, () each. For a generator, `total` is the denoising loss, and `late` the same over the noisier
half of the diffusion steps, where the context matters most. For a ranker, `total` is the cross-entropy; `average_mm`,
`ranked_mm` and `minimum_mm` are mean absolute errors of a coordinate: of all, the top-ranked and the best candidate."""
Step = Callable[[TrainState, nnx.State, Any, Examples | None], tuple[TrainState, Losses]]
"""(state, rest, constants, batch); a batch of None is drawn from the source in `constants`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankConstants:
    """Everything that a ranker's step reads and does not change, apart from the network."""

    face: FrontalFace
    idgen: Generator
    source: ExampleSource | None


def optimizer_of(config: OferTraining) -> optax.GradientTransformation:
    """Returns AdamW with warm-up, cosine decay and a clipped gradient; encoders have their own learning rate."""

    def adamw(rate: float) -> optax.GradientTransformation:
        return optax.adamw(learning_rate_schedule(config, rate, 0.01), b2=0.99, weight_decay=config.weight_decay)

    rates = {"encoder": adamw(config.encoder_rate), "other": adamw(config.learning_rate)}
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.multi_transform(rates, _labels))


def _labels(params: Any) -> Any:
    """Returns a label for each leaf, "encoder" or "other"."""
    flat = [
        (path, leaf.replace("encoder" if path[0] == "encoders" else "other"))
        for path, leaf in nnx.to_flat_state(params)
    ]
    return nnx.from_flat_state(flat)


def denoising_loss(
    model: Generator, target: Array, context: Array, keys: Array, config: GeneratorTraining
) -> tuple[Array, Array]:
    """Compute OFER's loss (Eqs. 2 and 6) at `draws` diffusion steps of each example.

    Args:
      target: (B, S) coefficients. context: (B, D). keys: (B,).

    Returns:
      (B, draws) errors and (B, draws) diffusion steps.
    """
    schedule = make_schedule(model.config.schedule)
    x = model.normalize(target)

    def add_random_noise(x: Array, key: Array) -> tuple[Array, Array, Array]:
        time_key, noise_key = jax.random.split(key)
        # Stratified: one step from each of `draws` equal parts of 1..T.
        fraction = (jnp.arange(config.draws) + jax.random.uniform(time_key, (config.draws,))) / config.draws
        t = 1 + jnp.floor(fraction * schedule.steps)
        noise = jax.random.normal(noise_key, (config.draws, x.shape[-1]))
        return add_noise(schedule, jnp.broadcast_to(x, noise.shape), t, noise), t, noise

    noisy, t, noise = jax.vmap(add_random_noise)(x, keys)
    predicted = model.predict_noise(noisy, t, context[:, None])
    if config.even:
        alpha = schedule.alpha_sigma(t)[0][..., None]
        predicted, noise = predicted / alpha, noise / alpha
    return noise_error(predicted, noise, config.loss), t


@functools.lru_cache(maxsize=8)
def make_step(graphdef: nnx.GraphDef, config: GeneratorTraining, mesh: Mesh) -> Step:
    """Returns the jitted step of a generator; `constants` is the source of examples, or None. Random draws depend on
    the seed, the step and the position in the batch, not on the devices.

    Raises:
      ValueError: the batch cannot be divided evenly.
    """
    share, optimizer = examples_per_device(config.batch_size, mesh), optimizer_of(config)

    def shard(state: TrainState, rest: nnx.State, source: Any, batch: Any) -> tuple[TrainState, Losses]:
        keys = example_keys(config.seed, state.step, _positions(share), 3)
        examples = _batch_or_draw(source, batch, keys[:, 0])

        def loss(params: nnx.State) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, params, rest)
            context = examples.context(model)
            context = model.drop_contexts(context, keys[:, 2], config.dropped)
            target = examples.target(model.config.kind)
            error, t = denoising_loss(model, target, context, keys[:, 1], config)
            late = (t > 500).astype(error.dtype)
            return jnp.mean(error), jnp.sum(late * error) / jnp.maximum(jnp.sum(late), 1)

        (total, late), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        gradient, total, late = jax.lax.pmean((gradient, total, late), AXIS)
        losses = {"total": total, "late": late, "gradient_norm": optax.tree.norm(gradient)}
        return apply_gradient(state, gradient, optimizer, config.ema), losses

    return compiled_step(shard, mesh)


@functools.lru_cache(maxsize=8)
def make_rank_step(graphdef: nnx.GraphDef, config: RankTraining, mesh: Mesh) -> Step:
    """Returns the jitted step of a ranker on candidates of a frozen IdGen; `constants` is a `RankConstants`."""
    share, optimizer = examples_per_device(config.batch_size, mesh), optimizer_of(config)

    def shard(state: TrainState, rest: nnx.State, constants: RankConstants, batch: Any) -> tuple[TrainState, Losses]:
        keys = example_keys(config.seed + 1, state.step, _positions(share), 2)
        examples = _batch_or_draw(constants.source, batch, keys[:, 0])
        candidates = draw_candidates(constants.idgen, examples, keys[:, 1], config.candidates, config.sampler_steps)
        errors = rank_errors(constants.face, candidates, examples.betas)

        def loss(params: nnx.State) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, params, rest)
            scores = model.score_betas(constants.face, candidates, examples.context(model))
            return jnp.mean(rank_loss(scores, errors, config.sharpness)), scores

        (total, scores), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        ranked = jnp.take_along_axis(errors, jnp.argmax(scores, axis=-1)[:, None], axis=-1)
        means = {"average_mm": errors.mean(), "ranked_mm": ranked.mean(), "minimum_mm": errors.min(axis=-1).mean()}
        gradient, losses = jax.lax.pmean((gradient, {"total": total, **means}), AXIS)
        losses["gradient_norm"] = optax.tree.norm(gradient)
        return apply_gradient(state, gradient, optimizer, config.ema), losses

    return compiled_step(shard, mesh)


def draw_candidates(idgen: Generator, examples: Examples, keys: Array, count: int, steps: int) -> Array:
    """Draw IdGen's candidates (B, count, S) for examples (B,), without gradient; keys (B,)."""
    contexts = examples.context(idgen)
    config = SamplerConfig(steps=steps)
    candidates = jax.vmap(lambda c, k: draw_coefficients(idgen, c, k, count, config))(contexts, keys)
    return jax.lax.stop_gradient(candidates)


def _positions(share: int) -> Array:
    """Returns the positions of a device's examples in the whole batch, (share,)."""
    return jax.lax.axis_index(AXIS) * share + jnp.arange(share)


def _batch_or_draw(source: ExampleSource | None, batch: Examples | None, keys: Array) -> Examples:
    """Returns the batch in single precision (features are stored in half), or one drawn example for each key."""
    if batch is not None:
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), batch)
    if source is None:
        raise ValueError("there is neither a batch nor a source to draw one from.")
    return draw_keyed_examples(source, keys)
