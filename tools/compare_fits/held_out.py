"""What a fit says of landmarks it never saw: one part of the face is hidden from it, then compared with the detector.

A photo has no known geometry. But the detector saw the hidden part, and a fit that has learnt something true of the
face from the rest of it puts the hidden landmarks nearer to where the detector did.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from fitting import Fit, Observation
from flamejax.head import HeadModel, HeadParams, dense_landmarks, landmarks
from flamejax.types import VISIBLE_CONFIDENCE

PARTS = {"brows": slice(17, 27), "nose": slice(27, 36), "eyes": slice(36, 48), "lips": slice(48, 68)}
REACH = 0.015
"""Metres on the mean head: dense landmarks nearer than this to a hidden one are hidden with it."""
MIN_POINTS = 3
OUTER_EYES = (36, 45)


def hide_part(head: HeadModel, observation: Observation, part: str) -> Observation:
    """The observation without the landmarks of one part of the face, of the 68 and of the 468. Axes as given."""
    rest = HeadParams.zeros(head)
    sparse = np.asarray(landmarks(head, rest))
    hidden = np.zeros(len(sparse), bool)
    hidden[PARTS[part]] = True
    confidence = jnp.where(jnp.asarray(hidden), 0.0, observation.confidence)
    dense_confidence = observation.dense_confidence
    if head.dense is not None:
        dense = np.asarray(dense_landmarks(head, head.dense, rest))
        distance = np.linalg.norm(dense[:, None] - sparse[None, hidden], axis=-1).min(axis=1)
        dense_confidence = jnp.where(jnp.asarray(distance < REACH), 0.0, dense_confidence)
    return dataclasses.replace(observation, confidence=confidence, dense_confidence=dense_confidence)


def part_error(fit: Fit, observation: Observation, part: str) -> np.ndarray:
    """(B,) mean distance of a part's landmarks from the detector's, in outer-eye distances of the photo.

    NaN where the detector was sure of fewer than three of them. `observation` is the one before `hide_part`.
    """
    chosen = PARTS[part]
    points = np.asarray(fit.camera.project(fit.landmarks))[..., :2]
    target = np.asarray(observation.landmarks)
    sure = (np.asarray(observation.confidence) > VISIBLE_CONFIDENCE)[:, chosen]
    left, right = OUTER_EYES
    span = np.linalg.norm(target[:, left] - target[:, right], axis=-1)
    distance = np.linalg.norm(points - target, axis=-1)[:, chosen]
    mean = np.sum(distance * sure, axis=-1) / np.maximum(sure.sum(axis=-1), 1)
    return np.where(sure.sum(axis=-1) >= MIN_POINTS, mean / span, np.nan)
