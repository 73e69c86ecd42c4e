"""Axis-angle rotations that stay differentiable at the identity."""

import jax
import jax.numpy as jnp
from jax import Array


def rotation_matrix(axis_angle: Array) -> Array:
    """Convert axis-angle vectors to rotation matrices (Rodrigues' formula).

    Args:
      axis_angle: (*b, 3) radians.

    Returns:
      (*b, 3, 3). Values and first and second derivatives are finite at zero, where a Taylor series is used.
    """
    angle_squared = jnp.sum(axis_angle * axis_angle, axis=-1)[..., None, None]
    small = angle_squared < 1e-6
    # The inner where avoids sqrt at zero: the unselected branch must have finite derivatives too.
    safe_squared = jnp.where(small, 1.0, angle_squared)
    angle = jnp.sqrt(safe_squared)
    sine_term = jnp.where(small, 1.0 - angle_squared / 6.0, jnp.sin(angle) / angle)
    cosine_term = jnp.where(small, 0.5 - angle_squared / 24.0, (1.0 - jnp.cos(angle)) / safe_squared)
    skew = skew_matrix(axis_angle)
    square = jnp.matmul(skew, skew, precision=jax.lax.Precision.HIGHEST)
    identity = jnp.broadcast_to(jnp.eye(3, dtype=axis_angle.dtype), skew.shape)
    return identity + sine_term * skew + cosine_term * square


def skew_matrix(vector: Array) -> Array:
    """Returns cross-product matrices. vector: (*b, 3) -> (*b, 3, 3) with `skew_matrix(a) @ b == cross(a, b)`."""
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    rows = [jnp.stack(row, axis=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return jnp.stack(rows, axis=-2)


def axis_angle(matrix: Array) -> Array:
    """Convert rotation matrices to axis-angle vectors of angles up to pi: the inverse of `rotation_matrix`.

    Args:
      matrix: (*b, 3, 3) rotations.

    Returns:
      (*b, 3) radians. It goes through the quaternion's largest component, so it is accurate near angles of 0 and pi.
    """
    m = [[matrix[..., i, j] for j in range(3)] for i in range(3)]
    trace = m[0][0] + m[1][1] + m[2][2]
    # Rows: the quaternion (w, x, y, z) times four times its w, x, y or z; the longest row is well conditioned.
    odd = [m[2][1] - m[1][2], m[0][2] - m[2][0], m[1][0] - m[0][1]]
    even = [m[0][1] + m[1][0], m[0][2] + m[2][0], m[1][2] + m[2][1]]
    squares = [1 + trace, *(1 + 2 * m[i][i] - trace for i in range(3))]
    rows = [
        [squares[0], odd[0], odd[1], odd[2]],
        [odd[0], squares[1], even[0], even[1]],
        [odd[1], even[0], squares[2], even[2]],
        [odd[2], even[1], even[2], squares[3]],
    ]
    table = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    best = jnp.argmax(jnp.stack(squares, axis=-1), axis=-1)[..., None, None]
    row = jnp.take_along_axis(table, jnp.broadcast_to(best, (*best.shape[:-1], 4)), axis=-2)[..., 0, :]
    row = row * jnp.where(row[..., :1] < 0, -1.0, 1.0)
    sine = jnp.sqrt(jnp.sum(row[..., 1:] ** 2, axis=-1, keepdims=True))
    small = sine < 1e-6 * row[..., :1]
    angle = 2 * jnp.arctan2(sine, row[..., :1])
    # Near an angle of 0, angle / sine tends to 2 / w.
    return row[..., 1:] * jnp.where(small, 2 / row[..., :1], angle / jnp.where(small, 1.0, sine))
