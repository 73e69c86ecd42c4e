"""Keeps the lips shut: blended MakeHuman targets leave a gap or let the lips cross."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from experiments.datasets.open_people.geometry import Head, adjacency, edge_lengths
from experiments.datasets.open_people.surface import Surface

REACH = 0.006  # metres over the skin within which the correction fades
SHARE = 0.85  # of the gap that is closed: the lips touch without crossing


@dataclass(frozen=True)
class Opening:
    """The two borders of an opening as vertex paths from corner to corner, by growing x; both hold the corners."""

    upper: np.ndarray
    lower: np.ndarray


def lips_of(surface: Surface, height: np.ndarray | None = None) -> Opening:
    """The opening between the lips of the mean head.

    `height` (V,) tells the upper lip from the lower; by default from the base mesh, whose lips lie a little apart.
    """
    ring = surface.seam_loop(surface.mouth_island)
    x = surface.vertices[ring, 0]
    height = surface.outer_height() if height is None else height
    return Opening(*split_ring(ring, int(np.argmin(x)), int(np.argmax(x)), height))


def split_ring(ring: np.ndarray, start: int, end: int, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two paths from ring[start] to ring[end]: (upper, lower), told apart by the vertex field `height` (V,)."""
    rolled = np.roll(ring, -start)
    stop = (end - start) % len(ring)
    a, b = rolled[: stop + 1], np.r_[rolled[stop:], rolled[0]][::-1]
    return (a, b) if height[a].mean() > height[b].mean() else (b, a)


def gap_operator(head: Head, surface: Surface, opening: Opening, reach: float = REACH) -> sparse.csr_matrix:
    """(V, V) operator G on the y coordinates: `y - G y` closes `SHARE` of the gap between two borders.

    Each border vertex is paired with the point of the other border at the same x and moves half the gap towards it; the
    surroundings follow, fading with geodesic distance over `reach` metres.
    """
    v = surface.vertices
    twins = facing(v, opening.upper, opening.lower) | facing(v, opening.lower, opening.upper)
    upper, lower = opening.upper[1:-1], opening.lower[1:-1]  # the corners stay
    graph = edge_lengths(adjacency(head.faces, len(v)), v)
    distance, source = [], []
    for half in (upper, lower):
        d, _, s = dijkstra(graph, indices=half, limit=3 * reach, min_only=True, return_predecessors=True)
        distance.append(d)
        source.append(s)
    rows, columns, values = [], [], []
    for side in (0, 1):
        own = np.where(np.isfinite(distance[side]) & (distance[side] < distance[1 - side]))[0]
        for i in own:
            a = int(source[side][i])
            w = 0.5 * SHARE * np.exp(-((distance[side][i] / reach) ** 2))
            for column, share in ((a, 1.0), *twins[a]):
                rows.append(i)
                columns.append(column)
                values.append(w * share)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(v), len(v)))


def facing(v: np.ndarray, half: np.ndarray, other: np.ndarray) -> dict[int, tuple]:
    """For the inner vertices of `half`: ((vertex, -weight), (vertex, -weight)) of the facing point on `other`."""
    x = v[other, 0]
    out = {}
    for a in half[1:-1]:
        k = int(np.clip(np.searchsorted(x, v[a, 0]), 1, len(x) - 1))
        t = float(np.clip((v[a, 0] - x[k - 1]) / (x[k] - x[k - 1]), 0, 1))
        out[int(a)] = ((int(other[k - 1]), t - 1), (int(other[k]), -t))
    return out
