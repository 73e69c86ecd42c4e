"""Estimate one surface point per landmark from detections in many renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from experiments.calibrate_landmarks.views import DetectedViews
from flamejax.head import NUM_DENSE, NUM_INNER, DenseLandmarks, HeadModel

MIN_VISIBLE_SHARE = 0.02
"""Fraction of the renders in which a triangle must be visible for a landmark to lie on it."""
MAX_CANDIDATES = 128
ROBUST_SCALE = 0.05
"""Distance, in outer-eye distances, at which the robust distance reaches half its maximum."""
SEARCH_LEVELS = ((0.012, 2), (0.005, 6), (0.002, 16))
"""Search radius around the best point so far in metres, and the number of parts of a triangle's edge."""
MIN_SPREAD = 1e-3
RAYLEIGH_MEDIAN = float(np.sqrt(2.0 * np.log(2.0)))
"""Median length of a 2D normal vector of unit standard deviation per axis."""


@dataclass(frozen=True)
class CandidateTriangles:
    """The A triangles of the template that landmarks may lie on."""

    faces: np.ndarray
    """(F, 3) all triangles of the template"""
    allowed: np.ndarray
    """(A,) indices of the candidates in `faces`"""
    corners: np.ndarray
    """(A, 3, 3) metres"""
    centroids: np.ndarray
    """(A, 3) metres"""
    radii: np.ndarray
    """(A,) metres from the centroid to the farthest corner"""

    @classmethod
    def from_mask(cls, head: HeadModel, usable: np.ndarray) -> CandidateTriangles:
        """Select the triangles where `usable` (F,) bool is True."""
        faces, allowed = np.asarray(head.faces), np.flatnonzero(usable)
        corners = np.asarray(head.v_template, np.float64)[faces[allowed]]
        centroids = corners.mean(axis=1)
        radii = np.linalg.norm(corners - centroids[:, None], axis=-1).max(axis=1)
        return cls(faces, allowed, corners, centroids, radii)


def calibrate(head: HeadModel, views: DetectedViews, advance: Callable[[], None] = lambda: None) -> DenseLandmarks:
    """Estimate where on the head the detector's points lie.

    The visible surface at the detections gives candidates. The candidate that agrees best with all views starts a
    search for the surface point whose projections are nearest to all detections. An average of the candidates in space
    would be wrong: a detection behind the nose or in an open mouth hits the wrong surface, though its pixel is right.

    Args:
        advance: called after each of the 519 points.
    """
    usable = usable_triangles(head, views)
    triangles = CandidateTriangles.from_mask(head, usable)
    faces, count = triangles.faces, views.detected.shape[1]
    face, barycentric = np.zeros(count, np.int64), np.zeros((count, 3))
    for point in range(count):
        hit = np.flatnonzero((views.hit_face[:, point] >= 0) & usable[views.hit_face[:, point]])[:MAX_CANDIDATES]
        hit_face, weights = views.hit_face[hit, point], views.hit_barycentric[hit, point]
        if not len(hit):  # always off the head, or on an eyeball: start from any candidate
            hit_face, weights = triangles.allowed, np.full((len(triangles.allowed), 3), 1 / 3)
        # A robust mean that never leaves the surface.
        best = nearest_candidate(hit_face, weights, views, point, faces)
        origin = weights[best] @ np.asarray(head.v_template, np.float64)[faces[hit_face[best]]]
        face[point], barycentric[point] = search_surface(origin, views, point, triangles)
        advance()
    spread = np.maximum(robust_spread(views, landmark_offsets(views, faces, face, barycentric)), MIN_SPREAD)
    dense, inner = slice(0, NUM_DENSE), slice(NUM_DENSE, None)
    as_index, as_float = (lambda a: jnp.asarray(a, jnp.int32)), (lambda a: jnp.asarray(a, jnp.float32))
    return DenseLandmarks(
        as_index(face[dense]), as_float(barycentric[dense]), as_float(spread[dense]),
        as_index(face[inner]), as_float(barycentric[inner]), as_float(spread[inner]),
    )  # fmt: skip


