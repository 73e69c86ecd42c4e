"""What a fitted head says of each pixel of a photo: albedo, normals, how sure its colours are; light and albedo."""

import dataclasses

import jax.numpy as jnp
from einops import rearrange
from jax import Array

from fitting.appearance import BAND_SIGMA, BROWS, TINT_SIGMA, estimate_light, region_triangles
from fitting.label_smoothing import dilate, fill_holes
from fitting.landmark_fit import Geometry
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel, HeadParams, landmarks, vertices
from flamejax.rendering import ambient_light, interpolate, rasterize, sample_texture, sh_basis, shade

FACE_REGIONS = ("face", "forehead", "nose", "lips", "eye_region", "left_eyeball", "right_eyeball")
WIDER = (
    (BROWS, 0.009, 2.0, 1.3),
    (slice(36, 42), 0.010, 2.5, 2.0),
    (slice(42, 48), 0.010, 2.5, 2.0),
    (slice(31, 36), 0.007, 1.7, 1.3),
    (slice(48, 68), 0.008, 1.4, 1.5),
    (slice(60, 68), 0.006, 4.0, 3.0),
)
"""Landmarks, reach in metres, factors on the spread of intensity and of colour: what the albedo basis does not know of
brows, right and left eye, nostrils, lips, and of teeth and the inside of the mouth."""
WIDTH_REACH = 0.02
"""Share of the crop's side that these spreads reach over: features may lie a little off, and teeth lie deep."""
ALBEDO_SIGMA = 0.08
"""Colour noise of a pixel beside the priors of light and albedo."""
INDEPENDENT_PIXELS = 400.0
"""That the whole face counts as: neighbours are wrong in the same way."""
CAST_SIGMA = 0.5
"""How far the light's colour as a whole may be from white, as a share; of its directions: `TINT_SIGMA`."""
LIGHT_ROUNDS = 3


@dataclasses.dataclass(frozen=True)
class FacePixels:
    """One fitted head at every pixel of an (R, R) image: head and face (R, R), 1 = its silhouette and its face,
    albedo_mean and normals (R, R, 3), albedo_basis (R, R, C, 3)."""

    head: Array
    face: Array
    albedo_mean: Array
    albedo_basis: Array
    normals: Array
    widths: Array
    """(R, R, 2) factors on the spread of intensity and of colour."""


def face_triangles(head: HeadModel) -> Array:
    """(F,) float: 1 for triangles of the face's area, eyes included, neck, ears and scalp not."""
    return region_triangles(head, FACE_REGIONS)


def spread_factors(head: HeadModel) -> Array:
    """(V, 2) factors on the spread of intensity and of colour, smooth over the mean head."""
    points = landmarks(head, HeadParams.zeros(head))
    factors = jnp.ones((head.num_vertices, 2))
    for which, reach, intensity, colour in WIDER:
        squared = jnp.sum((head.v_template[:, None] - points[which][None]) ** 2, axis=-1)
        near = jnp.exp(-0.5 * jnp.min(squared, axis=-1) / reach**2)[:, None]
        factors = jnp.maximum(factors, 1.0 + near * (jnp.asarray([[intensity, colour]]) - 1.0))
    return factors


