"""The corners of the mouth, relaxed: MakeHuman's are pits whose walls face backwards, which render as bright specks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve

from experiments.datasets.open_people.geometry import Head, adjacency, cut_head, edge_lengths
from experiments.datasets.open_people.mouth import facing, lips_of
from experiments.datasets.open_people.sources import Source
from experiments.datasets.open_people.surface import Surface

REACH = 0.009  # metres over the skin within which the relaxation fades
STRENGTH = 9.0


def build_head(source: Source) -> Head:
    """The cut head (see `cut_head`) with smooth corners of the mouth."""
    return relaxed(cut_head(source))


def relaxed(head: Head) -> Head:
    """Folds an implicit umbrella smoothing of the skin around both corners into the head's operator.

    The operator is linear, so all morph targets carry over alike. Facing borders of the lips count as neighbours: the
    skin alone would shrink away from the seam.
    """
    v = head.carry(head.base["vertices"])
    surface = Surface(head, v)
    lips = lips_of(surface)
    near = adjacency(surface.faces[surface.skin], len(v)).tolil()
    for a, pairs in (facing(v, lips.upper, lips.lower) | facing(v, lips.lower, lips.upper)).items():
        for b, _ in pairs:
            near[a, b] = near[b, a] = 1.0
    near = near.tocsr()
    distance = dijkstra(edge_lengths(near, v), indices=lips.upper[[0, -1]], min_only=True, limit=2.5 * REACH)
    share = STRENGTH * np.exp(-((distance / REACH) ** 2))  # 0 where out of reach: the distance is infinite
    ids = np.flatnonzero(share > 1e-3)
    count = np.asarray(near.sum(1)).ravel()
    umbrella = sparse.eye(len(v)) - sparse.diags(1 / np.maximum(count, 1)) @ near
    system = (sparse.eye(len(v)) + sparse.diags(np.where(share > 1e-3, share, 0.0)) @ umbrella).tocsc()
    inner, outer = system[ids][:, ids], sparse.csr_matrix(system[ids])
    outer = outer - sparse.csr_matrix(outer.multiply(np.isin(np.arange(len(v)), ids)))
    moved = spsolve(inner.tocsc(), (sparse.eye(len(v)).tocsr()[ids] - outer).tocsc())
    smooth = sparse.eye(len(v)).tolil()
    smooth[ids] = moved
    return replace(head, operator=(smooth.tocsr() @ head.operator).tocsr())
