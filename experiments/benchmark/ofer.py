"""A step of OFER's U-Nets against the bare products of their layers; its hypotheses for a photo, warm, and the compile
time apart."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import fitting
from experiments.benchmark.timing import SQUARE_GEMM, Row, Setting, Timed, square_gemm, time_row
from experiments.datasets.renders import exact_observation, render_scenes, sample_scenes
from experiments.training.ofer.architectures import small
from flamejax.head import HeadFileError
from models.unet1d import UNet1D, UNet1DConfig, products
from sampling import load_networks, ofer, ofer_dpp

BATCH = 100
UNETS = {
    "300-50-10, context 512": UNet1DConfig((300, 50, 10), context=512),
    "53-25-10, context 1024": UNet1DConfig((53, 25, 10), context=1024),
}
"""The paper's."""
METHODS: dict[str, tuple[Any, int]] = {
    "100 identities, ranking, 15 expressions": (ofer, 15),
    "ofer+dpp, 16 heads": (ofer_dpp, 16),
}


def rows(setting: Setting) -> list[Row]:
    """U-Net steps; hypotheses where the head has networks."""
    head = setting.head
    unets = dict(UNETS)
    for kind, size in (("identity", head.num_betas), ("expression", head.num_expression + 3)):
        config = small(kind).unet
        config = dataclasses.replace(config, widths=(size, *config.widths[1:]))
        unets[f"{'-'.join(map(str, config.widths))}, small"] = config
    found = [unet_row(setting, name, config) for name, config in unets.items()]
    try:
        load_networks(head)
    except (HeadFileError, OSError) as error:
        setting.say(f"OFER's hypotheses are left out: {error}")
        return found
    return found + [hypotheses_row(setting, name) for name in METHODS]


def unet_row(setting: Setting, name: str, config: UNet1DConfig) -> Row:
    """One step for 100 samples, each with a time and a context of its own, against the products of all layers, each by
    itself; gradient: also with respect to all weights."""
    graphdef, state = nnx.split(UNet1D(config, rngs=nnx.Rngs(0)))
    keys = jax.random.split(setting.key, 4)
    x, context = jax.random.normal(keys[0], (BATCH, config.size)), jax.random.normal(keys[1], (BATCH, config.context))
    time = jax.random.uniform(keys[2], (BATCH,), maxval=1000)

    def step(state: nnx.State, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state)(x, time, context)

    def loss(state: nnx.State, x: jax.Array, time: jax.Array, context: jax.Array) -> jax.Array:
        return jnp.mean(jnp.abs(step(state, x, time, context)))

    shapes = products(config)
    inputs = [jax.random.normal(keys[3], (BATCH, before)) for before, _ in shapes]
    weights = [jax.random.normal(keys[3], shape) for shape in shapes]

    def bare(inputs: list[jax.Array], weights: list[jax.Array]) -> list[jax.Array]:
        return [a @ b for a, b in zip(inputs, weights, strict=True)]

    def bare_loss(inputs: list[jax.Array], weights: list[jax.Array]) -> jax.Array:
        return sum((jnp.sum(jnp.abs(out)) for out in bare(inputs, weights)), jnp.zeros(()))

    return time_row(
        f"U-Net step {name}",
        BATCH,
        Timed(step, state, x, time, context),
        Timed(jax.grad(loss), state, x, time, context),
        Timed(bare, inputs, weights),
        Timed(jax.grad(bare_loss, argnums=(0, 1)), inputs, weights),
        "bare GEMMs of its layers",
        setting.limit,
    )


def hypotheses_row(setting: Setting, name: str) -> Row:
    """One photo's."""
    head, (method, count) = setting.head, METHODS[name]
    images, points, _ = render_scenes(head, sample_scenes(head, setting.key, 1), setting.key)
    seen = exact_observation(images, points)
    fit = fitting.fit(fitting.prepare(head), seen, devices=(jax.devices()[0],))

    def draw(*args: Any) -> Any:
        return method(*args, setting.key[None], num_samples=count, devices=(jax.devices()[0],))

    timed = Timed(draw, load_networks(head), head, fit, seen)
    reference = f"{SQUARE_GEMM}^3 GEMM"
    row = time_row(f"OFER: {name}", 1, timed, None, square_gemm(setting.key), None, reference, setting.few)
    return dataclasses.replace(row, seconds_per_photo=row.forward_ms / 1e3, memory_mb=timed.memory_mb())
