"""Coarser and coarser versions of a mesh's graph, and the neighbour lists between them.

Graph sampling of Zhou et al. 2020 ("Fully Convolutional Mesh Autoencoder using Efficient Spatially Varying Kernels",
section 3): breadth first from a start vertex, a vertex becomes a centre unless a centre lies within stride - 1 edges;
a centre pools the ball of `radius` edges around it; a fine vertex is unpooled from the centres whose balls hold it; two
centres are joined when they lie within 2 stride - 1 edges. Every component of the mesh has a start vertex of its own,
so none vanishes. Worked out once in numpy; what networks use are arrays of fixed shapes.
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
"""Per vertex its neighbours, ascending, without itself."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NeighbourLists:
    """For each of P targets the sources it draws from, padded to N; and the same edges seen from the S sources."""

    index: Array
    """(P, N) int32 sources; padding holds 0."""
    mask: Array
    """(P, N) bool, False where padded."""
    back: Array
    """(S, T) int32: places p * N + n in `index`, flat, where a source stands; padding holds 0."""
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
        """N, the most neighbours (the r of the paper's Tables 5 and 6)."""
        return self.index.shape[1]


@dataclass(frozen=True)
class MeshStep:
    """One step from a finer to a coarser graph (the same graph at stride 1)."""

    stride: int
    radius: int
    """Edges."""
    centres: np.ndarray
    """(P,) int32 in the finer graph."""
    pool: NeighbourLists
    """P coarse targets from S fine sources."""
    unpool: NeighbourLists
    """S fine targets from P coarse sources."""


@dataclass(frozen=True)
class MeshHierarchy:
    """A mesh's graph and its coarser versions; level 0 is the mesh, step k leads from level k to k + 1."""

    steps: tuple[MeshStep, ...]
    senders: tuple[np.ndarray, ...]
    """Per level the directed edges' sources (E,) int32, both directions, sorted by receiver."""
    receivers: tuple[np.ndarray, ...]
    components: tuple[np.ndarray, ...]
    """Per level the component (numbered from 0) of each vertex, int32."""

    @property
    def num_vertices(self) -> tuple[int, ...]:
        """Vertices of each level."""
        return tuple(len(labels) for labels in self.components)

    def graph(self, level: int = 0) -> jraph.GraphsTuple:
        """A level's edges, both directions, without features."""
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
      positions: (V, 3) of a reference shape. They only decide the order of visits, by the angle about the y axis, so
        that the result does not depend on how vertices are numbered. Vertices at one place are taken by numbers.
      strides, radii: of each step. A radius is the stride unless given: 2 edges at stride 2, 1 at stride 1, as in
        Zhou et al.

    Raises:
      ValueError: shapes or indices are wrong, or a stride or radius is below 1, or balls would not cover the mesh.
    """
    faces, positions = np.asarray(faces), np.asarray(positions)
    radii = list(strides) if radii is None else list(radii)
    _check(faces, positions, strides, radii)
    around = np.arctan2(positions[:, 0], positions[:, 2])
    order = np.lexsort((np.hypot(positions[:, 0], positions[:, 2]), positions[:, 1], around))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    adjacency = _adjacency(rank[faces], len(positions))
    labels = _components(adjacency)
    # All is worked out in the order of the positions; `own[k]` is the number that vertex k of a level gets outside.
    own, steps = order, []
    levels = [_Level(adjacency, labels, own)]
    for stride, radius in zip(strides, radii, strict=True):
        centres = _sample(adjacency, stride)
        pool = [_ball(adjacency, int(centre), radius) for centre in centres]
        adjacency, labels = _coarse(adjacency, centres, 2 * stride - 1), labels[centres]
        coarse_own = own if stride == 1 else np.arange(len(centres))
        steps.append(_step(stride, radius, centres, pool, own, coarse_own))
        own = coarse_own
        levels.append(_Level(adjacency, labels, own))
    edges = [level.edges() for level in levels]
    senders, receivers = (tuple(ends[k] for ends in edges) for k in range(2))
    return MeshHierarchy(tuple(steps), senders, receivers, tuple(level.components() for level in levels))


def neighbour_lists(lists: Sequence[np.ndarray], num_sources: int) -> NeighbourLists:
    """Pad lists of sources, one for each target, and turn them round.

    Raises:
      ValueError: a source is out of range or a list is empty.
    """
    if not len(lists) or min(map(len, lists)) == 0:
        raise ValueError("every target needs at least one source.")
    counts = np.array([len(one) for one in lists])
    flat = np.concatenate(lists)
    if flat.min() < 0 or flat.max() >= num_sources:
        raise ValueError(f"sources lie between 0 and {num_sources - 1}, not {flat.min()} to {flat.max()}.")
    width = int(counts.max())
    mask = np.arange(width) < counts[:, None]
    index = np.zeros(mask.shape, np.int32)
    index[mask] = flat
    places = np.flatnonzero(mask)
    order = np.argsort(flat, kind="stable")
    uses = np.bincount(flat, minlength=num_sources)
    back_mask = np.arange(max(1, int(uses.max()))) < uses[:, None]
    back = np.zeros(back_mask.shape, np.int32)
    back[back_mask] = places[order]
    return NeighbourLists(*(jnp.asarray(array) for array in (index, mask, back, back_mask)))


def centres_near(hierarchy: MeshHierarchy, step: int, radius: int) -> list[np.ndarray]:
    """Per fine vertex of a step the centres, by their coarse numbers and ascending, that lie within `radius` edges."""
    fine, centres = hierarchy.num_vertices[step], hierarchy.steps[step].centres
    senders, receivers = hierarchy.senders[step], hierarchy.receivers[step]
    adjacency = np.split(senders, np.searchsorted(receivers, np.arange(1, fine)))
    number = np.full(fine, -1)
    number[centres] = np.arange(len(centres))
    balls = (number[_ball(adjacency, vertex, radius)] for vertex in range(fine))
    return [np.sort(found[found >= 0]) for found in balls]


@dataclass(frozen=True)
class _Level:
    """A graph under work."""

    adjacency: Adjacency
    labels: np.ndarray
    own: np.ndarray

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Senders and receivers in the numbers given outside, sorted by receiver."""
        degree = np.array([len(near) for near in self.adjacency])
        senders = self.own[np.concatenate(self.adjacency)] if degree.sum() else np.zeros(0, np.int64)
        receivers = np.repeat(self.own, degree)
        order = np.lexsort((senders, receivers))
        return senders[order].astype(np.int32), receivers[order].astype(np.int32)

    def components(self) -> np.ndarray:
        """(V,) labels in the numbers given outside."""
        found = np.empty(len(self.own), np.int32)
        found[self.own] = self.labels
        return found


