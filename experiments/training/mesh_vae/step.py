"""One training step of a Mesh-VAE: masks, draws, losses, gradient, update; the batch is divided among all devices."""

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
from experiments.training.devices import AXIS, compiled_step, examples_per_device
from experiments.training.mesh_vae.heads import MIRROR, SyntheticHeads, draw_head
from experiments.training.mesh_vae.settings import MeshVAETraining
from experiments.training.state import TrainState, apply_gradient, example_keys, learning_rate_schedule
from flamejax.geometry import laplacian
from models.mesh_vae import MeshVAE

MM = 1e3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepConstants:
    """Everything that a step reads and does not change, apart from the network."""

    graph: jraph.GraphsTuple
    masks: MaskMaker
    source: SyntheticHeads | None
    """Needed if the config has `synthetic` heads."""
    mirror: Array | None
    """`mirror_map`."""


TrainStep = Callable[[TrainState, nnx.State, StepConstants, Array], tuple[TrainState, dict[str, Array]]]
"""(state, rest, constants, heads) -> (state, losses). Losses are means over a batch, () each: `kl` nats per head,
`hidden` a share of the vertices, `l1_mm` the mean absolute error of a coordinate, `spread_mm` the mean absolute
difference between two draws of a head (0 if one is drawn)."""


def optimizer_of(config: MeshVAETraining) -> optax.GradientTransformation:
    """Returns Adam with warm-up, cosine decay and a clipped gradient."""
    rate = learning_rate_schedule(config, config.learning_rate, 0.02)
    return optax.chain(optax.clip_by_global_norm(config.clip), optax.adam(rate, b2=0.99))


def mask_limit(config: MeshVAETraining, step: Array) -> Array:
    """Returns the largest share of the vertices that masks hide after `step` steps: the curriculum."""
    if config.curriculum == 0:
        return jnp.full((), config.largest_mask)
    return config.largest_mask * jnp.clip(step / (config.curriculum * config.steps), 0, 1)


def draw_mask(masks: MaskMaker, config: MeshVAETraining, key: Array, limit: Array) -> Array:
    """Draw a mask (V,) bool, True = visible. It hides a share of the vertices between 0 and `limit`, and sometimes
    also those that face away from the camera."""
    shape, kind, share, camera, away = jax.random.split(key, 5)
    hidden = hidden_vertices(
        masks, shape, limit * jax.random.uniform(share, ()), jax.random.randint(kind, (), 0, len(KINDS))
    )
    # The share of heads with hidden back sides follows the curriculum as well.
    probability = config.turned_away * limit / config.largest_mask
    back = turned_away(masks, camera) & (jax.random.uniform(away, ()) < probability)
    return ~(hidden | back)


def maybe_mirrored(head: Array, mirror: Array, key: Array, config: MeshVAETraining) -> Array:
    """Returns a scan (V, 3), or its mirror image with probability `config.mirrored`."""
    flipped = (head * jnp.asarray(MIRROR, head.dtype)[None])[mirror]
    return jnp.where(jax.random.uniform(key, ()) < config.mirrored, flipped, head)


def compute_losses(
    model: MeshVAE, graph: jraph.GraphsTuple, heads: Array, visible: Array, keys: Array, config: MeshVAETraining,
    step: Array,
) -> tuple[Array, tuple[Array, Array, Array, Array]]:  # fmt: skip
    """Returns the weighted sum of l1, l1 of Laplacians, KL and -spread of heads (B, V, 3), and these terms.

    Errors are over all vertices, hidden or visible, so that the network learns to complete heads. Latents are drawn
    with keys (B,).
    """
    posterior = model.encode(heads, visible)
    draws = 2 if config.spread_weight else 1
    latents = jax.vmap(lambda key, each: jax.vmap(each.sample)(jax.random.split(key, draws)))(keys, posterior)
    error = MM * (model.decode(latents) - heads[:, None])
    l1, lap = jnp.mean(jnp.abs(error)), jnp.mean(jnp.abs(laplacian(error, graph.senders, graph.receivers)))
    spread = jnp.mean(jnp.abs(error[:, 0] - error[:, -1]))
    kl = jnp.mean(posterior.kl())
    kl_growth = jnp.clip(step / max(1.0, config.kl_warmup * config.steps), 0, 1)
    total = l1 + config.laplacian_weight * lap + config.kl_weight * kl_growth * kl - config.spread_weight * spread
    return total, (l1, lap, kl, spread)


@functools.lru_cache(maxsize=8)
def make_step(graphdef: nnx.GraphDef, config: MeshVAETraining, mesh: Mesh) -> TrainStep:
    """Returns the jitted step. It takes the real heads of a batch (B_real, V, 3), divided among the devices, and draws
    the synthetic ones. Random draws depend on the seed, the step and the position in the batch, not on the devices."""
    devices, optimizer = mesh.devices.size, optimizer_of(config)
    synthetic = synthetic_count(config, mesh) // devices

    def shard(
        state: TrainState, rest: nnx.State, constants: StepConstants, heads: Array
    ) -> tuple[TrainState, dict[str, Array]]:  # fmt: skip
        device = jax.lax.axis_index(AXIS)
        real = len(heads)
        # Positions in the whole batch: first all real heads, then all synthetic ones.
        positions = jnp.concatenate(
            [device * real + jnp.arange(real), devices * real + device * synthetic + jnp.arange(synthetic)]
        )
        keys = example_keys(config.seed, state.step, positions, 3)
        if (mirror := constants.mirror) is not None:
            heads = jax.vmap(lambda head, key: maybe_mirrored(head, mirror, key, config))(heads, keys[:real, 0])
        if (source := constants.source) is not None and synthetic:
            drawn = jax.vmap(lambda key: draw_head(source, key))(keys[real:, 0])
            heads = jnp.concatenate([heads, drawn])
        limit = mask_limit(config, state.step)
        visible = jax.vmap(lambda key: draw_mask(constants.masks, config, key, limit))(keys[:, 1])

        def loss(params: nnx.State) -> tuple[Array, tuple[Array, Array, Array, Array]]:
            model = nnx.merge(graphdef, params, rest)
            return compute_losses(model, constants.graph, heads, visible, keys[:, 2], config, state.step)

        (total, terms), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
        hidden = 1 - jnp.mean(visible.astype(jnp.float32))
        gradient, total, terms, hidden = jax.lax.pmean((gradient, total, terms, hidden), AXIS)
        named = dict(zip(("l1_mm", "laplacian_mm", "kl", "spread_mm"), terms, strict=True))
        losses = {"total": total, **named, "gradient_norm": optax.tree.norm(gradient), "hidden": hidden}
        return apply_gradient(state, gradient, optimizer), losses

    return compiled_step(shard, mesh)


def synthetic_count(config: MeshVAETraining, mesh: Mesh) -> int:
    """Returns the number of synthetic heads in a batch: equal on all devices, each of which has a real head too.

    Raises:
      ValueError: the batch cannot be divided evenly.
    """
    devices, share = mesh.devices.size, examples_per_device(config.batch_size, mesh)
    count = min(round(config.synthetic * config.batch_size), (share - 1) * devices)
    return count - count % devices
