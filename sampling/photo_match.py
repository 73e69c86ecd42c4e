"""How well heads explain the photo they were fitted to (Diverse3DFace, Eq. 12), and which way they would explain it
better."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from fitting.appearance import skin_triangles, surface
from fitting.photometric_fit import photometric_energy, pixel_weights, reduced
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel
from flamejax.rendering import rasterize, shade
from flamejax.types import Fit, Observation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PhotoTerm:
    """One photo with the camera, texture and light of its fit, at the resolution that is compared."""

    image: Array
    """(R, R, 3)"""
    allowed: Array
    """(R, R) 1 = face and not hidden: M_f (1 - M_o)."""
    skin: Array
    """(F,) 1 for triangles whose colours are compared."""
    camera: OrthographicCamera
    """World -> pixels of `image`."""
    texture: Array
    """(C,)"""
    light: Array
    """(9, 3)"""


def photo_term(head: HeadModel, fit: Fit, observation: Observation, size: int) -> PhotoTerm:
    """Of one photo, its image reduced to `size` pixels."""
    ratio = size / observation.image.shape[-2]
    observation = dataclasses.replace(observation, image=jnp.nan_to_num(observation.image))
    return PhotoTerm(
        *reduced(observation, size),
        skin_triangles(head),
        OrthographicCamera(fit.camera.scale * ratio, fit.camera.translation * ratio),
        fit.texture,
        fit.light,
    )


def seen_triangles(head: HeadModel, term: PhotoTerm, vertices: Array) -> Array:
    """(R, R) int32 for one head (V, 3) world: the triangle each pixel sees, -1 where empty."""
    size = term.image.shape[0]
    return rasterize(term.camera.project(vertices), head.faces, (size, size), perspective=False, cull=True).face_index


def photometric(head: HeadModel, term: PhotoTerm, vertices: Array, face_index: Array, scale: float | None) -> Array:
    """Mean robust colour difference over visible skin, at fixed visibility, for one head: () (see
    `photometric_energy`; without a `scale` it does not level off)."""
    screen = term.camera.project(vertices)
    albedo, normals = surface(head, vertices, screen, face_index, term.texture)
    weights = pixel_weights(face_index, term.skin, term.allowed)
    difference = term.image - albedo * shade(normals, term.light)
    return photometric_energy(difference, weights, math.inf if scale is None else scale)


def photometric_pull(head: HeadModel, term: PhotoTerm, heads: Array, scale: float | None) -> Array:
    """Derivative of `photometric` with respect to the vertices of heads of one photo, each at its own visibility:
    (M, V, 3) -> (M, V, 3). Not finite numbers count as none."""
    seen = jax.vmap(lambda vertices: seen_triangles(head, term, vertices))(heads)
    photometric_gradient = jax.vmap(jax.grad(lambda vertices, faces: photometric(head, term, vertices, faces, scale)))(heads, seen)
    return jnp.nan_to_num(photometric_gradient, posinf=0.0, neginf=0.0)
