"""Times networks against the matrix products that they contain.

These are mesh convolutions, a training step of the small Mesh-VAE, and a step of OFER's U-Nets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from experiments.benchmark.spheres import spheres
from experiments.benchmark.timing import CompiledCall, Row, Setting, time_row
from experiments.training.ofer.architectures import small
from models.hierarchy import mesh_hierarchy
from models.mesh_conv import MeshBlock, MeshConv
from models.mesh_vae import SMALL, MeshVAE, hierarchy_for
from models.unet1d import UNet1D, UNet1DConfig, matrix_shapes

BATCH, TRAINING_BATCH, UNET_BATCH = 16, 8, 100
LAYERS = {
    "mesh conv, level 0 to 1, 3 to 32": (0, "pool", 3, 32),
    "mesh conv, stride 1 on level 2, 128 to 256": (3, "pool", 128, 256),
    "mesh conv, level 1 to 0, 32 to 3": (0, "unpool", 32, 3),
}
"""Step of the hierarchy, direction, input and output channels: first and fourth layer of Table 5, last of Table 6."""
BASES = 17
"""Number of weight bases of each convolution."""
AGGREGATE, PROJECT = "two bare products: aggregate, project", "two bare products: project, aggregate"
UNETS = {
    "300-50-10, context 512": UNet1DConfig((300, 50, 10), context=512),
    "53-25-10, context 1024": UNet1DConfig((53, 25, 10), context=1024),
}
"""The paper's U-Nets."""

Product = tuple[Array, Array, Array]
"""Left and right operand with the same number of batch axes, and a cotangent of the result."""


def mesh_conv_rows(setting: Setting) -> list[Row]:
    """Time mesh convolutions on a mesh of FLAME's size: three spheres with 3,931 + 546 + 546 vertices."""
    faces, positions = spheres()
    hierarchy = mesh_hierarchy(faces, positions)
    rows = []
    for name, (step, direction, before, after) in LAYERS.items():
        conv = MeshConv(getattr(hierarchy.steps[step], direction), before, after, BASES, rngs=nnx.Rngs(0))
        rows.append(conv_row(setting, name, conv, BATCH))
        if conv.project_first:
            rows.append(conv_row(setting, name, conv, BATCH, project_first=True))
    network = MeshVAE(hierarchy_for(SMALL, faces, positions), SMALL, rngs=nnx.Rngs(0))
    return [*rows, training_row(setting, network, TRAINING_BATCH)]


def conv_row(setting: Setting, name: str, conv: MeshConv, batch: int, *, project_first: bool = False) -> Row:
    """Time the layer against its two products, and its gradient against the products of a backward pass.

    project_first: time against the other order of products, which takes fewer multiplications for few output channels.
    """
    x = jax.random.normal(setting.key, (batch, conv.lists.get_value().num_sources, conv.in_features))
    weights = jax.random.normal(setting.key, (batch, conv.lists.get_value().num_targets, conv.out_features))
    graph, *states = nnx.split(conv, nnx.Param, ...)
    params, rest = states

    def call(params: nnx.State, x: Array, rest: nnx.State) -> Array:
        return nnx.merge(graph, params, rest)(x)

    def loss(params: nnx.State, x: Array, rest: nnx.State, weights: Array) -> Array:
        return jnp.sum(weights * call(params, x, rest))

    ours = CompiledCall(call, params, x, rest), CompiledCall(jax.grad(loss, argnums=(0, 1)), params, x, rest, weights)
    operands = reference_products(conv, batch, setting.key, project_first)
    theirs = CompiledCall(forward_products, operands), CompiledCall(backward_products, operands)
    return time_row(name, batch, ours, theirs, PROJECT if project_first else AGGREGATE, setting.limit)


