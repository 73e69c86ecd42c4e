"""Skin textures: random albedo of the head, plus pores, freckles, make-up, stubble and short hair."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments.datasets.open_faces.patterns import random_colour
from experiments.datasets.open_faces.subjects import SEED
from experiments.datasets.open_people.geometry import smoothstep
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices
from flamejax.rendering import interpolate, rasterize


@dataclasses.dataclass(frozen=True)
class TextureLayout:
    """Position and regions of each texel on the mean head; texels outside the UV layout have the nearest values."""

    position: np.ndarray
    """(Ht, Wt, 3) millimetres."""
    lips: np.ndarray
    """(Ht, Wt) in [0, 1], share of this region, as the next two."""
    scalp: np.ndarray
    eyeballs: np.ndarray
    eyes: np.ndarray
    """(2, 12, 2) x and y of points on the outlines of the subject's right and left eye, millimetres."""


def texture_layout(head: HeadModel) -> TextureLayout:
    """Rasterize the mean head's positions and regions into its texture."""
    height, width = head.albedo_mean.shape[:2]
    flat = np.concatenate([np.asarray(head.uv), np.ones((len(head.uv), 1))], axis=1)
    flat = flat * [width, height, 1] * [1, -1, 1] + [0, height, 0]
    fragments = rasterize(jnp.asarray(flat, jnp.float32), head.uv_faces, (height, width), perspective=False, cull=False)
    eyeballs = head.regions["left_eyeball"] | head.regions["right_eyeball"]
    masks = [head.regions["lips"], head.regions["scalp"], eyeballs]
    values = jnp.concatenate([1e3 * head.v_template, jnp.stack(masks, 1).astype(jnp.float32)], axis=1)
    attributes = np.asarray(interpolate(values, head.faces, fragments), np.float64)
    outside = np.asarray(fragments.face_index) < 0
    nearest = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    attributes = attributes[tuple(nearest)]
    attributes[..., 3:] = np.clip(attributes[..., 3:], 0, 1)
    landmarks = 1e3 * np.asarray(landmarks_from_vertices(head, head.v_template, HeadParams.zeros(head)), np.float64)
    eyes = np.stack([_insert_midpoints(landmarks[36:42, :2]), _insert_midpoints(landmarks[42:48, :2])])
    return TextureLayout(attributes[..., :3], attributes[..., 3], attributes[..., 4], attributes[..., 5], eyes)


