"""The detail field on a head: the features of `features`, drawn, smoothed, faded and laid along the normals."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from experiments.datasets.open_faces.expressions import MUSCLES, Muscles
from experiments.datasets.open_faces.features import CENTRAL, MAKING_EXPRESSION, PAIRED, Places, beside
from experiments.datasets.open_faces.subjects import SEED
from experiments.datasets.open_people.geometry import neighbour_mean, smoothstep
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices, rotation_matrix
from flamejax.rendering import rasterize

LATENTS, CUT, TOGETHER = 3, 2.5, 0.85
SCALE = 1.55
"""Common factor of all heights."""
STEEPEST = 0.35
"""Least cosine between a triangle's normals without and with details."""
STILL: Muscles = dict.fromkeys(MUSCLES, np.zeros(2))
"""No muscle is active: the neutral face."""


@dataclasses.dataclass(frozen=True)
class Skin:
    """Where details act on the head's topology; numpy."""

    sides: tuple[Places, Places]
    """The mean head, and its mirror image: features are written for the subject's left."""
    weight: np.ndarray
    """(V,) in [0, 1]."""
    outer: np.ndarray
    """(V,) bool: what can be seen from around the head: not the mouth's bag, not the nostrils."""
    smooth: sparse.csr_matrix
    """(V, V) one step of smoothing over the mesh."""
    faces: np.ndarray
    """(F, 3)"""


def skin_of(head: HeadModel) -> Skin:
    """Prepare the mean head."""
    faces, x = np.asarray(head.faces), 1e3 * np.asarray(head.v_template, np.float64)
    smooth = (0.5 * sparse.eye(len(x)) + 0.5 * neighbour_mean(faces, len(x))).tocsr()
    marks = 1e3 * np.asarray(landmarks_from_vertices(head, head.v_template, HeadParams.zeros(head)), np.float64)
    seam = tuple(map(tuple, marks[[60, 61, 62, 63, 64]]))
    outer = _seen_from_outside(head)
    weight = outer.astype(float)
    for _ in range(2):
        weight = np.minimum(weight, smooth @ weight)
    weight *= smoothstep(beside(Places(x), seam)[0], 1.5, 6.0)
    for ball in ("left_eyeball", "right_eyeball"):
        eye = x[np.asarray(head.regions[ball])]
        radius = np.linalg.norm(eye - eye.mean(0), axis=1).max()
        weight *= smoothstep(np.linalg.norm(x - eye.mean(0), axis=1) - radius, 2.0, 7.0)
        weight[np.asarray(head.regions[ball])] = 0.0
    for nostril in ((9.0, 103.5, 146.0), (-9.0, 103.5, 146.0)):
        weight *= smoothstep(np.linalg.norm(x - nostril, axis=1), 2.5, 7.0)
    weight *= smoothstep(x[:, 1], x[:, 1].min() + 35.0, x[:, 1].min() + 70.0)
    weight *= np.where(np.asarray(head.regions["scalp"]), smoothstep(x[:, 2], 20.0, 60.0), 1.0)
    return Skin((Places(x), Places(x * [-1, 1, 1])), weight, outer, smooth, faces)


def draw_latents(subject: int) -> np.ndarray:
    """(features, 2, 3) latents of a subject on its left and right, `CENTRAL` first, then `PAIRED`."""
    rng = np.random.default_rng([SEED, 1, subject])
    z = rng.standard_normal((len(CENTRAL) + len(PAIRED), 3, LATENTS))
    sides = np.sqrt(TOGETHER) * z[:, :1] + np.sqrt(1 - TOGETHER) * z[:, 1:]
    sides[: len(CENTRAL)] = z[: len(CENTRAL), :1]
    return np.clip(sides, -CUT, CUT)


def heights(skin: Skin, latents: np.ndarray, muscles: Muscles) -> tuple[np.ndarray, np.ndarray]:
    """Millimetres along the normals: of the detail field (V,), and of what makes the expression (V,)."""
    detail, making = np.zeros(len(skin.weight)), np.zeros(len(skin.weight))
    both = {name: float(active.mean()) for name, active in muscles.items()}
    for k, feature in enumerate(CENTRAL.values()):
        detail += feature(skin.sides[0], latents[k, 0], both.__getitem__)
    for k, (name, feature) in enumerate(PAIRED.items(), start=len(CENTRAL)):
        for side, places in enumerate(skin.sides):
            own = {muscle: float(active[side]) for muscle, active in muscles.items()}
            found = feature(places, latents[k, side], own.__getitem__)
            if name in MAKING_EXPRESSION:
                making += found
            else:
                detail += found
    return SCALE * skin.weight * (skin.smooth @ detail), skin.weight * (skin.smooth @ making)


def displaced(verts: np.ndarray, height: np.ndarray, skin: Skin) -> np.ndarray:
    """Move (V, 3) metres by heights (V,) mm along the normals; less where a triangle would turn over.

    Behind ears and at the wings of the nose skin lies so close to skin that normals of neighbours meet.
    """
    along, before = normals(verts, skin.faces), triangle_normals(verts, skin.faces)
    for _ in range(8):
        moved = verts + 1e-3 * height[:, None] * along
        turned = (before * triangle_normals(moved, skin.faces)).sum(1) < STEEPEST
        if not turned.any():
            break
        hold = np.ones(len(verts))
        hold[skin.faces[turned].ravel()] = 0.4
        height = height * np.minimum(hold, skin.smooth @ hold)
    return moved


def triangle_normals(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(F, 3) unit normals."""
    return _unit(_crossed(verts, faces))


def normals(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 3) unit vertex normals, weighted by area. numpy, so that workers need no compiler for it."""
    flat = _crossed(verts, faces)
    return _unit(np.stack([np.bincount(faces.ravel(), np.repeat(part, 3), len(verts)) for part in flat.T], axis=1))


def _crossed(verts: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corner = verts[faces]
    return np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-20)


def _seen_from_outside(head: HeadModel) -> np.ndarray:
    """(V,) bool: vertices of triangles that some view from around the head shows: no mouth bag, no nostrils."""
    seen = np.zeros(head.num_vertices, bool)
    size, scale = 768, 2200.0
    for pitch in (-0.5, 0.0, 0.5):
        for yaw in (-2.4, -1.6, -0.8, 0.0, 0.8, 1.6, 2.4):
            turn = rotation_matrix(jnp.asarray([pitch, 0.0, 0.0])) @ rotation_matrix(jnp.asarray([0.0, yaw, 0.0]))
            centred = (head.v_template - jnp.asarray([[0.0, 0.1, 0.05]])) @ turn.T
            screen = OrthographicCamera(jnp.asarray(scale), jnp.full((2,), size / 2)).project(centred)
            found = np.asarray(rasterize(screen, head.faces, (size, size), perspective=False, cull=True).face_index)
            faces, pixels = np.unique(found[found >= 0], return_counts=True)
            seen[np.asarray(head.faces)[faces[pixels > 2]]] = True
    return seen
