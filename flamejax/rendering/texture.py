"""Texture lookup and mip levels."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from flamejax.rendering._rasterize import Fragments, gather_rows

Wrap = Literal["clamp", "repeat", "mirror"]


@functools.partial(jax.jit, static_argnames="wrap")
def sample_texture(texture: Array, uv: Array, *, wrap: Wrap = "clamp", level: Array | None = None) -> Array:
    """Look up a texture bilinearly.

    Args:
      texture: (Ht, Wt, C), row 0 at the top.
      uv: (*b, 2) texture coordinates, v up: row = (1 - v) Ht. Texel centres lie at half-integers.
      wrap: outside [0, 1], repeat the border texel (clamp), the texture (repeat), or the texture and its mirror image
        in turn (mirror).
      level: (*b,) mip level, from `mip_level`; a fractional level blends the two nearest. Level 0 by default.

    Returns:
      (*b, C), differentiable in texture and uv, and in fractional levels.

    Raises:
      ValueError: if `wrap` is not one of the three.
    """
    if wrap not in ("clamp", "repeat", "mirror"):
        raise ValueError(f"wrap must be clamp, repeat or mirror, got {wrap!r}.")
    if level is None:
        return _bilinear(texture.reshape(-1, texture.shape[-1]), 0, texture.shape[0], texture.shape[1], uv, wrap)
    levels = mip_levels(texture)
    sizes = jnp.asarray([each.shape[:2] for each in levels])
    starts = jnp.cumsum(sizes[:, 0] * sizes[:, 1]) - sizes[:, 0] * sizes[:, 1]
    texels = jnp.concatenate([each.reshape(-1, texture.shape[-1]) for each in levels])
    level = jnp.clip(level, 0.0, len(levels) - 1.0)
    fine = jnp.floor(level).astype(jnp.int32)
    coarse = jnp.minimum(fine + 1, len(levels) - 1)
    near, far = (_bilinear(texels, starts[k], sizes[k, 0], sizes[k, 1], uv, wrap) for k in (fine, coarse))
    return near + (level - fine)[..., None] * (far - near)


@jax.jit
def mip_levels(texture: Array) -> list[Array]:
    """Returns the mip pyramid of a texture (Ht, Wt, C) down to one texel. An odd side repeats its last texel."""
    levels = [texture]
    while max(levels[-1].shape[:2]) > 1:
        image = levels[-1]
        for axis in range(2):
            if image.shape[axis] > 1:
                last = [(0, 0)] * 3
                last[axis] = (0, image.shape[axis] % 2)
                image = jnp.moveaxis(jnp.pad(image, last, mode="edge"), axis, 0)
                image = jnp.moveaxis(0.5 * (image[0::2] + image[1::2]), 0, axis)
        levels.append(image)
    return levels


@functools.partial(jax.jit, static_argnames="texture_size")
def mip_level(
    uv: Array, uv_faces: Array, screen: Array, faces: Array, fragments: Fragments, texture_size: tuple[int, int]
) -> Array:
    """Returns the level at which a texel is as large as a pixel, from each triangle's area in texels and in pixels.

    uv (N, 2), uv_faces (F, 3), screen (*b, V, 3), faces (F, 3), texture_size (Ht, Wt) -> (*b, H, W), at least 0.
    """

    def doubled_area(points: Array) -> Array:
        a, b = points[..., 1, :] - points[..., 0, :], points[..., 2, :] - points[..., 0, :]
        return jnp.abs(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])

    texels = doubled_area(uv[uv_faces]) * (texture_size[0] * texture_size[1])
    pixels = doubled_area(jnp.take(screen[..., :2], faces, axis=-2))
    ratio = jnp.broadcast_to(texels, pixels.shape) / jnp.maximum(pixels, 1e-6)
    return gather_rows(0.5 * jnp.log2(jnp.maximum(ratio, 1.0))[..., None], fragments.face_index)[..., 0]


def _bilinear(
    texels: Array, start: Array | int, height: Array | int, width: Array | int, uv: Array, wrap: str
) -> Array:
    """Interpolate in texels (N, C), which contain a height x width image from row `start` on. uv (*b, 2).

    start, height and width are (*b,) or scalars.
    """
    column, row = uv[..., 0] * width - 0.5, (1.0 - uv[..., 1]) * height - 0.5
    if wrap == "clamp":
        column, row = jnp.clip(column, 0.0, width - 1.0), jnp.clip(row, 0.0, height - 1.0)
    left, top = jnp.floor(column), jnp.floor(row)
    across, down = (column - left)[..., None], (row - top)[..., None]
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)

    def texel(i: Array, j: Array) -> Array:
        return texels[start + _wrap_index(i, height, wrap) * width + _wrap_index(j, width, wrap)]

    upper = texel(top, left) * (1 - across) + texel(top, left + 1) * across
    lower = texel(top + 1, left) * (1 - across) + texel(top + 1, left + 1) * across
    return upper * (1 - down) + lower * down


def _wrap_index(index: Array, size: Array | int, wrap: str) -> Array:
    """Map texel indices into the image."""
    if wrap == "clamp":
        return jnp.clip(index, 0, size - 1)
    if wrap == "repeat":
        return index % size
    inside = index % (2 * size)
    return jnp.minimum(inside, 2 * size - 1 - inside)