def draw_skin(head: HeadModel, layout: TextureLayout, subject: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a subject's skin: albedo coefficients (C,) and texture (Ht, Wt, 3) in [0, 1], float32."""
    rng = np.random.default_rng([SEED, 3, subject])
    coefficients = np.clip(rng.standard_normal(head.albedo_basis.shape[0]), -2.2, 2.2).astype(np.float32)
    albedo = np.asarray(head.albedo(jnp.asarray(coefficients)), np.float64)
    x, skin = layout.position, np.clip(1 - layout.eyeballs, 0, 1)
    size = albedo.shape[:2]
    albedo = albedo * (1 + (_blotches(rng, x) * skin)[..., None] * [0.016, 0.030, 0.030])
    pores = ndimage.gaussian_filter(rng.standard_normal(size), rng.uniform(0.5, 0.9))
    albedo = albedo * (1 + (rng.uniform(0.015, 0.045) * skin * pores / pores.std())[..., None])
    front = smoothstep(x[..., 2], 60, 95) * skin * (1 - layout.lips)
    if rng.uniform() < 0.35:
        nose = np.exp(-0.5 * (((x[..., 1] - 122) / 22) ** 2 + (x[..., 0] / 52) ** 2)) * front
        albedo = _add_dots(rng, albedo, nose, rng.integers(80, 400), (0.5, 1.1), (0.12, 0.45))
    albedo = _add_dots(rng, albedo, front, rng.integers(0, 5), (0.9, 1.8), (0.4, 0.8))
    if rng.uniform() < 0.35:
        albedo = _add_stubble(rng, albedo, x, skin * (1 - np.clip(1.3 * layout.lips, 0, 1)))
    elif rng.uniform() < 0.45:
        albedo = _add_make_up(rng, albedo, layout, front)
    if rng.uniform() < 0.8:
        albedo = _add_short_hair(rng, albedo, layout)
    return coefficients, np.clip(albedo, 0, 1).astype(np.float32)


def skin_tone(texture: np.ndarray, layout: TextureLayout) -> np.ndarray:
    """Returns the median colour (3,) of a face's skin in a texture."""
    x = layout.position
    on_face = (x[..., 2] > 95) & (x[..., 1] > 30) & (x[..., 1] < 190) & (layout.lips < 0.1) & (layout.eyeballs < 0.1)
    return np.median(texture[on_face], axis=0)


def _blotches(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Draw blotches of 12 to 60 mm: waves in space, without seams, of amplitude about 1."""
    total = np.zeros(x.shape[:2])
    for _ in range(14):
        direction = rng.standard_normal(3)
        wave = 2 * np.pi * (x @ (direction / np.linalg.norm(direction))) / rng.uniform(12, 60)
        total += np.sin(wave + rng.uniform(0, 2 * np.pi)) / np.sqrt(7)
    return total


def _add_dots(rng, albedo, density, count, radii, strengths) -> np.ndarray:  # noqa: ANN001
    """Add brown dots with radii in texels, with probability proportional to `density`."""
    probability = density.ravel() / density.sum()
    rows, columns = np.mgrid[: albedo.shape[0], : albedo.shape[1]]
    dark = np.zeros(albedo.shape[:2])
    for texel in rng.choice(density.size, int(count), p=probability):
        i, j = divmod(int(texel), albedo.shape[1])
        window = slice(max(i - 5, 0), i + 6), slice(max(j - 5, 0), j + 6)
        squared = (rows[window] - i) ** 2 + (columns[window] - j) ** 2
        dot = rng.uniform(*strengths) * np.exp(-0.5 * squared / rng.uniform(*radii) ** 2)
        dark[window] = np.maximum(dark[window], dot)
    return albedo * (1 - dark[..., None] * [0.35, 0.5, 0.6])


def _add_stubble(rng: np.random.Generator, albedo: np.ndarray, x: np.ndarray, skin: np.ndarray) -> np.ndarray:
    side = np.abs(x[..., 0])
    lip = smoothstep(x[..., 1], 99, 93) * smoothstep(side, 40, 30)  # below the nose
    jaw = smoothstep(x[..., 1] - 0.55 * np.maximum(side - 30, 0), 78, 66)
    jaw = jaw * smoothstep(x[..., 1], 5, 25) * smoothstep(x[..., 2], 45, 65)
    area = np.maximum(lip * smoothstep(x[..., 1], 70, 78), jaw) * skin * smoothstep(x[..., 2], 40, 60)
    area = area * np.clip(0.8 + 0.4 * _blotches(rng, x), 0.3, 1.2)
    hairs = np.clip(0.75 + 0.45 * rng.standard_normal(albedo.shape[:2]), 0, 1.6)
    share = np.clip(rng.uniform(0.15, 0.6) * area * hairs, 0, 0.9)[..., None]
    return albedo + share * (np.array([0.13, 0.10, 0.09]) - albedo)


def _add_make_up(rng: np.random.Generator, albedo: np.ndarray, layout: TextureLayout, front: np.ndarray) -> np.ndarray:
    x = layout.position
    lipstick = np.array([rng.uniform(0.45, 0.8), rng.uniform(0.05, 0.3), rng.uniform(0.12, 0.4)])
    albedo = albedo + (rng.uniform(0.4, 0.8) * smoothstep(layout.lips, 0.35, 0.75))[..., None] * (lipstick - albedo)
    shadow, strength = random_colour(rng, (0.1, 0.6)), rng.uniform(0.15, 0.6)
    for eye in layout.eyes:
        gap = np.min(np.linalg.norm(x[..., None, :2] - eye, axis=-1), axis=-1)
        lid = np.exp(-0.5 * (gap / 4.0) ** 2) * smoothstep(x[..., 1], eye[:, 1].mean() - 2, eye[:, 1].mean() + 3)
        line = np.exp(-0.5 * (gap / 1.2) ** 2)
        albedo = albedo + (strength * lid * front)[..., None] * (shadow - albedo)
        albedo = albedo * (1 - (0.5 * strength * line * front)[..., None])
    blush = np.exp(-0.5 * (((np.abs(x[..., 0]) - 46) / 13) ** 2 + ((x[..., 1] - 112) / 10) ** 2)) * front
    return albedo * (1 - (rng.uniform(0, 0.4) * blush)[..., None] * [0.0, 0.28, 0.22])


def _add_short_hair(rng: np.random.Generator, albedo: np.ndarray, layout: TextureLayout) -> np.ndarray:
    """Paint hair of a few millimetres: its colour on the scalp, with a soft uneven hairline."""
    x = layout.position
    tones = [(0.05, 0.04, 0.04), (0.14, 0.09, 0.06), (0.27, 0.17, 0.10), (0.45, 0.33, 0.19), (0.36, 0.15, 0.07),
             (0.50, 0.49, 0.48)]  # fmt: skip
    tone = np.asarray(tones[rng.choice(6, p=[0.32, 0.25, 0.18, 0.1, 0.05, 0.1])]) * rng.uniform(0.8, 1.2)
    edge = ndimage.gaussian_filter(layout.scalp, 2.0) + 0.16 * _blotches(rng, x) * 0.5
    edge = edge + 0.10 * rng.standard_normal(edge.shape)
    area = smoothstep(edge, 0.45, 0.85) * rng.uniform(0.6, 0.95)
    strands = ndimage.gaussian_filter(rng.standard_normal(edge.shape), (1.6, 0.5))
    tone = tone * (1 + 0.25 * strands / strands.std())[..., None]
    return albedo + area[..., None] * (tone - albedo)


def _insert_midpoints(loop: np.ndarray) -> np.ndarray:
    """Insert the midpoints of the sides of a closed polygon."""
    return np.stack([loop, (loop + np.roll(loop, -1, 0)) / 2], 1).reshape(-1, 2)
