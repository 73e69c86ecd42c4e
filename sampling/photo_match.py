"""The photometric loss of heads against the photo they were fitted to (Diverse3DFace, Eq. 12), and its gradient."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax import Array

from fitting.appearance import skin_triangles, surface_at_pixels
from fitting.photometric_fit import downsample_photo, photometric_energy, pixel_weights
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel
from flamejax.rendering import rasterize, shade
from flamejax.types import Fit, Observation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PhotoTerm:
    """A photo with the camera, texture and light of its fit, at the resolution of the photometric loss."""

    image: Array
    """(R, R, 3) RGB in [0, 1]."""
    mask: Array
    """(R, R) 1 at visible face pixels, M_f (1 - M_o), otherwise 0."""
    skin: Array
    """(F,) 1 for triangles of skin, whose colours are compared."""
    camera: OrthographicCamera
    """World -> pixels of `image`."""
    texture: Array
    """(C,) albedo coefficients."""
    light: Array
    """(9, 3) spherical harmonics."""


def photo_term(head: HeadModel, fit: Fit, observation: Observation, size: int) -> PhotoTerm:
    """Make the `PhotoTerm` of one photo, with the image downsampled to `size` pixels."""
    ratio = size / observation.image.shape[-2]
    observation = dataclasses.replace(observation, image=jnp.nan_to_num(observation.image))
    return PhotoTerm(
        *downsample_photo(observation, size),
        skin_triangles(head),
        OrthographicCamera(fit.camera.scale * ratio, fit.camera.translation * ratio),
        fit.texture,
        fit.light,
    )


def visible_face_index(head: HeadModel, term: PhotoTerm, vertices: Array) -> Array:
    """Return the index (R, R) int32 of the triangle visible in each pixel, -1: none, for one head (V, 3), world."""
    size = term.image.shape[0]
    return rasterize(term.camera.project(vertices), head.faces, (size, size), perspective=False, cull=True).face_index


def photometric_loss(
    head: HeadModel, term: PhotoTerm, vertices: Array, face_index: Array, scale: float | None
) -> Array:
    """Return the mean robust colour difference over visible skin, at fixed visibility, for one head: (). See
    `photometric_energy`; without a `scale` it does not saturate."""
    screen = term.camera.project(vertices)
    albedo, normals = surface_at_pixels(head, vertices, screen, face_index, term.texture)
    weights = pixel_weights(face_index, term.skin, term.mask)
    difference = term.image - albedo * shade(normals, term.light)
    return photometric_energy(difference, weights, math.inf if scale is None else scale)


def photometric_gradient(head: HeadModel, term: PhotoTerm, heads: Array, scale: float | None) -> Array:
    """Return the gradient of `photometric_loss` with respect to vertices (M, V, 3) of heads of one photo, each at its
    own fixed visibility. Values that are not finite become 0."""

    def gradient(vertices: Array) -> Array:
        face_index = visible_face_index(head, term, vertices)
        return jax.grad(lambda verts: photometric_loss(head, term, verts, face_index, scale))(vertices)

    return jnp.nan_to_num(jax.vmap(gradient)(heads), posinf=0.0, neginf=0.0)
