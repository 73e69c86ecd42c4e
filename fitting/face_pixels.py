"""Render maps of a fitted head at a photo's pixels (albedo, normals, colour spread), and fit light and albedo."""

import dataclasses

import jax.numpy as jnp
from einops import rearrange
from jax import Array

from fitting.appearance import BAND_SIGMA, BROWS, TINT_SIGMA, estimate_light, region_triangles
from fitting.label_smoothing import dilate, fill_holes
from fitting.landmark_fit import GeometryParams
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel, HeadParams, landmarks, vertices
from flamejax.rendering import ambient_light, interpolate, rasterize, sample_texture, sh_basis, shade

FACE_REGIONS = ("face", "forehead", "nose", "lips", "eye_region", "left_eyeball", "right_eyeball")
SPREAD_FACTORS = (
    (BROWS, 0.009, 2.0, 1.3),
    (slice(36, 42), 0.010, 2.5, 2.0),
    (slice(42, 48), 0.010, 2.5, 2.0),
    (slice(31, 36), 0.007, 1.7, 1.3),
    (slice(48, 68), 0.008, 1.4, 1.5),
    (slice(60, 68), 0.006, 4.0, 3.0),
)
"""(landmarks, reach in metres, factor on the spread of intensity, factor on that of colour) where the albedo basis is
too poor: brows, right eye, left eye, nostrils, lips, and the inside of the mouth with the teeth."""
FACTOR_REACH = 0.02
"""Share of the crop's side by which the factors are dilated: features may be misplaced, and teeth lie deep."""
ALBEDO_SIGMA = 0.08
"""Standard deviation of a pixel's colour about the model; the priors of light and albedo are in standard deviations."""
INDEPENDENT_PIXELS = 400.0
"""Number of independent pixels that the whole face counts as: errors of neighbours are correlated."""
CAST_SIGMA = 0.5
"""Prior deviation of a channel's ambient band from the mean over channels, in units of `BAND_SIGMA`. A photo's colour
cast is free, so this is wider than `TINT_SIGMA`, which holds for the other bands."""
LIGHT_ROUNDS = 3
"""Number of reweighted solves for the light."""


@dataclasses.dataclass(frozen=True)
class FacePixels:
    """Maps of one fitted head at every pixel of an (R, R) image."""

    head: Array
    """(R, R), 1 = the head's silhouette."""
    face: Array
    """(R, R), 1 = the face."""
    albedo_mean: Array
    """(R, R, 3)"""
    albedo_basis: Array
    """(R, R, C, 3)"""
    normals: Array
    """(R, R, 3)"""
    spread_factors: Array
    """(R, R, 2) factors on the spread of intensity and of colour."""


def face_triangles(head: HeadModel) -> Array:
    """(F,) float: 1 for triangles of the face, including the eyes but not neck, ears and scalp."""
    return region_triangles(head, FACE_REGIONS)


def vertex_spread_factors(head: HeadModel) -> Array:
    """(V, 2) factors on the spread of intensity and of colour, smooth over the mean head."""
    points = landmarks(head, HeadParams.zeros(head))
    factors = jnp.ones((head.num_vertices, 2))
    for which, reach, intensity, colour in SPREAD_FACTORS:
        squared = jnp.sum((head.v_template[:, None] - points[which][None]) ** 2, axis=-1)
        near = jnp.exp(-0.5 * jnp.min(squared, axis=-1) / reach**2)[:, None]
        factors = jnp.maximum(factors, 1.0 + near * (jnp.asarray([[intensity, colour]]) - 1.0))
    return factors


