"""A mesh of FLAME's size and components, without FLAME: a head and two eyeballs that are spheres."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull

FLAME_SPHERES = (
    (3931, 1.0, (0.0, 0.0, 0.0)),
    (546, 0.1, (-0.3, 0.2, 0.8)),
    (546, 0.1, (0.3, 0.2, 0.8)),
)
"""Vertices, radius and centre of each component: 5,023 vertices together."""

Sphere = tuple[int, float, tuple[float, float, float]]


def spheres(parts: Sequence[Sphere] = FLAME_SPHERES) -> tuple[np.ndarray, np.ndarray]:
    """Return faces (F, 3) int64 and positions (V, 3) of spheres: points on golden spirals and their convex hulls."""
    faces, positions, offset = [], [], 0
    for count, radius, centre in parts:
        k = np.arange(count) + 0.5
        height, angle = 1 - 2 * k / count, np.pi * (1 + np.sqrt(5)) * k
        radii = np.sqrt(1 - height**2)
        unit = np.stack([radii * np.cos(angle), height, radii * np.sin(angle)], axis=1)
        faces.append(ConvexHull(unit).simplices + offset)
        positions.append(radius * unit + np.asarray(centre))
        offset += count
    return np.concatenate(faces), np.concatenate(positions)
