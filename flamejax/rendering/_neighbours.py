"""Neighbours of triangles across their edges, also where triangles have vertices of their own at the same positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MAX_KEY_VERTICES = 2**16
"""Vertices up to which an edge's two ends fit one unsigned 32-bit key."""


@functools.partial(jax.jit, static_argnames="num_vertices")
def opposite_vertices(faces: Array, num_vertices: int) -> Array:
    """Returns the vertex of the neighbouring triangle across each edge.

    Triangles are neighbours if they share the indices of two vertices; `antialias` also joins those that share two
    positions.

    faces (F, 3) int32 -> (F, 3) int32: entry k is the vertex across the edge opposite to corner k, or -1 if that
    edge has no other triangle, or more than one.
    """
    return _opposite_and_count(faces, num_vertices)[0]


def welded_opposite(positions: Array, faces: Array) -> Array:
    """Returns `opposite_vertices` of the mesh whose vertices at exactly equal positions are one.

    Args:
      positions: (*b, V, 3); vertices are joined if their positions are equal in the whole batch, also in one of `vmap`.
      faces: (F, 3). If they are not traced, only the edges without a neighbour are searched, which for closed meshes
        costs nothing.
    """
    positions, count = jax.lax.stop_gradient(positions), positions.shape[-2]
    positions = positions.reshape(-1, count, 3)
    if isinstance(faces, jax.core.Tracer):
        return opposite_vertices(equal_positions(positions)[faces], count)
    with jax.ensure_compile_time_eval():  # XLA would take seconds to constant-fold the sort
        faces = jnp.asarray(faces)
        opposite, members = _opposite_and_count(faces, count)
        edges = np.flatnonzero(np.asarray(members) == 1)
        ends = np.stack([np.roll(faces, -1, axis=1), np.roll(faces, -2, axis=1)], axis=-1).reshape(-1, 2)[edges]
        border, ends = np.unique(ends, return_inverse=True)
    if not edges.size:
        return opposite
    return _join_edges(positions[:, border], faces, opposite, edges, ends.reshape(-1, 2))


@jax.jit
def _join_edges(positions: Array, faces: Array, opposite: Array, edges: Array, ends: Array) -> Array:
    """Join edges (E,) without a neighbour. positions (B, N, 3); ends (E, 2): the edges' vertices among these."""
    labels = equal_positions(positions)[ends]
    partner, members = _partners(labels[:, 0], labels[:, 1], positions.shape[1])
    joined = jnp.where(members == 2, faces.reshape(-1)[edges[partner]], -1)
    return opposite.reshape(-1).at[edges].set(joined).reshape(opposite.shape)


@jax.custom_batching.custom_vmap
def equal_positions(positions: Array) -> Array:
    """Label vertices (B, N, 3) by the first one at exactly the same position in the whole batch: (N,) int32."""
    count = positions.shape[1]
    keys = jax.lax.bitcast_convert_type(jnp.where(positions == 0, 0.0, positions).astype(jnp.float32), jnp.uint32)
    # MurmurHash3's finalizer, and a different odd factor for each coordinate.
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        keys = (keys ^ (keys >> shift)) * jnp.uint32(factor)
    factors = jnp.arange(keys.shape[0] * 3, dtype=jnp.uint32).reshape(-1, 1, 3) * jnp.uint32(0x9E3779B2) + jnp.uint32(1)
    key = jnp.sum((keys ^ (keys >> 16)) * factors, axis=(0, 2), dtype=jnp.uint32)
    index = jnp.arange(count)
    group = jnp.searchsorted(jnp.sort(key), key)
    first = jnp.full((count,), count, jnp.int32).at[group].min(index.astype(jnp.int32))[group]
    # Where two positions happen to have the same key, vertices stay apart.
    return jnp.where(jnp.all(positions == positions[:, first], axis=(0, 2)), first, index.astype(jnp.int32))


@equal_positions.def_vmap
def _equal_positions_vmapped(axis_size, in_batched, positions):  # noqa: ANN001, ANN202
    del axis_size, in_batched  # one list of neighbours for the whole batch
    return equal_positions(positions.reshape(-1, *positions.shape[2:])), False


@functools.partial(jax.jit, static_argnames="num_vertices")
def _opposite_and_count(faces: Array, num_vertices: int) -> tuple[Array, Array]:
    """Returns `opposite_vertices`, and (F, 3) int32: the number of triangles at each edge."""
    start, end = jnp.roll(faces, -1, axis=1).reshape(-1), jnp.roll(faces, -2, axis=1).reshape(-1)
    partner, members = _partners(start, end, num_vertices)
    opposite = jnp.where(members == 2, faces.reshape(-1)[partner], -1)
    return opposite.reshape(-1, 3), members.reshape(-1, 3)


@functools.partial(jax.jit, static_argnames="num_vertices")
def _partners(start: Array, end: Array, num_vertices: int) -> tuple[Array, Array]:
    """Match edges (E,) that join the same two vertices.

    Returns (E,) the other edge of a pair, meaningless for other numbers of edges, and (E,) the number of edges.
    """
    count = start.shape[0]
    low, high = jnp.minimum(start, end).astype(jnp.uint32), jnp.maximum(start, end).astype(jnp.uint32)
    index = jnp.arange(count)
    if num_vertices <= MAX_KEY_VERTICES:
        # On CPU, sorting one array of keys is several times faster than sorting tuples.
        key = low * jnp.uint32(MAX_KEY_VERTICES) + high
        group = jnp.searchsorted(jnp.sort(key), key).astype(jnp.int32)
    else:
        low, high, order = jax.lax.sort((low, high, index), num_keys=2)
        changed = (low != jnp.roll(low, 1)) | (high != jnp.roll(high, 1))
        group = jnp.zeros((count,), jnp.int32).at[order].set(jax.lax.cummax(jnp.where(changed, index, 0)))
    first = jnp.full((count,), count, jnp.int32).at[group].min(index)
    last = jnp.full((count,), -1, jnp.int32).at[group].max(index)
    members = jnp.zeros((count,), jnp.int32).at[group].add(1)
    return jnp.clip(first[group] + last[group] - index, 0, count - 1), members[group]
