"""Rasterizing and rendering, against a square product, deodr and jaxrenderer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import flamejax
from experiments.benchmark.memory import render_forward, render_gradient
from experiments.benchmark.timing import SQUARE_GEMM, PeerMissing, Row, Setting, Timed, square_gemm, time_row
from experiments.datasets.renders import sample_scenes
from flamejax.rendering import interpolate, opposite_vertices


def rows(setting: Setting) -> list[Row]:
    """Our rows, then those against the peers that were asked for and are there."""
    found = own_rows(setting)
    asked = [deodr_rows] if setting.peers else []
    asked += [jaxrenderer_rows] if setting.jaxrenderer_python else []
    for peer in asked:
        try:
            found += peer(setting)
        except PeerMissing as missing:
            setting.say(str(missing))
    return found


def own_rows(setting: Setting) -> list[Row]:
    """Rasterizing alone, and a whole shaded render with the gradient of an image loss, against a square product."""
    head, gemm = setting.head, square_gemm(setting.key)
    found = []
    for size, batch in ((224, 1), (512, 1), (224, 4)):
        scenes = sample_scenes(head, setting.key, batch, size)
        verts = flamejax.vertices(head, scenes.params)

        def draw(verts, head, camera, size=size):  # noqa: ANN001, ANN202
            screen = camera.project(verts)
            return flamejax.rasterize(screen, head.faces, (size, size), perspective=False, cull=True).barycentric

        gradient = jax.grad(lambda v, h, c, f=draw: jnp.sum(f(v, h, c) ** 2))
        programs = {
            "rasterize": (Timed(draw, verts, head, scenes.camera), Timed(gradient, verts, head, scenes.camera)),
        }
        for name, smooth in (("render", False), ("render, antialiased", True)):
            arguments = (head, setting.key, batch, size)
            programs[name] = (
                render_forward(*arguments, antialias=smooth),
                render_gradient(*arguments, antialias=smooth),
            )
        for name, (forward, backward) in programs.items():
            reference = f"{SQUARE_GEMM}^3 GEMM"
            found.append(time_row(f"{name} {size} px", batch, forward, backward, gemm, gemm, reference, setting.limit))
    return found


class ColouredHead:
    """Our side of the comparisons: vertex colours drawn with depth test and culling."""

    def __init__(self, setting: Setting, size: int) -> None:
        """One random head in an image of size x size pixels."""
        head = setting.head
        scenes = sample_scenes(head, setting.key, 1, size)
        self.screen = scenes.camera.project(flamejax.vertices(head, scenes.params))
        self.colours = jax.random.uniform(setting.key, (head.num_vertices, 3))
        self.faces, self.size = head.faces, size
        self.opposite = opposite_vertices(head.faces, head.num_vertices)

    def draw(self, screen: jax.Array, colours: jax.Array, faces: jax.Array) -> tuple[jax.Array, flamejax.Fragments]:
        """screen (1, V, 3), colours (V, 3), faces (F, 3) -> image (1, size, size, 3), fragments."""
        fragments = flamejax.rasterize(screen, faces, (self.size, self.size), perspective=False, cull=True)
        return interpolate(colours, faces, fragments), fragments

    def forward(self) -> Timed:
        """The image, not antialiased."""
        return Timed(lambda s, c, f: self.draw(s, c, f)[0], self.screen, self.colours, self.faces)

    def gradient(self, antialias: bool) -> Timed:
        """Value and gradient of half the image's squared sum in positions and colours."""

        def loss(screen, colours, faces, opposite):  # noqa: ANN001, ANN202
            image, fragments = self.draw(screen, colours, faces)
            if antialias:
                options = {"perspective": False, "cull": True, "opposite": opposite}
                image = flamejax.antialias(image, fragments, screen, faces, **options)
            return 0.5 * jnp.sum(image**2)

        return Timed(jax.value_and_grad(loss, (0, 1)), self.screen, self.colours, self.faces, self.opposite)


def deodr_rows(setting: Setting) -> list[Row]:
    """The image, and the gradient of an image loss through the silhouettes."""
    from experiments.benchmark.deodr_scene import DeodrScene

    found = []
    for size in (224, 512):
        ours = ColouredHead(setting, size)
        peer = DeodrScene(ours.screen[0], ours.colours, ours.faces, ours.opposite, size)
        programs = (ours.forward(), ours.gradient(antialias=True), peer.forward, peer.gradient)
        found.append(time_row(f"colours {size} px", 1, *programs, "deodr, same image and loss", setting.limit))
    return found


def jaxrenderer_rows(setting: Setting) -> list[Row]:
    """The image, and the gradient of an image loss without antialiasing, where jaxrenderer's is finite."""
    from experiments.benchmark.jaxrenderer import JaxrendererScene

    assert setting.jaxrenderer_python is not None
    size = 224
    ours = ColouredHead(setting, size)
    forward = ours.forward()
    with JaxrendererScene(
        setting.jaxrenderer_python, ours.screen[0], ours.colours, ours.faces, size, setting.say
    ) as peer:
        peer.check_image(forward.result()[0])
        backward = ours.gradient(antialias=False) if peer.gradient else None
        programs = (forward, backward, peer.forward, peer.gradient)
        return [time_row(f"colours {size} px", 1, *programs, peer.name, setting.few)]
