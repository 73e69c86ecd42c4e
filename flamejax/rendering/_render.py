"""The whole pipeline: rasterize -> interpolate -> shade -> antialias -> RGBA."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from flamejax._checks import check_shape
from flamejax.camera import Camera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel
from flamejax.rendering._antialias import antialias as blend_silhouettes
from flamejax.rendering._interpolate import interpolate
from flamejax.rendering._rasterize import rasterize
from flamejax.rendering.light import ambient_light, clay
from flamejax.rendering.light import shade as lit_by
from flamejax.rendering.texture import sample_texture

Shader = Callable[[Array, Array], Array]
"""(attributes (*b, H, W, C), unit normals (*b, H, W, 3)) -> colours (*b, H, W, D). Also called where the picture is
empty, with zeros for both: what it returns there is not seen, but must be finite."""


def render_mesh(
    vertices: Array,
    faces: Array,
    attributes: Array | None,
    camera: Camera,
    size: tuple[int, int],
    shade: Shader | None = None,
    *,
    attribute_faces: Array | None = None,
    background: Array | None = None,
    antialias: bool = True,
    cull: bool = False,
) -> Array:
    """Render any triangle mesh, differentiably, its silhouettes included.

    Args:
      vertices: (*b, V, 3) world metres.
      faces: (F, 3) int32, counter-clockwise seen from outside.
      attributes: (*b, N, C) or (N, C) for the whole batch: anything that is known at vertices, as colours or texture
        coordinates. None where the shader needs normals only.
      camera: batch axes (*b,).
      size: (H, W) pixels.
      shade: makes colours of what is interpolated at each pixel, see `Shader`. When left out, the attributes are the
        colours; where these are None, too, the mesh is grey clay under a lamp.
      attribute_faces: (F, 3) int32 into the attributes, where they have triangles of their own, as texture coordinates
        do; `faces` when left out.
      background: (D,) or (*b, H, W, D), which the picture is laid over; transparent when left out.
      antialias: blend the silhouettes. False is quicker and leaves each pixel the colour at its centre, but then the
        picture has no gradient of silhouettes and of what is visible: a mesh does not learn from it where to move.
      cull: leave out triangles seen from behind, as of a closed mesh.

    Returns:
      (*b, H, W, D + 1): colours times alpha, not clipped, and alpha (1 where the mesh is; between at antialiased
      silhouettes); over a background (*b, H, W, D). Differentiable in vertices, attributes, camera and background.

    Raises:
      ValueError: an array has another shape. The message names it.
    """
    check_shape("vertices", vertices, "V", 3)
    check_shape("faces", faces, "F", 3, batched=False)
    screen = camera.project(vertices)
    fragments = rasterize(screen, faces, size, perspective=camera.perspective, cull=cull)
    normals = normalize(interpolate(vertex_normals(vertices, faces), faces, fragments))
    values = normals
    if attributes is not None:
        values = interpolate(attributes, faces if attribute_faces is None else attribute_faces, fragments)
    if shade is None:
        shade = clay if attributes is None else lambda colours, normals: colours
    alpha = (fragments.face_index >= 0).astype(vertices.dtype)[..., None]
    image = jnp.concatenate([shade(values, normals) * alpha, alpha], axis=-1)
    if antialias:
        image = blend_silhouettes(image, fragments, screen, faces, perspective=camera.perspective, cull=cull)
    return image if background is None else composite(image, background)


@functools.partial(jax.jit, static_argnames=("size", "antialias"))
def render(
    head: HeadModel,
    verts: Array,
    camera: Camera,
    *,
    texture: Array | None = None,
    light: Array | None = None,
    size: tuple[int, int],
    antialias: bool = True,
) -> Array:
    """Render a posed head with its texture under spherical-harmonics light.

    Args:
      verts: (*b, V, 3) world metres.
      camera: batch axes (*b,).
      texture: (*b, Ht, Wt, 3) albedo in the head's UV layout, or (Ht, Wt, 3) for all; the mean albedo when left out.
      light: (*b, 9, 3), or (9, 3) for all; white ambient light when left out.
      size: (H, W) pixels.
      antialias: blend the silhouettes. False is quicker, but then the picture has no gradient of silhouettes and of
        what is visible: only what lies inside the head's outline says where to move.

    Returns:
      (*b, H, W, 4): RGB times alpha, not clipped, and alpha (1 where the head is; between at antialiased silhouettes).
      Differentiable in all arrays. Lay it over a background by `composite`.

    Raises:
      ValueError: an array has another shape. The message names it.
    """
    check_shape("verts", verts, head.num_vertices, 3)
    batch = verts.shape[:-2]
    texture = head.albedo_mean if texture is None else texture
    light = ambient_light() if light is None else light
    check_shape("texture", texture, "Ht", "Wt", 3)
    check_shape("light", light, 9, 3)
    texture = jnp.broadcast_to(texture, (*batch, *texture.shape[-3:]))
    light = jnp.broadcast_to(light, (*batch, *light.shape[-2:]))
    sample = sample_texture
    for _ in batch:
        sample = jax.vmap(sample)

    def textured(uv: Array, normals: Array) -> Array:
        return sample(texture, uv) * lit_by(normals, light)

    return render_mesh(
        verts,
        head.faces,
        head.uv,
        camera,
        size,
        textured,
        attribute_faces=head.uv_faces,
        antialias=antialias,
        cull=True,
    )


def composite(image: Array, background: Array) -> Array:
    """Lay a rendered image over a background.

    image (*b, H, W, C + 1), colours times alpha and alpha, as from `render`; background (*b, H, W, C) or (C,).
    Returns (*b, H, W, C).
    """
    behind = jnp.broadcast_to(background, (*image.shape[:-1], image.shape[-1] - 1))
    return image[..., :-1] + (1.0 - image[..., -1:]) * behind
