"""The rendering pipeline: rasterize -> interpolate -> shade -> antialias -> RGBA."""

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
from flamejax.rendering._neighbours import opposite_vertices, welded_opposite
from flamejax.rendering._rasterize import rasterize
from flamejax.rendering.light import ambient_light, clay
from flamejax.rendering.light import shade as shade_sh
from flamejax.rendering.texture import sample_texture

Shader = Callable[[Array, Array], Array]
"""(attributes (*b, H, W, C), unit normals (*b, H, W, 3)) -> colours (*b, H, W, D). Empty pixels pass zeros for both;
their colours are discarded, but must be finite."""


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
    """Render a triangle mesh, differentiably, including its silhouettes.

    Args:
      vertices: (*b, V, 3) world metres.
      faces: (F, 3) int32, counter-clockwise seen from outside.
      attributes: (*b, N, C) or (N, C) for the whole batch: any vertex attributes, such as colours or texture
        coordinates. None if the shader needs only normals, which it then receives in their place too.
      camera: batch axes (*b,).
      size: (H, W) pixels.
      shade: computes colours from the interpolated values, see `Shader`. By default the attributes are the colours;
        without attributes the mesh is rendered as grey clay under a lamp.
      attribute_faces: (F, 3) int32 into the attributes, if they have triangles of their own, as texture coordinates
        do; `faces` by default.
      background: (D,) or (*b, H, W, D), composited behind the mesh; transparent by default.
      antialias: blend the silhouettes. False is faster and gives each pixel the colour at its centre. Then visibility
        has no gradient: an image loss does not move silhouettes. Triangles may have vertices of their own: for
        silhouettes, those at exactly the same position count as one.
      cull: leave out back-facing triangles, as for a closed mesh.

    Returns:
      (*b, H, W, D + 1): colours times alpha, not clipped, and alpha (1 on the mesh, fractional at antialiased
      silhouettes). With a background: (*b, H, W, D). Differentiable in vertices, attributes, camera and background.

    Raises:
      ValueError: an array has a wrong shape. The message names it.
    """
    check_shape("vertices", vertices, "V", 3)
    check_shape("faces", faces, "F", 3, batched=False)
    # From world positions, which are exactly equal where those of the screen may differ by rounding.
    opposite = welded_opposite(vertices, faces) if antialias else None
    return _render_mesh(
        vertices, faces, attributes, camera, size, shade, attribute_faces, background, opposite, cull
    )


def _render_mesh(
    vertices: Array,
    faces: Array,
    attributes: Array | None,
    camera: Camera,
    size: tuple[int, int],
    shade: Shader | None,
    attribute_faces: Array | None,
    background: Array | None,
    opposite: Array | None,
    cull: bool,
) -> Array:
    """Render as `render_mesh`; antialiased if the opposite vertices are given."""
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
    if opposite is not None:
        image = blend_silhouettes(
            image, fragments, screen, faces, perspective=camera.perspective, cull=cull, opposite=opposite
        )
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
      verts: (*b, V, 3) world metres. The head's triangles should share vertices: seams of vertices of their own would
        count as silhouettes (`render_mesh` joins them).
      camera: batch axes (*b,).
      texture: (*b, Ht, Wt, 3) albedo in the head's UV layout, or (Ht, Wt, 3) for all; the mean albedo by default.
      light: (*b, 9, 3), or (9, 3) for all; white ambient light by default.
      size: (H, W) pixels.
      antialias: blend the silhouettes. False is faster, but visibility then has no gradient: only the pixels inside
        the head's outline drive the vertices.

    Returns:
      (*b, H, W, 4): RGB times alpha, not clipped, and alpha (1 on the head, fractional at antialiased silhouettes).
      Differentiable in all arrays. `composite` puts a background behind it.

    Raises:
      ValueError: an array has a wrong shape. The message names it.
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
        return sample(texture, uv) * shade_sh(normals, light)

    opposite = opposite_vertices(head.faces, head.num_vertices) if antialias else None
    return _render_mesh(verts, head.faces, head.uv, camera, size, textured, head.uv_faces, None, opposite, True)


def composite(image: Array, background: Array) -> Array:
    """Composite a rendered image over a background.

    image (*b, H, W, C + 1): premultiplied colours and alpha, as from `render`; background (*b, H, W, C) or (C,).
    Returns (*b, H, W, C).
    """
    background = jnp.broadcast_to(background, (*image.shape[:-1], image.shape[-1] - 1))
    return image[..., :-1] + (1.0 - image[..., -1:]) * background
