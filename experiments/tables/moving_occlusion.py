"""Plain covers: a patch at five places around the face (Diverse3DFace, appendix A.5, Fig. 8), and one that grows."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces import Photo
from experiments.tables.diverse_cases import Case
from fitting.inputs import uncovered
from flamejax.types import Fit, Observation

PLACES: dict[str, tuple[tuple[int, ...], float, tuple[float, float]]] = {
    "left cheek": ((45, 35, 54, 13), 0.5, (0.6, 0.75)),
    "mouth": (tuple(range(48, 68)), 0.5, (0.85, 0.62)),
    "right cheek": ((36, 31, 48, 3), 0.5, (0.6, 0.75)),
    "centre": ((27, 30, 33), 0.5, (0.68, 0.85)),
    "eyes": (tuple(range(36, 48)), 0.45, (1.3, 0.5)),
}
"""In the order of Fig. 8; left is the subject's. The iBUG points whose mean is the middle of the patch, how far up its
height that middle lies, and its width and height in outer-eye distances."""
OUTER_OVER_CENTRES = 1.45
"""Outer-eye distance over the distance of the eyes' middles, which is surer in a picture."""
LEFT_EYE, RIGHT_EYE = slice(42, 48), slice(36, 42)
COLOUR = np.array([0.32, 0.36, 0.42], np.float32)
CORNER = 0.25
"""Radius of the corners, as a share of the shorter side."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the face's height that the growing cover hides, from the chin (0) up to just below the brows (1)."""
BELOW = 1.0
"""Pixels between the lowest landmark of the brows and the largest cover."""


def patch(landmarks: np.ndarray, place: str, side: int) -> np.ndarray:
    """The mask of a patch: a rectangle with round corners, turned with the face. (68, 2) pixels -> (S, S) bool. Raises
    KeyError where there is no such place."""
    points, below, size = PLACES[place]
    right, down, unit = face_axes(landmarks)
    half = np.array(size) * unit * OUTER_OVER_CENTRES / 2
    middle = landmarks[list(points)].mean(axis=0) + down * (2 * below - 1) * half[1]
    away = pixel_centres(side) - middle
    inner = np.abs(np.stack([away @ right, away @ down], axis=-1)) - half
    radius = 2 * CORNER * half.min()
    corner = np.linalg.norm(np.maximum(inner + radius, 0), axis=-1)
    return (inner.max(axis=-1) < 0) & (corner < radius)


def with_patch(case: Case, photo: Photo | None, place: str) -> Case:
    """A clean case behind a patch, whose mask is given. photo: of the open scans, whose true head says which vertices
    the patch hides; None: the fit says so."""
    mask = patch(np.asarray(case.observation.landmarks), place, case.observation.image.shape[0])
    shown = case.shown if photo is None or case.shown is None else case.shown & ~behind(mask, photo)
    key, observation = f"{case.key}-{place.replace(' ', '_')}", painted(case.observation, mask)
    return dataclasses.replace(case, key=key, occluder=place, observation=observation, shown=shown)


def frontality(case: Case) -> float:
    """How much a face looks into the camera, from its landmarks: 1 if the nose is midway between the ears."""
    points = np.asarray(case.observation.landmarks)
    left, right = (float(np.linalg.norm(points[30] - points[ear])) for ear in (16, 0))
    return 1 - abs(left - right) / max(left + right, 1e-6)


def covered_case(case: Case, share: float) -> Case:
    """A case whose lower face is covered: the share of its height from the chin up."""
    observation = painted(case.observation, cover_of(case, share))
    # What the true head shows behind the cover is not known here: the fit says it.
    return Case(f"{case.key}-covered_{round(100 * share)}", case.subject, "cover", observation, truth=case.truth)


def cover_of(case: Case, share: float) -> np.ndarray:
    """(S, S) bool. The landmarks of the brows stay in sight: a fit needs some."""
    points, side = np.asarray(case.observation.landmarks), np.asarray(case.observation.image).shape[0]
    if share == 0:
        return np.zeros((side, side), bool)
    _, down, _ = face_axes(points)
    chin, brows = float((points @ down)[8]), float((points @ down)[17:27].max()) + BELOW
    return pixel_centres(side) @ down > chin + share * (brows - chin)


def painted(observation: Observation, mask: np.ndarray) -> Observation:
    """The photo with a plain cover over a mask (S, S) bool, which is known: landmarks under it count as hidden."""
    parts = {
        "image": np.where(mask[..., None], COLOUR[None, None], np.asarray(observation.image)),
        "occlusion_mask": np.maximum(observation.occlusion_mask, mask),
        "confidence": uncovered(observation.landmarks, observation.confidence, mask),
        "dense_confidence": uncovered(observation.dense_landmarks, observation.dense_confidence, mask),
    }
    return dataclasses.replace(observation, **{name: part.astype(np.float32) for name, part in parts.items()})


def behind(cover: np.ndarray, seen: Fit | Photo) -> np.ndarray:
    """(V,) bool: vertices of a fit or a true head whose pixel is in the cover (S, S)."""
    screen = np.asarray(seen.camera.project(jnp.asarray(seen.vertices)))[:, :2]
    column, row = np.clip(np.floor(screen).astype(int), 0, np.array(cover.shape[::-1]) - 1).T
    return cover[row, column]


def face_axes(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Of landmarks (68, 2) pixels: the face's unit directions to the image's right and down (2,), and the distance of
    the eyes' middles."""
    eyes = landmarks[LEFT_EYE].mean(axis=0) - landmarks[RIGHT_EYE].mean(axis=0)
    unit = max(float(np.linalg.norm(eyes)), 1e-6)
    right = eyes / unit
    return right, np.array([-right[1], right[0]]), unit


def pixel_centres(side: int) -> np.ndarray:
    """(S, S, 2) x and y."""
    return np.mgrid[:side, :side][::-1].transpose(1, 2, 0) + 0.5