def render_face_maps(head: HeadModel, geometry: Geometry, size: int) -> FacePixels:
    """Render one head's maps at (size, size)."""
    verts = vertices(head, geometry.params())
    screen = geometry.camera(size).project(verts)
    fragments = rasterize(screen, head.faces, (size, size), perspective=False, cull=True)
    face_index = fragments.face_index
    uv = interpolate(head.uv, head.uv_faces, fragments)
    texture = jnp.concatenate([head.albedo_mean[None], head.albedo_basis])  # (1 + C, Ht, Wt, 3)
    seen = rearrange(sample_texture(rearrange(texture, "t h w k -> h w (t k)"), uv), "h w (t k) -> h w t k", k=3)
    widths = jnp.maximum(interpolate(spread_factors(head), head.faces, fragments), 1.0)
    silhouette = (face_index >= 0).astype(jnp.float32)
    return FacePixels(
        head=silhouette,
        face=fill_holes(face_triangles(head)[jnp.maximum(face_index, 0)] * silhouette, size // 16),
        albedo_mean=seen[..., 0, :],
        albedo_basis=seen[..., 1:, :],
        normals=normalize(interpolate(vertex_normals(verts, head.faces), head.faces, fragments)),
        widths=jnp.stack([dilate(widths[..., k], round(WIDTH_REACH * size)) for k in range(2)], axis=-1),
    )


def albedo_of(pixels: FacePixels, texture: Array) -> Array:
    """(R, R, 3) albedo for coefficients (C,)."""
    return pixels.albedo_mean + jnp.einsum("c,hwck->hwk", texture, pixels.albedo_basis)


def fit_appearance(
    pixels: FacePixels, image: Array, weights: Array, texture: Array, scale: float
) -> tuple[Array, Array]:
    """Light for the albedo, then the albedo for that light: each linear, by weighted ridge least squares.

    Args:
      image: (R, R, 3); weights: (R, R), 0 where the photo does not show the face.
      texture: (C,) to begin with; scale: colour difference at which a pixel loses its say.

    Returns:
      texture (C,), light (9, 3).
    """
    start = estimate_light(image, albedo_of(pixels, texture), pixels.normals, weights, scale)
    light = _near_white_light(pixels, image, weights, texture, start, scale)
    shading = shade(pixels.normals, light)
    say = _robust_say(pixels, image, weights, texture, light, scale) / ALBEDO_SIGMA**2
    rows = rearrange(pixels.albedo_basis * shading[..., None, :], "h w c k -> (h w k) c")
    target = (image - pixels.albedo_mean * shading).reshape(-1)
    weighted = rows * jnp.repeat(say.reshape(-1), 3)[:, None]
    normal = weighted.T @ rows + jnp.eye(texture.shape[0])
    return jnp.linalg.solve(normal, weighted.T @ target), light


def _robust_say(pixels: FacePixels, image: Array, weights: Array, texture: Array, light: Array, scale: float) -> Array:
    """(R, R) weights of pixels that sum to at most `INDEPENDENT_PIXELS`; small where the model is far off."""
    difference = image - albedo_of(pixels, texture) * shade(pixels.normals, light)
    say = weights / (1.0 + jnp.sum(difference**2, axis=-1) / scale**2) ** 2
    return say * INDEPENDENT_PIXELS / (jnp.sum(say) + 1.0)


def _near_white_light(
    pixels: FacePixels, image: Array, weights: Array, texture: Array, light: Array, scale: float
) -> Array:
    """(9, 3) light of one colour, nearly: with a colour for each direction it would paint a blue mask on the chin."""
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
        say = _robust_say(pixels, image, weights, texture, light, scale).reshape(-1) / ALBEDO_SIGMA**2
        scaled = rows[:, None, :] * albedo[:, :, None]
        blocks = jnp.einsum("pkb,pkc,p->kbc", scaled, scaled, say)
        normal = rearrange(jnp.einsum("kl,kbc->kblc", jnp.eye(3), blocks), "k b l c -> (k b) (l c)") + prior
        right = jnp.einsum("pkb,pk,p->kb", scaled, colours, say).reshape(-1) + prior @ ambient
        light = rearrange(jnp.linalg.solve(normal, right), "(k b) -> b k", k=3)
    return light


def landmark_places(head: HeadModel, geometry: Geometry) -> Array:
    """(L, 2) the fitted head's landmarks, in units of the crop's side: the 68, then the 468 if the head has them."""
    points = geometry.shown_landmarks(head)
    return points if head.dense is None else jnp.concatenate([points, geometry.shown_dense(head)])