def render_face_maps(head: HeadModel, geometry: GeometryParams, size: int) -> FacePixels:
    """Render the maps of one head as (size, size) images."""
    verts = vertices(head, geometry.params())
    screen = geometry.camera(size).project(verts)
    fragments = rasterize(screen, head.faces, (size, size), perspective=False, cull=True)
    face_index = fragments.face_index
    uv = interpolate(head.uv, head.uv_faces, fragments)
    texture = jnp.concatenate([head.albedo_mean[None], head.albedo_basis])  # (1 + C, Ht, Wt, 3)
    albedo = rearrange(sample_texture(rearrange(texture, "t h w k -> h w (t k)"), uv), "h w (t k) -> h w t k", k=3)
    factors = jnp.maximum(interpolate(vertex_spread_factors(head), head.faces, fragments), 1.0)
    silhouette = (face_index >= 0).astype(jnp.float32)
    return FacePixels(
        head=silhouette,
        face=fill_holes(face_triangles(head)[jnp.maximum(face_index, 0)] * silhouette, size // 16),
        albedo_mean=albedo[..., 0, :],
        albedo_basis=albedo[..., 1:, :],
        normals=normalize(interpolate(vertex_normals(verts, head.faces), head.faces, fragments)),
        spread_factors=jnp.stack([dilate(factors[..., k], round(FACTOR_REACH * size)) for k in range(2)], axis=-1),
    )


def albedo_of(pixels: FacePixels, texture: Array) -> Array:
    """Return the albedo (R, R, 3) of coefficients (C,)."""
    return pixels.albedo_mean + jnp.einsum("c,hwck->hwk", texture, pixels.albedo_basis)


def fit_appearance(
    pixels: FacePixels, image: Array, weights: Array, texture: Array, scale: float
) -> tuple[Array, Array]:
    """Fit the light for fixed albedo, then the albedo for that light; each is a linear weighted ridge regression.

    Args:
      image: (R, R, 3); weights: (R, R), 0 where the photo does not show the face.
      texture: (C,) initial albedo coefficients; scale: colour difference from which a pixel is downweighted.

    Returns:
      texture (C,), light (9, 3).
    """
    start = estimate_light(image, albedo_of(pixels, texture), pixels.normals, weights, scale)
    light = _near_white_light(pixels, image, weights, texture, start, scale)
    shading = shade(pixels.normals, light)
    precision = _robust_weights(pixels, image, weights, texture, light, scale) / ALBEDO_SIGMA**2
    rows = rearrange(pixels.albedo_basis * shading[..., None, :], "h w c k -> (h w k) c")
    target = (image - pixels.albedo_mean * shading).reshape(-1)
    weighted = rows * jnp.repeat(precision.reshape(-1), 3)[:, None]
    normal = weighted.T @ rows + jnp.eye(texture.shape[0])
    return jnp.linalg.solve(normal, weighted.T @ target), light


def _robust_weights(
    pixels: FacePixels, image: Array, weights: Array, texture: Array, light: Array, scale: float
) -> Array:
    """Return pixel weights (R, R) that sum to at most `INDEPENDENT_PIXELS`; small where the model is far off."""
    difference = image - albedo_of(pixels, texture) * shade(pixels.normals, light)
    weights = weights / (1.0 + jnp.sum(difference**2, axis=-1) / scale**2) ** 2
    return weights * INDEPENDENT_PIXELS / (jnp.sum(weights) + 1.0)


def _near_white_light(
    pixels: FacePixels, image: Array, weights: Array, texture: Array, light: Array, scale: float
) -> Array:
    """Fit light (9, 3) of nearly one colour: free colours per direction would explain a blue mask as blue light."""
    rows = sh_basis(pixels.normals).reshape(-1, 9)
    albedo, colours = albedo_of(pixels, texture).reshape(-1, 3), image.reshape(-1, 3)
    sigma = jnp.asarray(BAND_SIGMA)
    tint = jnp.asarray([CAST_SIGMA, *[TINT_SIGMA] * 8]) * sigma
    mean = jnp.full((3, 3), 1.0 / 3.0)
    # Unknowns in the order channel, band. Prior: the channels' mean is near ambient, and each is near the mean.
    prior = jnp.einsum("kl,bc->kblc", mean / 3.0, jnp.diag(1.0 / sigma**2))
    prior += jnp.einsum("kl,bc->kblc", jnp.eye(3) - mean, jnp.diag(1.0 / tint**2))
    prior = rearrange(prior, "k b l c -> (k b) (l c)")
    ambient = rearrange(ambient_light(), "b k -> (k b)")
    for _ in range(LIGHT_ROUNDS):
        precision = _robust_weights(pixels, image, weights, texture, light, scale).reshape(-1) / ALBEDO_SIGMA**2
        scaled = rows[:, None, :] * albedo[:, :, None]
        blocks = jnp.einsum("pkb,pkc,p->kbc", scaled, scaled, precision)
        normal = rearrange(jnp.einsum("kl,kbc->kblc", jnp.eye(3), blocks), "k b l c -> (k b) (l c)") + prior
        rhs = jnp.einsum("pkb,pk,p->kb", scaled, colours, precision).reshape(-1) + prior @ ambient
        light = rearrange(jnp.linalg.solve(normal, rhs), "(k b) -> b k", k=3)
    return light


def project_all_landmarks(head: HeadModel, geometry: GeometryParams) -> Array:
    """Return the fitted head's 68 landmarks, then the 468 dense ones if it has them: (L, 2) in crop sides."""
    points = geometry.project_landmarks(head)
    return points if head.dense is None else jnp.concatenate([points, geometry.project_dense_landmarks(head)])
