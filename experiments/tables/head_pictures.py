"""Heads in the head frame as small pictures of clay, for the figures of tables."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image, ImageDraw

from flamejax.camera import OrthographicCamera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel, rotation_matrix
from flamejax.rendering import interpolate, rasterize

SIDE, LABEL = 176, 110
"""Pixels of a picture, and of the names before a row."""
YAW = 0.4
WHOLE, FACE = (0.0, 0.12, 0.06), (0.0, 0.085, 0.09)
"""Points of the head frame in the middle of a picture, metres."""
GREY, HIDDEN, WRONG = np.array([[0.78, 0.78, 0.78], [0.86, 0.45, 0.38], [0.75, 0.0, 0.05]])


def marked(visible: np.ndarray) -> np.ndarray:
    """(V, 3) colours: grey, and what is hidden in red."""
    return np.where(visible[:, None], GREY, HIDDEN)


def picture(
    head: HeadModel, verts: np.ndarray, colours: np.ndarray = GREY, zoom: float = 1.0,
    middle: tuple[float, float, float] = WHOLE,
) -> np.ndarray:  # fmt: skip
    """(SIDE, SIDE, 3) uint8 of a head (V, 3) in the head frame, turned a little to the side.

    Args:
      colours: (3,) or (V, 3) in [0, 1]. zoom: 1 shows a whole head. middle: what is in the middle.
    """
    turn = np.asarray(rotation_matrix(jnp.asarray([0.0, YAW, 0.0])), np.float64)
    moved = (np.asarray(verts, np.float64) - middle) @ turn.T
    colours = np.broadcast_to(colours, moved.shape)
    shown = _rendered(head, jnp.asarray(moved, jnp.float32), jnp.asarray(colours, jnp.float32), jnp.asarray(zoom))
    return np.rint(255 * np.clip(np.asarray(shown), 0, 1)).astype(np.uint8)


@jax.jit
def _rendered(head: HeadModel, verts: Array, colours: Array, zoom: Array) -> Array:
    """(SIDE, SIDE, 3) of colours at vertices, a lamp from above on the left, white behind."""
    camera = OrthographicCamera(4.0 * SIDE * zoom, jnp.asarray([0.5 * SIDE, 0.58 * SIDE]))
    fragments = rasterize(camera.project(verts), head.faces, (SIDE, SIDE), perspective=False, cull=True)
    both = jnp.concatenate([vertex_normals(verts, head.faces), colours], axis=-1)
    found = interpolate(both, head.faces, fragments)
    lamp = normalize(jnp.asarray([0.7, 0.5, 0.6]))
    bright = 0.3 + 0.8 * jnp.maximum(jnp.sum(normalize(found[..., :3]) * lamp[None, None], axis=-1, keepdims=True), 0)
    return jnp.where(fragments.face_index[..., None] >= 0, found[..., 3:] * bright, 1.0)


def save_sheet(sheet: list[tuple[str, list[np.ndarray]]], path: Path, note: str) -> None:
    """Write rows of (name, pictures of SIDE pixels) with their names before them and a note below. PNG or JPG."""
    width, height = LABEL + SIDE * max(len(line) for _, line in sheet), SIDE * len(sheet) + 24
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, (name, line) in enumerate(sheet):
        draw.text((6, SIDE * row + SIDE // 2), name, fill="black")
        for column, cell in enumerate(line):
            image.paste(Image.fromarray(cell), (LABEL + SIDE * column, SIDE * row))
    draw.text((6, height - 18), note, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)  # which a PNG ignores
