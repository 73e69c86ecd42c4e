"""Skins: the head's random albedo, and what its components lack: pores, freckles, make-up, stubble, cropped hair."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments.datasets.open_faces.patterns import colour
from experiments.datasets.open_faces.subjects import SEED
from experiments.datasets.open_people.geometry import smoothstep
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices
from flamejax.rendering import interpolate, rasterize


@dataclasses.dataclass(frozen=True)
class Texels:
    """The texture's layout: what lies at each texel. Its place (Ht, Wt, 3) in millimetres on the mean head, and its
    share (Ht, Wt) of three regions. Texels outside the layout hold the nearest inside."""

    place: np.ndarray
    lips: np.ndarray
    scalp: np.ndarray
    balls: np.ndarray
    eyes: np.ndarray
    """(2, 12, 2) x and y of points on the outlines of both eyes, mm: subject's right, left."""


def texels_of(head: HeadModel) -> Texels:
    """Lay the mean head out in its texture."""
    height, width = head.albedo_mean.shape[:2]
    flat = np.concatenate([np.asarray(head.uv), np.ones((len(head.uv), 1))], axis=1)
    flat = flat * [width, height, 1] * [1, -1, 1] + [0, height, 0]
    seen = rasterize(jnp.asarray(flat, jnp.float32), head.uv_faces, (height, width), perspective=False, cull=False)
    balls = head.regions["left_eyeball"] | head.regions["right_eyeball"]
    masks = [head.regions["lips"], head.regions["scalp"], balls]
    values = jnp.concatenate([1e3 * head.v_template, jnp.stack(masks, 1).astype(jnp.float32)], axis=1)
    found = np.asarray(interpolate(values, head.faces, seen), np.float64)
    outside = np.asarray(seen.face_index) < 0
    nearest = ndimage.distance_transform_edt(outside, return_distances=False, return_indices=True)
    found = found[tuple(nearest)]
    found[..., 3:] = np.clip(found[..., 3:], 0, 1)
    marks = 1e3 * np.asarray(landmarks_from_vertices(head, head.v_template, HeadParams.zeros(head)), np.float64)
    eyes = np.stack([_doubled(marks[36:42, :2]), _doubled(marks[42:48, :2])])
    return Texels(found[..., :3], found[..., 3], found[..., 4], found[..., 5], eyes)


def draw_skin(head: HeadModel, texels: Texels, subject: int) -> tuple[np.ndarray, np.ndarray]:
    """A subject's skin, the same in all photos: albedo coefficients (C,) and texture (Ht, Wt, 3) in [0, 1], float32."""
    rng = np.random.default_rng([SEED, 3, subject])
    coefficients = np.clip(rng.standard_normal(head.albedo_basis.shape[0]), -2.2, 2.2).astype(np.float32)
    made = np.asarray(head.albedo(jnp.asarray(coefficients)), np.float64)
    x, skin = texels.place, np.clip(1 - texels.balls, 0, 1)
    size = made.shape[:2]
    made = made * (1 + (_ripples(rng, x) * skin)[..., None] * [0.016, 0.030, 0.030])
    pores = ndimage.gaussian_filter(rng.standard_normal(size), rng.uniform(0.5, 0.9))
    made = made * (1 + (rng.uniform(0.015, 0.045) * skin * pores / pores.std())[..., None])
    front = smoothstep(x[..., 2], 60, 95) * skin * (1 - texels.lips)
    if rng.uniform() < 0.35:
        nose = np.exp(-0.5 * (((x[..., 1] - 122) / 22) ** 2 + (x[..., 0] / 52) ** 2)) * front
        made = _dots(rng, made, nose, rng.integers(80, 400), (0.5, 1.1), (0.12, 0.45))
    made = _dots(rng, made, front, rng.integers(0, 5), (0.9, 1.8), (0.4, 0.8))
    if rng.uniform() < 0.35:
        made = _stubble(rng, made, x, skin * (1 - np.clip(1.3 * texels.lips, 0, 1)))
    elif rng.uniform() < 0.45:
        made = _make_up(rng, made, texels, front)
    if rng.uniform() < 0.8:
        made = _cropped_hair(rng, made, texels)
    return coefficients, np.clip(made, 0, 1).astype(np.float32)


def tone(texture: np.ndarray, texels: Texels) -> np.ndarray:
    """(3,) the usual colour of a face's skin in a texture."""
    x = texels.place
    on_face = (x[..., 2] > 95) & (x[..., 1] > 30) & (x[..., 1] < 190) & (texels.lips < 0.1) & (texels.balls < 0.1)
    return np.median(texture[on_face], axis=0)


