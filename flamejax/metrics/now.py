"""NoW's protocol: how far a scan of a face lies from a reconstructed head, after alignment (Sanyal et al. 2019, section
5; the non-metrical and metrical evaluations of the NoW challenge; OFER's Table 2 calls these distances MSE).

1. The scan is cropped to the points within r of m, with
       bridge = (inner corner of the right eye + of the left eye) / 2
       m = nose bottom + 0.3 (bridge - nose bottom)
       r = 1.4 (|right outer eye corner - left outer eye corner| + |bridge - nose bottom|) / 2
2. The head is moved onto the scan by the similarity (rigid when metrical) that is best for seven landmarks, which is
   then refined so that the sum of squared distances from the cropped scan's points to the head's surface is least.
3. The unsigned distance of each point of the crop from the surface, and its median, mean and standard deviation over
   all of them, in millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import trimesh
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation

from flamejax._checks import check_shape
from flamejax.geometry import similarity_transform
from flamejax.units import UNITS, Unit

LANDMARKS = (36, 39, 42, 45, 33, 48, 54)
"""Of the 68: corners of the eyes (right outer, right inner, left inner, left outer), nose bottom, corners of the mouth
(right, left); the subject's right and left."""
REACH, UPWARDS = 1.4, 0.3
"""Of the crop: see above."""
FEWEST = 100
"""Points that a crop must hold."""
REFINED_ON = 10_000
"""Points of the crop, evenly spaced, that the alignment is refined on; distances are measured for all."""
ITERATIONS, SETTLED, EXACT_MM = 40, 1e-5, 1e-4
"""At most so many steps; fewer once the root mean square distance falls by less than this share, or is so small."""
EDGE_MM = 4.0
"""The longest edge of the triangles that are looked through."""
NEAR = 8
"""Nearest triangles, by their middles, among which the closest point is looked for at first."""


@dataclass(frozen=True)
class NowErrors:
    """Of one scan, millimetres."""

    distances_mm: np.ndarray
    """(P',) unsigned, of the crop's points."""
    inside: np.ndarray
    """(P,) bool: the points of the scan that the crop holds."""
    median_mm: float
    mean_mm: float
    std_mm: float


def seven_landmarks(landmarks68: np.ndarray) -> np.ndarray:
    """The protocol's landmarks (*b, 7, D) of 68 (*b, 68, D), in the order of `LANDMARKS`."""
    return np.asarray(landmarks68)[..., list(LANDMARKS), :]


def now_errors(
    vertices: np.ndarray, faces: np.ndarray, landmarks: np.ndarray, scan: np.ndarray, scan_landmarks: np.ndarray,
    metrical: bool = False, *, scan_unit: Unit = "m",
) -> NowErrors:  # fmt: skip
    """A head's errors on one scan.

    Args:
      vertices: (V, 3) metres (any unit unless metrical). faces: (F, 3) into them.
      landmarks: (7, 3) on the head, in the order of `LANDMARKS`; `seven_landmarks` takes them from 68.
      scan: (P, 3) points, in `scan_unit` (NoW's scans: "mm"). scan_landmarks: (7, 3) on the scan, likewise.
      metrical: keep the head's size.

    Raises:
      ValueError: shapes that do not fit, numbers that are not finite, landmarks on one line, or a crop of fewer than
        `FEWEST` points.
    """
    if scan_unit not in UNITS:
        raise ValueError(f"no unit {scan_unit!r}; there are: {', '.join(UNITS)}.")
    to_mm = 1e3 * UNITS[scan_unit]
    points, marks = _checked("scan", scan, to_mm), _checked("scan_landmarks", scan_landmarks, to_mm)
    verts, own = _checked("vertices", vertices, 1e3), _checked("landmarks", landmarks, 1e3)
    _check_landmarks(own, marks)
    inside = crop(points, marks)
    if inside.sum() < FEWEST:
        raise ValueError(f"the crop holds {inside.sum()} points of the scan: do its landmarks lie on it, in its unit?")
    fitted = similarity_transform(*(jnp.asarray(a, jnp.float32) for a in (own, marks)), with_scale=not metrical)
    scale, rotation, translation = (np.asarray(a, np.float64) for a in fitted)
    exact = Rotation.from_matrix(rotation).as_matrix()  # orthonormal to double precision
    surface = Surface(scale * verts @ exact.T + translation, faces, EDGE_MM)
    placed, size = _refined(surface, points[inside], metrical)
    distances = size * surface.closest(placed)[1]
    return NowErrors(distances, inside, float(np.median(distances)), float(distances.mean()), float(distances.std()))


def crop(scan: np.ndarray, scan_landmarks: np.ndarray) -> np.ndarray:
    """(P,) bool: the points (P, 3) within the protocol's radius of the face's middle. Landmarks as `LANDMARKS`."""
    bottom, bridge = scan_landmarks[4], (scan_landmarks[1] + scan_landmarks[2]) / 2
    middle = bottom + UPWARDS * (bridge - bottom)
    across = np.linalg.norm(scan_landmarks[0] - scan_landmarks[3])
    return np.linalg.norm(scan - middle, axis=1) <= REACH * (across + np.linalg.norm(bridge - bottom)) / 2


