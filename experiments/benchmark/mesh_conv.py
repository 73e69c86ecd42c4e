"""Mesh convolutions against the matrix products they cannot do without, and a training step of the small Mesh-VAE."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from experiments.benchmark.spheres import spheres
from experiments.benchmark.timing import Row, Setting, Timed, time_row
from models.hierarchy import mesh_hierarchy
from models.mesh_conv import MeshBlock, MeshConv
from models.mesh_vae import SMALL, MeshVAE, hierarchy_for

BATCH, TRAINING_BATCH = 16, 8
LAYERS = {
    "mesh conv, level 0 to 1, 3 to 32": (0, "pool", 3, 32),
    "mesh conv, stride 1 on level 2, 128 to 256": (3, "pool", 128, 256),
    "mesh conv, level 1 to 0, 32 to 3": (0, "unpool", 32, 3),
}
"""Step of the paper's hierarchy, which of its lists, channels: Table 5's first and fourth layer, Table 6's last."""
BASES = 17
AGGREGATE, PROJECT = "two bare products: aggregate, project", "two bare products: project, aggregate"

Product = tuple[Array, Array, Array]
"""Left and right operand, with as many batch axes each, and a cotangent of the result."""


def rows(setting: Setting) -> list[Row]:
    """On a mesh of FLAME's size: three spheres with 3,931 + 546 + 546 vertices."""
    faces, positions = spheres()
    hierarchy = mesh_hierarchy(faces, positions)
    found = []
    for name, (step, way, before, after) in LAYERS.items():
        conv = MeshConv(getattr(hierarchy.steps[step], way), before, after, BASES, rngs=nnx.Rngs(0))
        found.append(conv_row(setting, name, conv, BATCH))
        if conv.project_first:
            found.append(conv_row(setting, name, conv, BATCH, project_first=True))
    network = MeshVAE(hierarchy_for(SMALL, faces, positions), SMALL, rngs=nnx.Rngs(0))
    return [*found, training_row(setting, network, TRAINING_BATCH)]


def conv_row(setting: Setting, name: str, conv: MeshConv, batch: int, *, project_first: bool = False) -> Row:
    """Forward against the two products; the gradient in input and parameters against those of a backward pass.

    project_first: against the products in the other order, which are fewer multiplications where few channels come out.
    """
    x = jax.random.normal(setting.key, (batch, conv.lists.get_value().num_sources, conv.in_features))
    weights = jax.random.normal(setting.key, (batch, conv.lists.get_value().num_targets, conv.out_features))
    graph, *states = nnx.split(conv, nnx.Param, ...)
    params, rest = states

    def call(params: nnx.State, x: Array, rest: nnx.State) -> Array:
        return nnx.merge(graph, params, rest)(x)

    def loss(params: nnx.State, x: Array, rest: nnx.State, weights: Array) -> Array:
        return jnp.sum(weights * call(params, x, rest))

    forward, gradient = Timed(call, params, x, rest), Timed(jax.grad(loss, argnums=(0, 1)), params, x, rest, weights)
    products = bare_products(conv, batch, setting.key, project_first)
    bare, bare_gradient = Timed(forward_products, products), Timed(backward_products, products)
    reference = PROJECT if project_first else AGGREGATE
    return time_row(name, batch, forward, gradient, bare, bare_gradient, reference, setting.limit)


def training_row(setting: Setting, model: MeshVAE, batch: int) -> Row:
    """The loss alone, and a whole training step with Adam, against the products of all its convolutions."""
    graph, *states = nnx.split(model, nnx.Param, ...)
    params, rest = states
    adam = optax.adam(1e-3)
    heads = jax.random.normal(setting.key, (batch, model.num_vertices, 3))
    visible = jax.random.bernoulli(setting.key, 0.7, (batch, model.num_vertices))

    def loss(params: nnx.State, rest: nnx.State, heads: Array, visible: Array, key: Array) -> Array:
        decoded, posterior = nnx.merge(graph, params, rest)(heads, visible, key)
        return jnp.mean(jnp.abs(decoded - heads)) + 1e-4 * jnp.mean(posterior.kl())

    def step(params: nnx.State, state: optax.OptState, *data: object) -> tuple[nnx.State, optax.OptState]:
        updates, state = adam.update(jax.grad(loss)(params, *data), state, params)
        return optax.apply_updates(params, updates), state

    data = rest, heads, visible, setting.key
    forward, gradient = Timed(loss, params, *data), Timed(step, params, adam.init(params), *data)
    blocks = [module for _, module in nnx.iter_modules(model) if isinstance(module, MeshBlock)]
    convs = [block.conv for block in blocks]
    products = [one for conv in convs for one in bare_products(conv, batch, setting.key, conv.project_first)]
    bare, bare_gradient = Timed(forward_products, products), Timed(_all_products, products)
    label, reference = "small Mesh-VAE: loss, training step", "its convolutions' bare products"
    return time_row(label, batch, forward, gradient, bare, bare_gradient, reference, setting.few)


def bare_products(conv: MeshConv, batch: int, key: Array, project_first: bool) -> list[Product]:
    """Operands of a layer's two products, ready in memory: gathering, masking and putting axes in order is free here.

    project_first: the product with the bases comes first. Otherwise the neighbours are aggregated first.
    """
    lists, bases = conv.lists.get_value(), conv.num_bases
    targets, width, before, after = lists.num_targets, lists.width, conv.in_features, conv.out_features
    shapes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    if project_first:
        shapes = (
            ((batch * lists.num_sources, before), (before, bases * after)),
            ((targets, 1, width * bases), (targets, width * bases, batch * after)),
        )
    else:
        shapes = (
            ((targets, bases, width), (targets, width, batch * before)),
            ((batch * targets, bases * before), (bases * before, after)),
        )
    found = []
    for left, right in shapes:
        keys = jax.random.split(key, 3)
        operands = [jax.random.normal(k, s) for k, s in zip(keys, (left, right, (*left[:-1], right[-1])), strict=True)]
        found.append((operands[0], operands[1], operands[2]))
    return found


def forward_products(products: Sequence[Product]) -> list[Array]:
    """Left times right."""
    return [left @ right for left, right, _ in products]


def backward_products(products: Sequence[Product]) -> list[Array]:
    """The two gradients of each."""
    found = []
    for left, right, cotangent in products:
        found += [cotangent @ jnp.swapaxes(right, -1, -2), jnp.swapaxes(left, -1, -2) @ cotangent]
    return found


def _all_products(products: Sequence[Product]) -> list[Array]:
    return forward_products(products) + backward_products(products)
