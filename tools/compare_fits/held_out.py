"""Evaluate a fit on held-out landmarks: hide one part of the face from it, then compare with the detector there.

A photo has no known geometry. But the detector saw the hidden part, and a fit that has estimated the face better from
the other parts predicts the hidden landmarks nearer to the detected ones.
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
"""Metres on the mean head: dense landmarks nearer than this to a hidden landmark are hidden too."""
MIN_POINTS = 3
OUTER_EYES = (36, 45)


def hide_part(head: HeadModel, observation: Observation, part: str) -> Observation:
    """Return the observation with confidence 0 for the landmarks of one part of the face, of the 68 and of the 468."""
    mean_head = HeadParams.zeros(head)
    sparse = np.asarray(landmarks(head, mean_head))
    hidden = np.zeros(len(sparse), bool)
    hidden[PARTS[part]] = True
    confidence = jnp.where(jnp.asarray(hidden), 0.0, observation.confidence)
    dense_confidence = observation.dense_confidence
    if head.dense is not None:
        dense = np.asarray(dense_landmarks(head, head.dense, mean_head))
        distance = np.linalg.norm(dense[:, None] - sparse[None, hidden], axis=-1).min(axis=1)
        dense_confidence = jnp.where(jnp.asarray(distance < REACH), 0.0, dense_confidence)
    return dataclasses.replace(observation, confidence=confidence, dense_confidence=dense_confidence)


def part_error(fit: Fit, observation: Observation, part: str) -> np.ndarray:
    """Return the mean distance (B,) of a part's landmarks from the detector's, in outer-eye distances of the photo.

    NaN where fewer than three of them are confident. `observation` is the one before `hide_part`.
    """
    indices = PARTS[part]
    points = np.asarray(fit.camera.project(fit.landmarks))[..., :2]
    target = np.asarray(observation.landmarks)
    confident = (np.asarray(observation.confidence) > VISIBLE_CONFIDENCE)[:, indices]
    left, right = OUTER_EYES
    eye_distance = np.linalg.norm(target[:, left] - target[:, right], axis=-1)
    distance = np.linalg.norm(points - target, axis=-1)[:, indices]
    mean = np.sum(distance * confident, axis=-1) / np.maximum(confident.sum(axis=-1), 1)
    return np.where(confident.sum(axis=-1) >= MIN_POINTS, mean / eye_distance, np.nan)