def _check(faces: np.ndarray, positions: np.ndarray, strides: Sequence[int], radii: Sequence[int]) -> None:
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


def _components(adjacency: Adjacency) -> np.ndarray:
    """(V,) labels, numbered by each component's first vertex."""
    labels = np.full(len(adjacency), -1)
    for start in range(len(adjacency)):
        if labels[start] < 0:
            found = list(_breadth_first(adjacency, start))
            labels[found] = labels.max() + 1
    return labels


def _breadth_first(adjacency: Adjacency, start: int) -> list[int]:
    """All vertices that can be reached, ring by ring, each ring ascending."""
    found, ring, seen = [], [start], {start}
    while ring:
        found += ring
        ring = sorted({near for vertex in ring for near in adjacency[vertex].tolist()} - seen)
        seen.update(ring)
    return found


def _ball(adjacency: Adjacency, centre: int, radius: int) -> np.ndarray:
    """Vertices within `radius` edges, itself included, ascending."""
    found = ring = {centre}
    for _ in range(radius):
        ring = {near for vertex in ring for near in adjacency[vertex].tolist()} - found
        found = found | ring
    return np.array(sorted(found))


def _sample(adjacency: Adjacency, stride: int) -> np.ndarray:
    """Centres, ascending: breadth first, those without a centre within stride - 1 edges. One in each component at
    least: its first vertex."""
    taken, centres = np.zeros(len(adjacency), bool), []
    visited = np.zeros(len(adjacency), bool)
    for start in range(len(adjacency)):
        if visited[start]:
            continue
        for vertex in _breadth_first(adjacency, start):
            visited[vertex] = True
            if not taken[vertex]:
                centres.append(vertex)
                taken[_ball(adjacency, vertex, stride - 1)] = True
    return np.array(sorted(centres))


def _coarse(adjacency: Adjacency, centres: np.ndarray, reach: int) -> Adjacency:
    """The graph of the centres: joined within `reach` edges."""
    number = np.full(len(adjacency), -1)
    number[centres] = np.arange(len(centres))
    near = (number[_ball(adjacency, int(centre), reach)] for centre in centres)
    return [found[(found >= 0) & (found != k)] for k, found in enumerate(near)]


def _step(
    stride: int, radius: int, centres: np.ndarray, pool: list[np.ndarray], own: np.ndarray, coarse_own: np.ndarray
) -> MeshStep:
    """Lists in the numbers given outside; unpooling turns the balls round."""
    count, outside = len(own), np.argsort(coarse_own)
    lists = [np.sort(own[pool[k]]) for k in outside]
    back: list[list[int]] = [[] for _ in range(count)]
    for target, sources in enumerate(lists):
        for source in sources.tolist():
            back[source].append(target)
    unpool = [np.array(one, np.int64) for one in back]
    return MeshStep(
        stride,
        radius,
        own[centres][outside].astype(np.int32),
        neighbour_lists(lists, count),
        neighbour_lists(unpool, len(centres)),
    )
