"""Geometric queries on the mean head: seams, frontal rays, mask contours and plane sections."""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people import surface
from experiments.datasets.open_people.geometry import Head


class MeanHeadSurface(surface.MeshIslands):
    """The mean head's surface with the geometric queries that the builder needs."""

    def __init__(self, head: Head, vertices: np.ndarray):
        super().__init__(head, vertices)
        self._corners = vertices[head.faces]

    def seam(self, island: int) -> np.ndarray:
        """Return the vertices shared by `island` and the outer skin."""
        a = np.unique(self.faces[self.island == island])
        return np.intersect1d(a, np.unique(self.faces[self.skin]))

    def point(self, item: tuple[int, np.ndarray]) -> np.ndarray:
        """Return the position (3,) of a surface point (face, barycentric (3,))."""
        return item[1] @ self.vertices[self.faces[item[0]]]

    def frontmost_point(self, x: float, y: float) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the frontmost skin point at frontal position (x, y): face, barycentric, point."""
        a, b, c = self._corners[:, 0], self._corners[:, 1], self._corners[:, 2]
        d = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (c[:, 0] - a[:, 0]) * (b[:, 1] - a[:, 1])
        with np.errstate(divide="ignore", invalid="ignore"):
            u = ((b[:, 0] - x) * (c[:, 1] - y) - (c[:, 0] - x) * (b[:, 1] - y)) / d
            v = ((c[:, 0] - x) * (a[:, 1] - y) - (a[:, 0] - x) * (c[:, 1] - y)) / d
        w = 1 - u - v
        hit = self.skin & (u >= -1e-9) & (v >= -1e-9) & (w >= -1e-9) & (d > 1e-14)
        if not hit.any():
            raise ValueError(f"no surface at ({x:.4f}, {y:.4f})")
        bary = np.stack([u, v, w], 1)
        ids = np.where(hit)[0]
        points = np.einsum("nk,nkd->nd", bary[ids], self._corners[ids])
        best = int(np.argmax(points[:, 2]))
        weights = np.clip(bary[ids[best]], 0, 1)
        return int(ids[best]), weights / weights.sum(), points[best]

    def contour(self, field: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return dense points of a vertex field's level line on the skin: faces (n,), barycentric (n,3), points."""
        faces, bary = self.zero_line(field - level, self.skin)
        return faces, bary, np.einsum("nk,nkd->nd", bary, self._corners[faces])

    def zero_line(self, field: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the zero line of `field` (V,) on the faces in `mask`, five points on each: faces (n,), barycentric
        (n,3)."""
        ids = np.where(mask)[0]
        values = field[self.faces[ids]]
        out_face, ends = [], [[], []]
        eye = np.eye(3)
        for k in range(len(ids)):
            f = values[k]
            hits = []
            for i, j in ((0, 1), (1, 2), (2, 0)):
                if (f[i] < 0) != (f[j] < 0):
                    t = f[i] / (f[i] - f[j])
                    hits.append((1 - t) * eye[i] + t * eye[j])
            if len(hits) == 2:
                out_face.append(ids[k])
                ends[0].append(hits[0])
                ends[1].append(hits[1])
        if not out_face:
            return np.zeros(0, int), np.zeros((0, 3))
        a, b = np.array(ends[0]), np.array(ends[1])
        fractions = (0.0, 0.25, 0.5, 0.75, 1.0)
        bary = np.concatenate([(1 - t) * a + t * b for t in fractions])
        return np.tile(np.array(out_face), len(fractions)), bary


def arc_points(points: np.ndarray, fractions: list[float]) -> list[tuple[int, int, float]]:
    """Return (i, i + 1, t) at arc-length fractions of a polyline (n,3)."""
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))]
    positions = []
    for f in fractions:
        s = f * length[-1]
        i = int(np.clip(np.searchsorted(length, s, side="right") - 1, 0, len(points) - 2))
        positions.append((i, i + 1, float((s - length[i]) / (length[i + 1] - length[i]))))
    return positions


def face_of_edge(surface: MeanHeadSurface, a: int, b: int, t: float) -> tuple[int, np.ndarray]:
    """Return a skin face with the edge (a, b), and the barycentric coordinates of the point a + t (b - a)."""
    f = surface.faces
    has_edge = surface.skin & (f == a).any(1) & (f == b).any(1)
    if not has_edge.any():  # ring neighbours without a common face: use the nearer end
        a = b = a if t < 0.5 else b
        has_edge = surface.skin & (f == a).any(1)
    face = int(np.where(has_edge)[0][0])
    bary = np.zeros(3)
    bary[np.where(f[face] == a)[0][0]] += 1 - t
    bary[np.where(f[face] == b)[0][0]] += t
    return face, bary
