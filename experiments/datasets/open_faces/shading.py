"""One scan's photos by the renderer: the head alone, with its occluder's solid parts, and with all of it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.datasets.open_faces.scenes import SIZE, Scene
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

MOST_VERTICES, MOST_FACES = 10_000, 20_000
"""Of an occluder: all are filled up to so many, so that the renderer is compiled once."""
TEXTURE = 256
"""Side of an occluder's texture."""
SHARPNESS = 28.0
"""Exponent of the highlights."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Views:
    """Three views: the head, with solid parts of the occluder, with all of it."""

    images: Array
    """(3, S, S, 3) before the background's colours, in [0, 1]."""
    fragments: Fragments
    """(3, S, S) of head and occluder as one mesh: the head's triangles come first."""
    screen: Array
    """(V, 3) the head's vertices: pixels and depth."""


def views(head: HeadModel, verts: np.ndarray, skin: np.ndarray, occluder: Occluder, scene: Scene,
          background: np.ndarray) -> Views:  # fmt: skip
    """Render. verts (V, 3) and the occluder in the head frame; skin (Ht, Wt, 3), background (S, S, 3).

    Raises:
      ValueError: the occluder has too many vertices or triangles.
    """
    solid = occluder.solid
    spare_vertices, spare_faces = MOST_VERTICES - len(solid.vertices), MOST_FACES - len(solid.faces)
    if min(spare_vertices, spare_faces) < 0:
        raise ValueError(f"an occluder of {len(solid.vertices)} vertices, {len(solid.faces)} triangles is too large.")
    points, uv, colour = (
        jnp.asarray(np.pad(a, [(0, spare_vertices), (0, 0)]), jnp.float32)
        for a in (solid.vertices, solid.uv, solid.colour)
    )
    faces = jnp.asarray(np.pad(solid.faces, [(0, spare_faces), (0, 0)]), jnp.int32)  # the spare ones have no area
    repeats = -(-TEXTURE // len(occluder.texture))
    texture = np.repeat(np.repeat(occluder.texture, repeats, 0), repeats, 1)[:TEXTURE, :TEXTURE]
    floats = [verts, skin, points, uv, colour, texture, occluder.gloss, scene.light, scene.lamp_direction]
    floats += [scene.lamp_colour, background]
    lens = jnp.asarray(occluder.lens_from)
    return _views(head, scene.camera, faces, lens, *(jnp.asarray(part, jnp.float32) for part in floats))


@jax.jit
def _views(head: HeadModel, camera: PerspectiveCamera, faces: Array, lens_from: Array, verts: Array, skin: Array,
           points: Array, uv: Array, colour: Array, texture: Array, gloss: Array, light: Array,
           lamp_direction: Array, lamp_colour: Array, background: Array) -> Views:  # fmt: skip
    count = verts.shape[0]
    whole = jnp.concatenate([verts, points])
    screen = camera.project(whole)
    head_faces = head.faces.shape[0]
    all_faces = jnp.concatenate([head.faces, faces + count])
    # What is not to be seen lies behind the camera; a vertex of a lens is one that its first triangles do not use.
    of_solid = jnp.repeat(jnp.arange(faces.shape[0]) < lens_from, 3)
    solid = jnp.zeros((points.shape[0],), bool).at[faces.reshape(-1)].max(of_solid)
    on_head = jnp.ones((count,), bool)
    shown = jnp.stack([jnp.concatenate([on_head, part]) for part in (solid & False, solid, solid | True)])
    places = jnp.where(shown[..., None], screen[None], jnp.asarray([[[0.0, 0.0, -1.0]]]))
    fragments = rasterize(places, all_faces, (SIZE, SIZE), cull=True)
    normals = jnp.concatenate([vertex_normals(verts, head.faces), vertex_normals(points, faces)])
    balls = head.regions["left_eyeball"] | head.regions["right_eyeball"]
    shine = jnp.where(balls, 0.55, jnp.where(head.regions["lips"], 0.16, 0.10))
    rows = jnp.concatenate([jnp.ones_like(verts), colour])
    shines = jnp.concatenate([shine, jnp.full((points.shape[0],), gloss)])
    values = jnp.concatenate([normals, rows, shines[:, None], whole], axis=1)
    all_uv = jnp.concatenate([head.uv, uv])
    uv_faces = jnp.concatenate([head.uv_faces, faces + head.uv.shape[0]])
    eye = -jnp.matmul(camera.T_camera_world[:3, :3].T, camera.T_camera_world[:3, 3], precision="highest")

    def one(fragment: Fragments) -> Array:
        found = interpolate(values, all_faces, fragment)
        place = interpolate(all_uv, uv_faces, fragment)
        normal, colours, shining, position = found[..., :3], found[..., 3:6], found[..., 6:7], found[..., 7:]
        normal = normalize(normal)
        is_head = (fragment.face_index < head_faces)[..., None]
        albedo = jnp.where(is_head, sample_texture(skin, place), sample_texture(texture, place)) * colours
        lit = jnp.maximum(shade(normal, light), 0.0) + shade_directional(normal, lamp_direction, lamp_colour)
        half = normalize(normalize(_spread(eye, position) - position) + _spread(lamp_direction, position))
        facing = jnp.maximum(jnp.sum(normal * half, axis=-1, keepdims=True), 0.0)
        highlight = shining * facing**SHARPNESS * _spread(lamp_colour + 0.35, position)
        seen = (fragment.face_index >= 0)[..., None]
        return jnp.where(seen, jnp.clip(albedo * lit + highlight, 0.0, 1.0), background)

    images = jax.vmap(one)(fragments)
    opposite = opposite_vertices(all_faces, count + points.shape[0])
    smooth = antialias(images, fragments, places, all_faces, cull=True, opposite=opposite)
    return Views(jnp.clip(smooth, 0.0, 1.0), fragments, screen[:count])


def _spread(vector: Array, like: Array) -> Array:
    return jnp.broadcast_to(vector, like.shape)
