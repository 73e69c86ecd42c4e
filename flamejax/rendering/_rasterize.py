"""Rasterization: the triangle, barycentrics and depth visible at each pixel.

Visibility is piecewise constant and computed without gradient (`visibility.py`). Barycentrics and depth are then
computed differentiably from the visible triangle. The gradient of visibility itself comes from `antialias`.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax import Array

from flamejax._checks import check_shape
from flamejax.rendering.visibility import visible_faces

SHORT_ROW = 32
"""Row length below which `materialize` copies the last two axes as one row."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Fragments:
    """The surface visible at each pixel's centre."""

    face_index: Array
    """(*b, H, W) int32, -1 where empty."""
    barycentric: Array
    """(*b, H, W, 3) weights of the triangle's vertices; zero where empty."""
    depth: Array
    """(*b, H, W) depth z of the surface; infinity where empty."""


@functools.partial(jax.jit, static_argnames=("size", "perspective", "cull", "near"))
def rasterize(
    screen: Array,
    faces: Array,
    size: tuple[int, int],
    *,
    perspective: bool = True,
    cull: bool = False,
    near: float = 1e-3,
) -> Fragments:
    """Rasterize triangle meshes.

    Args:
      screen: (*b, V, 3) x, y in pixels and depth z (nearer is smaller).
      faces: (F, 3) int32, shared by the batch.
      size: (H, W) pixels.
      perspective: interpolate with 1/z (a pinhole camera's depth); False for orthographic depth.
      cull: drop triangles seen from behind. A triangle that is counter-clockwise seen from outside in the world is
        clockwise in pixels with y down when it faces the camera.
      near: a triangle with a vertex at z <= near is dropped.

    Returns:
      The fragments. A pixel centre exactly on an edge shared by two triangles belongs to one of them (the top-left
      rule); of triangles at equal depth the one with the higher index wins. Gradients flow through barycentrics and
      depth, not through visibility.

    Raises:
      ValueError: if `screen` is not (*b, V, 3), `faces` not (F, 3), or the size is not positive.
    """
    check_shape("screen", screen, "V", 3)
    check_shape("faces", faces, "F", 3, batched=False)
    height, width = size
    if height <= 0 or width <= 0:
        raise ValueError(f"The image size must be positive, got {size}.")
    face_index = visible_faces(jax.lax.stop_gradient(screen), faces, (height, width), perspective, cull, near)
    barycentric, depth = fragment_geometry(screen, faces, face_index, perspective=perspective)
    return Fragments(face_index, barycentric, depth)


def fragment_geometry(screen: Array, faces: Array, face_index: Array, *, perspective: bool) -> tuple[Array, Array]:
    """Compute barycentrics and depth at pixel centres for known visibility, differentiably in `screen`.

    Args:
      screen: (*b, V, 3); faces: (F, 3); face_index: (*b, H, W) int32, -1 where empty.

    Returns:
      barycentric (*b, H, W, 3) and depth (*b, H, W), as in `Fragments`.
    """
    planes, origins, depths = _barycentric_planes(screen, faces, perspective)
    plane, origin = gather_rows(planes, face_index), gather_rows(origins, face_index)
    x, y = pixel_centres(*face_index.shape[-2:])
    right = jnp.broadcast_to(x, face_index.shape) - origin[..., 0]
    down = jnp.broadcast_to(y, face_index.shape) - origin[..., 1]
    # One array per channel until the end: XLA's CPU code for reductions over short axes is up to 50 times slower.
    weights = [plane[..., k] + plane[..., 3 + k] * right + plane[..., 6 + k] * down for k in range(3)]
    covered = face_index >= 0
    if perspective:
        total = jnp.where(covered, weights[0] + weights[1] + weights[2], 1.0)
        depth = 1.0 / total
        return materialize(jnp.stack([w * depth for w in weights], axis=-1)), jnp.where(covered, depth, jnp.inf)
    barycentric = materialize(jnp.stack(weights, axis=-1))
    corners = gather_rows(depths, face_index)
    depth = (
        barycentric[..., 0] * corners[..., 0]
        + barycentric[..., 1] * corners[..., 1]
        + barycentric[..., 2] * corners[..., 2]
    )
    return barycentric, jnp.where(covered, depth, jnp.inf)


