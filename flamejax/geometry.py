"""Small geometry on meshes and point sets."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

HIGHEST = jax.lax.Precision.HIGHEST


def normalize(vectors: Array, eps: float = 1e-12) -> Array:
    """Unit vectors, (*b, 3) -> (*b, 3). A zero vector stays zero, with a finite gradient."""
    return vectors * jax.lax.rsqrt(jnp.sum(vectors * vectors, axis=-1, keepdims=True) + eps * eps)


def triangle_normals(verts: Array, faces: Array) -> Array:
    """Area-weighted normals of triangles: verts (*b, V, 3), faces (F, 3) -> (*b, F, 3), length = twice the area."""
    corners = verts[..., faces, :]
    first, second = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    return jnp.cross(first, second)


@jax.jit
def vertex_normals(verts: Array, faces: Array) -> Array:
    """Unit vertex normals, weighted by triangle area. verts (*b, V, 3), faces (F, 3) -> (*b, V, 3)."""
    per_triangle = triangle_normals(verts, faces)
    per_corner = jnp.repeat(per_triangle, 3, axis=-2)
    total = jnp.zeros_like(verts).at[..., faces.reshape(-1), :].add(per_corner)
    return normalize(total)


@functools.partial(jax.jit, static_argnames="with_scale")
def similarity_transform(
    source: Array, target: Array, weights: Array | None = None, *, with_scale: bool = True
) -> tuple[Array, Array, Array]:
    """Least-squares similarity from paired points (Umeyama 1991; Procrustes).

    Args:
      source, target: (*b, N, 3).
      weights: (*b, N), non-negative; equal when left out.
      with_scale: False fixes the scale at 1.

    Returns:
      scale (*b,), rotation (*b, 3, 3), translation (*b, 3) with target ~ scale * source @ rotation.T + translation.
      The rotation is proper (no reflection).
    """
    if weights is None:
        weights = jnp.ones(source.shape[:-1], source.dtype)
    weights = (weights / jnp.sum(weights, axis=-1, keepdims=True))[..., None]
    source_mean = jnp.sum(weights * source, axis=-2, keepdims=True)
    target_mean = jnp.sum(weights * target, axis=-2, keepdims=True)
    centred_source, centred_target = source - source_mean, target - target_mean
    covariance = jnp.einsum("...ni,...nj->...ij", centred_target, weights * centred_source, precision=HIGHEST)
    left, singular, right = jnp.linalg.svd(covariance)
    sign = jnp.sign(jnp.linalg.det(jnp.matmul(left, right, precision=HIGHEST)))
    flip = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], axis=-1)
    rotation = jnp.matmul(left * flip[..., None, :], right, precision=HIGHEST)
    spread = jnp.sum(weights * centred_source**2, axis=(-2, -1))
    scale = jnp.sum(singular * flip, axis=-1) / spread if with_scale else jnp.ones_like(sign)
    moved = jnp.einsum("...ij,...nj->...ni", rotation, source_mean, precision=HIGHEST)
    translation = target_mean - scale[..., None, None] * moved
    return scale, rotation, translation[..., 0, :]


@jax.jit
def apply_similarity(points: Array, scale: Array, rotation: Array, translation: Array) -> Array:
    """scale * points @ rotation.T + translation: points (*b, N, 3) -> (*b, N, 3)."""
    moved = jnp.einsum("...ij,...nj->...ni", rotation, points, precision=HIGHEST)
    return scale[..., None, None] * moved + translation[..., None, :]