def _checked(name: str, array: np.ndarray, unit: float) -> np.ndarray:
    array = np.asarray(array, np.float64)
    check_shape(name, array, "N", 3, batched=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite.")
    return unit * array


def _check_landmarks(*both: np.ndarray) -> None:
    for marks in both:
        if len(marks) != len(LANDMARKS):
            raise ValueError(f"there are {len(marks)} landmarks, not the {len(LANDMARKS)} of NoW's protocol.")
        spread = np.linalg.svd(marks - marks.mean(axis=0), compute_uv=False)
        if spread[1] <= 1e-3 * spread[0]:
            raise ValueError("the landmarks lie on one line, or at one point: they place nothing.")


class Surface:
    """Triangles, millimetres, on which closest points are looked for."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, longest: float):
        faces = np.asarray(faces)
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(vertices):
            raise ValueError(f"faces {faces.shape} are not (F, 3) into {len(vertices)} vertices.")
        # Where triangles are small, the one with the closest point is among those with the nearest middles.
        split = trimesh.remesh.subdivide_to_size(vertices, faces, longest, max_iter=20)
        corners = np.asarray(split[0])[np.asarray(split[1])]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        size = np.linalg.norm(normals, axis=1)
        solid = size > 1e-9 * longest**2
        if not solid.any():
            raise ValueError("the head has no triangle with an area.")
        self.corners, self.normals = corners[solid], normals[solid] / size[solid, None]
        middles = self.corners.mean(axis=1)
        self._reach = float(np.linalg.norm(self.corners - middles[:, None], axis=-1).max())
        self._tree = KDTree(middles)

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Closest points (P, 3) on the surface, distances (P,), and unit directions (P, 3) in which these grow."""
        place, which = np.empty_like(points), np.empty(len(points), int)
        left, near = np.arange(len(points)), NEAR
        while len(left):
            near = min(near, len(self.corners))
            place[left], which[left], sure = self._closest_of(points[left], near)
            left, near = left[~sure], 4 * near
        distance = np.linalg.norm(points - place, axis=1)
        # On the surface itself the direction is lost in rounding; there it is the normal, of either sign.
        on_it = distance < 1e-9 * np.abs(points).max(initial=0.0)
        away = (points - place) / np.where(on_it, 1.0, distance)[:, None]
        return place, distance, np.where(on_it[:, None], self.normals[which], away)

    def _closest_of(self, points: np.ndarray, near: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Among `near` triangles: closest points (P, 3), their triangles (P,), and where none can be closer (P,)."""
        gaps, which = (np.reshape(a, (len(points), near)) for a in self._tree.query(points, k=near))
        found = trimesh.triangles.closest_point(self.corners[which.ravel()], np.repeat(points, near, axis=0))
        found = found.reshape(*which.shape, 3)
        squared = np.sum((found - points[:, None]) ** 2, axis=-1)
        row, best = np.arange(len(points)), squared.argmin(axis=1)
        # A triangle further away by its middle has no point nearer than that less its own reach.
        sure = (np.sqrt(squared[row, best]) <= gaps[:, -1] - self._reach) | (near == len(self.corners))
        return found[row, best], which[row, best], sure


def _refined(surface: Surface, points: np.ndarray, metrical: bool) -> tuple[np.ndarray, float]:
    """Gauss-Newton on the distances to the surface (as in Chen & Medioni 1992), which lies still while the scan moves.

    Returns:
      The scan's points (P, 3) where they were moved to, and the length on the scan of what is as long as 1 there.
    """
    chosen = np.linspace(0, len(points) - 1, min(len(points), REFINED_ON)).round().astype(int)
    size, place = 1.0, points[chosen]
    closest, distance, direction = surface.closest(place)
    lowest = np.sqrt(np.mean(distance**2))
    for _ in range(ITERATIONS):
        # With q moved by w x q + t + g q, |q - c| changes along the direction u. In the scan's frame that is times a
        # scale which shrinks by g as q grows, hence u.c and not u.q.
        columns = [np.cross(place, direction), direction]
        if not metrical:
            columns.append(np.sum(direction * closest, axis=1, keepdims=True))
        step = np.linalg.lstsq(np.concatenate(columns, axis=1), -distance, rcond=None)[0]
        for share in (1.0, 0.5, 0.25, 0.125):
            turn = Rotation.from_rotvec(share * step[:3]).as_matrix()
            growth = 1.0 if metrical else float(np.exp(share * step[6]))
            moved, tried = growth * points @ turn.T + share * step[3:6], size / growth
            found = surface.closest(moved[chosen])
            error = tried * np.sqrt(np.mean(found[1] ** 2))
            if error < lowest:
                break
        else:
            break
        settled = error > (1 - SETTLED) * lowest or error < EXACT_MM
        points, place, size, lowest, (closest, distance, direction) = moved, moved[chosen], tried, error, found
        if settled:
            break
    return points, size
