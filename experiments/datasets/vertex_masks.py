"""Sample masks of hidden vertices, and find vertices that face away from a camera.

Rectangles in front of the face and connected surface patches hide a given fraction of all vertices (Diverse3DFace,
section 5 and appendix B.2)."""

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
NUM_PATCHES = 512
"""Number of patches to choose from."""
EDGE_LENGTH_LOG_STD = 0.6
"""Standard deviation of the log factor that stretches an edge, so that patches are not discs."""
YAW, PITCH = 25.0, 10.0
"""Standard deviations of the camera's direction, degrees."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class MaskMaker:
    """Precomputed fields on the mean head that masks are sampled from."""

    outline: Array
    """(V, 2) x and y of the vertices, metres."""
    normals: Array
    """(V, 3) unit."""
    fields: Array
    """(K, V) distances along the surface from one vertex of the face each, with randomly stretched edges."""
    centres: Array
    """(K,) int32 these vertices, which are also the centres of rectangles."""
    hideable: Array
    """(V,) bool: all but the eyeballs, which are always visible to the Mesh-VAE."""


def mask_maker(head: HeadModel, seed: int = 0, count: int = NUM_PATCHES) -> MaskMaker:
    """Prepare the masks of a head, in two seconds."""
    return mesh_masks(np.asarray(head.v_template), np.asarray(head.faces), head.regions, seed, count)


def mesh_masks(
    verts: np.ndarray, faces: np.ndarray, regions: Mapping[str, Array], seed: int = 0, count: int = NUM_PATCHES
) -> MaskMaker:
    """Prepare the masks of any mesh that faces +z.

    Args:
      verts: (V, 3) of the mean shape, metres. faces: (F, 3).
      regions: (V,) bool masks by name; `face` and the eyeballs are used. Without them, centres may be any vertices,
        and all vertices can be hidden.
    """
    rng = np.random.default_rng(seed)
    eyes = np.zeros(len(verts), bool)
    for name in EYEBALLS:
        eyes |= np.asarray(regions.get(name, eyes))
    face = np.asarray(regions["face"]) if "face" in regions else ~eyes
    # Patches grow along the edges from a vertex of the face.
    edges = np.unique(np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1), axis=0)
    length = np.linalg.norm(verts[edges[:, 0]] - verts[edges[:, 1]], axis=1)
    centres = rng.choice(np.flatnonzero(face & ~eyes), count, replace=True)
    fields = np.empty((count, len(verts)), np.float32)
    for k, centre in enumerate(centres):
        stretched = length * np.exp(EDGE_LENGTH_LOG_STD * rng.standard_normal(len(length)))
        graph = coo_matrix((stretched, edges.T), (len(verts),) * 2).tocsr()
        fields[k] = dijkstra(graph, directed=False, indices=centre)
    return MaskMaker(
        jnp.asarray(verts[:, :2]),
        vertex_normals(jnp.asarray(verts), jnp.asarray(faces)),
        jnp.asarray(fields),
        jnp.asarray(centres, jnp.int32),
        jnp.asarray(~eyes),
    )


def hidden_vertices(maker: MaskMaker, key: Array, share: Array, kind: Array) -> Array:
    """Sample one mask: (V,) bool, True = hidden.

    Args:
      share: () fraction of all vertices to hide. It is exact to one vertex, unless too few can be hidden or a
        rectangle's edge meets many vertices at once (up to 60 of the open head's, 1 %, at the neck's border).
      kind: () int32 into `KINDS`. A rectangle in x and y hides front and back alike; a patch is connected.
    """
    which, shape = jax.random.split(key)
    k = jax.random.randint(which, (), 0, len(maker.centres))
    aspect = jnp.exp(0.5 * jax.random.uniform(shape, (), minval=-0.7, maxval=0.7))
    offset = jnp.abs(maker.outline - maker.outline[maker.centres[k]][None])
    rectangle = jnp.max(offset * jnp.stack([aspect, 1 / aspect])[None], axis=1)
    distance = jnp.where(maker.hideable, jnp.where(kind == 0, rectangle, maker.fields[k]), jnp.inf)
    count = jnp.round(share * len(distance)).astype(jnp.int32)
    last = jnp.sort(distance)[jnp.maximum(count - 1, 0)]
    return (distance <= last) & (count > 0) & jnp.isfinite(distance)


def turned_away(maker: MaskMaker, key: Array) -> Array:
    """Returns (V,) bool: vertices whose normals point away from a random camera in front of the face."""
    turn = jnp.deg2rad(jax.random.normal(key, (2,)) * jnp.asarray([PITCH, YAW]))
    camera = rotation_matrix(jnp.append(turn, 0.0)) @ jnp.asarray([0.0, 0.0, 1.0])
    return (maker.normals @ camera < 0) & maker.hideable
