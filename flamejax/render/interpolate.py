"""Vertex attributes at the pixels."""

import jax.numpy as jnp
from jax import Array

from flamejax.render.rasterize import Fragments, gather_vertices


def interpolate(attributes: Array, faces: Array, fragments: Fragments) -> Array:
    """Barycentric interpolation of vertex attributes.

    Args:
      attributes: (*b, N, C), or (N, C) shared by the batch (texture coordinates, say).
      faces: (F, 3) int32 into the attributes; may differ from the rasterized faces (uv_faces), same order.
      fragments: from `rasterize`, batch axes (*b,).

    Returns:
      (*b, H, W, C); zero where the image is empty.
    """
    triangles = faces[jnp.maximum(fragments.face_index, 0)]
    corners = gather_vertices(attributes, triangles)
    return jnp.sum(corners * fragments.barycentric[..., None], axis=-2)
