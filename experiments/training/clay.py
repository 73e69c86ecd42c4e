"""Small pictures of meshes as grey clay, or in colours, for what training shows of itself."""

from __future__ import annotations

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from PIL import Image

from flamejax.camera import OrthographicCamera
from flamejax.geometry import vertex_normals
from flamejax.head import rotation_matrix
from flamejax.rendering import interpolate, rasterize, shade_directional

YAW = 0.3
BEHIND = 1e3
"""Metres towards the camera and past it: triangles that lie there are not drawn."""
GREY, AMBIENT, LAMP = 0.78, 0.3, 0.75


def clay(
    faces: Array, points: ArrayLike, centre: ArrayLike, height: float, side: int, *,
    colours: ArrayLike | None = None, visible: Array | None = None,
) -> Image.Image:  # fmt: skip
    """A mesh (V, 3), turned a little to the side, before white.

    Args:
      centre: (3,) what is in the middle. height: of what fills the picture; both in the points' unit.
      side: pixels.
      colours: (V, 3) in [0, 1], shown as they are; grey clay under a lamp when left out.
      visible: (V,) bool: triangles that others have part in are left out.
    """
    placed = jnp.asarray(points, jnp.float32)
    normals = vertex_normals(placed, faces)
    if visible is not None:
        placed = placed.at[:, 2].set(jnp.where(visible, placed[:, 2], BEHIND))
    shown = jnp.full_like(placed, GREY) if colours is None else jnp.asarray(colours, jnp.float32)
    # Four pixels for each, so that edges are smooth.
    scale = jnp.asarray(1.2 * 2 * side / height, jnp.float32)
    drawn = _drawn(faces, placed - jnp.asarray(centre)[None], normals, shown, scale, 2 * side, colours is None)
    small = np.asarray(drawn).reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
    return Image.fromarray(np.round(255 * np.clip(small, 0, 1)).astype(np.uint8))


@functools.partial(jax.jit, static_argnums=(5, 6))
def _drawn(faces: Array, points: Array, normals: Array, colours: Array, scale: Array, side: int, lit: bool) -> Array:
    turn = rotation_matrix(jnp.asarray([0.0, YAW, 0.0]))
    camera = OrthographicCamera(scale, jnp.asarray([0.44 * side, 0.55 * side]))
    fragments = rasterize(camera.project(points @ turn.T), faces, (side, side), perspective=False, cull=True)
    found = interpolate(jnp.concatenate([normals @ turn.T, colours], axis=-1), faces, fragments)
    image = found[..., 3:]
    if lit:
        lamp = shade_directional(found[..., :3], jnp.asarray([0.3, 0.45, 0.85]), jnp.full(3, LAMP))
        image = image * (AMBIENT + lamp)
    return jnp.where(fragments.face_index[..., None] >= 0, image, 1.0)


def jpeg(picture: Image.Image, quality: int = 82) -> bytes:
    """As a JPEG file's content."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality, optimize=True)
    return buffer.getvalue()
