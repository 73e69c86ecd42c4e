"""Sample the detail field of a head: `features` with random latents, smoothed, faded and applied along the normals."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from experiments.datasets.open_faces.expressions import MUSCLES, Muscles
from experiments.datasets.open_faces.features import CENTRAL, EXPRESSION_FEATURES, PAIRED, HeadPoints, curve_distance
from experiments.datasets.open_faces.subjects import SEED
from experiments.datasets.open_people.geometry import neighbour_mean, smoothstep
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices, rotation_matrix
from flamejax.rendering import rasterize

NUM_LATENTS, MAX_LATENT, SIDE_CORRELATION = 3, 2.5, 0.85
SCALE = 1.55
"""Factor of the heights, except those of `EXPRESSION_FEATURES`."""
MIN_NORMAL_COSINE = 0.35
"""Smallest cosine between the normals of a triangle without and with details."""
NEUTRAL: Muscles = dict.fromkeys(MUSCLES, np.zeros(2))
"""Activations of the neutral face: no muscle is active."""


@dataclasses.dataclass(frozen=True)
class DetailField:
    """Domain of the detail field on the head's topology; numpy."""

    sides: tuple[HeadPoints, HeadPoints]
    """The mean head and its mirror image; features are defined on the subject's left."""
    weight: np.ndarray
    """(V,) in [0, 1], factor of the heights."""
    outer: np.ndarray
    """(V,) bool: visible from outside the head; not the inside of the mouth or the nostrils."""
    smooth: sparse.csr_matrix
    """(V, V) operator of one smoothing step over the mesh."""
    faces: np.ndarray
    """(F, 3)"""


def detail_field(head: HeadModel) -> DetailField:
    """Compute the domain of the detail field on the mean head."""
    faces, x = np.asarray(head.faces), 1e3 * np.asarray(head.v_template, np.float64)
    smooth = (0.5 * sparse.eye(len(x)) + 0.5 * neighbour_mean(faces, len(x))).tocsr()
    landmarks = 1e3 * np.asarray(landmarks_from_vertices(head, head.v_template, HeadParams.zeros(head)), np.float64)
    seam = tuple(map(tuple, landmarks[[60, 61, 62, 63, 64]]))
    outer = _visible_from_outside(head)
    weight = outer.astype(float)
    for _ in range(2):
        weight = np.minimum(weight, smooth @ weight)
    weight *= smoothstep(curve_distance(HeadPoints(x), seam)[0], 1.5, 6.0)
    for ball in ("left_eyeball", "right_eyeball"):
        eye = x[np.asarray(head.regions[ball])]
        radius = np.linalg.norm(eye - eye.mean(0), axis=1).max()
        weight *= smoothstep(np.linalg.norm(x - eye.mean(0), axis=1) - radius, 2.0, 7.0)
        weight[np.asarray(head.regions[ball])] = 0.0
    for nostril in ((9.0, 103.5, 146.0), (-9.0, 103.5, 146.0)):
        weight *= smoothstep(np.linalg.norm(x - nostril, axis=1), 2.5, 7.0)
    weight *= smoothstep(x[:, 1], x[:, 1].min() + 35.0, x[:, 1].min() + 70.0)
    weight *= np.where(np.asarray(head.regions["scalp"]), smoothstep(x[:, 2], 20.0, 60.0), 1.0)
    return DetailField((HeadPoints(x), HeadPoints(x * [-1, 1, 1])), weight, outer, smooth, faces)


def draw_latents(subject: int) -> np.ndarray:
    """Draw the latents of a subject, (features, 2, 3) for left and right; `CENTRAL` first, then `PAIRED`."""
    rng = np.random.default_rng([SEED, 1, subject])
    z = rng.standard_normal((len(CENTRAL) + len(PAIRED), 3, NUM_LATENTS))
    sides = np.sqrt(SIDE_CORRELATION) * z[:, :1] + np.sqrt(1 - SIDE_CORRELATION) * z[:, 1:]
    sides[: len(CENTRAL)] = z[: len(CENTRAL), :1]
    return np.clip(sides, -MAX_LATENT, MAX_LATENT)


def detail_heights(field: DetailField, latents: np.ndarray, muscles: Muscles) -> tuple[np.ndarray, np.ndarray]:
    """Compute heights along the normals in millimetres: details (V,), and `EXPRESSION_FEATURES` (V,)."""
    detail, expressive = np.zeros(len(field.weight)), np.zeros(len(field.weight))
    mean_active = {name: float(active.mean()) for name, active in muscles.items()}
    for k, feature in enumerate(CENTRAL.values()):
        detail += feature(field.sides[0], latents[k, 0], mean_active.__getitem__)
    for k, (name, feature) in enumerate(PAIRED.items(), start=len(CENTRAL)):
        for side, points in enumerate(field.sides):
            side_active = {muscle: float(active[side]) for muscle, active in muscles.items()}
            height = feature(points, latents[k, side], side_active.__getitem__)
            if name in EXPRESSION_FEATURES:
                expressive += height
            else:
                detail += height
    return SCALE * field.weight * (field.smooth @ detail), field.weight * (field.smooth @ expressive)


def displace(verts: np.ndarray, height: np.ndarray, field: DetailField) -> np.ndarray:
    """Displace (V, 3) metres by heights (V,) mm along the normals, with less height where a triangle would flip.

    Behind the ears and at the wings of the nose, the normals of nearby skin intersect.
    """
    directions, before = normals(verts, field.faces), triangle_normals(verts, field.faces)
    for _ in range(8):
        moved = verts + 1e-3 * height[:, None] * directions
        flipped = (before * triangle_normals(moved, field.faces)).sum(1) < MIN_NORMAL_COSINE
        if not flipped.any():
            break
        damping = np.ones(len(verts))
        damping[field.faces[flipped].ravel()] = 0.4
        height = height * np.minimum(damping, field.smooth @ damping)
    return moved


def triangle_normals(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Compute unit normals of triangles (F, 3)."""
    return _normalize(_area_normals(verts, faces))


def normals(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Compute area-weighted unit vertex normals (V, 3) in numpy, which needs no compilation."""
    flat = _area_normals(verts, faces)
    return _normalize(np.stack([np.bincount(faces.ravel(), np.repeat(part, 3), len(verts)) for part in flat.T], axis=1))


def _area_normals(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corner = verts[faces]
    return np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])


def _normalize(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-20)


def _visible_from_outside(head: HeadModel) -> np.ndarray:
    """Returns (V,) bool: vertices of triangles visible in some view from around the head."""
    visible = np.zeros(head.num_vertices, bool)
    size, scale = 768, 2200.0
    for pitch in (-0.5, 0.0, 0.5):
        for yaw in (-2.4, -1.6, -0.8, 0.0, 0.8, 1.6, 2.4):
            rotation = rotation_matrix(jnp.asarray([pitch, 0.0, 0.0])) @ rotation_matrix(jnp.asarray([0.0, yaw, 0.0]))
            centred = (head.v_template - jnp.asarray([[0.0, 0.1, 0.05]])) @ rotation.T
            screen = OrthographicCamera(jnp.asarray(scale), jnp.full((2,), size / 2)).project(centred)
            index = np.asarray(rasterize(screen, head.faces, (size, size), perspective=False, cull=True).face_index)
            faces, pixels = np.unique(index[index >= 0], return_counts=True)
            visible[np.asarray(head.faces)[faces[pixels > 2]]] = True
    return visible
