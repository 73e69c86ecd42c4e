"""iBUG landmarks on the surface: 51 static inner points (17..67) and the jaw contour for FLAME's 79 yaw bins.

Every point is (triangle, barycentric). Points are found on the mean face: lid margins and the lip seam are vertex rings
of the topology, the outer lip border is a mask contour, the rest is found in the frontal view and put on the surface by
a ray along -z. Sides: low numbers are the image's left = the subject's right = -x.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.mouth import split_ring
from tools.open_head.surface import Surface, arc_points, face_of_edge

YAW_BINS = 79
OUTER_REACH, INNER_REACH = 0.0010, 0.0028  # metres from the lid ring to the eye corners


def bin_yaw(index: np.ndarray | int) -> np.ndarray:
    """Head rotation about +y (degrees) of FLAME's contour bin: 0..39 -> 0..-39, 40..78 -> +1..+39."""
    index = np.asarray(index)
    return np.where(index < 40, -index, index - 39)


def yaw_bin(yaw: int) -> int:
    """The bin of a yaw in whole degrees, -39..39."""
    return int(-yaw if yaw <= 0 else 39 + yaw)


class Points:
    """Collects (face, barycentric) pairs by landmark number."""

    def __init__(self):
        self.items: dict[int, tuple[int, np.ndarray]] = {}

    def arrays(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        faces = np.array([self.items[first + i][0] for i in range(count)], np.int32)
        bary = np.stack([self.items[first + i][1] for i in range(count)])
        return faces, (bary / bary.sum(1, keepdims=True)).astype(np.float32)


def lid_points(surface: Surface, head: Head, out: Points) -> dict[str, np.ndarray]:
    """36..47 from the lid margin rings; returns the rings by side."""
    rings = {}
    for side, island in zip(("right", "left"), surface.socket_islands, strict=True):
        ring = surface.seam_loop(island)
        rings[side] = ring
        x = surface.vertices[ring, 0]
        inner, outer = (int(np.argmax(x)), int(np.argmin(x))) if side == "right" else (
            int(np.argmin(x)), int(np.argmax(x)))  # fmt: skip
        upper, lower = split_ring(ring, outer, inner, surface.outer_height())
        first = {"right": (36, 37, 38, 39, 40, 41), "left": (45, 44, 43, 42, 47, 46)}[side]
        put_ring(out, surface, upper, [0, 1 / 3, 2 / 3, 1], first[:4])
        put_ring(out, surface, lower[::-1], [1 / 3, 2 / 3], first[4:])
        # the seam ring ends at the eyeball; the corners annotators mark lie a little beyond it
        for number, end, reach in ((first[0], ring[outer], OUTER_REACH), (first[3], ring[inner], INNER_REACH)):
            a, b = surface.vertices[ring[inner]], surface.vertices[ring[outer]]
            along = (surface.vertices[end] - (a + b) / 2) / np.linalg.norm(b - a) * 2
            x, y = (surface.vertices[end] + reach * along)[:2]
            out.items[number] = surface.front(x, y - 0.3 * reach)[:2]
    return rings


def put_ring(out: Points, surface: Surface, path: np.ndarray, fractions: list[float], numbers) -> None:
    """Points at arc-length fractions of a vertex path."""
    for number, (a, b, t) in zip(numbers, arc_points(surface.vertices[path], fractions), strict=True):
        out.items[number] = face_of_edge(surface, int(path[a]), int(path[b]), t)


def lip_points(surface: Surface, lips: np.ndarray, out: Points) -> dict[str, np.ndarray]:
    """48..67: outer border from the 0.5 contour of the lip mask (V,), inner border from the seam ring."""
    v = surface.vertices
    ring = surface.seam_loop(surface.mouth_island)
    x = v[ring, 0]
    upper, lower = split_ring(ring, int(np.argmin(x)), int(np.argmax(x)), surface.outer_height())
    put_ring(out, surface, upper, [0, 0.27, 0.5, 0.73, 1], (60, 61, 62, 63, 64))
    put_ring(out, surface, lower[::-1], [0.27, 0.5, 0.73], (65, 66, 67))
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
    wanted = {48: (-corner, 0), 54: (corner, 0), 50: (-peak, 1), 51: (0, 1), 52: (peak, 1)}
    wanted |= {49: (-(peak + corner) / 2 - 0.001, 1), 53: ((peak + corner) / 2 + 0.001, 1), 57: (0, -1)}
    wanted |= {58: (-0.36 * corner, -1), 56: (0.36 * corner, -1), 59: (-0.70 * corner, -1), 55: (0.70 * corner, -1)}
    for number, (x0, half) in wanted.items():
        pool = ids if half == 0 else ids[(points[:, 1] - middle) * half > 0]
        best = pool[np.argmin(np.abs(points[pool, 0] - x0))]
        out.items[number] = (int(faces[best]), bary[best])
    return {"inner": ring, "outer": points}


def nose_points(surface: Surface, out: Points, eye_y: float) -> dict[str, float]:
    """27..35 from the midline profile and the frontal width of the nose; returns the measured heights and widths."""
    lip_top = surface.point(out.items[51])
    ys = np.linspace(lip_top[1], eye_y + 0.02, 400)
    profile = np.array([surface.front(0.0, y)[2] for y in ys])
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
        out.items[number] = surface.front(0.0, y)[:2]
    y33 = ys[base]
    out.items[33] = surface.front(0.0, y33 + 0.0005)[:2]
    # alar wings: widest x where the surface still stands out from the cheek just beside it
    heights = np.linspace(y33, ys[tip] + 0.004, 24)
    widths = []
    for y in heights:
        xs = np.linspace(0.006, 0.032, 66)
        depths = np.array([surface.front(x, y)[2][2] for x in xs])
        slope = np.diff(depths) / np.diff(xs)
        steep = np.where(slope < -1.2)[0]
        widths.append(xs[steep[-1] + 1] if len(steep) else 0.0)
    wide = int(np.argmax(widths))
    alar, alar_y = widths[wide], heights[wide]
    for number, share, rise in ((35, 0.84, 0.30), (34, 0.45, 0.10)):
        for sign, n in ((1, number), (-1, {35: 31, 34: 32}[number])):
            out.items[n] = surface.front(sign * share * alar, y33 + rise * (alar_y - y33))[:2]
    return {"tip_y": float(ys[tip]), "subnasale_y": float(y33), "alar_x": float(alar), "alar_y": float(alar_y)}


def brow_points(surface: Surface, out: Points, curve: np.ndarray) -> None:
    """17..26 on a brow curve: (5, 2) frontal (x, y) of the left brow from inner to outer end."""
    for k, (x, y) in enumerate(curve):
        out.items[22 + k] = surface.front(x, y)[:2]
        out.items[21 - k] = surface.front(-x, y)[:2]


def brow_curve(lid_ring: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """(5, 2) frontal (x, y): the brow's arch above the left eye.

    In units of the outer eye corner's distance from the midline, after the mean of annotated iBUG faces, drawn in a
    little at the temple, where a photo's perspective spreads it.
    """
    ring = vertices[lid_ring]
    unit, eye_y = ring[:, 0].max(), (ring[np.argmin(ring[:, 0]), 1] + ring[np.argmax(ring[:, 0]), 1]) / 2
    x = np.array([0.28, 0.52, 0.79, 1.04, 1.22])
    y = np.array([0.375, 0.445, 0.475, 0.425, 0.285])
    return np.stack([x * unit, eye_y + y * unit], 1)


def mirror_item(head: Head, item: tuple[int, np.ndarray]) -> tuple[int, np.ndarray]:
    """The mirrored surface point."""
    face, bary = item
    twin = head.mirror[head.faces[face]]
    found = int(np.where((np.sort(head.faces, 1) == np.sort(twin)).all(1))[0][0])
    place = [int(np.where(head.faces[found] == t)[0][0]) for t in twin]
    out = np.zeros(3)
    out[place] = bary
    return found, out


PAIRS = [(22 + k, 21 - k) for k in range(5)] + [(34, 32), (35, 31)]
PAIRS += [(42, 39), (43, 38), (44, 37), (45, 36), (46, 41), (47, 40)]
PAIRS += [(54, 48), (53, 49), (52, 50), (55, 59), (56, 58), (64, 60), (63, 61), (65, 67)]


def static_landmarks(surface: Surface, head: Head, lips: np.ndarray) -> tuple[Points, dict]:
    """All of 17..67, made exactly mirror symmetric, and the measurements other parts need."""
    out = Points()
    rings = lid_points(surface, head, out)
    lip = lip_points(surface, lips, out)
    eye_y = float(surface.vertices[rings["left"], 1].mean())
    curve = brow_curve(rings["left"], surface.vertices)
    measures = nose_points(surface, out, eye_y)
    brow_points(surface, out, curve)
    for left, right in PAIRS:
        out.items[right] = mirror_item(head, out.items[left])
    return out, {"eye_y": eye_y, "brow": curve, "lids": rings, "lip_ring": lip["inner"], **measures}
