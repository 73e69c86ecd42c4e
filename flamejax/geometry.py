"""Geometry of meshes and point sets: normals, edges, Laplacian, similarity transforms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax._checks import check_shape

HIGHEST = jax.lax.Precision.HIGHEST
MIN_VARIANCE = 1e-30
"""Square metres: lower limit of the source points' variance. If they all coincide, the fitted scale is 0."""


def normalize(vectors: Array, eps: float = 1e-12) -> Array:
    """Normalize vectors to unit length, (*b, 3) -> (*b, 3). A zero vector stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True) + eps * eps)


def triangle_normals(verts: Array, faces: Array) -> Array:
    """Returns area-weighted triangle normals: verts (*b, V, 3), faces (F, 3) -> (*b, F, 3), length = twice the area."""
    check_shape("verts", verts, "V", 3)
    check_shape("faces", faces, "F", 3, batched=False)
    corners = verts[..., faces, :]
    first, second = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    return jnp.cross(first, second)


@jax.jit
def vertex_normals(verts: Array, faces: Array) -> Array:
    """Returns unit vertex normals, weighted by triangle area. verts (*b, V, 3), faces (F, 3) -> (*b, V, 3)."""
    per_triangle = triangle_normals(verts, faces)
    per_corner = jnp.repeat(per_triangle, 3, axis=-2)
    total = jnp.zeros_like(verts).at[..., faces.reshape(-1), :].add(per_corner)
    return normalize(total)


def mesh_edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """List the edges of faces (F, 3) in both directions: senders, receivers (E,), sorted by receiver, then sender."""
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    receivers, senders = np.unique(np.concatenate([ends, ends[:, ::-1]]), axis=0).T
    distinct = senders != receivers
    return senders[distinct], receivers[distinct]


@jax.jit
def laplacian(signal: Array, senders: Array, receivers: Array) -> Array:
    """Apply the graph Laplacian: the mean of a vertex's neighbours minus the vertex; zero for isolated vertices.

    Args:
      signal: (*b, V, C).
      senders, receivers: (E,) the edges in both directions, sorted by receiver, as from `mesh_edges`.

    Returns:
      (*b, V, C).
    """
    by_vertex = jnp.moveaxis(signal, -2, 0)
    summed = functools.partial(
        jax.ops.segment_sum,
        segment_ids=jnp.asarray(receivers),
        num_segments=by_vertex.shape[0],
        indices_are_sorted=True,
    )
    degree = summed(jnp.ones(receivers.shape, signal.dtype)).reshape(-1, *(1,) * (signal.ndim - 1))
    mean = jnp.where(degree > 0, summed(by_vertex[senders]) / jnp.maximum(degree, 1), by_vertex)
    return jnp.moveaxis(mean - by_vertex, 0, -2)


@functools.partial(jax.jit, static_argnames="with_scale")
def similarity_transform(
    source: Array, target: Array, weights: Array | None = None, *, with_scale: bool = True
) -> tuple[Array, Array, Array]:
    """Fit a least-squares similarity to paired points (Umeyama 1991; Procrustes).

    Args:
      source, target: (*b, N, 3).
      weights: (*b, N), non-negative; equal when left out.
      with_scale: False fixes the scale at 1.

    Returns:
      scale (*b,), rotation (*b, 3, 3), translation (*b, 3) with target ~ scale * source @ rotation.T + translation.
      The rotation is proper (no reflection).

    Raises:
      ValueError: `source` and `target` are not both (*b, N, 3).
    """
    check_shape("source", source, "N", 3)
    check_shape("target", target, *source.shape[-2:])
    if weights is None:
        weights = jnp.ones(source.shape[:-1], source.dtype)
    return _umeyama(jnp, functools.partial(jnp.matmul, precision=HIGHEST), source, target, weights, with_scale)


def similarity_transform_double(source: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute `similarity_transform` with equal weights in double precision (NumPy), for metrics."""
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    return _umeyama(np, np.matmul, source, target, np.ones(source.shape[:-1]), True)


def _umeyama(xp: Any, product: Any, source: Any, target: Any, weights: Any, with_scale: bool) -> tuple[Any, Any, Any]:
    """Compute `similarity_transform` with `xp` (jax.numpy or numpy) and its matrix product."""
    weights = (weights / xp.sum(weights, axis=-1, keepdims=True))[..., None]
    source_mean = xp.sum(weights * source, axis=-2, keepdims=True)
    target_mean = xp.sum(weights * target, axis=-2, keepdims=True)
    centred = source - source_mean
    covariance = product(xp.swapaxes(target - target_mean, -1, -2), weights * centred)
    left, singular, right = xp.linalg.svd(covariance)
    sign = xp.sign(xp.linalg.det(product(left, right)))
    flip = xp.stack([xp.ones_like(sign), xp.ones_like(sign), sign], axis=-1)
    rotation = product(left * flip[..., None, :], right)
    variance = xp.maximum(xp.sum(weights * centred**2, axis=(-2, -1)), MIN_VARIANCE)
    scale = xp.sum(singular * flip, axis=-1) / variance if with_scale else xp.ones_like(sign)
    rotated = product(source_mean, xp.swapaxes(rotation, -1, -2))
    return scale, rotation, (target_mean - scale[..., None, None] * rotated)[..., 0, :]


@jax.jit
def apply_similarity(points: Array, scale: Array, rotation: Array, translation: Array) -> Array:
    """Returns scale * points @ rotation.T + translation: points (*b, N, 3) -> (*b, N, 3)."""
    rotated = jnp.einsum("...ij,...nj->...ni", rotation, points, precision=HIGHEST)
    return scale[..., None, None] * rotated + translation[..., None, :]