def _barycentric_planes(screen: Array, faces: Array, perspective: bool) -> tuple[Array, Array, Array]:
    """Returns the barycentrics (divided by z if `perspective`) as affine functions of the pixel.

    screen (*b, V, 3), faces (F, 3) -> coefficients (*b, F, 9): values at an origin, slopes in x and in y, three weights
    each; origins (*b, F, 2): the first vertices without gradient, to avoid cancellation near the triangle; corner
    depths (*b, F, 3).
    """
    corners = jnp.take(screen, faces, axis=-2)  # (*b, F, 3, 3)
    origin = jax.lax.stop_gradient(corners[..., 0, :2])
    sides = corners[..., :2] - origin[..., None, :]
    x, y, z = sides[..., 0], sides[..., 1], corners[..., 2]
    (x1, x2), (y1, y2) = ((jnp.roll(a, -1, axis=-1), jnp.roll(a, -2, axis=-1)) for a in (x, y))
    value = x1 * y2 - y1 * x2  # twice the area that the origin spans with the opposite side
    area = jnp.sum(value, axis=-1, keepdims=True)
    usable = (area != 0) & jnp.all(jnp.isfinite(corners), axis=(-2, -1))[..., None]
    scale = jnp.where(usable, 1.0 / jnp.where(usable, area, 1.0), 0.0)
    if perspective:
        scale = scale / jnp.where(z != 0, z, 1.0)
    return jnp.concatenate([value * scale, (y1 - y2) * scale, (x2 - x1) * scale], axis=-1), origin, z


def gather_rows(rows: Array, face_index: Array) -> Array:
    """Gather each pixel's row of a per-triangle table, zero in empty pixels. Reads and gradient writes are contiguous.

    rows (*b, F, C) or (F, C), face_index (*b, H, W) -> (*b, H, W, C).
    """
    if rows.shape[-2] == 0:
        return jnp.zeros((*face_index.shape, rows.shape[-1]), rows.dtype)
    flat = materialize(rows.reshape(-1, rows.shape[-1]))
    index = face_index
    if rows.ndim > 2:
        images = jnp.arange(math.prod(face_index.shape[:-2])).reshape(*face_index.shape[:-2], 1, 1)
        index = index + rows.shape[-2] * images
    return flat.at[jnp.where(face_index >= 0, index, flat.shape[0])].get(mode="fill", fill_value=0)


def materialize(array: Array) -> Array:
    """Returns the array, stored in memory: XLA fuses neither it nor its gradient into its consumers.

    XLA's CPU compiler fuses a producer into each consumer and recomputes it for every element read, also through
    gathers. It drops `optimization_barrier` before that. It does not fuse scatters: a scatter of all rows costs a copy.
    The gather that follows does the same for the gradient, since its transpose is a scatter.
    """
    # Rows must be long to be copied fast, and several: a scatter of one row would become a plain update, and fuse.
    short = array.ndim > 2 and array.shape[-1] < SHORT_ROW
    rows = array.reshape(-1, math.prod(array.shape[-2:]) if short else array.shape[-1])
    index = jnp.arange(rows.shape[0])
    rows = jnp.zeros_like(rows).at[index].set(rows, unique_indices=True, indices_are_sorted=True)
    return (
        rows.at[index].get(unique_indices=True, indices_are_sorted=True, mode="promise_in_bounds").reshape(array.shape)
    )


def pixel_centres(height: int, width: int) -> tuple[Array, Array]:
    """Returns x (1, W) and y (H, 1) of the pixel centres."""
    return jnp.arange(width)[None] + 0.5, jnp.arange(height)[:, None] + 0.5
