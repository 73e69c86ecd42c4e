"""The open head's UV layout, made from MakeHuman's islands, and which triangle covers each texel.

MakeHuman's head island lies on its side and gives the face a ninth of its area. Here it is upright, and both axes are
stretched by a smooth monotone map that is steepest at the face (one axis at a time, so that nothing folds over).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from experiments.datasets.open_people.geometry import Head
from tools.open_head.surface import MeanHeadSurface

# island -> box (u0, v0, u1, v1); islands keep their aspect inside their box, the skin fills its own
SKIN_BOX = (0.015, 0.300, 0.985, 0.985)
NECK_BOX = (0.015, 0.020, 0.440, 0.280)
MOUTH_BOX = (0.460, 0.020, 0.660, 0.280)
FRONT_EYE_BOXES = ((0.680, 0.130, 0.825, 0.275), (0.840, 0.130, 0.985, 0.275))
BACK_EYE_BOXES = ((0.680, 0.020, 0.740, 0.110), (0.750, 0.020, 0.810, 0.110))
SOCKET_BOXES = ((0.825, 0.020, 0.900, 0.115), (0.910, 0.020, 0.985, 0.115))


def _stretch(t: np.ndarray, width: float) -> np.ndarray:
    return np.arctan(t / width)


def _fit_into_box(uv: np.ndarray, box: tuple, keep_aspect: bool = True) -> np.ndarray:
    low, high = uv.min(0), uv.max(0)
    size, room = high - low, np.array([box[2] - box[0], box[3] - box[1]])
    scale = np.full(2, (room / size).min()) if keep_aspect else room / size
    return np.array(box[:2]) + (room - size * scale) / 2 + (uv - low) * scale


def repack(head: Head, surface: MeanHeadSurface) -> np.ndarray:
    """Return the new UV coordinates (Vt, 2), v up."""
    out = np.zeros_like(head.uv)

    def members(island):
        return np.unique(head.uv_faces[surface.island == island])

    ids = members(surface.skin_island)
    turned = np.stack([head.uv[ids, 1], -head.uv[ids, 0]], 1)  # a quarter turn: the crown goes up
    middle = (turned[:, 0].min() + turned[:, 0].max()) / 2
    nose_v = -0.895  # minus MakeHuman's u of the lower face
    x = _stretch(turned[:, 0] - middle, 0.13)
    y = _stretch(turned[:, 1] - nose_v, 0.13)
    out[ids] = _fit_into_box(np.stack([x, y], 1), SKIN_BOX, keep_aspect=False)
    for island, box in ((surface.neck_island, NECK_BOX), (surface.mouth_island, MOUTH_BOX)):
        ids = members(island)
        out[ids] = _fit_into_box(head.uv[ids], box)
    for island, box in zip(surface.socket_islands, SOCKET_BOXES, strict=True):
        ids = members(island)
        out[ids] = _fit_into_box(head.uv[ids], box)
    for part, front_box, back_box in zip((2, 1), FRONT_EYE_BOXES, BACK_EYE_BOXES, strict=True):
        faces = head.part[head.faces[:, 0]] == part
        islands = np.unique(surface.island[faces])
        depth = [surface.vertices[np.unique(head.faces[surface.island == i]), 2].mean() for i in islands]
        for island, box in ((islands[int(np.argmax(depth))], front_box), (islands[int(np.argmin(depth))], back_box)):
            ids = members(island)
            ball = head.uv[ids]
            if box is front_box:  # more texels for the iris
                half = np.ptp(ball, axis=0) / 2
                ball = _stretch((ball - ball.min(0) - half) / half, 0.45)
            out[ids] = _fit_into_box(ball, box)
    return out


@dataclass
class TexelCoverage:
    """The m covered texels of an (n, n) texture, in row-major order."""

    inside: np.ndarray  # (n, n) bool: covered
    face: np.ndarray  # (m,) triangle
    barycentric: np.ndarray  # (m, 3)
    nearest: np.ndarray  # (2, n, n) index of the nearest covered texel, for filling

    def interpolate(self, values: np.ndarray, faces: np.ndarray) -> np.ndarray:
        """Interpolate values (V, ...) of the corners of triangles (F, 3) at the covered texels: (m, ...)."""
        return np.einsum("mk,mk...->m...", self.barycentric, values[faces[self.face]])

    def image(self, values: np.ndarray) -> np.ndarray:
        """Arrange values (m, ...) as an image (n, n, ...), with empty texels filled from the nearest covered one."""
        out = np.zeros((*self.inside.shape, *values.shape[1:]), values.dtype)
        out[self.inside] = values
        return out[self.nearest[0], self.nearest[1]]


def rasterise_uv(uv: np.ndarray, uv_faces: np.ndarray, n: int) -> TexelCoverage:
    """Compute which triangle covers each texel centre; row = (1 - v) n - 0.5."""
    face = np.full((n, n), -1)
    bary = np.zeros((n, n, 3))
    pixel = np.stack([uv[:, 0] * n - 0.5, (1 - uv[:, 1]) * n - 0.5], 1)
    for f, tri in enumerate(pixel[uv_faces]):
        x0, y0 = np.maximum(np.ceil(tri.min(0)).astype(int), 0)
        x1, y1 = np.minimum(np.floor(tri.max(0)).astype(int), n - 1)
        if x1 < x0 or y1 < y0:
            continue
        x, y = np.meshgrid(np.arange(x0, x1 + 1), np.arange(y0, y1 + 1))
        (ax, ay), (bx, by), (cx, cy) = tri
        d = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(d) < 1e-12:
            continue
        u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / d
        v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / d
        hit = (u >= -1e-9) & (v >= -1e-9) & (u + v <= 1 + 1e-9)
        face[y[hit], x[hit]] = f
        bary[y[hit], x[hit]] = np.stack([u, v, 1 - u - v], -1)[hit]
    inside = face >= 0
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return TexelCoverage(inside, face[inside], bary[inside], nearest)
