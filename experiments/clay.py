"""Small clay-like renders of heads with a colour per vertex, and contact sheets of them."""

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
CAPTION_HEIGHT = 16
"""Pixels above each picture of `arrange_grid`, for its caption."""
LABEL_WIDTH = 110
"""Pixels before each row of `save_rows`, for its name."""


@dataclasses.dataclass(frozen=True)
class ClayView:
    """Camera and light of a clay render; by default of a full head in the head frame, turned slightly."""

    scale: float = 4.0
    """Pixels per metre, divided by the pixels of the picture's side."""
    middle: tuple[float, float, float] = (0.0, 0.12, 0.06)
    """Metres: the point that heads are rotated about."""
    position: tuple[float, float] = (0.5, 0.58)
    """Position of that point in the picture, from the left and from the top, divided by the picture's side."""
    yaw: float = 0.4
    """Radians about the vertical axis."""
    light: tuple[float, float, float] = (0.7, 0.5, 0.6)
    """Direction towards the light, of any length."""
    ambient: float = 0.3
    diffuse: float = 0.8
    background: float = 1.0
    """Grey level in [0, 1]."""


def clay_pictures(
    faces: np.ndarray | Array, heads: np.ndarray, colours: np.ndarray | None = None, side: int = 256,
    view: ClayView | None = None,
) -> np.ndarray:  # fmt: skip
    """Render heads with smooth shading, one at a time, so that any number of them needs one compilation.

    Args:
      faces: (F, 3) vertices of each triangle.
      heads: (N, V, 3) metres.
      colours: (3,), (V, 3) or (N, V, 3) in [0, 1] at the vertices; grey by default.
      side: width and height of a picture, pixels.
      view: camera and light; `ClayView()` by default.

    Returns:
      (N, side, side, 3) uint8.
    """
    view = view or ClayView()
    rotation = np.asarray(rotation_matrix(jnp.asarray([0.0, view.yaw, 0.0])), np.float64)
    verts = ((np.asarray(heads, np.float64) - view.middle) @ rotation.T).astype(np.float32)
    colours = np.broadcast_to(GREY if colours is None else colours, verts.shape).astype(np.float32)
    camera = OrthographicCamera(jnp.asarray(view.scale * side), jnp.asarray(view.position) * side)
    lighting = jnp.asarray(view.light), jnp.asarray([view.ambient, view.diffuse, view.background])
    pictures = np.empty((len(verts), side, side, 3), np.uint8)
    for picture, head, colour in zip(pictures, verts, colours, strict=True):
        image = np.asarray(_shade(jnp.asarray(faces), jnp.asarray(head), jnp.asarray(colour), camera, *lighting, side))
        picture[:] = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1))
    return pictures


@jax.jit(static_argnames="side")
def _shade(
    faces: Array, verts: Array, colours: Array, camera: OrthographicCamera, light: Array, levels: Array, side: int
) -> Array:
    """Render one head, (side, side, 3). levels (3,): ambient light, diffuse light, background."""
    fragments = rasterize(camera.project(verts), faces, (side, side), perspective=False, cull=True)
    attributes = jnp.concatenate([vertex_normals(verts, faces), colours], axis=-1)
    pixels = interpolate(attributes, faces, fragments)
    cosine = jnp.sum(normalize(pixels[..., :3]) * normalize(light)[None, None], axis=-1, keepdims=True)
    brightness = levels[0] + levels[1] * jnp.maximum(cosine, 0)
    return jnp.where(fragments.face_index[..., None] >= 0, pixels[..., 3:] * brightness, levels[2])


def arrange_grid(pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int) -> Image.Image:
    """Arrange pictures (side, side, 3) uint8 in rows of `columns`, with a caption above each."""
    side, rows = len(pictures[0]), -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * (side + CAPTION_HEIGHT)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for k, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = k % columns * side, k // columns * (side + CAPTION_HEIGHT)
        draw.text((x + 4, y + 1), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(picture), (x, y + CAPTION_HEIGHT))
    return sheet


def save_rows(rows: Sequence[tuple[str, Sequence[np.ndarray]]], path: Path, note: str) -> None:
    """Save rows of pictures (side, side, 3) uint8 as PNG or JPG, with each row's name before it and a note below."""
    side = len(rows[0][1][0])
    width, height = LABEL_WIDTH + side * max(len(pictures) for _, pictures in rows), side * len(rows) + 24
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    for row, (name, pictures) in enumerate(rows):
        draw.text((6, side * row + side // 2), name, fill="black")
        for column, picture in enumerate(pictures):
            image.paste(Image.fromarray(picture), (LABEL_WIDTH + side * column, side * row))
    draw.text((6, height - 18), note, fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=90)  # PNG ignores the quality
