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
from jax.sharding import Mesh, PartitionSpec

from experiments.datasets.vertex_masks import KINDS, MaskMaker, hidden_vertices, turned_away
from experiments.training.devices import AXIS
from experiments.training.mesh_vae.heads import MIRROR, Generator, draw_head
from experiments.training.mesh_vae.settings import TrainSettings
from flamejax.geometry import laplacian
from models.mesh_vae import MeshVAE

MM = 1e3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes."""

    params: nnx.State
    optimizer: optax.OptState
    step: Array
    """() int32: steps done."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fixed:
    """All that a step only reads."""

    rest: nnx.State
    """The model's neighbour lists and frame."""
    graph: jraph.GraphsTuple
    masks: MaskMaker
    source: Generator
    mirror: Array | None
    """`mirror_map`."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Losses:
    """Means over a batch, () each."""

    total: Array
    l1_mm: Array
    """Mean absolute error of a coordinate."""
    laplacian_mm: Array
    kl: Array
    """Nats a head."""
    spread_mm: Array
    """Mean absolute difference between two draws of a head; 0 where one is drawn."""
    gradient_norm: Array
    hidden: Array
    """Share of the vertices."""


TrainStep = Callable[[TrainState, Fixed, Array], tuple[TrainState, Losses]]


def optimizer_of(settings: TrainSettings) -> optax.GradientTransformation:
    """Adam with warm-up, cosine decay and a clipped gradient."""
    warmup = min(settings.warmup, settings.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, warmup, settings.steps, 0.02 * settings.learning_rate
    )
    return optax.chain(optax.clip_by_global_norm(settings.clip), optax.adam(rate, b2=0.99))


def mask_limit(settings: TrainSettings, step: Array) -> Array:
    """The curriculum: share of the vertices that masks hide at most, after `step` steps."""
    if settings.curriculum == 0:
        return jnp.full((), settings.largest_mask)
    return settings.largest_mask * jnp.clip(step / (settings.curriculum * settings.steps), 0, 1)


def draw_mask(masks: MaskMaker, settings: TrainSettings, key: Array, limit: Array) -> Array:
    """(V,) bool, True = visible. A share of the vertices between nothing and the limit is hidden."""
    shape, kind, share, camera, away = jax.random.split(key, 5)
    hidden = hidden_vertices(
        masks, shape, limit * jax.random.uniform(share, ()), jax.random.randint(kind, (), 0, len(KINDS))
    )
    # What is turned away comes in with the curriculum, too.
    often = settings.turned_away * limit / settings.largest_mask
    back = turned_away(masks, camera) & (jax.random.uniform(away, ()) < often)
    return ~(hidden | back)


def maybe_mirrored(head: Array, mirror: Array, key: Array, settings: TrainSettings) -> Array:
    """A scan (V, 3), or its mirror image."""
    flipped = (head * jnp.asarray(MIRROR, head.dtype)[None])[mirror]
    return jnp.where(jax.random.uniform(key, ()) < settings.mirrored, flipped, head)


def losses_of(
    model: MeshVAE, graph: jraph.GraphsTuple, heads: Array, visible: Array, keys: Array, settings: TrainSettings,
    step: Array,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:  # fmt: skip
    """l1 + l1 of Laplacians + KL of heads (B, V, 3); keys (B,) of the latents' draws.

    The whole head counts, hidden or not: completing it is what is learned.
    """
    posterior = model.encode(heads, visible)
    draws = 2 if settings.spread_weight else 1
    latents = jax.vmap(lambda key, one: jax.vmap(one.sample)(jax.random.split(key, draws)))(keys, posterior)
    error = MM * (model.decode(latents) - heads[:, None])
    l1, lap = jnp.mean(jnp.abs(error)), jnp.mean(jnp.abs(laplacian(error, graph.senders, graph.receivers)))
    spread = jnp.mean(jnp.abs(error[:, 0] - error[:, -1]))
    kl = jnp.mean(posterior.kl())
    grown = jnp.clip(step / max(1.0, settings.kl_warmup * settings.steps), 0, 1)
    total = l1 + settings.laplacian_weight * lap + settings.kl_weight * grown * kl - settings.spread_weight * spread
    return total, (l1, lap, kl, spread)


def make_step(
    graphdef: nnx.GraphDef, settings: TrainSettings, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainStep:
    """The jitted step. It takes the real heads of a batch (B_real, V, 3), spread over the devices, and draws the
    synthetic ones; every head's draws depend on the seed, the step and its place in the batch, not on the devices."""
    devices = mesh.devices.size
    synthetic = synthetic_count(settings, devices) // devices

    def shard(state: TrainState, fixed: Fixed, heads: Array) -> tuple[TrainState, Losses]:
        step_key = jax.random.fold_in(jax.random.key(settings.seed), state.step)
        place = jax.lax.axis_index(AXIS)
        real = len(heads)
        # Places in the whole batch: first all real heads, then all synthetic ones.
        places = jnp.concatenate(
            [place * real + jnp.arange(real), devices * real + place * synthetic + jnp.arange(synthetic)]
        )
        keys = jax.vmap(lambda k: jax.random.split(jax.random.fold_in(step_key, k), 3))(places)
        if (mirror := fixed.mirror) is not None:
            heads = jax.vmap(lambda head, key: maybe_mirrored(head, mirror, key, settings))(heads, keys[:real, 0])
        if synthetic:
            drawn = jax.vmap(lambda key: draw_head(fixed.source, key))(keys[real:, 0])
            heads = jnp.concatenate([heads, drawn])
        limit = mask_limit(settings, state.step)
        visible = jax.vmap(lambda key: draw_mask(fixed.masks, settings, key, limit))(keys[:, 1])

        def loss(params: nnx.State) -> tuple[Array, tuple[Array, Array, Array, Array]]:
            model = nnx.merge(graphdef, params, fixed.rest)
            return losses_of(model, fixed.graph, heads, visible, keys[:, 2], settings, state.step)

        (total, parts), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        hidden = 1 - jnp.mean(visible.astype(jnp.float32))
        gradient, total, parts, hidden = jax.lax.pmean((gradient, total, parts, hidden), AXIS)
        updates, opt_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        l1, lap, kl, spread = parts
        found = Losses(total, l1, lap, kl, spread, optax.tree.norm(gradient), hidden)
        return TrainState(params, opt_state, state.step + 1), found

    everywhere, split = PartitionSpec(), PartitionSpec(AXIS)
    sharded = jax.shard_map(
        shard, mesh=mesh, in_specs=(everywhere, everywhere, split), out_specs=everywhere, check_vma=False
    )
    return functools.partial(jax.jit, donate_argnums=0)(sharded)


def synthetic_count(settings: TrainSettings, devices: int) -> int:
    """Synthetic heads of a batch: as many on each device, and a real one beside them.

    Raises:
      ValueError: the batch cannot be shared out.
    """
    if settings.batch_size % devices:
        raise ValueError(f"--batch-size {settings.batch_size} cannot be shared by {devices} devices evenly.")
    count = min(round(settings.synthetic * settings.batch_size), settings.batch_size - devices)
    return count - count % devices
