"""What the gradient of an antialiased render keeps in memory, by batch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

import flamejax
from experiments.benchmark.timing import SQUARE_GEMM, Row, Setting, Timed, square_gemm, time_row
from experiments.datasets.renders import sample_scenes
from flamejax.head import HeadModel

SIZE, BATCHES = 512, (1, 4, 16)


def rows(setting: Setting) -> list[Row]:
    """Time and memory of shaded, antialiased renders of 512 x 512 pixels and of the gradient of an image loss."""
    found = []
    for batch in BATCHES:
        forward = render_forward(setting.head, setting.key, batch, SIZE)
        gradient = render_gradient(setting.head, setting.key, batch, SIZE)
        gemm, label = square_gemm(setting.key), f"render, antialiased {SIZE} px"
        row = time_row(label, batch, forward, gradient, gemm, gemm, f"{SQUARE_GEMM}^3 GEMM", setting.few)
        found.append(dataclasses.replace(row, memory_mb=gradient.memory_mb()))
    return found


def render_forward(head: HeadModel, key: jax.Array, batch: int, size: int, *, antialias: bool = True) -> Timed:
    """A batch of shaded renders of size x size pixels."""
    scenes = sample_scenes(head, key, batch, size)

    def draw(verts, head, camera):  # noqa: ANN001, ANN202
        return flamejax.render(head, verts, camera, size=(size, size), antialias=antialias)

    return Timed(draw, flamejax.vertices(head, scenes.params), head, scenes.camera)


def render_gradient(head: HeadModel, key: jax.Array, batch: int, size: int, *, antialias: bool = True) -> Timed:
    """The gradient of the squared sum of a batch of shaded renders in the vertices."""
    scenes = sample_scenes(head, key, batch, size)

    def loss(verts, head, camera):  # noqa: ANN001, ANN202
        return jnp.sum(flamejax.render(head, verts, camera, size=(size, size), antialias=antialias) ** 2)

    return Timed(jax.grad(loss), flamejax.vertices(head, scenes.params), head, scenes.camera)
