"""Close the lips, between which blended MakeHuman targets leave a gap or an intersection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from experiments.datasets.open_people.geometry import Head, adjacency, edge_lengths
from experiments.datasets.open_people.surface import MeshIslands

REACH = 0.006  # metres along the skin over which the correction fades
SHARE = 0.85  # fraction of the gap that is closed, so that the lips touch without crossing


@dataclass(frozen=True)
class Opening:
    """The two borders of an opening as vertex paths from corner to corner, in order of x; both include the corners."""

    upper: np.ndarray
    lower: np.ndarray


def find_lips(surface: MeshIslands, height: np.ndarray | None = None) -> Opening:
    """Find the opening between the lips of the mean head.

    The upper lip is the one with larger `height` (V,), by default that of the base mesh, whose lips are slightly apart.
    """
    ring = surface.seam_loop(surface.mouth_island)
    x = surface.vertices[ring, 0]
    height = surface.outer_height() if height is None else height
    return Opening(*split_ring(ring, int(np.argmin(x)), int(np.argmax(x)), height))


def split_ring(ring: np.ndarray, start: int, end: int, height: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split a ring into its paths from ring[start] to ring[end]: (upper, lower) by the vertex field `height` (V,)."""
    rolled = np.roll(ring, -start)
    stop = (end - start) % len(ring)
    a, b = rolled[: stop + 1], np.r_[rolled[stop:], rolled[0]][::-1]
    return (a, b) if height[a].mean() > height[b].mean() else (b, a)


def gap_operator(head: Head, surface: MeshIslands, opening: Opening, reach: float = REACH) -> sparse.csr_matrix:
    """Build an operator G (V, V) on y coordinates: `y - G y` closes `SHARE` of the gap between two borders.

    Each border vertex moves half the gap towards the point of the other border at the same x. Other vertices follow
    them, with a weight that falls with geodesic distance over `reach` metres.
    """
    v = surface.vertices
    opposite = opposite_points(v, opening.upper, opening.lower) | opposite_points(v, opening.lower, opening.upper)
    upper, lower = opening.upper[1:-1], opening.lower[1:-1]  # the corners do not move
    graph = edge_lengths(adjacency(head.faces, len(v)), v)
    distance, source = [], []
    for half in (upper, lower):
        d, _, s = dijkstra(graph, indices=half, limit=3 * reach, min_only=True, return_predecessors=True)
        distance.append(d)
        source.append(s)
    rows, columns, values = [], [], []
    for side in (0, 1):
        nearest = np.where(np.isfinite(distance[side]) & (distance[side] < distance[1 - side]))[0]
        for i in nearest:
            a = int(source[side][i])
            w = 0.5 * SHARE * np.exp(-((distance[side][i] / reach) ** 2))
            for column, share in ((a, 1.0), *opposite[a]):
                rows.append(i)
                columns.append(column)
                values.append(w * share)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(v), len(v)))


def opposite_points(v: np.ndarray, half: np.ndarray, other: np.ndarray) -> dict[int, tuple]:
    """Map inner vertices of `half` to their opposite point on `other`: ((vertex, -weight), (vertex, -weight))."""
    x = v[other, 0]
    out = {}
    for a in half[1:-1]:
        k = int(np.clip(np.searchsorted(x, v[a, 0]), 1, len(x) - 1))
        t = float(np.clip((v[a, 0] - x[k - 1]) / (x[k] - x[k - 1]), 0, 1))
        out[int(a)] = ((int(other[k - 1]), t - 1), (int(other[k]), -t))
    return out
