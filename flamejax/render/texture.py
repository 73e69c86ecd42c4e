"""Looking colours up in a texture."""

import jax.numpy as jnp
from jax import Array


def sample_texture(texture: Array, uv: Array) -> Array:
    """Bilinear lookup; outside [0, 1] the border texel is repeated.

    Args:
      texture: (Ht, Wt, C), row 0 at the top.
      uv: (*b, 2) texture coordinates, v up: row = (1 - v) Ht. Texel centres lie at half-integers.

    Returns:
      (*b, C), differentiable in both arguments.
    """
    height, width = texture.shape[:2]
    column = jnp.clip(uv[..., 0] * width - 0.5, 0.0, width - 1.0)
    row = jnp.clip((1.0 - uv[..., 1]) * height - 0.5, 0.0, height - 1.0)
    left = jnp.clip(jnp.floor(column).astype(jnp.int32), 0, max(width - 2, 0))
    top = jnp.clip(jnp.floor(row).astype(jnp.int32), 0, max(height - 2, 0))
    right, bottom = jnp.minimum(left + 1, width - 1), jnp.minimum(top + 1, height - 1)
    across, down = (column - left)[..., None], (row - top)[..., None]
    upper = texture[top, left] * (1 - across) + texture[top, right] * across
    lower = texture[bottom, left] * (1 - across) + texture[bottom, right] * across
    return upper * (1 - down) + lower * down
