"""Times rasterizing and rendering against a square product, deodr and jaxrenderer; and measures gradients' memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import flamejax
from experiments.benchmark.timing import CompiledCall, PeerMissing, Row, Setting, gemm_row, time_row
from experiments.datasets.renders import sample_scenes
from flamejax.head import HeadModel
from flamejax.rendering import interpolate, opposite_vertices

MEMORY_SIZE, MEMORY_BATCHES = 512, (1, 4, 16)


def render_rows(setting: Setting) -> list[Row]:
    """Return our rows, then those against the requested peers that are installed."""
    rows = own_rows(setting)
    peers = [deodr_rows] if setting.peers else []
    peers += [jaxrenderer_rows] if setting.jaxrenderer_python else []
    for peer in peers:
        try:
            rows += peer(setting)
        except PeerMissing as missing:
            setting.report(str(missing))
    return rows


def own_rows(setting: Setting) -> list[Row]:
    """Time rasterizing, and shaded renders with the gradient of an image loss."""
    head = setting.head
    rows = []
    for size, batch in ((224, 1), (512, 1), (224, 4)):
        scenes = sample_scenes(head, setting.key, batch, size)

        def draw(verts, head, camera, size=size):  # noqa: ANN001, ANN202
            screen = camera.project(verts)
            return flamejax.rasterize(screen, head.faces, (size, size), perspective=False, cull=True).barycentric

        gradient = jax.grad(lambda v, h, c, f=draw: jnp.sum(f(v, h, c) ** 2))
        arguments = flamejax.vertices(head, scenes.params), head, scenes.camera
        programs = {"rasterize": (CompiledCall(draw, *arguments), CompiledCall(gradient, *arguments))}
        for name, smooth in (("render", False), ("render, antialiased", True)):
            programs[name] = render_programs(head, setting.key, batch, size, antialias=smooth)
        for name, pair in programs.items():
            rows.append(gemm_row(setting, f"{name} {size} px", batch, *pair, setting.limit))
    return rows


def memory_rows(setting: Setting) -> list[Row]:
    """Measure time and memory of shaded, antialiased 512 x 512 renders and of the gradient of an image loss."""
    rows = []
    for batch in MEMORY_BATCHES:
        forward, gradient = render_programs(setting.head, setting.key, batch, MEMORY_SIZE)
        name = f"render, antialiased {MEMORY_SIZE} px"
        row = gemm_row(setting, name, batch, forward, gradient, setting.slow_limit)
        rows.append(dataclasses.replace(row, memory_mb=gradient.memory_mb()))
    return rows


def render_programs(
    head: HeadModel, key: jax.Array, batch: int, size: int, *, antialias: bool = True
) -> tuple[CompiledCall, CompiledCall]:
    """Return programs of shaded renders of size x size pixels, and of the vertex gradient of their squared sum."""
    scenes = sample_scenes(head, key, batch, size)
    arguments = flamejax.vertices(head, scenes.params), head, scenes.camera

    def draw(verts, head, camera):  # noqa: ANN001, ANN202
        return flamejax.render(head, verts, camera, size=(size, size), antialias=antialias)

    return CompiledCall(draw, *arguments), CompiledCall(jax.grad(lambda *given: jnp.sum(draw(*given) ** 2)), *arguments)


class ColouredHead:
    """Our side of the comparisons: a head with vertex colours, drawn with depth test and culling."""

    def __init__(self, setting: Setting, size: int) -> None:
        """Place one random head in an image of size x size pixels."""
        head = setting.head
        scenes = sample_scenes(head, setting.key, 1, size)
        self.screen = scenes.camera.project(flamejax.vertices(head, scenes.params))
        self.colours = jax.random.uniform(setting.key, (head.num_vertices, 3))
        self.faces, self.size = head.faces, size
        self.opposite = opposite_vertices(head.faces, head.num_vertices)

    def draw(self, screen: jax.Array, colours: jax.Array, faces: jax.Array) -> tuple[jax.Array, flamejax.Fragments]:
        """Draw screen (1, V, 3), colours (V, 3), faces (F, 3). Returns the image (1, size, size, 3) and fragments."""
        fragments = flamejax.rasterize(screen, faces, (self.size, self.size), perspective=False, cull=True)
        return interpolate(colours, faces, fragments), fragments

    def forward(self) -> CompiledCall:
        """Return the program of the image, without antialiasing."""
        return CompiledCall(lambda s, c, f: self.draw(s, c, f)[0], self.screen, self.colours, self.faces)

    def gradient(self, antialias: bool) -> CompiledCall:
        """Return the program of half the image's squared sum and its gradients for positions and colours."""

        def loss(screen, colours, faces, opposite):  # noqa: ANN001, ANN202
            image, fragments = self.draw(screen, colours, faces)
            if antialias:
                options: dict[str, Any] = {"perspective": False, "cull": True, "opposite": opposite}
                image = flamejax.antialias(image, fragments, screen, faces, **options)
            return 0.5 * jnp.sum(image**2)

        return CompiledCall(jax.value_and_grad(loss, (0, 1)), self.screen, self.colours, self.faces, self.opposite)


def deodr_rows(setting: Setting) -> list[Row]:
    """Time the image, and the gradient of an image loss through the silhouettes."""
    from experiments.benchmark.render_peers import deodr

    rows = []
    for size in (224, 512):
        ours = ColouredHead(setting, size)
        peer = deodr(ours.screen[0], ours.colours, ours.faces, ours.opposite, size)
        programs = ours.forward(), ours.gradient(antialias=True)
        rows.append(time_row(f"colours {size} px", 1, programs, peer, "deodr, same image and loss", setting.limit))
    return rows


def jaxrenderer_rows(setting: Setting) -> list[Row]:
    """Time the image, and the gradient of an image loss without antialiasing, where jaxrenderer's is finite."""
    from experiments.benchmark.render_peers import jaxrenderer

    assert setting.jaxrenderer_python is not None
    size = 224
    ours = ColouredHead(setting, size)
    forward, scene = ours.forward(), (ours.screen[0], ours.colours, ours.faces)
    with jaxrenderer(setting.jaxrenderer_python, *scene, size, setting.report) as peer:
        peer.check_image(forward.run()[0])
        programs = forward, ours.gradient(antialias=False) if peer.programs[1] else None
        return [time_row(f"colours {size} px", 1, programs, peer.programs, peer.name, setting.slow_limit)]
