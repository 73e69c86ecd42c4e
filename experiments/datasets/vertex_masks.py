"""Which vertices of a head are hidden: rectangles before the face and connected patches of its surface (Diverse3DFace,
section 5 and appendix B.2), of a stated share of all vertices; and what is turned away from a camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from flamejax.geometry import vertex_normals
from flamejax.head import HeadModel, rotation_matrix

KINDS = ("rectangle", "patch")
EYEBALLS = ("left_eyeball", "right_eyeball")
FIELDS = 512
"""Patches to choose from."""
UNEVEN = 0.6
"""Standard deviation of the logarithm of an edge's length as a patch sees it: patches are no discs."""
YAW, PITCH = 25.0, 10.0
"""Standard deviations of the camera's direction, degrees."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MaskMaker:
    """What masks are cut from, on the mean head."""

    outline: Array
    """(V, 2) x and y, metres."""
    normals: Array
    """(V, 3) unit."""
    fields: Array
    """(K, V) distance along the surface from one vertex of the face each, edges stretched at random."""
    centres: Array
    """(K,) int32: these vertices. A rectangle's centre is one of them, too."""
    hideable: Array
    """(V,) bool: all but the eyeballs, which the Mesh-VAE always gets to see."""


def mask_maker(head: HeadModel, seed: int = 0, count: int = FIELDS) -> MaskMaker:
    """Prepare masks of a head; two seconds."""
    return mesh_masks(np.asarray(head.v_template), np.asarray(head.faces), head.regions, seed, count)


def mesh_masks(
    verts: np.ndarray, faces: np.ndarray, regions: Mapping[str, Array], seed: int = 0, count: int = FIELDS
) -> MaskMaker:
    """Prepare masks of any mesh that looks to +z.

    Args:
      verts: (V, 3) of the mean shape, metres. faces: (F, 3).
      regions: (V,) bool masks by name, of which `face` and the eyeballs count. Without them, centres lie anywhere, and
        all can be hidden.
    """
    rng = np.random.default_rng(seed)
    eyes = np.zeros(len(verts), bool)
    for name in EYEBALLS:
        eyes |= np.asarray(regions.get(name, eyes))
    face = np.asarray(regions["face"]) if "face" in regions else ~eyes
    # Patches grow along the edges from a vertex of the face.
    ends = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    length = np.linalg.norm(verts[ends[:, 0]] - verts[ends[:, 1]], axis=1)
    centres = rng.choice(np.flatnonzero(face & ~eyes), count, replace=True)
    fields = np.empty((count, len(verts)), np.float32)
    for k, centre in enumerate(centres):
        stretched = length * np.exp(UNEVEN * rng.standard_normal(len(length)))
        graph = coo_matrix((stretched, ends.T), (len(verts),) * 2).tocsr()
        fields[k] = dijkstra(graph, directed=False, indices=centre)
    return MaskMaker(
        jnp.asarray(verts[:, :2]),
        vertex_normals(jnp.asarray(verts), jnp.asarray(faces)),
        jnp.asarray(fields),
        jnp.asarray(centres, jnp.int32),
        jnp.asarray(~eyes),
    )


def hidden_vertices(maker: MaskMaker, key: Array, share: Array, kind: Array) -> Array:
    """One mask: (V,) bool, True = hidden.

    Args:
      share: () of all vertices that are hidden; to within one vertex, unless there are not so many, or a rectangle's
        edge meets many vertices at once (of the open head's up to 60, 1 %, where it meets the neck's border).
      kind: () int32 into `KINDS`. A rectangle hides front and back alike (x and y only); a patch hangs together.
    """
    which, shape = jax.random.split(key)
    k = jax.random.randint(which, (), 0, len(maker.centres))
    aspect = jnp.exp(0.5 * jax.random.uniform(shape, (), minval=-0.7, maxval=0.7))
    away = jnp.abs(maker.outline - maker.outline[maker.centres[k]][None])
    rectangle = jnp.max(away * jnp.stack([aspect, 1 / aspect])[None], axis=1)
    distance = jnp.where(maker.hideable, jnp.where(kind == 0, rectangle, maker.fields[k]), jnp.inf)
    count = jnp.round(share * len(distance)).astype(jnp.int32)
    last = jnp.sort(distance)[jnp.maximum(count - 1, 0)]
    return (distance <= last) & (count > 0) & jnp.isfinite(distance)


def turned_away(maker: MaskMaker, key: Array) -> Array:
    """(V,) bool: vertices whose normal points away from a camera somewhere before the face."""
    turn = jnp.deg2rad(jax.random.normal(key, (2,)) * jnp.asarray([PITCH, YAW]))
    camera = rotation_matrix(jnp.append(turn, 0.0)) @ jnp.asarray([0.0, 0.0, 1.0])
    return (maker.normals @ camera < 0) & maker.hideable
