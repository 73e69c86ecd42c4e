"""What the gradient of an antialiased render keeps in memory, by batch."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

import flamejax
from experiments.benchmark.timing import SQUARE_GEMM, Row, Setting, Timed, square_gemm, time_row
from experiments.data.renders import sample_scenes
from flamejax.head import HeadModel

SIZE, BATCHES = 512, (1, 4, 16)


def rows(setting: Setting) -> list[Row]:
    """Time and memory of shaded, antialiased renders of 512 x 512 pixels and of the gradient of an image loss."""
    found = []
    for batch in BATCHES:
        forward, gradient = render_programs(setting.head, setting.key, batch, SIZE)
        gemm, label = square_gemm(setting.key), f"render, antialiased {SIZE} px"
        row = time_row(label, batch, forward, gradient, gemm, gemm, f"{SQUARE_GEMM}^3 GEMM", setting.few)
        found.append(dataclasses.replace(row, memory_mb=gradient.memory_mb()))
    return found


def render_programs(
    head: HeadModel, key: jax.Array, batch: int, size: int, *, antialias: bool = True
) -> tuple[Timed, Timed]:
    """A batch of shaded renders of size x size pixels, and the gradient of their squared sum in the vertices."""
    scenes = sample_scenes(head, key, batch, size)
    arguments = (flamejax.vertices(head, scenes.params), head, scenes.camera)

    def draw(verts, head, camera):  # noqa: ANN001, ANN202
        return flamejax.render(head, verts, camera, size=(size, size), antialias=antialias)

    def loss(verts, head, camera):  # noqa: ANN001, ANN202
        return jnp.sum(draw(verts, head, camera) ** 2)

    return Timed(draw, *arguments), Timed(jax.grad(loss), *arguments)
