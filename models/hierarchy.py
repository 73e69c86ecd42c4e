"""A hierarchy of coarsened mesh graphs, and the neighbour lists between its levels.

It follows the graph sampling of Zhou et al. 2020 ("Fully Convolutional Mesh Autoencoder using Efficient Spatially
Varying Kernels", section 3). A breadth-first search from a start vertex makes a vertex a centre unless a centre lies
within stride - 1 edges. A centre pools the ball of `radius` edges around it, and a fine vertex is unpooled from the
centres whose balls contain it. Two centres are joined if they lie within 2 stride - 1 edges. Each mesh component
has its own start vertex, so none vanishes. All this is computed once in numpy; networks use arrays of fixed shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from jax import Array

from flamejax.geometry import mesh_edges

Adjacency = list[np.ndarray]
"""For each vertex its neighbours, ascending, without the vertex itself."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NeighbourLists:
    """The sources of each of P targets, padded to N; and the same edges grouped by the S sources."""

    index: Array
    """(P, N) int32 sources; padding holds 0."""
    mask: Array
    """(P, N) bool, False where padded."""
    back: Array
    """(S, T) int32: flat positions p * N + n in `index` at which a source occurs; padding holds 0."""
    back_mask: Array
    """(S, T) bool."""

    @property
    def num_targets(self) -> int:
        """P."""
        return self.index.shape[0]

    @property
    def num_sources(self) -> int:
        """S."""
        return self.back.shape[0]

    @property
    def width(self) -> int:
        """N, the largest number of neighbours (the r of the paper's Tables 5 and 6)."""
        return self.index.shape[1]


@dataclass(frozen=True)
class MeshStep:
    """One step from a finer to a coarser graph (the same graph at stride 1)."""

    stride: int
    radius: int
    """Radius of the pooled balls, in edges."""
    centres: np.ndarray
    """(P,) int32 vertices of the finer graph."""
    pool: NeighbourLists
    """P coarse targets from S fine sources."""
    unpool: NeighbourLists
    """S fine targets from P coarse sources."""


@dataclass(frozen=True)
class MeshHierarchy:
    """A mesh's graph and its coarser versions. Level 0 is the mesh; step k leads from level k to k + 1."""

    steps: tuple[MeshStep, ...]
    senders: tuple[np.ndarray, ...]
    """For each level the source vertices (E,) int32 of the directed edges, both directions, sorted by receiver."""
    receivers: tuple[np.ndarray, ...]
    components: tuple[np.ndarray, ...]
    """For each level the component (numbered from 0) of each vertex, int32."""

    @property
    def num_vertices(self) -> tuple[int, ...]:
        """Number of vertices of each level."""
        return tuple(len(labels) for labels in self.components)

    def graph(self, level: int = 0) -> jraph.GraphsTuple:
        """Return a level's edges, both directions, without features."""
        senders, receivers = self.senders[level], self.receivers[level]
        return jraph.GraphsTuple(
            nodes=None,
            edges=None,
            receivers=jnp.asarray(receivers),
            senders=jnp.asarray(senders),
            globals=None,
            n_node=jnp.asarray([self.num_vertices[level]]),
            n_edge=jnp.asarray([len(senders)]),
        )


