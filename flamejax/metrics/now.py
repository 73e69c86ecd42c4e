"""NoW's protocol: distances from a face scan to a reconstructed head, after alignment (Sanyal et al. 2019, sec. 5).

Both evaluations of the NoW challenge, non-metrical and metrical. OFER's Table 2 calls these distances MSE.

1. The scan is cropped to the points within r of m, with
       bridge = (inner corner of the right eye + of the left eye) / 2
       m = nose bottom + 0.3 (bridge - nose bottom)
       r = 1.4 (|right outer eye corner - left outer eye corner| + |bridge - nose bottom|) / 2
2. The head is aligned to the scan by the least-squares similarity (rigid when metrical) of seven landmarks. It is then
   refined: the sum of squared distances from the cropped scan's points to the head's surface is minimized.
3. The errors are the unsigned distances of the crop's points from the surface, and their median, mean and standard
   deviation, in millimetres.
"""

from __future__ import annotations

import warnings
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
"""Indices into the 68 landmarks: eye corners (right outer, right inner, left inner, left outer), nose bottom, mouth
corners (right, left). Right and left are the subject's."""
CROP_RADIUS, CROP_RISE = 1.4, 0.3
"""Constants of the crop: see step 1 above."""
MIN_CROP_POINTS = 100
MAX_ALIGNMENT_POINTS = 10_000
"""Evenly spaced points of the crop that refine the alignment; distances are measured for all points."""
MAX_ITERATIONS, RELATIVE_TOLERANCE, TOLERANCE_MM = 40, 1e-5, 1e-4
"""The refinement stops after this many iterations, when the RMS distance decreases by less than this share, or when it
is this small."""
MAX_EDGE_MM = 4.0
"""Larger triangles are subdivided for the closest-point search."""
MAX_TRIANGLES = 5_000_000
"""More triangles after the subdivision are refused: they would take gigabytes."""
EYE_DISTANCE_MM = (30.0, 300.0)
"""Smallest and largest plausible distance between the outer eye corners. Outside of it, the unit is wrong."""
TYPICAL_LANDMARKS = np.array(
    [[-45, 27, -8], [-17, 25, -3], [17, 25, -3], [45, 27, -8], [0, -20, 18], [-24, -42, 2], [24, -42, 2]], np.float64
)
"""(7, 3) millimetres: the landmarks of the open head at rest, about their mean."""
MIRRORED = [3, 2, 1, 0, 4, 6, 5]
"""The landmarks' order with left and right swapped."""
MAX_ARRANGEMENT_ERROR = 0.25
"""Largest plausible RMS distance from `TYPICAL_LANDMARKS` after alignment, as a share of the outer eye distance. On the
open head with expressions and an open jaw it stays below 0.15."""
INITIAL_NEIGHBOURS = 8
"""Nearest triangle centroids whose triangles the closest-point search tests first."""


@dataclass(frozen=True)
class NowErrors:
    """Errors on one scan, millimetres."""

    distances_mm: np.ndarray
    """(P',) unsigned distances of the crop's points."""
    inside: np.ndarray
    """(P,) bool: which points of the scan are in the crop."""
    median_mm: float
    mean_mm: float
    std_mm: float


def seven_landmarks(landmarks68: np.ndarray) -> np.ndarray:
    """Select the protocol's landmarks (*b, 7, D) from 68 (*b, 68, D), in the order of `LANDMARKS`."""
    return np.asarray(landmarks68)[..., list(LANDMARKS), :]


def now_errors(
    vertices: np.ndarray, faces: np.ndarray, landmarks: np.ndarray, scan: np.ndarray, scan_landmarks: np.ndarray,
    metrical: bool = False, *, scan_unit: Unit = "m",
) -> NowErrors:  # fmt: skip
    """Measure a head's errors on one scan.

    Args:
      vertices: (V, 3) metres (any unit unless metrical). faces: (F, 3) into them.
      landmarks: (7, 3) on the head, in the order of `LANDMARKS`; `seven_landmarks` takes them from 68.
      scan: (P, 3) points, in `scan_unit` (NoW's scans: "mm"). scan_landmarks: (7, 3) on the scan, likewise.
      metrical: keep the head's size.

    Raises:
      ValueError: wrong shapes, numbers that are not finite, collinear landmarks, landmarks whose size is no face's in
        the stated unit, or a crop of fewer than `MIN_CROP_POINTS` points.

    Warns:
      UserWarning: seven landmarks are not arranged as on a face, or with left and right swapped.
    """
    if scan_unit not in UNITS:
        raise ValueError(f"no unit {scan_unit!r}; there are: {', '.join(UNITS)}.")
    to_mm = 1e3 * UNITS[scan_unit]
    points, targets = _to_mm("scan", scan, to_mm), _to_mm("scan_landmarks", scan_landmarks, to_mm)
    verts, sources = _to_mm("vertices", vertices, 1e3), _to_mm("landmarks", landmarks, 1e3)
    _check_landmarks(sources, targets)
    _check_size("scan_landmarks", targets, f'scan_unit "{scan_unit}"')
    if metrical:
        _check_size("landmarks", sources, "metres")
    for name, marks in (("landmarks", sources), ("scan_landmarks", targets)):
        _warn_of_arrangement(name, marks)
    inside = crop_mask(points, targets)
    if inside.sum() < MIN_CROP_POINTS:
        raise ValueError(f"the crop holds {inside.sum()} points of the scan: do its landmarks lie on it, in its unit?")
    scale, rotation, translation = _align(sources, targets, with_scale=not metrical)
    surface = ClosestPointSurface(scale * verts @ rotation.T + translation, faces, MAX_EDGE_MM)
    aligned_points, unit = _refine_alignment(surface, points[inside], metrical)
    distances = unit * surface.closest(aligned_points)[1]
    return NowErrors(distances, inside, float(np.median(distances)), float(distances.mean()), float(distances.std()))


