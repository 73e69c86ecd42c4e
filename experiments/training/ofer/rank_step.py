"""One step of training IdRank: photos, candidates of a frozen IdGen, and the cross-entropy of their order."""

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
from experiments.training.ofer.settings import RankSettings
from experiments.training.ofer.step import TrainState, in_single, share_of, updated
from models.generator import Generator
from models.rank import FrontalFace, rank_errors, rank_loss
from sampling import SamplerConfig, draw_coefficients


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankLosses:
    """Means over a batch, () each."""

    total: Array
    """The cross-entropy."""
    average_mm: Array
    """Error of all candidates: mean absolute distance of a coordinate."""
    ranked_mm: Array
    """Of the one with the highest score."""
    minimum_mm: Array
    gradient_norm: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankFixed:
    """All that a step only reads."""

    rest: nnx.State
    """Of the ranker: what is not trained."""
    face: FrontalFace
    idgen: nnx.State


def candidates_of(idgen: Generator, examples: Examples, keys: Array, count: int, steps: int) -> Array:
    """IdGen's candidates of examples (B,), without gradient; keys (B,) -> (B, count, S)."""
    contexts = examples.context(idgen)
    config = SamplerConfig(steps=steps)
    drawn = jax.vmap(lambda c, k: draw_coefficients(idgen, c, k, count, config))(contexts, keys)
    return jax.lax.stop_gradient(drawn)


def make_rank_step(
    graphdef: nnx.GraphDef, idgen_graphdef: nnx.GraphDef, settings: RankSettings,
    optimizer: optax.GradientTransformation, mesh: Mesh, online: bool = True,
) -> Callable[[TrainState, RankFixed, Source | Examples], tuple[TrainState, RankLosses]]:  # fmt: skip
    """The jitted step; as `experiments.training.ofer.step.make_step`."""
    share = share_of(settings, mesh)

    def shard(state: TrainState, fixed: RankFixed, data: Any) -> tuple[TrainState, RankLosses]:
        step_key = jax.random.fold_in(jax.random.key(settings.seed + 1), state.step)
        places = jax.lax.axis_index(AXIS) * share + jnp.arange(share)
        keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(step_key, k), 2))(places)
        examples = draw_each(data, keys[:, 0]) if online else in_single(data)
        idgen = nnx.merge(idgen_graphdef, fixed.idgen)
        drawn = candidates_of(idgen, examples, keys[:, 1], settings.candidates, settings.sampler_steps)
        errors = rank_errors(fixed.face, drawn, examples.betas)

        def loss(params: nnx.State) -> tuple[Array, Array]:
            model = nnx.merge(graphdef, params, fixed.rest)
            scores = model.of_betas(fixed.face, drawn, examples.context(model))
            return jnp.mean(rank_loss(scores, errors, settings.sharpness)), scores

        (total, scores), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        best = jnp.take_along_axis(errors, jnp.argmax(scores, axis=-1)[:, None], axis=-1)
        parts = total, errors.mean(), best.mean(), errors.min(axis=-1).mean()
        gradient, (total, average, ranked, least) = jax.lax.pmean((gradient, parts), AXIS)
        found = RankLosses(total, average, ranked, least, optax.tree.norm(gradient))
        return updated(state, gradient, optimizer, settings.ema), found

    everywhere, spread = PartitionSpec(), PartitionSpec() if online else PartitionSpec(AXIS)
    sharded = jax.shard_map(
        shard, mesh=mesh, in_specs=(everywhere, everywhere, spread), out_specs=everywhere, check_vma=False
    )
    return functools.partial(jax.jit, donate_argnums=0)(sharded)