def mesh_hierarchy(
    faces: np.ndarray,
    positions: np.ndarray,
    strides: Sequence[int] = (2, 1, 2, 1, 2, 1, 2),
    radii: Sequence[int] | None = None,
) -> MeshHierarchy:
    """Build the hierarchy of a triangle mesh with any number of components.

    Args:
      faces: (F, 3) vertex indices.
      positions: (V, 3) of a reference shape. They only set the order of visits, by the angle about the y axis, so that
        the result does not depend on the numbering of the vertices. Vertices at equal positions are visited by number.
      strides, radii: of each step. A radius is by default the stride: 2 edges at stride 2, 1 at stride 1, as in
        Zhou et al.

    Raises:
      ValueError: shapes or indices are invalid, or a stride or radius is below 1, or the balls do not cover the mesh.
    """
    faces, positions = np.asarray(faces), np.asarray(positions)
    radii = list(strides) if radii is None else list(radii)
    _check_arguments(faces, positions, strides, radii)
    angle = np.arctan2(positions[:, 0], positions[:, 2])
    order = np.lexsort((np.hypot(positions[:, 0], positions[:, 2]), positions[:, 1], angle))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    adjacency = _adjacency(rank[faces], len(positions))
    labels = _component_labels(adjacency)
    # All steps below number vertices in the order of visits; `ids[k]` is the output number of a level's vertex k.
    ids, steps = order, []
    levels = [_Level(adjacency, labels, ids)]
    for stride, radius in zip(strides, radii, strict=True):
        centres = _choose_centres(adjacency, stride)
        pool = [_ball(adjacency, int(centre), radius) for centre in centres]
        adjacency, labels = _coarsen(adjacency, centres, 2 * stride - 1), labels[centres]
        coarse_ids = ids if stride == 1 else np.arange(len(centres))
        steps.append(_build_step(stride, radius, centres, pool, ids, coarse_ids))
        ids = coarse_ids
        levels.append(_Level(adjacency, labels, ids))
    edges = [level.edges() for level in levels]
    senders, receivers = (tuple(ends[k] for ends in edges) for k in range(2))
    return MeshHierarchy(tuple(steps), senders, receivers, tuple(level.components() for level in levels))


def neighbour_lists(lists: Sequence[np.ndarray], num_sources: int) -> NeighbourLists:
    """Pad lists of sources, one for each target, and invert them.

    Raises:
      ValueError: a source is out of range or a list is empty.
    """
    if not len(lists) or min(map(len, lists)) == 0:
        raise ValueError("every target needs at least one source.")
    counts = np.array([len(sources) for sources in lists])
    flat = np.concatenate(lists)
    if flat.min() < 0 or flat.max() >= num_sources:
        raise ValueError(f"sources lie between 0 and {num_sources - 1}, not {flat.min()} to {flat.max()}.")
    width = int(counts.max())
    mask = np.arange(width) < counts[:, None]
    index = np.zeros(mask.shape, np.int32)
    index[mask] = flat
    positions = np.flatnonzero(mask)
    order = np.argsort(flat, kind="stable")
    source_counts = np.bincount(flat, minlength=num_sources)
    back_mask = np.arange(max(1, int(source_counts.max()))) < source_counts[:, None]
    back = np.zeros(back_mask.shape, np.int32)
    back[back_mask] = positions[order]
    return NeighbourLists(*(jnp.asarray(array) for array in (index, mask, back, back_mask)))


def centres_near(hierarchy: MeshHierarchy, step: int, radius: int) -> list[np.ndarray]:
    """Return for each fine vertex of a step the centres within `radius` edges, as ascending coarse numbers."""
    fine, centres = hierarchy.num_vertices[step], hierarchy.steps[step].centres
    senders, receivers = hierarchy.senders[step], hierarchy.receivers[step]
    adjacency = np.split(senders, np.searchsorted(receivers, np.arange(1, fine)))
    number = np.full(fine, -1)
    number[centres] = np.arange(len(centres))
    balls = (number[_ball(adjacency, vertex, radius)] for vertex in range(fine))
    return [np.sort(ball[ball >= 0]) for ball in balls]


