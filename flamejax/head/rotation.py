"""Axis-angle rotations that stay differentiable at the identity."""

import jax
import jax.numpy as jnp
from jax import Array


def rotation_matrix(axis_angle: Array) -> Array:
    """Rotation matrices of axis-angle vectors (Rodrigues' formula).

    Args:
      axis_angle: (*b, 3) radians.

    Returns:
      (*b, 3, 3). Values and first and second derivatives are finite at zero, where the Taylor series takes over.
    """
    angle_squared = jnp.sum(axis_angle * axis_angle, axis=-1)[..., None, None]
    small = angle_squared < 1e-6
    # The inner where keeps sqrt away from zero: the untaken branch must have finite derivatives too.
    safe_squared = jnp.where(small, 1.0, angle_squared)
    angle = jnp.sqrt(safe_squared)
    sine_term = jnp.where(small, 1.0 - angle_squared / 6.0, jnp.sin(angle) / angle)
    cosine_term = jnp.where(small, 0.5 - angle_squared / 24.0, (1.0 - jnp.cos(angle)) / safe_squared)
    skew = skew_matrix(axis_angle)
    square = jnp.matmul(skew, skew, precision=jax.lax.Precision.HIGHEST)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=axis_angle.dtype), skew.shape)
    return identity + sine_term * skew + cosine_term * square


def skew_matrix(vector: Array) -> Array:
    """Cross-product matrices. vector: (*b, 3) -> (*b, 3, 3) with `skew_matrix(a) @ b == cross(a, b)`."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = [jnp.stack(row, axis=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return jnp.stack(rows, axis=-2)
