"""The wide open mouth: MakeHuman's `jawOpen` draws the corners in and down, which makes a narrow oval of it."""

from __future__ import annotations

import numpy as np
from scipy.sparse.csgraph import dijkstra

from experiments.datasets.open_people.geometry import Head, adjacency, edge_lengths, neighbour_mean
from experiments.datasets.open_people.mouth import lips_of
from experiments.datasets.open_people.surface import Surface

REACH = 0.016  # metres over the skin within which the change fades
DROP = 0.29  # how far the corners go down, as a share of the lower lip's middle
OUT = 0.0008  # metres the corners go outwards
ROUND_UPPER, ROUND_LOWER = 3.0, 2.6  # powers of x: 1 is a triangle, many a rectangle


def widened(head: Head, surface: Surface, field: np.ndarray) -> np.ndarray:
    """The jaw's opening `field` (V, 3) with another course of the lips between their corners and their middle."""
    v, lips = surface.vertices, lips_of(surface)
    half = np.abs(v[lips.upper[[0, -1]], 0]).mean()
    middle = lips.lower[np.abs(v[lips.lower, 0]).argmin()]
    drop = DROP * field[middle, 1]
    graph = edge_lengths(adjacency(head.faces, len(v)), v)
    change, distance = np.zeros_like(v), np.full(len(v), np.inf)
    for ring, power, bottom in ((lips.upper, ROUND_UPPER, 0.0), (lips.lower, ROUND_LOWER, field[middle, 1])):
        s = np.clip(np.abs(v[ring, 0]) / half, 0, 1)
        own = np.zeros((len(ring), 3))
        own[:, 0] = OUT * np.sign(v[ring, 0]) * s**2 - field[ring, 0]
        own[:, 1] = bottom + (drop - bottom) * s**power - field[ring, 1]
        own[:, 2] = -0.25 * (1 - s) * s * abs(drop)  # the cheeks pull the lips' sides against the teeth
        d, _, source = dijkstra(graph, indices=ring, limit=3 * REACH, min_only=True, return_predecessors=True)
        place = {int(i): k for k, i in enumerate(ring)}
        for i in np.flatnonzero(d < distance):
            change[i], distance[i] = own[place[int(source[i])]], d[i]
    change *= np.where(np.isfinite(distance), np.exp(-((distance / REACH) ** 2)), 0.0)[:, None]
    steps = neighbour_mean(head.faces, len(v))
    soft = change
    for _ in range(10):  # no crease where one lip's surroundings end and the other's begin
        soft = 0.5 * soft + 0.5 * (steps @ soft)
    blend = np.clip(np.where(np.isfinite(distance), distance, 1.0) / 0.006, 0, 1)[:, None]
    out = field + change * (1 - blend) + soft * blend
    return (out + out[head.mirror] * [-1, 1, 1]) / 2
