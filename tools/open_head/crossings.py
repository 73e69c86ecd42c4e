"""Count triangles of the skin that cross other triangles: self-intersections of the mesh.

    python -m tools.open_head.crossings

Prints how many triangles of the face cross others, for the head at rest, for every expression component at both ends of
its range (at most 2 standard deviations), and for the opened jaw. Counts are separate for the lips (which touch when
shut), the lids' regions (which overlap when shut), and elsewhere.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

from flamejax.head import HeadModel, HeadParams, load_head, vertices

REACH = 0.006
"""Metres: triangles of the face whose centroids are farther apart do not intersect."""
DEVIATIONS = 2.0
FACE = ("face", "eye_region", "lips", "nose")
PLACES = {"lips": ("lips",), "lids": ("left_eye_region", "right_eye_region")}


def face_triangles(head: HeadModel) -> np.ndarray:
    """Return the triangles (N, 3) of the face's skin, as vertex indices."""
    skin = np.any([np.asarray(head.regions[name]) for name in FACE], axis=0)
    skin &= ~np.asarray(head.regions["left_eyeball"] | head.regions["right_eyeball"])
    faces = np.asarray(head.faces)
    return faces[skin[faces].all(axis=-1)]


def crossing_triangles(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Return the indices of those triangles (N, 3) of points (V, 3) that intersect another one.

    Triangles with a common vertex are not compared.
    """
    corners = points[triangles]
    centroids = corners.mean(axis=1)
    radius = np.linalg.norm(corners - centroids[:, None], axis=-1).max(axis=1)
    first, second = cKDTree(centroids).query_pairs(REACH, output_type="ndarray").T
    near = np.linalg.norm(centroids[first] - centroids[second], axis=-1) < radius[first] + radius[second]
    apart = ~(triangles[first][:, :, None] == triangles[second][:, None, :]).any(axis=(1, 2))
    first, second = first[near & apart], second[near & apart]
    crossed = _pierces(corners[first], corners[second]) | _pierces(corners[second], corners[first])
    return np.unique(np.concatenate([first[crossed], second[crossed]]))


def _pierces(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(M,) bool: whether an edge of the first triangle passes through the second. Both (M, 3, 3)."""
    normal = np.cross(target[:, 1] - target[:, 0], target[:, 2] - target[:, 0])
    pierced = np.zeros(len(target), bool)
    for i in range(3):
        start, end = source[:, i], source[:, (i + 1) % 3]
        before = ((start - target[:, 0]) * normal).sum(axis=-1)
        after = ((end - target[:, 0]) * normal).sum(axis=-1)
        inside = before * after < 0
        intersection = start + (before / np.where(inside, before - after, 1.0))[:, None] * (end - start)
        for j in range(3):
            along = target[:, (j + 1) % 3] - target[:, j]
            inside &= (np.cross(along, intersection - target[:, j]) * normal).sum(axis=-1) >= 0
        pierced |= inside
    return pierced


def count_crossings(head: HeadModel, **fields: np.ndarray) -> dict[str, int]:
    """Count crossing triangles of one posed head: on the lips, on the lids' regions, elsewhere.

    fields: fields of `HeadParams`; the others are zero.
    """
    values = {name: jnp.asarray(value, jnp.float32) for name, value in fields.items()}
    points = np.asarray(vertices(head, dataclasses.replace(HeadParams.zeros(head), **values)), np.float64)
    triangles = face_triangles(head)
    crossing = triangles[crossing_triangles(points, triangles)]
    uncounted = np.ones(len(crossing), bool)
    counts = {}
    for place, regions in PLACES.items():
        mask = np.any([np.asarray(head.regions[name]) for name in regions], axis=0)
        on_place = uncounted & mask[crossing].any(axis=-1)
        counts[place], uncounted = int(on_place.sum()), uncounted & ~on_place
    return {**counts, "elsewhere": int(uncounted.sum())}


def component_ends(head: HeadModel) -> list[tuple[int, np.ndarray]]:
    """Return each expression component at both ends of its range: its number from 1, and the coefficients (E,)."""
    count = head.num_expression
    limit = np.full((2, count), DEVIATIONS) * [[-1.0], [1.0]]
    if head.expression_range is not None:
        limit = np.clip(limit, *np.asarray(head.expression_range))
    return [(i + 1, end[i] * np.eye(count)[i]) for i in range(count) for end in limit]


def main() -> None:
    head = load_head()
    print("rest", count_crossings(head))
    for number, expression in component_ends(head):
        print(f"component {number} at {expression.sum():+.2f}", count_crossings(head, expression=expression))
    for angle in (0.1, 0.2, 0.3, 0.4):
        print(f"jaw opened by {angle} rad", count_crossings(head, jaw_pose=np.array([angle, 0.0, 0.0])))


if __name__ == "__main__":
    main()
