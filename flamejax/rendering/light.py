"""Spherical-harmonics light with 9 real coefficients (Ramamoorthi & Hanrahan 2001), and a directional lamp."""

import math

import jax
import jax.numpy as jnp
from jax import Array

NUM_HARMONICS = 9
CLAY_LAMP, CLAY_GREY = (0.298, 0.447, 0.844), 0.78
"""Direction to the lamp, a unit vector in the world, and albedo of `clay`."""
AMBIENT = math.sqrt(4.0 * math.pi)
"""First coefficient of a light of intensity 1 from all directions."""


def sh_basis(normals: Array) -> Array:
    """Evaluate orthonormal real spherical harmonics up to degree 2. normals: (*b, 3) unit -> (*b, 9).

    Order: Y00, Y1-1 (y), Y10 (z), Y11 (x), Y2-2 (xy), Y2-1 (yz), Y20 (3z^2 - 1), Y21 (xz), Y22 (x^2 - y^2).
    """
    x, y, z = normals[..., 0], normals[..., 1], normals[..., 2]
    first, second, third, fourth, fifth = (
        math.sqrt(1 / (4 * math.pi)),
        math.sqrt(3 / (4 * math.pi)),
        math.sqrt(15 / (4 * math.pi)),
        math.sqrt(5 / (16 * math.pi)),
        math.sqrt(15 / (16 * math.pi)),
    )
    harmonics = (
        jnp.full_like(x, first),
        second * y,
        second * z,
        second * x,
        third * x * y,
        third * y * z,
        fourth * (3 * z * z - 1),
        third * x * z,
        fifth * (x * x - y * y),
    )
    return jnp.stack(harmonics, axis=-1)


def ambient_light(batch: tuple[int, ...] = ()) -> Array:
    """Returns white light of intensity 1 from all directions, (*batch, 9, 3): the start of a fit."""
    return jnp.zeros((*batch, NUM_HARMONICS, 3)).at[..., 0, :].set(AMBIENT)


@jax.jit
def shade(normals: Array, light: Array) -> Array:
    """Returns a surface's irradiance: normals (*b, ..., 3), light (*b, 9, 3) -> (*b, ..., 3) factors of the albedo.

    The light's coefficients are those of the irradiance (already convolved with the cosine lobe), display-encoded
    like the albedo.
    """
    batch = light.shape[:-2]
    basis = sh_basis(normals).reshape(*batch, -1, NUM_HARMONICS)
    return jnp.matmul(basis, light, precision=jax.lax.Precision.HIGHEST).reshape(normals.shape)


@jax.jit
def shade_directional(normals: Array, direction: Array, colour: Array) -> Array:
    """Returns the light of a distant lamp on a Lambertian surface: the cosine, clamped at zero.

    Args:
      normals: (*b, ..., 3) unit.
      direction: (*b, 3) from the surface to the lamp, of any non-zero length.
      colour: (*b, 3) factors of the albedo for a surface that faces the lamp.

    Returns:
      (*b, ..., 3), to be added to other lights.
    """
    batch, ones = direction.shape[:-1], (1,) * (normals.ndim - direction.ndim)
    unit = (direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)).reshape(*batch, *ones, 3)
    cosine = sum(normals[..., k] * jnp.broadcast_to(unit[..., k], normals.shape[:-1]) for k in range(3))
    return jnp.maximum(cosine, 0.0)[..., None] * colour.reshape(*batch, *ones, 3)


def clay(_attributes: Array, normals: Array) -> Array:
    """Shade grey clay under a lamp from above and the side: normals (*b, H, W, 3) -> (*b, H, W, 3)."""
    x, y, z = CLAY_LAMP
    cosine = jnp.maximum(x * normals[..., :1] + y * normals[..., 1:2] + z * normals[..., 2:], 0.0)
    return jnp.broadcast_to(CLAY_GREY * (0.3 + 0.75 * cosine), normals.shape)