@dataclass(frozen=True)
class _Level:
    """A level of the hierarchy while it is built."""

    adjacency: Adjacency
    labels: np.ndarray
    ids: np.ndarray

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return senders and receivers by output numbers, sorted by receiver."""
        degree = np.array([len(near) for near in self.adjacency])
        senders = self.ids[np.concatenate(self.adjacency)] if degree.sum() else np.zeros(0, np.int64)
        receivers = np.repeat(self.ids, degree)
        order = np.lexsort((senders, receivers))
        return senders[order].astype(np.int32), receivers[order].astype(np.int32)

    def components(self) -> np.ndarray:
        """Return the component labels (V,) in the order of the output numbers."""
        labels = np.empty(len(self.ids), np.int32)
        labels[self.ids] = self.labels
        return labels


def _check_arguments(faces: np.ndarray, positions: np.ndarray, strides: Sequence[int], radii: Sequence[int]) -> None:
    if faces.ndim != 2 or faces.shape[1] != 3 or not np.issubdtype(faces.dtype, np.integer):
        raise ValueError(f"faces are (F, 3) integers, not {faces.shape} of {faces.dtype}.")
    if positions.ndim != 2 or positions.shape[1] != 3 or not np.isfinite(positions).all():
        raise ValueError(f"positions are (V, 3), finite; got shape {positions.shape}.")
    if not len(positions):
        raise ValueError("a mesh has at least one vertex.")
    if faces.size and (faces.min() < 0 or faces.max() >= len(positions)):
        raise ValueError(f"faces name vertices {faces.min()} to {faces.max()}, but there are {len(positions)}.")
    if len(strides) != len(radii):
        raise ValueError(f"{len(strides)} strides, but {len(radii)} radii.")
    if any(value < 1 for value in (*strides, *radii)):
        raise ValueError(f"strides and radii are at least 1, not {list(strides)} and {list(radii)}.")
    if any(radius < stride - 1 for stride, radius in zip(strides, radii, strict=True)):
        raise ValueError(f"a radius is at least its stride - 1, or vertices are lost: {list(strides)}, {list(radii)}.")


def _adjacency(faces: np.ndarray, count: int) -> Adjacency:
    senders, receivers = mesh_edges(faces)
    return np.split(senders, np.searchsorted(receivers, np.arange(1, count)))


def _component_labels(adjacency: Adjacency) -> np.ndarray:
    """Return labels (V,), numbered in the order of each component's first vertex."""
    labels = np.full(len(adjacency), -1)
    for start in range(len(adjacency)):
        if labels[start] < 0:
            component = list(_breadth_first(adjacency, start))
            labels[component] = labels.max() + 1
    return labels


def _breadth_first(adjacency: Adjacency, start: int) -> list[int]:
    """Return all reachable vertices, ring by ring, each ring ascending."""
    visited, ring, seen = [], [start], {start}
    while ring:
        visited += ring
        ring = sorted({near for vertex in ring for near in adjacency[vertex].tolist()} - seen)
        seen.update(ring)
    return visited


def _ball(adjacency: Adjacency, centre: int, radius: int) -> np.ndarray:
    """Return the vertices within `radius` edges of a centre, itself included, ascending."""
    ball = ring = {centre}
    for _ in range(radius):
        ring = {near for vertex in ring for near in adjacency[vertex].tolist()} - ball
        ball = ball | ring
    return np.array(sorted(ball))


def _choose_centres(adjacency: Adjacency, stride: int) -> np.ndarray:
    """Return the centres, ascending: in breadth-first order each vertex without a centre within stride - 1 edges. The
    first vertex of each component is always one."""
    covered, centres = np.zeros(len(adjacency), bool), []
    visited = np.zeros(len(adjacency), bool)
    for start in range(len(adjacency)):
        if visited[start]:
            continue
        for vertex in _breadth_first(adjacency, start):
            visited[vertex] = True
            if not covered[vertex]:
                centres.append(vertex)
                covered[_ball(adjacency, vertex, stride - 1)] = True
    return np.array(sorted(centres))


def _coarsen(adjacency: Adjacency, centres: np.ndarray, reach: int) -> Adjacency:
    """Return the graph of the centres, joined if they lie within `reach` edges."""
    number = np.full(len(adjacency), -1)
    number[centres] = np.arange(len(centres))
    balls = (number[_ball(adjacency, int(centre), reach)] for centre in centres)
    return [ball[(ball >= 0) & (ball != k)] for k, ball in enumerate(balls)]


def _build_step(
    stride: int, radius: int, centres: np.ndarray, pool: list[np.ndarray], ids: np.ndarray, coarse_ids: np.ndarray
) -> MeshStep:
    """Build a step's neighbour lists by output numbers; unpooling uses the inverted pooling lists."""
    count, order = len(ids), np.argsort(coarse_ids)
    lists = [np.sort(ids[pool[k]]) for k in order]
    inverse: list[list[int]] = [[] for _ in range(count)]
    for target, sources in enumerate(lists):
        for source in sources.tolist():
            inverse[source].append(target)
    unpool = [np.array(targets, np.int64) for targets in inverse]
    return MeshStep(
        stride,
        radius,
        ids[centres][order].astype(np.int32),
        neighbour_lists(lists, count),
        neighbour_lists(unpool, len(centres)),
    )