def _ripples(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Blotches of 12 to 60 mm without seams: waves in space, about 1 strong."""
    total = np.zeros(x.shape[:2])
    for _ in range(14):
        way = rng.standard_normal(3)
        wave = 2 * np.pi * (x @ (way / np.linalg.norm(way))) / rng.uniform(12, 60)
        total += np.sin(wave + rng.uniform(0, 2 * np.pi)) / np.sqrt(7)
    return total


def _dots(rng, made, where, count, radii, strengths) -> np.ndarray:  # noqa: ANN001
    """Brown dots of these radii in texels, more where `where` is high."""
    share = where.ravel() / where.sum()
    rows, columns = np.mgrid[: made.shape[0], : made.shape[1]]
    dark = np.zeros(made.shape[:2])
    for place in rng.choice(where.size, int(count), p=share):
        i, j = divmod(int(place), made.shape[1])
        part = slice(max(i - 5, 0), i + 6), slice(max(j - 5, 0), j + 6)
        squared = (rows[part] - i) ** 2 + (columns[part] - j) ** 2
        dot = rng.uniform(*strengths) * np.exp(-0.5 * squared / rng.uniform(*radii) ** 2)
        dark[part] = np.maximum(dark[part], dot)
    return made * (1 - dark[..., None] * [0.35, 0.5, 0.6])


def _stubble(rng: np.random.Generator, made: np.ndarray, x: np.ndarray, skin: np.ndarray) -> np.ndarray:
    side = np.abs(x[..., 0])
    lip = smoothstep(x[..., 1], 99, 93) * smoothstep(side, 40, 30)  # below the nose
    jaw = smoothstep(x[..., 1] - 0.55 * np.maximum(side - 30, 0), 78, 66)
    jaw = jaw * smoothstep(x[..., 1], 5, 25) * smoothstep(x[..., 2], 45, 65)
    area = np.maximum(lip * smoothstep(x[..., 1], 70, 78), jaw) * skin * smoothstep(x[..., 2], 40, 60)
    area = area * np.clip(0.8 + 0.4 * _ripples(rng, x), 0.3, 1.2)
    hairs = np.clip(0.75 + 0.45 * rng.standard_normal(made.shape[:2]), 0, 1.6)
    share = np.clip(rng.uniform(0.15, 0.6) * area * hairs, 0, 0.9)[..., None]
    return made + share * (np.array([0.13, 0.10, 0.09]) - made)


def _make_up(rng: np.random.Generator, made: np.ndarray, texels: Texels, front: np.ndarray) -> np.ndarray:
    x = texels.place
    lipstick = np.array([rng.uniform(0.45, 0.8), rng.uniform(0.05, 0.3), rng.uniform(0.12, 0.4)])
    made = made + (rng.uniform(0.4, 0.8) * smoothstep(texels.lips, 0.35, 0.75))[..., None] * (lipstick - made)
    shadow, strength = colour(rng, (0.1, 0.6)), rng.uniform(0.15, 0.6)
    for eye in texels.eyes:
        gap = np.min(np.linalg.norm(x[..., None, :2] - eye, axis=-1), axis=-1)
        over = np.exp(-0.5 * (gap / 4.0) ** 2) * smoothstep(x[..., 1], eye[:, 1].mean() - 2, eye[:, 1].mean() + 3)
        line = np.exp(-0.5 * (gap / 1.2) ** 2)
        made = made + (strength * over * front)[..., None] * (shadow - made)
        made = made * (1 - (0.5 * strength * line * front)[..., None])
    blush = np.exp(-0.5 * (((np.abs(x[..., 0]) - 46) / 13) ** 2 + ((x[..., 1] - 112) / 10) ** 2)) * front
    return made * (1 - (rng.uniform(0, 0.4) * blush)[..., None] * [0.0, 0.28, 0.22])


def _cropped_hair(rng: np.random.Generator, made: np.ndarray, texels: Texels) -> np.ndarray:
    """Hair a few millimetres long: its colour on the scalp, with a soft uneven line."""
    x = texels.place
    tones = [(0.05, 0.04, 0.04), (0.14, 0.09, 0.06), (0.27, 0.17, 0.10), (0.45, 0.33, 0.19), (0.36, 0.15, 0.07),
             (0.50, 0.49, 0.48)]  # fmt: skip
    tone = np.asarray(tones[rng.choice(6, p=[0.32, 0.25, 0.18, 0.1, 0.05, 0.1])]) * rng.uniform(0.8, 1.2)
    edge = ndimage.gaussian_filter(texels.scalp, 2.0) + 0.16 * _ripples(rng, x) * 0.5
    edge = edge + 0.10 * rng.standard_normal(edge.shape)
    area = smoothstep(edge, 0.45, 0.85) * rng.uniform(0.6, 0.95)
    strands = ndimage.gaussian_filter(rng.standard_normal(edge.shape), (1.6, 0.5))
    tone = tone * (1 + 0.25 * strands / strands.std())[..., None]
    return made + area[..., None] * (tone - made)


def _doubled(loop: np.ndarray) -> np.ndarray:
    """A closed polygon with the middles of its sides."""
    return np.stack([loop, (loop + np.roll(loop, -1, 0)) / 2], 1).reshape(-1, 2)
