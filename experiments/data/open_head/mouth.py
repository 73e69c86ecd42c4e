"""Keeps the lips shut: blended MakeHuman targets leave a gap of a millimetre or so, or let the lips cross."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from .geometry import Head, adjacency
from .landmarks import split_ring
from .surface import Surface

REACH = 0.006  # metres over the skin within which the correction fades
SHARE = 0.85  # of the gap that is closed: the lips touch without crossing


def lip_gap(head: Head, surface: Surface) -> sparse.csr_matrix:
    """(V, V) operator G on the y coordinates: `y - G y` closes the lip seam.

    Each seam vertex is paired with the point of the other half at the same x and moves half the gap towards it; the
    surroundings follow, fading with geodesic distance.
    """
    v = surface.vertices
    ring = surface.seam_loop(surface.mouth_island)
    ends = int(np.argmin(v[ring, 0])), int(np.argmax(v[ring, 0]))
    halves = split_ring(ring, *ends, surface.outer_height())
    twins = _facing(v, *halves) | _facing(v, *halves[::-1])
    upper, lower = (half[1:-1] for half in halves)  # the corners stay
    near = adjacency(head.faces, len(v)).tocoo()
    graph = sparse.csr_matrix(
        (np.linalg.norm(v[near.row] - v[near.col], axis=1), (near.row, near.col)), shape=near.shape
    )
    distance, source = [], []
    for half in (upper, lower):
        d, _, s = dijkstra(graph, indices=half, limit=3 * REACH, min_only=True, return_predecessors=True)
        distance.append(d)
        source.append(s)
    rows, columns, values = [], [], []
    for side in (0, 1):
        own = np.where(np.isfinite(distance[side]) & (distance[side] < distance[1 - side]))[0]
        for i in own:
            a = int(source[side][i])
            w = 0.5 * SHARE * np.exp(-((distance[side][i] / REACH) ** 2))
            for column, share in ((a, 1.0), *twins[a]):
                rows.append(i)
                columns.append(column)
                values.append(w * share)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(v), len(v)))


def _facing(v: np.ndarray, half: np.ndarray, other: np.ndarray) -> dict[int, tuple]:
    """For the inner vertices of `half`: ((vertex, -weight), (vertex, -weight)) of the facing point on `other`."""
    x = v[other, 0]
    out = {}
    for a in half[1:-1]:
        k = int(np.clip(np.searchsorted(x, v[a, 0]), 1, len(x) - 1))
        t = float(np.clip((v[a, 0] - x[k - 1]) / (x[k] - x[k - 1]), 0, 1))
        out[int(a)] = ((int(other[k - 1]), t - 1), (int(other[k]), -t))
    return out
