"""Render a scan in three layers: the head, with the occluder's opaque parts, and with the full occluder."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.datasets.open_faces.scenes import SIZE, PhotoScene
from experiments.datasets.open_faces.wearables import Occluder
from flamejax.camera import PerspectiveCamera
from flamejax.geometry import normalize, vertex_normals
from flamejax.head import HeadModel
from flamejax.rendering import (
    Fragments,
    antialias,
    interpolate,
    opposite_vertices,
    rasterize,
    sample_texture,
    shade,
    shade_directional,
)

MAX_VERTICES, MAX_FACES = 10_000, 20_000
"""All occluders are padded to these sizes, so that the renderer is compiled once."""
TEXTURE_SIZE = 256
"""Width and height of an occluder's texture."""
SHARPNESS = 28.0
"""Exponent of the highlights."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RenderLayers:
    """Three renders: the head, the head with the occluder's opaque parts, the head with the full occluder."""

    images: Array
    """(3, S, S, 3) in [0, 1], composited over the background."""
    fragments: Fragments
    """(3, S, S) of head and occluder as one mesh, in which the head's triangles come first."""
    screen: Array
    """(V, 3) pixels and depth of the head's vertices."""


def render_layers(
    head: HeadModel, verts: np.ndarray, skin: np.ndarray, occluder: Occluder, scene: PhotoScene, background: np.ndarray
) -> RenderLayers:
    """Render the layers. verts (V, 3) and the occluder in the head frame; skin (Ht, Wt, 3), background (S, S, 3).

    Raises:
      ValueError: the occluder has too many vertices or triangles.
    """
    solid = occluder.solid
    padding_vertices, padding_faces = MAX_VERTICES - len(solid.vertices), MAX_FACES - len(solid.faces)
    if min(padding_vertices, padding_faces) < 0:
        raise ValueError(f"an occluder of {len(solid.vertices)} vertices, {len(solid.faces)} triangles is too large.")
    points, uv, colour = (
        jnp.asarray(np.pad(a, [(0, padding_vertices), (0, 0)]), jnp.float32)
        for a in (solid.vertices, solid.uv, solid.colour)
    )
    faces = jnp.asarray(np.pad(solid.faces, [(0, padding_faces), (0, 0)]), jnp.int32)  # padding has no area
    repeats = -(-TEXTURE_SIZE // len(occluder.texture))
    texture = np.repeat(np.repeat(occluder.texture, repeats, 0), repeats, 1)[:TEXTURE_SIZE, :TEXTURE_SIZE]
    floats = [verts, skin, points, uv, colour, texture, occluder.gloss, scene.light, scene.lamp_direction]
    floats += [scene.lamp_colour, background]
    lens = jnp.asarray(occluder.lens_from)
    return _render_layers(head, scene.camera, faces, lens, *(jnp.asarray(part, jnp.float32) for part in floats))


@jax.jit
def _render_layers(
    head: HeadModel, camera: PerspectiveCamera, faces: Array, lens_from: Array, verts: Array, skin: Array,
    points: Array, uv: Array, colour: Array, texture: Array, gloss: Array, light: Array,
    lamp_direction: Array, lamp_colour: Array, background: Array,
) -> RenderLayers:  # fmt: skip
    count = verts.shape[0]
    all_vertices = jnp.concatenate([verts, points])
    screen = camera.project(all_vertices)
    head_faces = head.faces.shape[0]
    all_faces = jnp.concatenate([head.faces, faces + count])
    # Invisible vertices are moved behind the camera. Vertices that no opaque triangle uses belong to a lens.
    is_opaque = jnp.repeat(jnp.arange(faces.shape[0]) < lens_from, 3)
    opaque = jnp.zeros((points.shape[0],), bool).at[faces.reshape(-1)].max(is_opaque)
    on_head = jnp.ones((count,), bool)
    shown = jnp.stack([jnp.concatenate([on_head, part]) for part in (opaque & False, opaque, opaque | True)])
    positions = jnp.where(shown[..., None], screen[None], jnp.asarray([[[0.0, 0.0, -1.0]]]))
    fragments = rasterize(positions, all_faces, (SIZE, SIZE), cull=True)
    normals = jnp.concatenate([vertex_normals(verts, head.faces), vertex_normals(points, faces)])
    eyeballs = head.regions["left_eyeball"] | head.regions["right_eyeball"]
    shine = jnp.where(eyeballs, 0.55, jnp.where(head.regions["lips"], 0.16, 0.10))
    colours = jnp.concatenate([jnp.ones_like(verts), colour])
    shines = jnp.concatenate([shine, jnp.full((points.shape[0],), gloss)])
    values = jnp.concatenate([normals, colours, shines[:, None], all_vertices], axis=1)
    all_uv = jnp.concatenate([head.uv, uv])
    uv_faces = jnp.concatenate([head.uv_faces, faces + head.uv.shape[0]])
    eye = -jnp.matmul(camera.T_camera_world[:3, :3].T, camera.T_camera_world[:3, 3], precision="highest")

    def shade_layer(fragment: Fragments) -> Array:
        pixels = interpolate(values, all_faces, fragment)
        texcoord = interpolate(all_uv, uv_faces, fragment)
        normal, colour, shine, position = pixels[..., :3], pixels[..., 3:6], pixels[..., 6:7], pixels[..., 7:]
        normal = normalize(normal)
        is_head = (fragment.face_index < head_faces)[..., None]
        albedo = jnp.where(is_head, sample_texture(skin, texcoord), sample_texture(texture, texcoord)) * colour
        lit = jnp.maximum(shade(normal, light), 0.0) + shade_directional(normal, lamp_direction, lamp_colour)
        half = normalize(normalize(_broadcast(eye, position) - position) + _broadcast(lamp_direction, position))
        facing = jnp.maximum(jnp.sum(normal * half, axis=-1, keepdims=True), 0.0)
        highlight = shine * facing**SHARPNESS * _broadcast(lamp_colour + 0.35, position)
        covered = (fragment.face_index >= 0)[..., None]
        return jnp.where(covered, jnp.clip(albedo * lit + highlight, 0.0, 1.0), background)

    images = jax.vmap(shade_layer)(fragments)
    opposite = opposite_vertices(all_faces, count + points.shape[0])
    smooth = antialias(images, fragments, positions, all_faces, cull=True, opposite=opposite)
    return RenderLayers(jnp.clip(smooth, 0.0, 1.0), fragments, screen[:count])


def _broadcast(vector: Array, like: Array) -> Array:
    return jnp.broadcast_to(vector, like.shape)
