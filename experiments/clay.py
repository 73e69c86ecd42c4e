"""Heads as small pictures of clay, with a colour for each vertex, and sheets of such pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image, ImageDraw, ImageFont

from flamejax.camera import OrthographicCamera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import rotation_matrix
from flamejax.rendering import interpolate, rasterize

GREY = np.array([0.78, 0.78, 0.78])
CAPTION = 16
"""Pixels above each picture of a `grid`."""
LABEL = 110
"""Pixels before each row of `labelled_rows`."""


@dataclasses.dataclass(frozen=True)
class View:
    """How heads are looked at and lit; by default a whole head in the head frame, turned a little to the side."""

    scale: float = 4.0
    """Pixels of a metre, over the pixels of the picture's side."""
    middle: tuple[float, float, float] = (0.0, 0.12, 0.06)
    """Metres: the point that heads are turned about."""
    place: tuple[float, float] = (0.5, 0.58)
    """Where that point lies in the picture, from the left and from above, over its side."""
    yaw: float = 0.4
    """Radians about the vertical."""
    lamp: tuple[float, float, float] = (0.7, 0.5, 0.6)
    """The direction that light comes from."""
    ambient: float = 0.3
    diffuse: float = 0.8
    background: float = 1.0
    """Grey in [0, 1]."""


def clay_pictures(
    faces: np.ndarray | Array, heads: np.ndarray, colours: np.ndarray | None = None, side: int = 256,
    view: View | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw heads with smooth shading, one after the other, so that any number of them is one compilation.

    Args:
      faces: (F, 3) vertices of each triangle.
      heads: (N, V, 3) metres.
      colours: (3,), (V, 3) or (N, V, 3) in [0, 1] at the vertices; grey when left out.
      side: pixels of a picture.

    Returns:
      (N, side, side, 3) uint8.
    """
    view = view or View()
    turn = np.asarray(rotation_matrix(jnp.asarray([0.0, view.yaw, 0.0])), np.float64)
    moved = ((np.asarray(heads, np.float64) - view.middle) @ turn.T).astype(np.float32)
    painted = np.broadcast_to(GREY if colours is None else colours, moved.shape).astype(np.float32)
    camera = OrthographicCamera(jnp.asarray(view.scale * side), jnp.asarray(view.place) * side)
    light = jnp.asarray(view.lamp), jnp.asarray([view.ambient, view.diffuse, view.background])
    found = np.empty((len(moved), side, side, 3), np.uint8)
    for out, verts, colour in zip(found, moved, painted, strict=True):
        shown = np.asarray(_shaded(jnp.asarray(faces), jnp.asarray(verts), jnp.asarray(colour), camera, *light, side))
        out[:] = np.rint(255 * np.clip(np.nan_to_num(shown), 0, 1))
    return found


@jax.jit(static_argnames="side")
def _shaded(
    faces: Array, verts: Array, colours: Array, camera: OrthographicCamera, lamp: Array, levels: Array, side: int
) -> Array:
    """(side, side, 3) of one head; levels (3,): ambient and diffuse light, and the background."""
    fragments = rasterize(camera.project(verts), faces, (side, side), perspective=False, cull=True)
    both = jnp.concatenate([vertex_normals(verts, faces), colours], axis=-1)
    found = interpolate(both, faces, fragments)
    lit = jnp.sum(normalize(found[..., :3]) * normalize(lamp)[None, None], axis=-1, keepdims=True)
    bright = levels[0] + levels[1] * jnp.maximum(lit, 0)
    return jnp.where(fragments.face_index[..., None] >= 0, found[..., 3:] * bright, levels[2])


def grid(pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> Image.Image:
    """Pictures (side, side, 3) uint8 in rows of `columns`, with a caption above each."""
    side, rows = len(pictures[0]), -(-len(pictures) // columns)
    whole = Image.new("RGB", (columns * side, rows * (side + CAPTION)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = k % columns * side, k // columns * (side + CAPTION)
        draw.text((x + 4, y + 1), caption, fill="black", font=font)
        whole.paste(Image.fromarray(picture), (x, y + CAPTION))
    return whole


def save_rows(rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: Path, note: str) -> None:
    """Write rows of pictures (side, side, 3) uint8, the name of each row before it and a note below, as PNG or JPG."""
    side = len(rows[0][1][0])
    width, height = LABEL + side * max(len(line) for _, line in rows), side * len(rows) + 24
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, (name, line) in enumerate(rows):
        draw.text((6, side * row + side // 2), name, fill="black")
        for column, cell in enumerate(line):
            image.paste(Image.fromarray(cell), (LABEL + side * column, side * row))
    draw.text((6, height - 18), note, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)  # which a PNG ignores
