"""From the detector's points in many renders to one place on the surface each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from experiments.calibrate_landmarks.views import Views
from flamejax.head import NUM_DENSE, NUM_INNER, DenseLandmarks, HeadModel

MIN_SEEN = 0.02
"""Share of the renders in which a triangle must be visible for a landmark to lie on it."""
MAX_CANDIDATES = 128
ROBUST_SCALE = 0.05
"""Distance, in outer-eye distances, at which a disagreement has half its greatest weight."""
LEVELS = ((0.012, 2), (0.005, 6), (0.002, 16))
"""Of the search: radius in metres round the best place so far, and into how many parts a triangle's edges are cut."""
MIN_SPREAD = 1e-3
RAYLEIGH_MEDIAN = float(np.sqrt(2.0 * np.log(2.0)))
"""Median length of a 2D normal vector of unit standard deviation per axis."""


@dataclass(frozen=True)
class Surface:
    """The triangles that landmarks may lie on, A of the template's."""

    faces: np.ndarray
    """(F, 3) all triangles"""
    allowed: np.ndarray
    """(A,) indices of triangles"""
    corners: np.ndarray
    """(A, 3, 3) metres"""
    middle: np.ndarray
    """(A, 3) metres"""
    reach: np.ndarray
    """(A,) metres from the middle to the farthest corner"""

    @classmethod
    def of(cls, head: HeadModel, usable: np.ndarray) -> Surface:
        """usable: (F,) bool."""
        faces, allowed = np.asarray(head.faces), np.flatnonzero(usable)
        corners = np.asarray(head.v_template, np.float64)[faces[allowed]]
        middle = corners.mean(axis=1)
        return cls(faces, allowed, corners, middle, np.linalg.norm(corners - middle[:, None], axis=-1).max(axis=1))


def calibrate(head: HeadModel, views: Views, advance: Callable[[], None] = lambda: None) -> DenseLandmarks:
    """Where on the head the detector's points lie.

    The visible surface at the detections gives candidates; the one that agrees best with all views starts a search for
    the surface point whose projections are nearest to all detections. Averaging the candidates in space would not do: a
    detection behind the nose or in an open mouth hits the wrong surface, though its place in the image is right.

    Args:
        advance: called after each of the 519 points.
    """
    usable = usable_triangles(head, views)
    surface = Surface.of(head, usable)
    faces, count = surface.faces, views.detected.shape[1]
    face, barycentric = np.zeros(count, np.int64), np.zeros((count, 3))
    for point in range(count):
        hit = np.flatnonzero((views.hit_face[:, point] >= 0) & usable[views.hit_face[:, point]])[:MAX_CANDIDATES]
        triangles, weights = views.hit_face[hit, point], views.hit_barycentric[hit, point]
        if not len(hit):  # always beside the head, or on an eyeball: begin anywhere
            triangles, weights = surface.allowed, np.full((len(surface.allowed), 3), 1 / 3)
        # A robust mean that never leaves the surface.
        best = most_agreeing(triangles, weights, views, point, faces)
        origin = weights[best] @ np.asarray(head.v_template, np.float64)[faces[triangles[best]]]
        face[point], barycentric[point] = search_surface(origin, views, point, surface)
        advance()
    spread = np.maximum(robust_spread(views, offset(views, faces, face, barycentric)), MIN_SPREAD)
    dense, inner = slice(0, NUM_DENSE), slice(NUM_DENSE, None)
    as_index, as_float = (lambda a: jnp.asarray(a, jnp.int32)), (lambda a: jnp.asarray(a, jnp.float32))
    return DenseLandmarks(
        as_index(face[dense]), as_float(barycentric[dense]), as_float(spread[dense]),
        as_index(face[inner]), as_float(barycentric[inner]), as_float(spread[inner]),
    )  # fmt: skip


def offset(views: Views, faces: np.ndarray, face: np.ndarray, barycentric: np.ndarray) -> np.ndarray:
    """(N, L, 2) outer-eye distances, x right, y down, from surface points to detections: face (L,), barycentric (L, 3)
    of all 519 points, the 468 dense ones, or the 51 inner landmarks."""
    first = NUM_DENSE if len(face) == NUM_INNER else 0
    detected = views.detected[:, first : first + len(face)]
    projected = np.einsum("lk,nlkd->nld", barycentric, views.screen[:, faces[face]])
    return (detected - projected) / views.eye_distance[:, None, None]


def robust_spread(views: Views, offsets: np.ndarray) -> np.ndarray:
    """(L,) standard deviation per image axis of offsets (N, L, 2), in their unit, from medians: root mean square over
    the views turned left, frontal and right.

    The thirds are taken apart so that a point of the face's contour, which is right in one of them and slides in the
    others, does not pass for a good one.
    """
    length = np.linalg.norm(offsets, axis=-1)
    thirds = np.array_split(np.argsort(views.yaw, kind="stable"), 3)
    medians = np.stack([np.median(length[third], axis=0) for third in thirds]) / RAYLEIGH_MEDIAN
    return np.sqrt((medians**2).mean(axis=0))


def usable_triangles(head: HeadModel, views: Views) -> np.ndarray:
    """(F,) bool: triangles that are seen now and then, and do not turn with the eyeballs."""
    eyeballs = np.asarray(head.regions["left_eyeball"] | head.regions["right_eyeball"])
    return (views.seen >= MIN_SEEN) & ~eyeballs[np.asarray(head.faces)].all(axis=1)


def most_agreeing(face: np.ndarray, barycentric: np.ndarray, views: Views, point: int, faces: np.ndarray) -> int:
    """Which of some surface points, face (C,) and barycentric (C, 3), is nearest to all detections of one landmark.

    The distance is robust, it levels off: views in which the detector erred should not count, and half an open mouth's
    landmarks may be wrong together.
    """
    projected = np.einsum("ck,nckd->ncd", barycentric.astype(np.float32), views.screen[:, faces[face]])
    distance = np.linalg.norm(projected - views.detected[:, point, None].astype(np.float32), axis=-1)
    distance /= views.eye_distance[:, None].astype(np.float32)
    return int(np.argmin((distance / (distance + ROBUST_SCALE)).mean(axis=0)))


def search_surface(place: np.ndarray, views: Views, point: int, surface: Surface) -> tuple[int, np.ndarray]:
    """Triangle and barycentric (3,) of the surface point in best agreement near `place` (3,), metres on the template,
    by grids of growing fineness."""
    best = -1, np.zeros(3)
    for radius, parts in LEVELS:
        grid = barycentric_grid(parts)
        near = np.flatnonzero(np.linalg.norm(surface.middle - place, axis=-1) < radius + surface.reach)
        places = np.einsum("gk,tkd->tgd", grid, surface.corners[near])
        distance = np.linalg.norm(places - place, axis=-1)
        triangle, cell = np.nonzero(distance <= max(radius, distance.min()))  # a grid may be coarser than the radius
        winner = most_agreeing(surface.allowed[near[triangle]], grid[cell], views, point, surface.faces)
        best = int(surface.allowed[near[triangle[winner]]]), grid[cell[winner]]
        place = places[triangle[winner], cell[winner]]
    return best


def barycentric_grid(parts: int) -> np.ndarray:
    """All barycentric coordinates that are multiples of 1 / parts: (G, 3)."""
    i, j = np.meshgrid(np.arange(parts + 1), np.arange(parts + 1), indexing="ij")
    keep = i + j <= parts
    return np.stack([i[keep], j[keep], parts - i[keep] - j[keep]], axis=-1) / parts
