"""Meshes that occluders are made of; numpy, metres. Triangles are counter-clockwise seen from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Solid:
    """A mesh with texture coordinates and vertex colours."""

    vertices: np.ndarray
    """(N, 3) metres."""
    faces: np.ndarray
    """(M, 3) int32."""
    uv: np.ndarray
    """(N, 2) in [0, 1], v up."""
    colour: np.ndarray
    """(N, 3), multiplies the texture."""

    def painted(self, colour: Sequence[float] | np.ndarray) -> Solid:
        return dataclasses.replace(self, colour=np.broadcast_to(np.asarray(colour, float), (len(self.vertices), 3)))

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> Solid:
        """Apply a rotation (3, 3), then a translation (3,)."""
        return dataclasses.replace(self, vertices=self.vertices @ np.asarray(rotation).T + translation)


def join(parts: Sequence[Solid]) -> Solid:
    """Concatenate meshes in order."""
    starts = np.cumsum([0] + [len(p.vertices) for p in parts])
    faces = np.concatenate([p.faces + start for p, start in zip(parts, starts, strict=False)])
    arrays = ((part.vertices, part.uv, part.colour) for part in parts)
    vertices, uv, colour = (np.concatenate(part) for part in zip(*arrays, strict=True))
    return Solid(vertices, faces.astype(np.int32), uv, colour)


def grid(points: np.ndarray, uv: np.ndarray, around: bool = False) -> Solid:
    """Make a sheet over a grid of points (I, J, 3), visible from the side where i runs to the right and j up.

    `around` connects the last i to the first.
    """
    rows, columns = points.shape[:2]
    i, j = np.meshgrid(np.arange(rows if around else rows - 1), np.arange(columns - 1), indexing="ij")
    a, b = i * columns + j, (i + 1) % rows * columns + j
    quads = np.stack([a, b, b + 1, a + 1], -1).reshape(-1, 4)
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]).astype(np.int32)
    flat = points.reshape(-1, 3)
    return Solid(flat, faces, uv.reshape(-1, 2), np.ones_like(flat))


def shell(points: np.ndarray, uv: np.ndarray, thickness: float) -> Solid:
    """Make a closed sheet: the `grid` of points, a copy `thickness` behind it, and the rim between them."""
    across, up = np.gradient(points, axis=0), np.gradient(points, axis=1)
    normal = np.cross(across, up)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    front, back = grid(points, uv), grid(points - thickness * normal, uv)
    rows, columns = points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    loop = np.concatenate([index[:, 0], index[-1, 1:], index[-2::-1, -1], index[0, -2:0:-1]])
    following, offset = np.roll(loop, -1), len(front.vertices)
    rim = [
        np.stack([loop, loop + offset, following], 1),
        np.stack([following, loop + offset, following + offset], 1),
    ]
    both = join([front, dataclasses.replace(back, faces=back.faces[:, ::-1])])
    return dataclasses.replace(both, faces=np.concatenate([both.faces, *rim]).astype(np.int32))


def tube(path: np.ndarray, radii: np.ndarray | float, sides: int = 8, closed: bool = False, flat: float = 1.0) -> Solid:
    """Make a round tube along a path (P, 3), capped or, if `closed`, joined at its ends; `flat` scales it along y."""
    path = np.asarray(path, float)
    tangent = (np.roll(path, -1, 0) - np.roll(path, 1, 0)) if closed else np.gradient(path, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    # The cross-section's axis is as upright as possible, so that a path that does not climb has no twist.
    up = np.where(np.abs(tangent[:, 1:2]) > 0.9, [[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]])
    if closed:
        up = np.broadcast_to([[0.0, 0.0, 1.0]], up.shape)
    side = np.cross(tangent, up)
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12)
    up = np.cross(side, tangent)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    radii = np.broadcast_to(np.asarray(radii, float), (len(path),))[:, None, None]
    ring = np.cos(angle)[None, :, None] * side[:, None] + flat * np.sin(angle)[None, :, None] * up[:, None]
    points = path[:, None] + radii * ring  # (P, sides, 3)
    uv = np.stack(np.meshgrid(np.linspace(0, 1, len(path)), angle / 2 / np.pi, indexing="ij"), -1)
    ends = [] if closed else [0, len(path) - 1]
    count = len(path) * sides
    i, j = np.meshgrid(np.arange(len(path) if closed else len(path) - 1), np.arange(sides), indexing="ij")
    a, b = i * sides + j, i * sides + (j + 1) % sides
    c, d = (i + 1) % len(path) * sides + j, (i + 1) % len(path) * sides + (j + 1) % sides
    faces = [np.stack([a, b, d], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)]
    vertices, coordinates = [points.reshape(-1, 3)], [uv.reshape(-1, 2)]
    for k, end in enumerate(ends):
        ring_ids = end * sides + np.arange(sides)
        fan = np.stack([np.full(sides, count + k), np.roll(ring_ids, -1), ring_ids], -1)
        faces.append(fan if k == 0 else fan[:, ::-1])
        vertices.append(path[end : end + 1])
        coordinates.append(np.array([[k, 0.5]]))
    all_vertices = np.concatenate(vertices)
    all_faces, all_uv = np.concatenate(faces).astype(np.int32), np.concatenate(coordinates)
    return _orient_outwards(Solid(all_vertices, all_faces, all_uv, np.ones_like(all_vertices)))


def lathe(profile: np.ndarray, sides: int = 40) -> Solid:
    """Revolve a profile (P, 2) of radius and height about the y axis. Repeated points make sharp edges."""
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    radius, height = np.asarray(profile, float).T
    x, z = np.sin(angle)[:, None] * radius, np.cos(angle)[:, None] * radius
    points = np.stack([x, np.broadcast_to(height, x.shape), z], -1)
    along = np.concatenate([[0], np.cumsum(np.hypot(np.diff(radius), np.diff(height)))])
    uv = np.stack(np.meshgrid(angle / 2 / np.pi, along / along[-1], indexing="ij"), -1)
    return _orient_outwards(grid(points, uv))


def ball(radius: float, squash: Sequence[float] = (1, 1, 1), rings: int = 24) -> Solid:
    """Make a sphere, or an ellipsoid with axes scaled by `squash`."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings)
    sphere = lathe(np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1), 2 * rings)
    return dataclasses.replace(sphere, vertices=sphere.vertices * np.asarray(squash))