def training_row(setting: Setting, model: MeshVAE, batch: int) -> Row:
    """Time the loss, and a training step with Adam, against the products of all its convolutions."""
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
    ours = CompiledCall(loss, params, *data), CompiledCall(step, params, adam.init(params), *data)
    convs = [module.conv for _, module in nnx.iter_modules(model) if isinstance(module, MeshBlock)]
    operands = [one for conv in convs for one in reference_products(conv, batch, setting.key, conv.project_first)]
    theirs = CompiledCall(forward_products, operands), CompiledCall(all_products, operands)
    label, reference = "small Mesh-VAE: loss, training step", "its convolutions' bare products"
    return time_row(label, batch, ours, theirs, reference, setting.slow_limit)


def unet_rows(setting: Setting) -> list[Row]:
    """Time a step of the paper's and of the shipped U-Nets for 100 samples, each with its own time and context.

    The reference is the matrix product of each layer; gradients are with respect to all weights."""
    unets = dict(UNETS)
    for kind, size in (("identity", setting.head.num_betas), ("expression", setting.head.num_expression + 3)):
        config = small(kind).unet
        config = dataclasses.replace(config, widths=(size, *config.widths[1:]))
        unets[f"{'-'.join(map(str, config.widths))}, small"] = config
    return [unet_row(setting, name, config) for name, config in unets.items()]


def unet_row(setting: Setting, name: str, config: UNet1DConfig) -> Row:
    """Time one U-Net."""
    keys = jax.random.split(setting.key, 4)
    x = jax.random.normal(keys[0], (UNET_BATCH, config.size))
    context = jax.random.normal(keys[1], (UNET_BATCH, config.context))
    inputs = x, jax.random.uniform(keys[2], (UNET_BATCH,), maxval=1000), context
    unet = UNet1D(config, rngs=nnx.Rngs(0))
    loss = jax.grad(lambda unet, *inputs: jnp.mean(jnp.abs(unet(*inputs))))
    ours = CompiledCall(UNet1D.__call__, unet, *inputs), CompiledCall(loss, unet, *inputs)
    operands = [_operands((UNET_BATCH, shape[0]), shape, keys[3]) for shape in matrix_shapes(config)]
    theirs = CompiledCall(forward_products, operands), CompiledCall(all_products, operands)
    return time_row(f"U-Net step {name}", UNET_BATCH, ours, theirs, "bare GEMMs of its layers", setting.limit)


def reference_products(conv: MeshConv, batch: int, key: Array, project_first: bool) -> list[Product]:
    """Return the operands of a layer's two products in memory; gathering, masking and transposing are not timed.

    project_first: the product with the bases comes first. Otherwise the neighbours are aggregated first.
    """
    lists, bases = conv.lists.get_value(), conv.num_bases
    targets, width, before, after = lists.num_targets, lists.width, conv.in_features, conv.out_features
    if project_first:
        project = (batch * lists.num_sources, before), (before, bases * after)
        aggregate = (targets, 1, width * bases), (targets, width * bases, batch * after)
        return [_operands(*project, key), _operands(*aggregate, key)]
    aggregate = (targets, bases, width), (targets, width, batch * before)
    project = (batch * targets, bases * before), (bases * before, after)
    return [_operands(*aggregate, key), _operands(*project, key)]


def _operands(left: tuple[int, ...], right: tuple[int, ...], key: Array) -> Product:
    a, b, c = jax.random.split(key, 3)
    result = (*left[:-1], right[-1])
    return jax.random.normal(a, left), jax.random.normal(b, right), jax.random.normal(c, result)


def forward_products(operands: Sequence[Product]) -> list[Array]:
    """Return the product of each pair of operands."""
    return [left @ right for left, right, _ in operands]


def backward_products(operands: Sequence[Product]) -> list[Array]:
    """Return the gradients of each product with respect to its left and right operand."""
    gradients = []
    for left, right, cotangent in operands:
        gradients += [cotangent @ jnp.swapaxes(right, -1, -2), jnp.swapaxes(left, -1, -2) @ cotangent]
    return gradients


def all_products(operands: Sequence[Product]) -> list[Array]:
    """Return the products and their gradients."""
    return forward_products(operands) + backward_products(operands)
