"""Photos of the open scans as observations: what a fit is told of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces import Photo
from fitting._observe import DENSE, NoFaceError, observe_photo
from fitting.detector import FaceDetector
from flamejax.camera import CropTransform
from flamejax.types import Observation

Masks = Literal["given", "auto", "none"]
Landmarks = Literal["exact", "detected"]
HIDDEN_NOISE = 0.03
"""Standard deviation of hidden landmarks, in crop sides: about 8 % of the outer-eye distance."""
HIDDEN_CONFIDENCE = (0.05, 0.5)
"""Range of the confidence that a detector gives hidden landmarks; some are above the threshold, as in life."""


@dataclass(frozen=True)
class Look:
    """How a photo is shown to a fit."""

    occluded: bool = True
    """The photo with its occluder, or the clean one."""
    masks: Masks = "given"
    """The true occlusion mask, one that is found, or none. Landmarks under a given mask are hidden; without one, hidden
    landmarks are misplaced, with random confidences."""
    landmarks: Landmarks = "exact"
    """The true 68, as the papers' protocols have 68; or the 68 and 468 of the default detector."""


def observe(photo: Photo, look: Look, detector: FaceDetector | None = None, seed: int = 0) -> Observation | None:
    """One photo as an observation without batch axes; None where the detector finds no face."""
    image = photo.occluded if look.occluded else photo.image
    side = image.shape[0]
    hidden = photo.occlusion_mask if look.occluded else np.zeros((side, side), np.float32)
    mask = hidden if look.masks == "given" else np.zeros_like(hidden)
    points, confidence = _landmarks(photo, look, seed)
    dense, dense_confidence = np.zeros((DENSE, 2)), np.zeros(DENSE)
    if look.landmarks == "detected":
        try:
            (found,) = observe_photo(image, occlusion_mask=mask, detector=detector, size=side)
        except NoFaceError:
            return None
        scale, offset = np.asarray(found.crop.scale), np.asarray(found.crop.offset)
        points, dense = ((np.asarray(p) - offset) / scale for p in (found.landmarks, found.dense_landmarks))
        confidence, dense_confidence = np.asarray(found.confidence), np.asarray(found.dense_confidence)
    return whole_photo(image, mask, points, confidence, dense, dense_confidence)


def whole_photo(
    image: np.ndarray, mask: np.ndarray, points: np.ndarray, confidence: np.ndarray, dense: np.ndarray,
    dense_confidence: np.ndarray,
) -> Observation:  # fmt: skip
    """An observation whose crop is the photo (S, S, 3) itself; other arguments as the fields of `Observation`."""
    parts = {
        "image": image,
        "landmarks": points,
        "confidence": confidence,
        "dense_landmarks": dense,
        "dense_confidence": dense_confidence,
        "face_mask": np.ones(mask.shape),
        "occlusion_mask": mask,
    }
    arrays: dict[str, Any] = {name: part.astype(np.float32) for name, part in parts.items()}
    return Observation(**arrays, crop=CropTransform(jnp.asarray(1.0), jnp.zeros(2)))


def _landmarks(photo: Photo, look: Look, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True landmarks (68, 2) and confidences (68,); those that are hidden as a detector would give them."""
    rng = np.random.default_rng([seed, zlib.crc32(photo.key.encode())])
    points = photo.landmarks
    noise = HIDDEN_NOISE * photo.image.shape[0] * rng.standard_normal(points.shape)
    unsure = rng.uniform(*HIDDEN_CONFIDENCE, len(points))
    # Hidden by the head itself (the far cheek): of no use to any fit, and no detector is sure of it.
    confidence = np.where(photo.landmarks_visible, 1.0, 0.0)
    if not look.occluded:
        return points, confidence
    behind = photo.landmarks_visible & ~photo.landmarks_visible_occluded
    if look.masks == "given":
        return points, np.where(behind, 0.0, confidence)
    return np.where(behind[:, None], points + noise, points), np.where(behind, unsure, confidence)


def spread_out(count: int, limit: int | None) -> Sequence[int]:
    """Places of `limit` photos spread evenly over `count`, so that every subject and occluder is among them."""
    if limit is None or limit >= count:
        return range(count)
    return sorted(set(np.linspace(0, count - 1, limit).round().astype(int).tolist()))
