"""Keeps the lips shut, and parts them: blended MakeHuman targets leave a gap or let the lips cross."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra

from experiments.datasets.open_people.gaps import Opening, openings
from experiments.datasets.open_people.geometry import Head, adjacency
from experiments.datasets.open_people.surface import Surface

REACH = 0.006  # metres over the skin within which the correction fades
SHARE = 0.85  # of the gap that is closed: the lips touch without crossing


def lip_gap(head: Head, surface: Surface) -> sparse.csr_matrix:
    """(V, V) operator G on the y coordinates: `y - G y` closes the lip seam (see `gap_operator`)."""
    lips = openings(surface)["lips"]
    return gap_operator(head, surface, (lips.upper, lips.lower), REACH)


def gap_operator(head: Head, surface: Surface, halves: tuple[np.ndarray, np.ndarray], reach: float):
    """(V, V) operator G on the y coordinates: `y - G y` closes `SHARE` of the gap between two borders.

    Each border vertex is paired with the point of the other border at the same x and moves half the gap towards it; the
    surroundings follow, fading with geodesic distance over `reach` metres.
    """
    v = surface.vertices
    twins = facing(v, *halves) | facing(v, *halves[::-1])
    upper, lower = (half[1:-1] for half in halves)  # the corners stay
    near = adjacency(head.faces, len(v)).tocoo()
    graph = sparse.csr_matrix(
        (np.linalg.norm(v[near.row] - v[near.col], axis=1), (near.row, near.col)), shape=near.shape
    )
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


def shut(operator: sparse.csr_matrix, field: np.ndarray, times: int = 3) -> np.ndarray:
    """The part of a displacement field (V, 3) that leaves the gap as it is."""
    out = field.copy()
    for _ in range(times):
        out[:, 1] -= operator @ out[:, 1]
    return out


def parting(operator: sparse.csr_matrix, template: np.ndarray, lips: Opening) -> np.ndarray:
    """(3, V, 3) displacements that part the lips by a metre: in the middle, on the subject's right, on the left."""
    half = np.abs(template[lips.upper, 0]).max()
    out = np.zeros((3, *template.shape))
    for k, centre in enumerate((0.0, -0.55, 0.55)):
        tent = np.zeros(len(template))
        for ring, sign in ((lips.upper, 0.5), (lips.lower, -0.5)):
            s = template[ring, 0] / half
            tent[ring] = sign * np.cos(np.pi / 2 * np.clip((s - centre) / 0.55, -1, 1)) ** 2
        out[k, :, 1] = operator @ tent / SHARE
    return out


def facing(v: np.ndarray, half: np.ndarray, other: np.ndarray) -> dict[int, tuple]:
    """For the inner vertices of `half`: ((vertex, -weight), (vertex, -weight)) of the facing point on `other`."""
    x = v[other, 0]
    out = {}
    for a in half[1:-1]:
        k = int(np.clip(np.searchsorted(x, v[a, 0]), 1, len(x) - 1))
        t = float(np.clip((v[a, 0] - x[k - 1]) / (x[k] - x[k - 1]), 0, 1))
        out[int(a)] = ((int(other[k - 1]), t - 1), (int(other[k]), -t))
    return out
