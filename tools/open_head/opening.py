"""Widen the open mouth. MakeHuman's `jawOpen` moves the corners in and down, so that the mouth is a narrow oval."""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import dijkstra

from experiments.datasets.open_people.geometry import Head, adjacency, edge_lengths, neighbour_mean
from experiments.datasets.open_people.mouth import find_lips
from experiments.datasets.open_people.surface import MeshIslands

REACH = 0.016  # metres over the skin within which the change fades
DROP = 0.29  # downward motion of the corners, as a share of that of the lower lip's middle
OUT = 0.0008  # outward motion of the corners, metres
ROUND_UPPER, ROUND_LOWER = 3.0, 2.6  # powers of x: 1 gives a triangle, large ones a rectangle


def widen_mouth(head: Head, surface: MeshIslands, field: np.ndarray) -> np.ndarray:
    """Return the displacement `field` (V, 3) of the jaw's opening with a wider, rounder mouth; symmetric."""
    v, lips = surface.vertices, find_lips(surface)
    half = np.abs(v[lips.upper[[0, -1]], 0]).mean()
    middle = lips.lower[np.abs(v[lips.lower, 0]).argmin()]
    drop = DROP * field[middle, 1]
    graph = edge_lengths(adjacency(head.faces, len(v)), v)
    change, distance = np.zeros_like(v), np.full(len(v), np.inf)
    for ring, power, bottom in ((lips.upper, ROUND_UPPER, 0.0), (lips.lower, ROUND_LOWER, field[middle, 1])):
        s = np.clip(np.abs(v[ring, 0]) / half, 0, 1)
        ring_change = np.zeros((len(ring), 3))
        ring_change[:, 0] = OUT * np.sign(v[ring, 0]) * s**2 - field[ring, 0]
        ring_change[:, 1] = bottom + (drop - bottom) * s**power - field[ring, 1]
        ring_change[:, 2] = -0.25 * (1 - s) * s * abs(drop)  # the cheeks press the lips' sides against the teeth
        d, _, source = dijkstra(graph, indices=ring, limit=3 * REACH, min_only=True, return_predecessors=True)
        index = {int(i): k for k, i in enumerate(ring)}
        for i in np.flatnonzero(d < distance):
            change[i], distance[i] = ring_change[index[int(source[i])]], d[i]
    change *= np.where(np.isfinite(distance), np.exp(-((distance / REACH) ** 2)), 0.0)[:, None]
    mean = neighbour_mean(head.faces, len(v))
    smooth = change
    for _ in range(10):  # no crease between the surroundings of the upper and of the lower lip
        smooth = 0.5 * smooth + 0.5 * (mean @ smooth)
    blend = np.clip(np.where(np.isfinite(distance), distance, 1.0) / 0.006, 0, 1)[:, None]
    widened = field + change * (1 - blend) + smooth * blend
    return (widened + widened[head.mirror] * [-1, 1, 1]) / 2