def landmark_offsets(
    views: DetectedViews, faces: np.ndarray, face: np.ndarray, barycentric: np.ndarray
) -> np.ndarray:
    """Compute offsets (N, L, 2) from projected surface points to detections, in outer-eye distances, x right, y down.

    Args:
      face: (L,) triangles of all 519 points, of the 468 dense ones, or of the 51 inner landmarks; barycentric: (L, 3).
    """
    first = NUM_DENSE if len(face) == NUM_INNER else 0
    detected = views.detected[:, first : first + len(face)]
    projected = np.einsum("lk,nlkd->nld", barycentric, views.screen[:, faces[face]])
    return (detected - projected) / views.eye_distance[:, None, None]


def robust_spread(views: DetectedViews, offsets: np.ndarray) -> np.ndarray:
    """Estimate the standard deviation per image axis of offsets (N, L, 2) from medians: (L,), in the same unit.

    It is the root mean square over three groups of views: turned left, frontal and turned right. A point of the face's
    contour may be right in one group and slide in the others; with separate groups it does not look accurate.
    """
    length = np.linalg.norm(offsets, axis=-1)
    thirds = np.array_split(np.argsort(views.yaw, kind="stable"), 3)
    medians = np.stack([np.median(length[third], axis=0) for third in thirds]) / RAYLEIGH_MEDIAN
    return np.sqrt((medians**2).mean(axis=0))


def usable_triangles(head: HeadModel, views: DetectedViews) -> np.ndarray:
    """Returns (F,) bool: triangles that are visible in some views and do not rotate with the eyeballs."""
    eyeballs = np.asarray(head.regions["left_eyeball"] | head.regions["right_eyeball"])
    return (views.visible_share >= MIN_VISIBLE_SHARE) & ~eyeballs[np.asarray(head.faces)].all(axis=1)


def nearest_candidate(
    face: np.ndarray, barycentric: np.ndarray, views: DetectedViews, point: int, faces: np.ndarray
) -> int:
    """Returns the index of the surface point, face (C,) and barycentric (C, 3), nearest to one landmark's detections.

    The distance saturates, so that views with wrong detections count little: half of an open mouth's landmarks may be
    wrong together.
    """
    projected = np.einsum("ck,nckd->ncd", barycentric.astype(np.float32), views.screen[:, faces[face]])
    distance = np.linalg.norm(projected - views.detected[:, point, None].astype(np.float32), axis=-1)
    distance /= views.eye_distance[:, None].astype(np.float32)
    return int(np.argmin((distance / (distance + ROBUST_SCALE)).mean(axis=0)))


def search_surface(
    origin: np.ndarray, views: DetectedViews, point: int, triangles: CandidateTriangles
) -> tuple[int, np.ndarray]:
    """Find the surface point nearest to the detections, coarse to fine, near `origin` (3,), metres on the template.

    Returns:
      Triangle and barycentric coordinates (3,).
    """
    best = -1, np.zeros(3)
    for radius, parts in SEARCH_LEVELS:
        grid = barycentric_grid(parts)
        near = np.flatnonzero(np.linalg.norm(triangles.centroids - origin, axis=-1) < radius + triangles.radii)
        points = np.einsum("gk,tkd->tgd", grid, triangles.corners[near])
        distance = np.linalg.norm(points - origin, axis=-1)
        triangle, cell = np.nonzero(distance <= max(radius, distance.min()))  # a grid may be coarser than the radius
        winner = nearest_candidate(triangles.allowed[near[triangle]], grid[cell], views, point, triangles.faces)
        best = int(triangles.allowed[near[triangle[winner]]]), grid[cell[winner]]
        origin = points[triangle[winner], cell[winner]]
    return best


def barycentric_grid(parts: int) -> np.ndarray:
    """Returns all barycentric coordinates that are multiples of 1 / parts: (G, 3)."""
    i, j = np.meshgrid(np.arange(parts + 1), np.arange(parts + 1), indexing="ij")
    inside = i + j <= parts
    return np.stack([i[inside], j[inside], parts - i[inside] - j[inside]], axis=-1) / parts
