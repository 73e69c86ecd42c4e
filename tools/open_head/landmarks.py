"""Place the iBUG landmarks on the surface: 51 static inner points (17..67); and FLAME's 79 yaw bins of the contour.

Every point is (triangle, barycentric), placed on the mean face. Lid margins and the lip seam are vertex rings of the
topology, and the outer lip border is a mask contour. The other points are placed in the frontal view and projected to
the surface along -z. Sides: low numbers are the image's left = the subject's right = -x.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.mouth import split_ring
from tools.open_head.surface import MeanHeadSurface, arc_points, face_of_edge

YAW_BINS = 79
OUTER_REACH, INNER_REACH = 0.0010, 0.0028  # metres from the lid ring to the eye corners


def bin_yaw(index: np.ndarray | int) -> np.ndarray:
    """Return the head rotation about +y (degrees) of FLAME's contour bin: 0..39 -> 0..-39, 40..78 -> +1..+39."""
    index = np.asarray(index)
    return np.where(index < 40, -index, index - 39)


def yaw_bin(yaw: int) -> int:
    """Return the bin of a yaw in integer degrees, -39..39."""
    return int(-yaw if yaw <= 0 else 39 + yaw)


class LandmarkPoints:
    """Collects (face, barycentric) pairs by landmark number."""

    def __init__(self):
        self.items: dict[int, tuple[int, np.ndarray]] = {}

    def arrays(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        faces = np.array([self.items[first + i][0] for i in range(count)], np.int32)
        bary = np.stack([self.items[first + i][1] for i in range(count)])
        return faces, (bary / bary.sum(1, keepdims=True)).astype(np.float32)


def place_lid_points(surface: MeanHeadSurface, head: Head, out: LandmarkPoints) -> dict[str, np.ndarray]:
    """Place 36..47 on the lid margin rings; returns the rings by side."""
    rings = {}
    for side, island in zip(("right", "left"), surface.socket_islands, strict=True):
        ring = surface.seam_loop(island)
        rings[side] = ring
        x = surface.vertices[ring, 0]
        inner, outer = (int(np.argmax(x)), int(np.argmin(x))) if side == "right" else (
            int(np.argmin(x)), int(np.argmax(x)))  # fmt: skip
        upper, lower = split_ring(ring, outer, inner, surface.outer_height())
        first = {"right": (36, 37, 38, 39, 40, 41), "left": (45, 44, 43, 42, 47, 46)}[side]
        place_on_path(out, surface, upper, [0, 1 / 3, 2 / 3, 1], first[:4])
        place_on_path(out, surface, lower[::-1], [1 / 3, 2 / 3], first[4:])
        # the seam ring ends at the eyeball; the corners that annotators mark lie a little beyond it
        for number, end, reach in ((first[0], ring[outer], OUTER_REACH), (first[3], ring[inner], INNER_REACH)):
            a, b = surface.vertices[ring[inner]], surface.vertices[ring[outer]]
            along = (surface.vertices[end] - (a + b) / 2) / np.linalg.norm(b - a) * 2
            x, y = (surface.vertices[end] + reach * along)[:2]
            out.items[number] = surface.frontmost_point(x, y - 0.3 * reach)[:2]
    return rings


def place_on_path(
    out: LandmarkPoints, surface: MeanHeadSurface, path: np.ndarray, fractions: list[float], numbers
) -> None:
    """Place landmarks at arc-length fractions of a vertex path."""
    for number, (a, b, t) in zip(numbers, arc_points(surface.vertices[path], fractions), strict=True):
        out.items[number] = face_of_edge(surface, int(path[a]), int(path[b]), t)


def place_lip_points(surface: MeanHeadSurface, lips: np.ndarray, out: LandmarkPoints) -> dict[str, np.ndarray]:
    """Place 48..67: the outer border on the 0.5 contour of the lip mask (V,), the inner border on the seam ring."""
    v = surface.vertices
    ring = surface.seam_loop(surface.mouth_island)
    x = v[ring, 0]
    upper, lower = split_ring(ring, int(np.argmin(x)), int(np.argmax(x)), surface.outer_height())
    place_on_path(out, surface, upper, [0, 0.27, 0.5, 0.73, 1], (60, 61, 62, 63, 64))
    place_on_path(out, surface, lower[::-1], [0.27, 0.5, 0.73], (65, 66, 67))
    faces, bary, points = surface.contour(lips, 0.5)
    right, left = int(np.argmin(points[:, 0])), int(np.argmax(points[:, 0]))
    ids = np.arange(len(points))
    middle = (points[right, 1] + points[left, 1]) / 2
    peaks = []
    for sign in (-1, 1):  # Cupid's bow
        near = ids[(points[:, 1] > middle) & (np.abs(points[:, 0] * sign - 0.008) < 0.006)]
        peaks.append(points[near[np.argmax(points[near, 1])], 0])
    peak = (peaks[1] - peaks[0]) / 2
    corner = points[left, 0]
    # landmark -> x, and 1 on the upper half of the border, -1 on the lower
    places = {48: (-corner, 0), 54: (corner, 0), 50: (-peak, 1), 51: (0, 1), 52: (peak, 1)}
    places |= {49: (-(peak + corner) / 2 - 0.001, 1), 53: ((peak + corner) / 2 + 0.001, 1), 57: (0, -1)}
    places |= {58: (-0.36 * corner, -1), 56: (0.36 * corner, -1), 59: (-0.70 * corner, -1), 55: (0.70 * corner, -1)}
    for number, (x0, half) in places.items():
        pool = ids if half == 0 else ids[(points[:, 1] - middle) * half > 0]
        best = pool[np.argmin(np.abs(points[pool, 0] - x0))]
        out.items[number] = (int(faces[best]), bary[best])
    return {"inner": ring, "outer": points}


def place_nose_points(surface: MeanHeadSurface, out: LandmarkPoints, eye_y: float) -> dict[str, float]:
    """Place 27..35 by the midline profile and the nose's frontal width; returns the measured heights and widths."""
    lip_top = surface.point(out.items[51])
    ys = np.linspace(lip_top[1], eye_y + 0.02, 400)
    profile = np.array([surface.frontmost_point(0.0, y)[2] for y in ys])
    z = profile[:, 2]
    below = ys < eye_y - 0.015
    tip = int(np.argmax(np.where(below, z, -1)))
    # subnasale: the concave corner between columella and philtrum = farthest inside the chord from tip to lip
    seg = profile[: tip + 1]
    chord = seg[-1] - seg[0]
    depth = chord[2] * (seg[:, 1] - seg[0, 1]) / chord[1] + seg[0, 2] - seg[:, 2]
    base = int(np.argmax(depth[: max(3, int(0.75 * len(seg)))]))
    top = eye_y + 0.003
    for k, number in enumerate((27, 28, 29, 30)):
        y = top + (ys[tip] - top) * k / 3
        out.items[number] = surface.frontmost_point(0.0, y)[:2]
    y33 = ys[base]
    out.items[33] = surface.frontmost_point(0.0, y33 + 0.0005)[:2]
    # alar wings: widest x where the surface still stands out from the cheek just beside it
    heights = np.linspace(y33, ys[tip] + 0.004, 24)
    widths = []
    for y in heights:
        xs = np.linspace(0.006, 0.032, 66)
        depths = np.array([surface.frontmost_point(x, y)[2][2] for x in xs])
        slope = np.diff(depths) / np.diff(xs)
        steep = np.where(slope < -1.2)[0]
        widths.append(xs[steep[-1] + 1] if len(steep) else 0.0)
    wide = int(np.argmax(widths))
    alar, alar_y = widths[wide], heights[wide]
    for number, share, rise in ((35, 0.84, 0.30), (34, 0.45, 0.10)):
        for sign, n in ((1, number), (-1, {35: 31, 34: 32}[number])):
            out.items[n] = surface.frontmost_point(sign * share * alar, y33 + rise * (alar_y - y33))[:2]
    return {"tip_y": float(ys[tip]), "subnasale_y": float(y33), "alar_x": float(alar), "alar_y": float(alar_y)}


def place_brow_points(surface: MeanHeadSurface, out: LandmarkPoints, curve: np.ndarray) -> None:
    """Place 17..26 on a brow curve: (5, 2) frontal (x, y) of the left brow from inner to outer end."""
    for k, (x, y) in enumerate(curve):
        out.items[22 + k] = surface.frontmost_point(x, y)[:2]
        out.items[21 - k] = surface.frontmost_point(-x, y)[:2]


def brow_curve(lid_ring: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Return the brow's arch above the left eye: (5, 2) frontal (x, y).

    It is defined in units of the outer eye corner's distance from the midline, after the mean of annotated iBUG faces.
    At the temple it is slightly narrower, since the perspective of photos widens it there.
    """
    ring = vertices[lid_ring]
    unit, eye_y = ring[:, 0].max(), (ring[np.argmin(ring[:, 0]), 1] + ring[np.argmax(ring[:, 0]), 1]) / 2
    x = np.array([0.28, 0.52, 0.79, 1.04, 1.22])
    y = np.array([0.375, 0.445, 0.475, 0.425, 0.285])
    return np.stack([x * unit, eye_y + y * unit], 1)


def mirror_point(head: Head, point: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
    """Return the mirrored surface point."""
    face, bary = point
    mirrored = head.mirror[head.faces[face]]
    mirrored_face = int(np.where((np.sort(head.faces, 1) == np.sort(mirrored)).all(1))[0][0])
    corners = [int(np.where(head.faces[mirrored_face] == vertex)[0][0]) for vertex in mirrored]
    mirrored_bary = np.zeros(3)
    mirrored_bary[corners] = bary
    return mirrored_face, mirrored_bary


PAIRS = [(22 + k, 21 - k) for k in range(5)] + [(34, 32), (35, 31)]
PAIRS += [(42, 39), (43, 38), (44, 37), (45, 36), (46, 41), (47, 40)]
PAIRS += [(54, 48), (53, 49), (52, 50), (55, 59), (56, 58), (64, 60), (63, 61), (65, 67)]


def place_static_landmarks(surface: MeanHeadSurface, head: Head, lips: np.ndarray) -> tuple[LandmarkPoints, dict]:
    """Place 17..67, exactly mirror symmetric; also return the measurements that other modules need."""
    out = LandmarkPoints()
    rings = place_lid_points(surface, head, out)
    lip = place_lip_points(surface, lips, out)
    eye_y = float(surface.vertices[rings["left"], 1].mean())
    curve = brow_curve(rings["left"], surface.vertices)
    measures = place_nose_points(surface, out, eye_y)
    place_brow_points(surface, out, curve)
    for left, right in PAIRS:
        out.items[right] = mirror_point(head, out.items[left])
    return out, {"eye_y": eye_y, "brow": curve, "lids": rings, "lip_ring": lip["inner"], **measures}
