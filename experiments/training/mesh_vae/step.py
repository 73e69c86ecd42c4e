"""One training step: masks, draws, losses, gradient, update; a batch shared by all devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jraph
import optax
from flax import nnx
from jax import Array
from jax.sharding import Mesh

from experiments.datasets.vertex_masks import KINDS, MaskMaker, hidden_vertices, turned_away
from experiments.training.devices import AXIS, compiled_step, share_of
from experiments.training.mesh_vae.heads import MIRROR, Generator, draw_head
from experiments.training.mesh_vae.settings import MeshVAETraining
from experiments.training.state import TrainState, example_keys, rate_schedule, updated
from flamejax.geometry import laplacian
from models.mesh_vae import MeshVAE

MM = 1e3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fixed:
    """All that a step only reads, beside the network."""

    graph: jraph.GraphsTuple
    masks: MaskMaker
    source: Generator | None
    """Where the config has `synthetic` heads."""
    mirror: Array | None
    """`mirror_map`."""


TrainStep = Callable[[TrainState, nnx.State, Fixed, Array], tuple[TrainState, dict[str, Array]]]
"""Losses are means over a batch, () each; `kl` in nats a head, `hidden` a share of the vertices, `l1_mm` the mean
absolute error of a coordinate, `spread_mm` that between two draws of a head, 0 where one is drawn."""


def optimizer_of(config: MeshVAETraining) -> optax.GradientTransformation:
    """Adam with warm-up, cosine decay and a clipped gradient."""
    rate = rate_schedule(config, config.learning_rate, 0.02)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b2=0.99))


def mask_limit(config: MeshVAETraining, step: Array) -> Array:
    """The curriculum: share of the vertices that masks hide at most, after `step` steps."""
    if config.curriculum == 0:
        return jnp.full((), config.largest_mask)
    return config.largest_mask * jnp.clip(step / (config.curriculum * config.steps), 0, 1)


def draw_mask(masks: MaskMaker, config: MeshVAETraining, key: Array, limit: Array) -> Array:
    """(V,) bool, True = visible. A share of the vertices between nothing and the limit is hidden."""
    shape, kind, share, camera, away = jax.random.split(key, 5)
    hidden = hidden_vertices(
        masks, shape, limit * jax.random.uniform(share, ()), jax.random.randint(kind, (), 0, len(KINDS))
    )
    # What is turned away comes in with the curriculum, too.
    often = config.turned_away * limit / config.largest_mask
    back = turned_away(masks, camera) & (jax.random.uniform(away, ()) < often)
    return ~(hidden | back)


def maybe_mirrored(head: Array, mirror: Array, key: Array, config: MeshVAETraining) -> Array:
    """A scan (V, 3), or its mirror image."""
    flipped = (head * jnp.asarray(MIRROR, head.dtype)[None])[mirror]
    return jnp.where(jax.random.uniform(key, ()) < config.mirrored, flipped, head)


def losses_of(
    model: MeshVAE, graph: jraph.GraphsTuple, heads: Array, visible: Array, keys: Array, config: MeshVAETraining,
    step: Array,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:  # fmt: skip
    """l1 + l1 of Laplacians + KL of heads (B, V, 3); keys (B,) of the latents' draws.

    The whole head counts, hidden or not: completing it is what is learned.
    """
    posterior = model.encode(heads, visible)
    draws = 2 if config.spread_weight else 1
    latents = jax.vmap(lambda key, one: jax.vmap(one.sample)(jax.random.split(key, draws)))(keys, posterior)
    error = MM * (model.decode(latents) - heads[:, None])
    l1, lap = jnp.mean(jnp.abs(error)), jnp.mean(jnp.abs(laplacian(error, graph.senders, graph.receivers)))
    spread = jnp.mean(jnp.abs(error[:, 0] - error[:, -1]))
    kl = jnp.mean(posterior.kl())
    grown = jnp.clip(step / max(1.0, config.kl_warmup * config.steps), 0, 1)
    total = l1 + config.laplacian_weight * lap + config.kl_weight * grown * kl - config.spread_weight * spread
    return total, (l1, lap, kl, spread)


@functools.lru_cache(maxsize=8)
def make_step(graphdef: nnx.GraphDef, config: MeshVAETraining, mesh: Mesh) -> TrainStep:
    """The jitted step. It takes the real heads of a batch (B_real, V, 3), spread over the devices, and draws the
    synthetic ones; every head's draws depend on the seed, the step and its place in the batch, not on the devices."""
    devices, optimizer = mesh.devices.size, optimizer_of(config)
    synthetic = synthetic_count(config, mesh) // devices

    def shard(state: TrainState, rest: nnx.State, fixed: Fixed, heads: Array) -> tuple[TrainState, dict[str, Array]]:
        place = jax.lax.axis_index(AXIS)
        real = len(heads)
        # Places in the whole batch: first all real heads, then all synthetic ones.
        places = jnp.concatenate(
            [place * real + jnp.arange(real), devices * real + place * synthetic + jnp.arange(synthetic)]
        )
        keys = example_keys(config.seed, state.step, places, 3)
        if (mirror := fixed.mirror) is not None:
            heads = jax.vmap(lambda head, key: maybe_mirrored(head, mirror, key, config))(heads, keys[:real, 0])
        if (source := fixed.source) is not None and synthetic:
            drawn = jax.vmap(lambda key: draw_head(source, key))(keys[real:, 0])
            heads = jnp.concatenate([heads, drawn])
        limit = mask_limit(config, state.step)
        visible = jax.vmap(lambda key: draw_mask(fixed.masks, config, key, limit))(keys[:, 1])

        def loss(params: nnx.State) -> tuple[Array, tuple[Array, Array, Array, Array]]:
            model = nnx.merge(graphdef, params, rest)
            return losses_of(model, fixed.graph, heads, visible, keys[:, 2], config, state.step)

        (total, parts), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        hidden = 1 - jnp.mean(visible.astype(jnp.float32))
        gradient, total, parts, hidden = jax.lax.pmean((gradient, total, parts, hidden), AXIS)
        named = dict(zip(("l1_mm", "laplacian_mm", "kl", "spread_mm"), parts, strict=True))
        losses = {"total": total, **named, "gradient_norm": optax.tree.norm(gradient), "hidden": hidden}
        return updated(state, gradient, optimizer), losses

    return compiled_step(shard, mesh)


def synthetic_count(config: MeshVAETraining, mesh: Mesh) -> int:
    """Synthetic heads of a batch: as many on each device, and a real one beside them.

    Raises:
      ValueError: the batch cannot be shared out.
    """
    devices = mesh.devices.size
    count = min(round(config.synthetic * config.batch_size), (share_of(config.batch_size, mesh) - 1) * devices)
    return count - count % devices
