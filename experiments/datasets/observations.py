"""Photos of the open scans as observations for a fit."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces import ScanPhoto
from fitting._observe import NUM_DENSE, NoFaceError, observe_photo
from fitting.detector import FaceDetector
from flamejax.camera import CropTransform
from flamejax.types import Observation

Masks = Literal["given", "auto", "none"]
Landmarks = Literal["exact", "detected"]
HIDDEN_NOISE = 0.03
"""Standard deviation of hidden landmarks, in crop sides: about 8 % of the outer-eye distance."""
HIDDEN_CONFIDENCE = (0.05, 0.5)
"""Range of a detector's confidence in hidden landmarks; some are above the threshold, as with real detectors."""


@dataclass(frozen=True)
class ObservationOptions:
    """Which image, mask and landmarks of a photo an observation has."""

    occluded: bool = True
    """Whether the photo has its occluder."""
    masks: Masks = "given"
    """The true occlusion mask, an estimated one, or none. Landmarks under a given mask have no confidence. Without it,
    hidden landmarks are displaced and have random confidences."""
    landmarks: Landmarks = "exact"
    """The true 68 landmarks, as in the papers' protocols; or the 68 and 468 of the default detector."""


def observe(
    photo: ScanPhoto, options: ObservationOptions, detector: FaceDetector | None = None, seed: int = 0
) -> Observation | None:
    """Make an observation of one photo, without batch axes; None if the detector finds no face."""
    image = photo.occluded if options.occluded else photo.image
    side = image.shape[0]
    hidden = photo.occlusion_mask if options.occluded else np.zeros((side, side), np.float32)
    mask = hidden if options.masks == "given" else np.zeros_like(hidden)
    points, confidence = _landmarks(photo, options, seed)
    dense, dense_confidence = np.zeros((NUM_DENSE, 2)), np.zeros(NUM_DENSE)
    if options.landmarks == "detected":
        try:
            (detected,) = observe_photo(image, occlusion_mask=mask, detector=detector, size=side)
        except NoFaceError:
            return None
        scale, offset = np.asarray(detected.crop.scale), np.asarray(detected.crop.offset)
        points, dense = ((np.asarray(p) - offset) / scale for p in (detected.landmarks, detected.dense_landmarks))
        confidence, dense_confidence = np.asarray(detected.confidence), np.asarray(detected.dense_confidence)
    return full_photo_observation(image, mask, points, confidence, dense, dense_confidence)


def full_photo_observation(
    image: np.ndarray, mask: np.ndarray, points: np.ndarray, confidence: np.ndarray, dense: np.ndarray,
    dense_confidence: np.ndarray,
) -> Observation:  # fmt: skip
    """Make an observation whose crop is the full photo (S, S, 3); other arguments as the fields of `Observation`."""
    fields = {
        "image": image,
        "landmarks": points,
        "confidence": confidence,
        "dense_landmarks": dense,
        "dense_confidence": dense_confidence,
        "face_mask": np.ones(mask.shape),
        "occlusion_mask": mask,
    }
    arrays: dict[str, Any] = {name: value.astype(np.float32) for name, value in fields.items()}
    return Observation(**arrays, crop=CropTransform(jnp.asarray(1.0), jnp.zeros(2)))


def _landmarks(photo: ScanPhoto, options: ObservationOptions, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns true landmarks (68, 2) and confidences (68,); hidden ones imitate a detector's output."""
    rng = np.random.default_rng([seed, zlib.crc32(photo.key.encode())])
    points = photo.landmarks
    noise = HIDDEN_NOISE * photo.image.shape[0] * rng.standard_normal(points.shape)
    low_confidence = rng.uniform(*HIDDEN_CONFIDENCE, len(points))
    # Hidden by the head itself (the far cheek): useless to a fit, and detectors have no confidence in it.
    confidence = np.where(photo.landmarks_visible, 1.0, 0.0)
    if not options.occluded:
        return points, confidence
    covered = photo.landmarks_visible & ~photo.landmarks_visible_occluded
    if options.masks == "given":
        return points, np.where(covered, 0.0, confidence)
    return np.where(covered[:, None], points + noise, points), np.where(covered, low_confidence, confidence)


def evenly_spaced_indices(count: int, limit: int | None) -> Sequence[int]:
    """Returns `limit` indices below `count`, evenly spaced so that they cover all subjects and occluders."""
    if limit is None or limit >= count:
        return range(count)
    return sorted(set(np.linspace(0, count - 1, limit).round().astype(int).tolist()))