def crop_mask(scan: np.ndarray, scan_landmarks: np.ndarray) -> np.ndarray:
    """Returns (P,) bool: which points (P, 3) lie in the protocol's sphere. Landmarks as `LANDMARKS`."""
    bottom, bridge = scan_landmarks[4], (scan_landmarks[1] + scan_landmarks[2]) / 2
    centre = bottom + CROP_RISE * (bridge - bottom)
    width = np.linalg.norm(scan_landmarks[0] - scan_landmarks[3])
    return np.linalg.norm(scan - centre, axis=1) <= CROP_RADIUS * (width + np.linalg.norm(bridge - bottom)) / 2


def _to_mm(name: str, array: np.ndarray, scale: float) -> np.ndarray:
    array = np.asarray(array, np.float64)
    check_shape(name, array, "N", 3, batched=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds numbers that are not finite.")
    return scale * array


def _check_landmarks(*landmark_sets: np.ndarray) -> None:
    for marks in landmark_sets:
        if len(marks) != len(LANDMARKS):
            raise ValueError(f"there are {len(marks)} landmarks, not the {len(LANDMARKS)} of NoW's protocol.")
        spread = np.linalg.svd(marks - marks.mean(axis=0), compute_uv=False)
        if spread[1] <= 1e-3 * spread[0]:
            raise ValueError("the landmarks lie on one line, or at one point: they determine no alignment.")


def _check_size(name: str, marks: np.ndarray, unit: str) -> None:
    distance, (least, most) = float(np.linalg.norm(marks[0] - marks[3])), EYE_DISTANCE_MM
    if not least <= distance <= most:
        raise ValueError(
            f"{name}: the outer eye corners are {distance:.4g} mm apart if the unit is {unit}; on a face they are "
            f"{least:.0f} to {most:.0f} mm apart. Is it another unit? scan_unit is one of {', '.join(UNITS)}."
        )


def _warn_of_arrangement(name: str, marks: np.ndarray) -> None:
    """Warn if landmarks (7, 3) do not lie as on a face; otherwise such an error shows only as a large distance."""
    plain, mirrored = (_arrangement_error(marks[order]) for order in (list(range(len(LANDMARKS))), MIRRORED))
    if mirrored < plain and mirrored <= MAX_ARRANGEMENT_ERROR:
        warnings.warn(f"{name}: left and right seem to be swapped; they are the subject's.", stacklevel=3)
    elif plain > MAX_ARRANGEMENT_ERROR:
        order = "outer, inner, inner, outer eye corner, nose bottom, mouth corners, from the subject's right"
        warnings.warn(f"{name}: not arranged as on a face. The order is: {order}.", stacklevel=3)


def _arrangement_error(marks: np.ndarray) -> float:
    """RMS distance of landmarks (7, 3) from the typical ones after alignment, as a share of the outer eye distance."""
    scale, rotation, translation = _align(TYPICAL_LANDMARKS, marks, with_scale=True)
    residual = scale * TYPICAL_LANDMARKS @ rotation.T + translation - marks
    return float(np.sqrt(np.mean(np.sum(residual**2, axis=1))) / max(np.linalg.norm(marks[0] - marks[3]), 1e-12))


def _align(source: np.ndarray, target: np.ndarray, with_scale: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the least-squares scale, rotation (3, 3) and translation (3,) of points, in double precision."""
    pairs = (jnp.asarray(a, jnp.float32) for a in (source, target))
    scale, rotation, translation = (
        np.asarray(a, np.float64) for a in similarity_transform(*pairs, with_scale=with_scale)
    )
    return scale, Rotation.from_matrix(rotation).as_matrix(), translation  # orthonormal to double precision


class ClosestPointSurface:
    """A triangle mesh, millimetres, for closest-point queries. Edges are split to at most `max_edge`."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, max_edge: float):
        faces = np.asarray(faces)
        if faces.ndim != 2 or faces.shape[1] != 3 or faces.min(initial=0) < 0 or faces.max(initial=-1) >= len(vertices):
            raise ValueError(f"faces {faces.shape} are not (F, 3) into {len(vertices)} vertices.")
        corners = np.asarray(vertices)[faces]
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max(axis=1, initial=0.0)
        expected = float(np.sum(np.maximum(edges / max_edge, 1.0) ** 2))
        if not expected <= MAX_TRIANGLES:
            raise ValueError(
                f"the aligned head measures {np.ptp(vertices, axis=0).max():.4g} mm: that is {expected:.2g} "
                f"triangles of {max_edge:g} mm. Do its landmarks lie on it, in its unit?"
            )
        # If triangles are small, the one with the closest point is among those with the nearest centroids.
        split = trimesh.remesh.subdivide_to_size(vertices, faces, max_edge, max_iter=20)
        corners = np.asarray(split[0])[np.asarray(split[1])]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        doubled_area = np.linalg.norm(normals, axis=1)
        valid = doubled_area > 1e-9 * max_edge**2
        if not valid.any():
            raise ValueError("the head has no triangle with an area.")
        self.corners, self.normals = corners[valid], normals[valid] / doubled_area[valid, None]
        centroids = self.corners.mean(axis=1)
        self._max_radius = float(np.linalg.norm(self.corners - centroids[:, None], axis=-1).max())
        self._tree = KDTree(centroids)

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns closest points (P, 3) on the surface, distances (P,), and the gradients (P, 3) of the distances."""
        closest, triangle = np.empty_like(points), np.empty(len(points), int)
        pending, count = np.arange(len(points)), INITIAL_NEIGHBOURS
        while len(pending):
            count = min(count, len(self.corners))
            closest[pending], triangle[pending], exact = self._closest_among(points[pending], count)
            pending, count = pending[~exact], 4 * count
        distance = np.linalg.norm(points - closest, axis=1)
        # On the surface itself the gradient is lost in rounding; the normal, of either sign, replaces it there.
        touching = distance < 1e-9 * np.abs(points).max(initial=0.0)
        gradient = (points - closest) / np.where(touching, 1.0, distance)[:, None]
        return closest, distance, np.where(touching[:, None], self.normals[triangle], gradient)

    def _closest_among(self, points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Search the `count` triangles with the nearest centroids.

        Returns closest points (P, 3), their triangles (P,), and whether no other triangle can be closer (P,).
        """
        centroid_distances, triangles = (np.reshape(a, (len(points), count)) for a in self._tree.query(points, k=count))
        candidates = trimesh.triangles.closest_point(self.corners[triangles.ravel()], np.repeat(points, count, axis=0))
        candidates = candidates.reshape(*triangles.shape, 3)
        squared = np.sum((candidates - points[:, None]) ** 2, axis=-1)
        row, best = np.arange(len(points)), squared.argmin(axis=1)
        # No point of a triangle is nearer than its centroid's distance minus the largest radius of any triangle.
        lower_bound = centroid_distances[:, -1] - self._max_radius
        exact = (np.sqrt(squared[row, best]) <= lower_bound) | (count == len(self.corners))
        return candidates[row, best], triangles[row, best], exact


def _refine_alignment(surface: ClosestPointSurface, points: np.ndarray, metrical: bool) -> tuple[np.ndarray, float]:
    """Move the scan's points (P, 3) onto the fixed surface by Gauss-Newton on the distances (Chen & Medioni 1992).

    Returns:
      The moved points (P, 3), and the length on the original scan of one unit among the moved points.
    """
    subset = np.linspace(0, len(points) - 1, min(len(points), MAX_ALIGNMENT_POINTS)).round().astype(int)
    unit, sample = 1.0, points[subset]
    closest, distance, direction = surface.closest(sample)
    lowest = np.sqrt(np.mean(distance**2))
    for _ in range(MAX_ITERATIONS):
        # A point q moves by w x q + t + g q, and |q - c| changes along the direction u. Distances are measured on the
        # original scan, whose unit shrinks by g as q grows, hence u.c and not u.q.
        columns = [np.cross(sample, direction), direction]
        if not metrical:
            columns.append(np.sum(direction * closest, axis=1, keepdims=True))
        step = np.linalg.lstsq(np.concatenate(columns, axis=1), -distance, rcond=None)[0]
        for share in (1.0, 0.5, 0.25, 0.125):
            rotation = Rotation.from_rotvec(share * step[:3]).as_matrix()
            growth = 1.0 if metrical else float(np.exp(share * step[6]))
            moved, moved_unit = growth * points @ rotation.T + share * step[3:6], unit / growth
            query = surface.closest(moved[subset])
            error = moved_unit * np.sqrt(np.mean(query[1] ** 2))
            if error < lowest:
                break
        else:
            break
        converged = error > (1 - RELATIVE_TOLERANCE) * lowest or error < TOLERANCE_MM
        points, sample, unit, lowest, (closest, distance, direction) = moved, moved[subset], moved_unit, error, query
        if converged:
            break
    return points, unit
