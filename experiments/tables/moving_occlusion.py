"""Synthetic occluders: a patch at five places of the face (Diverse3DFace, A.5, Fig. 8), and a growing cover."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces import ScanPhoto
from experiments.tables.diverse_cases import Case
from fitting.inputs import confidence_outside_mask
from flamejax.types import Fit, Observation

PLACES: dict[str, tuple[tuple[int, ...], float, tuple[float, float]]] = {
    "left cheek": ((45, 35, 54, 13), 0.5, (0.6, 0.75)),
    "mouth": (tuple(range(48, 68)), 0.5, (0.85, 0.62)),
    "right cheek": ((36, 31, 48, 3), 0.5, (0.6, 0.75)),
    "centre": ((27, 30, 33), 0.5, (0.68, 0.85)),
    "eyes": (tuple(range(36, 48)), 0.45, (1.3, 0.5)),
}
"""Places of the patch in the order of Fig. 8; left is the subject's left. For each: the iBUG points whose mean anchors
the patch, how far up the patch that anchor lies (0 to 1), and the patch's width and height in outer-eye distances."""
OUTER_OVER_CENTRES = 1.45
"""Outer-eye distance divided by the distance of the eyes' centres, which is more reliable in a photo."""
LEFT_EYE, RIGHT_EYE = slice(42, 48), slice(36, 42)
COLOUR = np.array([0.32, 0.36, 0.42], np.float32)
CORNER = 0.25
"""Radius of the corners, as a share of the shorter side."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the face's height that the growing cover hides, from the chin (0) to just below the brows (1)."""
BROW_MARGIN = 1.0
"""Pixels between the lowest landmark of the brows and the largest cover."""


def patch_mask(landmarks: np.ndarray, place: str, side: int) -> np.ndarray:
    """Returns the mask (S, S) bool of a patch, a rectangle with round corners rotated with the face.

    Args:
      landmarks: (68, 2) pixels. place: of `PLACES`; KeyError for others.
    """
    points, below, size = PLACES[place]
    right, down, unit = face_axes(landmarks)
    half = np.array(size) * unit * OUTER_OVER_CENTRES / 2
    middle = landmarks[list(points)].mean(axis=0) + down * (2 * below - 1) * half[1]
    offset = pixel_centres(side) - middle
    inner = np.abs(np.stack([offset @ right, offset @ down], axis=-1)) - half
    radius = 2 * CORNER * half.min()
    corner = np.linalg.norm(np.maximum(inner + radius, 0), axis=-1)
    return (inner.max(axis=-1) < 0) & (corner < radius)


def with_patch(case: Case, photo: ScanPhoto | None, place: str) -> Case:
    """Returns a clean case with a patch, whose mask is given. photo: of the open scans, whose true head determines the
    vertices behind the patch; None: the fit determines them."""
    mask = patch_mask(np.asarray(case.observation.landmarks), place, case.observation.image.shape[0])
    visible = case.visible if photo is None or case.visible is None else case.visible & ~vertices_behind(mask, photo)
    key, observation = f"{case.key}-{place.replace(' ', '_')}", cover_observation(case.observation, mask)
    return dataclasses.replace(case, key=key, occluder=place, observation=observation, visible=visible)


def frontality(case: Case) -> float:
    """Returns how frontal a face is, from its landmarks: 1 if the nose is midway between the ears."""
    points = np.asarray(case.observation.landmarks)
    left, right = (float(np.linalg.norm(points[30] - points[ear])) for ear in (16, 0))
    return 1 - abs(left - right) / max(left + right, 1e-6)


def covered_case(case: Case, share: float) -> Case:
    """Returns a case whose lower face is covered, from the chin to a share of the face's height."""
    observation = cover_observation(case.observation, cover_mask(case, share))
    # Without masks of visible vertices, which are then determined by the fit.
    return Case(f"{case.key}-covered_{round(100 * share)}", case.subject, "cover", observation, truth=case.truth)


def cover_mask(case: Case, share: float) -> np.ndarray:
    """Returns the mask (S, S) bool of a cover. The brows' landmarks stay visible, since a fit needs some."""
    points, side = np.asarray(case.observation.landmarks), np.asarray(case.observation.image).shape[0]
    if share == 0:
        return np.zeros((side, side), bool)
    _, down, _ = face_axes(points)
    chin, brows = float((points @ down)[8]), float((points @ down)[17:27].max()) + BROW_MARGIN
    return pixel_centres(side) @ down > chin + share * (brows - chin)


def cover_observation(observation: Observation, mask: np.ndarray) -> Observation:
    """Returns the photo with a plain cover on a mask (S, S) bool. The mask is given, and landmarks in it are hidden."""
    parts = {
        "image": np.where(mask[..., None], COLOUR[None, None], np.asarray(observation.image)),
        "occlusion_mask": np.maximum(observation.occlusion_mask, mask),
        "confidence": confidence_outside_mask(observation.landmarks, observation.confidence, mask),
        "dense_confidence": confidence_outside_mask(observation.dense_landmarks, observation.dense_confidence, mask),
    }
    return dataclasses.replace(observation, **{name: part.astype(np.float32) for name, part in parts.items()})


def vertices_behind(cover: np.ndarray, head: Fit | ScanPhoto) -> np.ndarray:
    """Returns the vertices, (V,) bool, of a fit or a true head whose pixel is in the cover (S, S)."""
    screen = np.asarray(head.camera.project(jnp.asarray(head.vertices)))[:, :2]
    column, row = np.clip(np.floor(screen).astype(int), 0, np.array(cover.shape[::-1]) - 1).T
    return cover[row, column]


def face_axes(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the face's unit directions to the image's right and down (2,), and the distance of the eyes' centres,
    from landmarks (68, 2) pixels."""
    eyes = landmarks[LEFT_EYE].mean(axis=0) - landmarks[RIGHT_EYE].mean(axis=0)
    unit = max(float(np.linalg.norm(eyes)), 1e-6)
    right = eyes / unit
    return right, np.array([-right[1], right[0]]), unit


def pixel_centres(side: int) -> np.ndarray:
    """Returns the x and y of pixel centres, (S, S, 2)."""
    return np.mgrid[:side, :side][::-1].transpose(1, 2, 0) + 0.5
