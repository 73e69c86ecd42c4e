"""Interpolation of vertex attributes."""

import jax
import jax.numpy as jnp
from jax import Array

from flamejax._checks import check_shape
from flamejax.rendering._rasterize import Fragments, gather_rows, materialize


@jax.jit
def interpolate(attributes: Array, faces: Array, fragments: Fragments) -> Array:
    """Interpolate vertex attributes barycentrically at the pixels.

    Args:
      attributes: (*b, N, C), or (N, C) shared by the batch (such as texture coordinates).
      faces: (F, 3) int32 into the attributes, in the order of the rasterized faces (such as uv_faces).
      fragments: from `rasterize`, batch axes (*b,).

    Returns:
      (*b, H, W, C); zero in empty pixels.

    Raises:
      ValueError: the attributes are not (*b, N, C), or the faces not (F, 3).
    """
    check_shape("attributes", attributes, "N", "C")
    check_shape("faces", faces, "F", 3, batched=False)
    corners = jnp.take(attributes, faces, axis=-2)
    corners = gather_rows(corners.reshape(*corners.shape[:-2], -1), fragments.face_index)
    weights, channels = [fragments.barycentric[..., k] for k in range(3)], attributes.shape[-1]
    # Channel by channel, as in `fragment_geometry`.
    return materialize(
        jnp.stack(
            [sum(corners[..., k * channels + c] * weights[k] for k in range(3)) for c in range(channels)], axis=-1
        )
    )