def box(size: Sequence[float] | np.ndarray, steps: int = 2) -> Solid:
    """Make a box of a width, height and depth; each side has its own vertices and the full texture."""
    half, parts = 0.5 * np.asarray(size, float), []
    t = np.linspace(-1, 1, steps)
    i, j = np.meshgrid(t, t, indexing="ij")
    uv = np.stack([(i + 1) / 2, (j + 1) / 2], -1)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        for sign in (1.0, -1.0):
            points = np.zeros((steps, steps, 3))
            points[..., axis], points[..., first], points[..., second] = sign, sign * i, j
            # Textures are upright on the sides that are visible most.
            parts.append(grid(points * half, uv if axis != 0 else uv[..., ::-1]))
    return join(parts)


def surface_net(distance: Callable[[np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray, step: float) -> Solid:
    """Make a closed mesh of the zero level set of a signed distance ((P, 3) -> (P,), negative inside).

    Naive surface nets (Gibson 1998): one vertex in each cell that the surface crosses, at the mean of the crossings of
    the cell's edges; one quad for each crossed grid edge.
    """
    counts = np.ceil((np.asarray(high) - low) / step).astype(int) + 1
    axes = [low[k] + step * np.arange(counts[k]) for k in range(3)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    value = distance(points.reshape(-1, 3)).reshape(counts)
    total, number = np.zeros((*(counts - 1), 3)), np.zeros(counts - 1)
    crossings = []
    for axis in range(3):
        first, second = _trim(value, axis, 0, 1), _trim(value, axis, 1, 0)
        crossed = (first < 0) != (second < 0)
        share = np.where(crossed, first / np.where(crossed, first - second, 1.0), 0.0)
        crossing = _trim(points, axis, 0, 1).copy()
        crossing[..., axis] += step * share
        others = [k for k in range(3) if k != axis]
        for near, far in ((0, 0), (0, 1), (1, 0), (1, 1)):
            window: list[slice] = [slice(None)] * 3
            window[others[0]] = slice(near, counts[others[0]] - 1 + near)
            window[others[1]] = slice(far, counts[others[1]] - 1 + far)
            is_crossed = crossed[tuple(window)]
            total += np.where(is_crossed[..., None], crossing[tuple(window)], 0.0)
            number += is_crossed
        crossings.append((crossed, first < 0))
    used = number > 0
    ids = np.full(used.shape, -1)
    ids[used] = np.arange(used.sum())
    quads = []
    for axis, (crossed, inside_first) in enumerate(crossings):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        at = np.argwhere(crossed)
        at = at[(at[:, second] > 0) & (at[:, third] > 0)]
        at = at[(at[:, second] < counts[second] - 1) & (at[:, third] < counts[third] - 1)]
        one, two = np.eye(3, dtype=int)[second], np.eye(3, dtype=int)[third]
        around = [ids[tuple((at - a * one - b * two).T)] for a, b in ((1, 1), (0, 1), (0, 0), (1, 0))]
        quad = np.stack(around, 1)
        quads.append(np.where(inside_first[tuple(at.T)][:, None], quad, quad[:, ::-1]))
    quad = np.concatenate(quads)
    faces = np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]]).astype(np.int32)
    vertices = total[used] / number[used][:, None]
    return Solid(vertices, faces, np.zeros((len(vertices), 2)), np.ones_like(vertices))


def _trim(array: np.ndarray, axis: int, start: int, end: int) -> np.ndarray:
    return array[tuple(slice(start, array.shape[axis] - end) if k == axis else slice(None) for k in range(3))]


def _orient_outwards(solid: Solid) -> Solid:
    """Flip all triangles if their enclosed volume is negative."""
    corner = solid.vertices[solid.faces]
    volume = np.einsum("fc,fc->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2]))
    return solid if volume > 0 else dataclasses.replace(solid, faces=solid.faces[:, ::-1].copy())
