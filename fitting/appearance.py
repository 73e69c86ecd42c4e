"""Albedo and normals at the pixels for fixed visibility, and light estimated from a photo by least squares."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel, HeadParams, landmarks
from flamejax.rendering import Fragments, ambient_light, fragment_geometry, interpolate, sample_texture, sh_basis, shade

BAND_SIGMA = (1.0, 0.8, 0.8, 0.8, 0.25, 0.25, 0.25, 0.25, 0.25)
"""Prior deviation of the light's bands from ambient light: with little visible skin, high bands must stay bounded."""
TINT_SIGMA = 0.15
"""Prior deviation of a channel from the mean over channels, in units of `BAND_SIGMA`: light is near white."""
LIGHT_RIDGE = 0.001
"""Weight of the prior in `estimate_light`, relative to the sum of the pixels' weights."""
ROBUST_ROUNDS = (8.0, 4.0, 2.0, 1.0, 1.0)
"""Factors on the robust scale, coarse to fine: at the fine scale every pixel would be an outlier at first."""
SKIN_REGIONS = ("face", "forehead", "nose", "lips", "eye_region")
"""Regions whose colours are compared; scalp, neck and ears are often covered by something other than skin."""
NOT_FACE_REGIONS = ("scalp", "neck", "boundary")

BROWS = slice(17, 27)
BROW_REACH = 0.009
"""Metres. Brows vary in shape and position more than the albedo basis can express; comparing their colours would
distort the geometry."""


def skin_triangles(head: HeadModel) -> Array:
    """(F,) float: 1 for triangles whose colour the photometric term compares."""
    # Excluded: triangles near a brow landmark of the mean head, or near the middle between two.
    brows = landmarks(head, HeadParams.zeros(head))[BROWS]
    points = jnp.concatenate([brows, 0.5 * (brows[:-1] + brows[1:])[jnp.asarray([0, 1, 2, 3, 5, 6, 7, 8])]])
    squared = jnp.sum((head.v_template[:, None] - points[None]) ** 2, axis=-1)
    return region_triangles(head, SKIN_REGIONS, jnp.min(squared, axis=-1) >= BROW_REACH**2)


def region_triangles(head: HeadModel, names: Sequence[str], allowed: Array | bool = True) -> Array:
    """(F,) float: 1 for triangles whose vertices are all `allowed` (V,) bool, in one of the named regions, and not in
    `NOT_FACE_REGIONS`."""
    inside, outside = (jnp.any(jnp.stack([head.regions[n] for n in s]), axis=0) for s in (names, NOT_FACE_REGIONS))
    return jnp.all((inside & ~outside & allowed)[head.faces], axis=-1).astype(jnp.float32)


def surface_at_pixels(
    head: HeadModel, verts: Array, screen: Array, face_index: Array, texture: Array
) -> tuple[Array, Array]:
    """Return albedo and normals of one head at the pixels, differentiable at fixed visibility.

    verts (V, 3), screen (V, 3), face_index (H, W), texture (C,) -> albedo (H, W, 3), normals (H, W, 3).
    """
    fragments = Fragments(face_index, *fragment_geometry(screen, head.faces, face_index, perspective=False))
    normals = normalize(interpolate(vertex_normals(verts, head.faces), head.faces, fragments))
    uv = interpolate(head.uv, head.uv_faces, fragments)
    return sample_texture(head.albedo(texture), uv), normals


def light_prior_residuals(light: Array) -> Array:
    """Return the residuals (36,) of the prior that light (9, 3) is near ambient and near white, standard deviations."""
    sigma = jnp.asarray(BAND_SIGMA)[:, None]
    grey = jnp.mean(light, axis=-1, keepdims=True)
    level = (grey - ambient_light()[:, :1]) / sigma
    return jnp.concatenate([level.reshape(-1), ((light - grey) / (TINT_SIGMA * sigma)).reshape(-1)])


def estimate_light(image: Array, albedo: Array, normals: Array, weights: Array, scale: float) -> Array:
    """Estimate spherical-harmonics light by robust least squares (rendering is linear in the light).

    Args:
      image, albedo, normals: (H, W, 3); weights: (H, W), 0 where the photo does not show skin.
      scale: colour difference from which a pixel is downweighted as an outlier.

    Returns:
      (9, 3); ambient light if all weights are 0.
    """
    basis, ambient = sh_basis(normals).reshape(-1, 9), ambient_light()
    colours, albedo = image.reshape(-1, 3), albedo.reshape(-1, 3)
    weights = weights.reshape(-1)
    light, robust_weights = ambient, weights
    for factor in ROBUST_ROUNDS:
        # One 9 x 9 system per colour channel.
        scaled = basis[:, None, :] * albedo[:, :, None]
        normal = jnp.einsum("pci,pcj,p->cij", scaled, scaled, robust_weights)
        rhs = jnp.einsum("pci,pc,p->ci", scaled, colours, robust_weights)
        ridge = LIGHT_RIDGE * (jnp.sum(robust_weights) + 1.0) / jnp.asarray(BAND_SIGMA) ** 2
        solution = jnp.linalg.solve(normal + jnp.diag(ridge)[None], (rhs + ridge[None] * ambient.T)[..., None])
        light = solution[..., 0].T
        error = jnp.sum((colours - albedo * shade(normals.reshape(-1, 3), light)) ** 2, axis=-1)
        robust_weights = weights / (1.0 + error / (factor * scale) ** 2) ** 2
    return light
