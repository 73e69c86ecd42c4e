"""The whole pipeline: rasterize -> interpolate -> shade -> RGBA."""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from flamejax.camera import Camera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel
from flamejax.rendering._antialias import antialias as blend_silhouettes
from flamejax.rendering._interpolate import interpolate
from flamejax.rendering._rasterize import Fragments, rasterize
from flamejax.rendering.light import ambient_light, shade
from flamejax.rendering.texture import sample_texture


@functools.partial(jax.jit, static_argnames=("size", "antialias"))
def render(
    head: HeadModel,
    verts: Array,
    camera: Camera,
    *,
    texture: Array | None = None,
    light: Array | None = None,
    size: tuple[int, int],
    antialias: bool = False,
) -> Array:
    """Render a posed head with its texture under spherical-harmonics light.

    Args:
      verts: (*b, V, 3) world metres.
      camera: batch axes (*b,).
      texture: (*b, Ht, Wt, 3) albedo in the head's UV layout, or (Ht, Wt, 3) for all; the mean albedo when left out.
      light: (*b, 9, 3), or (9, 3) for all; white ambient light when left out.
      size: (H, W) pixels.
      antialias: blend the silhouettes, which gives them a gradient too.

    Returns:
      (*b, H, W, 4): RGB times alpha, not clipped, and alpha (1 where the head is; between at antialiased silhouettes).
      Differentiable in all arrays, in the silhouettes only if antialiased. Lay it over a background by `composite`.
    """
    batch = verts.shape[:-2]
    texture = head.albedo_mean if texture is None else texture
    light = ambient_light() if light is None else light
    screen = camera.project(verts)
    fragments = rasterize(screen, head.faces, size, perspective=camera.perspective, cull=True)
    texture = jnp.broadcast_to(texture, (*batch, *texture.shape[-3:]))
    light = jnp.broadcast_to(light, (*batch, *light.shape[-2:]))
    shaded = functools.partial(render_fragments, head)
    for _ in batch:
        shaded = jax.vmap(shaded)
    image = shaded(verts, fragments, texture, light)
    if antialias:
        image = blend_silhouettes(image, fragments, screen, head.faces, perspective=camera.perspective, cull=True)
    return image


def render_fragments(head: HeadModel, verts: Array, fragments: Fragments, texture: Array, light: Array) -> Array:
    """Shade one head's fragments. verts (V, 3), fragments (H, W), texture (Ht, Wt, 3), light (9, 3) -> (H, W, 4)."""
    normals = normalize(interpolate(vertex_normals(verts, head.faces), head.faces, fragments))
    uv = interpolate(head.uv, head.uv_faces, fragments)
    alpha = (fragments.face_index >= 0).astype(verts.dtype)[..., None]
    colour = sample_texture(texture, uv) * shade(normals, light)
    return jnp.concatenate([colour * alpha, alpha], axis=-1)


def composite(image: Array, background: Array) -> Array:
    """Lay a rendered image over a background. image (*b, H, W, 4) from `render`, background (*b, H, W, 3) or (3,).

    Returns (*b, H, W, 3).
    """
    return image[..., :3] + (1.0 - image[..., 3:]) * jnp.broadcast_to(background, (*image.shape[:-1], 3))
