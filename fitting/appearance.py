"""Light and albedo: rendering at known visibility, and the light that explains a photo best."""

import jax.numpy as jnp
from jax import Array

from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel
from flamejax.render import ambient_light, fragment_geometry, interpolate, sample_texture, sh_basis, shade
from flamejax.render.rasterize import Fragments

LIGHT_RIDGE = 0.02
"""Strength of the pull towards ambient light, per pixel: bands that the visible skin does not show stay small."""
ROBUST_ROUNDS = 4
SKIN_REGIONS = ("face", "forehead", "nose", "lips", "eye_region")
"""Regions whose colours are compared; hair, neck and ears are too often something else than skin."""


def skin_triangles(head: HeadModel) -> Array:
    """(F,) float: 1 for triangles whose colour the photometric term compares."""
    skin = jnp.zeros(head.num_vertices, bool)
    for name in SKIN_REGIONS:
        skin |= head.regions[name]
    skin &= ~(head.regions["scalp"] | head.regions["neck"] | head.regions["boundary"])
    return jnp.all(skin[head.faces], axis=-1).astype(jnp.float32)


def surface(head: HeadModel, verts: Array, screen: Array, face_index: Array, texture: Array) -> tuple[Array, Array]:
    """Albedo and normals of one head at the pixels, differentiable at fixed visibility.

    verts (V, 3), screen (V, 3), face_index (H, W), texture (C,) -> albedo (H, W, 3), normals (H, W, 3).
    """
    barycentric, depth = fragment_geometry(screen, head.faces, face_index, perspective=False)
    fragments = Fragments(face_index, barycentric, depth)
    normals = normalize(interpolate(vertex_normals(verts, head.faces), head.faces, fragments))
    uv = interpolate(head.uv, head.uv_faces, fragments)
    return sample_texture(head.albedo(texture), uv), normals


def estimate_light(image: Array, albedo: Array, normals: Array, weights: Array, scale: float) -> Array:
    """Spherical-harmonics light by robust least squares (rendering is linear in it).

    Args:
      image, albedo, normals: (H, W, 3); weights: (H, W), 0 where the photo does not show skin.
      scale: colour difference at which a pixel begins to lose its say.

    Returns:
      (9, 3); ambient where nothing is visible.
    """
    basis, ambient = sh_basis(normals).reshape(-1, 9), ambient_light()
    colours, albedo = image.reshape(-1, 3), albedo.reshape(-1, 3)
    weights = weights.reshape(-1)
    light, say = ambient, weights
    for _ in range(ROBUST_ROUNDS):
        # One 9 x 9 system per colour channel.
        scaled = basis[:, None, :] * albedo[:, :, None]
        normal = jnp.einsum("pci,pcj,p->cij", scaled, scaled, say)
        right = jnp.einsum("pci,pc,p->ci", scaled, colours, say)
        ridge = LIGHT_RIDGE * (jnp.sum(say) + 1.0)
        solved = jnp.linalg.solve(normal + (ridge * jnp.eye(9))[None], (right + ridge * ambient.T)[..., None])
        light = solved[..., 0].T
        error = jnp.sum((colours - albedo * shade(normals.reshape(-1, 3), light)) ** 2, axis=-1)
        say = weights / (1.0 + error / scale**2) ** 2
    return light
