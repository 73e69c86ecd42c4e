"""Textures of real skin for known heads: a photo's colours divided by the fitted light."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array

from fitting import Fit, Observation
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel
from flamejax.rendering import interpolate, rasterize, sample_texture, shade

FACING = (0.35, 0.6)
"""Component of the normal towards the camera: below the first, texels have the model's albedo, above the second, the
photo's."""
DARKEST_SHADE = 0.15
"""Minimum light to divide by, so that the photo's noise is not amplified too much."""


@functools.partial(jax.jit, static_argnames="side")
def skin_textures(head: HeadModel, fit: Fit, observation: Observation, side: int = 256) -> Array:
    """Estimate the albedo of photographed people where the photo shows it: colour over the fitted light.

    Texels that the photo does not show (turned away, masked, beyond its edge) have the fitted albedo of the model.
    Colours that the fitted light does not explain (cast shadows, highlights, make-up, hair, glasses) stay in the
    texture, so it is skin as in real photos rather than clean albedo.

    Args:
      fit, observation: one batch axis (B,). side: side of the textures, texels.

    Returns:
      (B, side, side, 3) in [0, 1], in the head's texture layout.
    """
    return jax.vmap(lambda f, o: _texture(head, f, o, side))(fit, observation)


def _texture(head: HeadModel, fit: Fit, observation: Observation, side: int) -> Array:
    flat = jnp.concatenate([head.uv * side, jnp.ones((head.uv.shape[0], 1))], axis=-1)
    # Rows of a texture run down, v runs up.
    flat = flat.at[:, 1].set(side - flat[:, 1])
    texels = rasterize(flat, head.uv_faces, (side, side), perspective=False, cull=False)
    normals = normalize(interpolate(vertex_normals(fit.vertices, head.faces), head.faces, texels))
    pixels = interpolate(fit.camera.project(fit.vertices), head.faces, texels)[..., :2]
    size = observation.image.shape[-2]
    uv = jnp.stack([pixels[..., 0] / size, 1.0 - pixels[..., 1] / size], axis=-1)
    colour = sample_texture(observation.image, uv)
    light = jnp.maximum(shade(normals, fit.light), DARKEST_SHADE)
    visible = interpolate(fit.vertex_visibility.astype(jnp.float32)[:, None], head.faces, texels)[..., 0]
    masked = sample_texture(observation.occlusion_mask[..., None], uv)[..., 0]
    facing = jnp.clip((normals[..., 2] - FACING[0]) / (FACING[1] - FACING[0]), 0.0, 1.0)
    weight = (facing * visible * (1.0 - masked) * (texels.face_index >= 0))[..., None]
    model = jax.image.resize(head.albedo(fit.texture), (side, side, 3), "linear")
    return jnp.clip(weight * colour / light + (1.0 - weight) * model, 0.0, 1.0)
