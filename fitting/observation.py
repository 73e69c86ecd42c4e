"""What a fit sees of a photo: one square crop of one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax.camera import CropTransform

VISIBLE_CONFIDENCE = 0.2
"""A landmark counts as visible above this confidence."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Observation:
    """One face in a square crop, or several along leading axes *b."""

    image: Array
    """(*b, S, S, 3) float32 RGB in [0, 1]; beyond the photo its edge is repeated"""
    landmarks: Array
    """(*b, L, 2) crop pixels, x right, y down, pixel centres at +0.5; 0 where missing (confidence 0)"""
    confidence: Array
    """(*b, L) in [0, 1]"""
    dense_landmarks: Array
    """(*b, 468, 2) crop pixels of MediaPipe's face points; 0 where missing (confidence 0)"""
    dense_confidence: Array
    """(*b, 468) in [0, 1]; all 0 where the landmarks are the user's own"""
    face_mask: Array
    """(*b, S, S) in [0, 1]: 1 = face (also inside the photo where unknown), 0 = not, or beyond the photo"""
    occlusion_mask: Array
    """(*b, S, S) in [0, 1]: 1 = the face is hidden here (also beyond the photo)"""
    crop: CropTransform
    """crop pixels = scale * full-photo pixels + offset; scale (*b,), offset (*b, 2)"""


def uncovered(points: Any, confidence: Any, mask: Any) -> Any:
    """NumPy, not to be traced: confidences (N,) of points (N, 2) in crop pixels, 0 under a mask (S, S), 1 = hidden."""
    column, row = np.clip(np.floor(np.nan_to_num(points)).astype(int), 0, len(mask) - 1).T
    return np.where(np.asarray(mask)[row, column] < 0.5, confidence, 0.0)


def stack(observations: Sequence[Observation]) -> Observation:
    """One Observation with a new leading axis out of several of the same crop size.

    Raises:
        ValueError: none given, or of different shapes.
    """
    if not observations:
        raise ValueError("stack needs at least one observation.")
    shapes = {tuple(leaf.shape for leaf in jax.tree.leaves(o)) for o in observations}
    if len(shapes) > 1:
        raise ValueError(f"observations of different shapes cannot be stacked: {sorted(shapes)}.")
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *observations)
