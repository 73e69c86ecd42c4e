"""Spherical-harmonics light: 9 real bands as in Ramamoorthi & Hanrahan 2001."""

import math

import jax
import jax.numpy as jnp
from jax import Array

BANDS = 9
AMBIENT = math.sqrt(4.0 * math.pi)
"""First coefficient of a light of intensity 1 from everywhere."""


def sh_basis(normals: Array) -> Array:
    """Orthonormal real spherical harmonics up to degree 2. normals: (*b, 3) unit -> (*b, 9).

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
    bands = (
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
    return jnp.stack(bands, axis=-1)


def ambient_light(batch: tuple[int, ...] = ()) -> Array:
    """White light of intensity 1 from everywhere: (*batch, 9, 3). A fit starts here; zero light is a black image."""
    return jnp.zeros((*batch, BANDS, 3)).at[..., 0, :].set(AMBIENT)


def shade(normals: Array, light: Array) -> Array:
    """Light that reaches a surface: normals (*b, ..., 3), light (*b, 9, 3) -> (*b, ..., 3) factors of the albedo.

    The light's coefficients are those of the irradiance (already convolved with the cosine lobe), display-encoded
    like the albedo.
    """
    batch = light.shape[:-2]
    basis = sh_basis(normals).reshape(*batch, -1, BANDS)
    return jnp.matmul(basis, light, precision=jax.lax.Precision.HIGHEST).reshape(normals.shape)
