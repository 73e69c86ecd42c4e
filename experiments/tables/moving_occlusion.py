"""An occluder that moves around the face (Diverse3DFace, appendix A.5, Fig. 8): a plain patch at five places."""

from __future__ import annotations

import dataclasses

import numpy as np

from experiments.datasets.open_faces import Photo
from experiments.tables.diverse_cases import Case, behind, face_axes, painted, pixel_centres

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
CORNER = 0.25
"""Radius of the corners, as a share of the shorter side."""


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
