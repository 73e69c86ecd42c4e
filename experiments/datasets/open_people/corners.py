"""Smooth the corners of the mouth: MakeHuman's are pits whose walls face backwards and render as bright specks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve

from experiments.datasets.open_people.geometry import Head, adjacency, cut_head, edge_lengths
from experiments.datasets.open_people.mouth import find_lips, opposite_points
from experiments.datasets.open_people.sources import MakeHumanSource
from experiments.datasets.open_people.surface import MeshIslands

REACH = 0.009  # metres along the skin over which the smoothing fades
STRENGTH = 9.0


def build_head(source: MakeHumanSource) -> Head:
    """Cut the head (see `cut_head`) and smooth the corners of the mouth."""
    return smooth_corners(cut_head(source))


def smooth_corners(head: Head) -> Head:
    """Apply an implicit umbrella smoothing of the skin around both corners to the head's operator.

    The operator is linear, so all morph targets are smoothed alike. Opposite points of the lips' borders count as
    neighbours; otherwise the skin would shrink away from the seam.
    """
    v = head.to_head(head.base["vertices"])
    surface = MeshIslands(head, v)
    lips = find_lips(surface)
    neighbours = adjacency(surface.faces[surface.skin], len(v)).tolil()
    for a, pairs in (
        opposite_points(v, lips.upper, lips.lower) | opposite_points(v, lips.lower, lips.upper)
    ).items():
        for b, _ in pairs:
            neighbours[a, b] = neighbours[b, a] = 1.0
    neighbours = neighbours.tocsr()
    distance = dijkstra(edge_lengths(neighbours, v), indices=lips.upper[[0, -1]], min_only=True, limit=2.5 * REACH)
    share = STRENGTH * np.exp(-((distance / REACH) ** 2))  # 0 beyond the limit, where the distance is infinite
    ids = np.flatnonzero(share > 1e-3)
    count = np.asarray(neighbours.sum(1)).ravel()
    umbrella = sparse.eye(len(v)) - sparse.diags(1 / np.maximum(count, 1)) @ neighbours
    system = (sparse.eye(len(v)) + sparse.diags(np.where(share > 1e-3, share, 0.0)) @ umbrella).tocsc()
    inner, outer = system[ids][:, ids], sparse.csr_matrix(system[ids])
    outer = outer - sparse.csr_matrix(outer.multiply(np.isin(np.arange(len(v)), ids)))
    solution = spsolve(inner.tocsc(), (sparse.eye(len(v)).tocsr()[ids] - outer).tocsc())
    smooth = sparse.eye(len(v)).tolil()
    smooth[ids] = solution
    return replace(head, operator=(smooth.tocsr() @ head.operator).tocsr())
