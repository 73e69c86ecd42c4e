"""One scan photographed twice: as it is, and with one thing before the face; with masks, landmarks and visibility."""

from __future__ import annotations

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from experiments.datasets.open_faces import hands, objects, patterns, wearables
from experiments.datasets.open_faces.details import Skin
from experiments.datasets.open_faces.scans import SubjectScans
from experiments.datasets.open_faces.scenes import SIZE, UPRIGHT, Scene, draw_scene
from experiments.datasets.open_faces.shading import Views, views
from experiments.datasets.open_faces.skin import Texels, tone
from experiments.datasets.open_faces.subjects import SEED
from experiments.datasets.open_faces.wearables import MM, Occluder, Skull
from flamejax.geometry import vertex_normals
from flamejax.head import HeadModel, HeadParams, landmark_triangles, landmarks_from_vertices, rotation_matrix
from flamejax.rendering import rasterize

FINER = 3
"""The z-buffer that visibility is read from has so many samples for each pixel and axis."""
TOLERANCE, LANDMARK_TOLERANCE = 0.0015, 0.003
"""Metres that a vertex, or a landmark, may lie behind the z-buffer."""
GRAZING = -0.2
"""Cosine to the camera below which an inner landmark is on skin that is turned away."""
CONTOUR = 17
"""Landmarks that lie on the outline, where skin turns away by definition."""


@dataclasses.dataclass(frozen=True)
class Studio:
    """What all photos share."""

    head: HeadModel
    skin: Skin
    texels: Texels


def kind_of(subject: int, expression: int) -> str:
    """Which occluder a scan gets: glasses, face-mask, and in turn hand or object."""
    turn = subject + expression
    return ("glasses", "face-mask", ("hand", "object")[turn // 3 % 2])[turn % 3]


def make_photo(
    studio: Studio, scans: SubjectScans, look: tuple[np.ndarray, np.ndarray], subject: int, expression: int
) -> dict[str, np.ndarray]:
    """All that is stored of one scan besides its mesh: images and masks as PNG bytes (uint8), numbers as they are.

    `look` is the subject's skin, from `draw_skin`.
    """
    vertices, unposed, rotations = (np.array(part[expression]) for part in vars(scans).values())
    head = studio.head
    rng = np.random.default_rng([SEED, 4, subject, expression])
    scene = draw_scene(rng, head, vertices, rotations)
    back = patterns.background(rng, SIZE)
    coefficients, texture = look
    kind, pivot = kind_of(subject, expression), np.asarray(head.J_regressor, np.float64)[1] @ unposed
    occluder = occluder_for(
        studio, kind, np.random.default_rng([SEED, 5, subject, expression]), vertices, rotations, pivot, scene,
        tone(texture, studio.texels),
    )  # fmt: skip
    seen = views(head, vertices, texture, occluder, scene, back)
    index = np.asarray(seen.fragments.face_index)
    clean, occluded = pictures(seen, occluder, scene, rng)
    hidden = hidden_pixels(head, seen)
    of_face = np.append(_face_triangles(head), False)  # -1, an empty pixel, is the last
    on_face, left_over = of_face[index[0]], of_face[np.where(hidden, -1, index[2])]
    shown, points, dense, shown_points, shown_dense = (
        np.asarray(a) for a in _seen(head, jnp.asarray(vertices), scene.params, seen, scene.camera.T_camera_world)
    )
    return {
        "image": png(clean), "occluded": png(occluded), "occlusion_mask": png(hidden),
        "face_mask": png(on_face), "face_mask_occluded": png(left_over),
        "landmarks": points, "dense_landmarks": dense,
        "landmarks_visible": shown_points, "dense_visible": shown_dense, "vertices_visible": shown,
        "landmarks_visible_occluded": shown_points & ~at_pixels(hidden, points),
        "dense_visible_occluded": shown_dense & ~at_pixels(hidden, dense),
        "vertices_visible_occluded": shown & ~at_pixels(hidden, np.asarray(seen.screen)),
        "focal": np.float32(scene.focal), "centre": scene.centre.astype(np.float32),
        "T_camera_world": scene.T_camera_world.astype(np.float32),
        "light": scene.light, "lamp_direction": scene.lamp_direction.astype(np.float32),
        "lamp_colour": scene.lamp_colour.astype(np.float32), "texture": coefficients,
        "occluder": np.array(kind),
    }  # fmt: skip


def png(image: np.ndarray) -> np.ndarray:
    """(S, S, 3) or a mask (S, S), in [0, 1] -> the bytes of a PNG file as uint8."""
    buffer = io.BytesIO()
    pixels = np.rint(255 * np.clip(np.asarray(image, np.float64), 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def pictures(seen: Views, occluder: Occluder, scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The clean and the occluded photo, (S, S, 3) each, with the same sensor noise."""
    images = np.asarray(seen.images, np.float64)
    grain = scene.noise * rng.standard_normal((SIZE, SIZE, 3))
    return images[0] + grain, images[1] + occluder.opacity * (images[2] - images[1]) + grain


def hidden_pixels(head: HeadModel, seen: Views) -> np.ndarray:
    """(S, S) bool: the occluder, see-through parts too, wherever it is in the picture."""
    return np.asarray(seen.fragments.face_index)[2] >= len(head.faces)


def occluder_for(
    studio: Studio, kind: str, rng: np.random.Generator, vertices: np.ndarray, rotations: np.ndarray,
    pivot: np.ndarray, scene: Scene, skin_tone: np.ndarray,
) -> Occluder:  # fmt: skip
    """A random occluder of a kind (glasses, face-mask, hand, object) in its place, head frame.

    Args:
      vertices: (V, 3) metres, head frame. rotations: (5, 3) of its joints. pivot: (3,) its neck joint.
      skin_tone: (3,) the colour of most hands.
    """
    head = studio.head
    if kind == "object":
        return _before(objects.thing(rng), rng, vertices[studio.skin.outer], scene, head, vertices)
    # Without the neck's turn, about the neck's joint.
    turn = np.asarray(rotation_matrix(jnp.asarray(rotations[1])), np.float64)
    local = (vertices - pivot) @ turn + pivot
    still = dataclasses.replace(scene.params, global_orient=jnp.zeros(3), neck_pose=jnp.zeros(3))
    marks = np.asarray(landmarks_from_vertices(head, jnp.asarray(local, jnp.float32), still), np.float64)
    regions = {name: np.asarray(mask) for name, mask in head.regions.items()}
    ears = regions["left_ear"] | regions["right_ear"]
    if kind == "hand":
        made = hands.hand(rng, local[studio.skin.outer], marks, skin_tone)
    else:
        outer = studio.skin.outer & ~ears
        pair = local[regions["left_ear"]] / MM, local[regions["right_ear"]] / MM
        skull = Skull(local[outer] / MM, pair, marks / MM)
        made = (wearables.glasses if kind == "glasses" else wearables.face_mask)(rng, skull)
    solid = made.solid.moved(np.eye(3), -pivot).moved(turn, pivot)
    return dataclasses.replace(made, solid=solid)


def _before(
    thing: Occluder, rng: np.random.Generator, skin: np.ndarray, scene: Scene, head: HeadModel, vertices: np.ndarray
) -> Occluder:
    """A thing held between the camera and a random part of the face, near the face; it is upright in the picture."""
    points = np.asarray(landmarks_from_vertices(head, jnp.asarray(vertices), scene.params), np.float64)
    goal = points[rng.choice([30, 33, 36, 39, 42, 45, 48, 51, 54, 57, 8, 4, 12])]
    pose = scene.T_camera_world
    local = skin @ pose[:3, :3].T + pose[:3, 3]
    target = pose[:3, :3] @ goal + pose[:3, 3]
    body = thing.solid.vertices @ UPRIGHT.T
    ray = target / target[2] + np.array([*rng.normal(0, 0.015, 2), 0]) / target[2]
    flat = local[:, :2] / local[:, 2:]
    reach = np.abs(body[:, :2]).max(0) / target[2] * 1.15
    behind = local[(np.abs(flat - ray[:2]) < reach).all(1), 2]
    nearest = behind.min() if len(behind) else target[2]
    depth = nearest - body[:, 2].max() - rng.uniform(0.003, 0.05)
    place = (body + ray * depth - pose[:3, 3]) @ pose[:3, :3]
    return dataclasses.replace(thing, solid=dataclasses.replace(thing.solid, vertices=place))


def _face_triangles(head: HeadModel) -> np.ndarray:
    """(F,) bool: the skin of the face, lips and eyeballs; not scalp, ears, neck, nor the inside of the mouth."""
    names = ("face", "eye_region", "forehead", "nose", "lips", "left_eyeball", "right_eyeball")
    inside = np.any([np.asarray(head.regions[name]) for name in names], axis=0)
    return inside[np.asarray(head.faces)].all(1)


def at_pixels(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) the mask's value at the pixels of points (N, 2 or more); False outside."""
    pixel = np.floor(points[:, :2]).astype(int)
    inside = ((pixel >= 0) & (pixel < SIZE)).all(1)
    pixel = np.clip(pixel, 0, SIZE - 1)
    return mask[pixel[:, 1], pixel[:, 0]] & inside


@jax.jit
def visible_vertices(head: HeadModel, verts: Array, screen: Array, T_camera_world: Array) -> Array:
    """(V,) bool: vertices that a photo without occluder shows: first in the z-buffer, inside the picture, facing the
    camera. verts (V, 3) head frame, screen (V, 3) pixels and depth."""
    fine, buffer, facing = _fine_views(head, verts, screen, T_camera_world)
    return _first(buffer, fine, TOLERANCE) & (facing > 0)


def _fine_views(head: HeadModel, verts: Array, screen: Array, T_camera_world: Array) -> tuple[Array, Array, Array]:
    """Vertices in the finer z-buffer (V, 3), that buffer, and cosines of the normals to the camera (V,)."""
    fine = screen * jnp.asarray([[FINER, FINER, 1.0]])
    buffer = rasterize(fine, head.faces, (FINER * SIZE, FINER * SIZE), cull=True).depth
    eye = -jnp.matmul(T_camera_world[:3, :3].T, T_camera_world[:3, 3], precision="highest")
    normals = vertex_normals(verts, head.faces)
    away = jnp.broadcast_to(eye, verts.shape) - verts
    return fine, buffer, jnp.sum(normals * away, axis=-1) / jnp.linalg.norm(away, axis=-1)


def _first(buffer: Array, points: Array, tolerance: float) -> Array:
    """(P,) bool: points (P, 3) inside the picture that lie at most so far behind the buffer."""
    pixel = jnp.floor(points[:, :2]).astype(jnp.int32)
    inside = jnp.all((pixel >= 0) & (pixel < FINER * SIZE), axis=-1)
    pixel = jnp.clip(pixel, 0, FINER * SIZE - 1)
    return inside & (points[:, 2] <= buffer[pixel[:, 1], pixel[:, 0]] + tolerance)


@jax.jit
def _seen(head: HeadModel, verts: Array, params: HeadParams, seen: Views, T_camera_world: Array) -> tuple[Array, ...]:
    """Vertices that the clean photo shows (V,); landmarks (68, 2) and dense ones (468, 2), pixels; which it shows."""
    assert head.dense is not None
    fine, buffer, facing = _fine_views(head, verts, seen.screen, T_camera_world)

    # Points inside a triangle of a perspective view: their place in space is interpolated, then projected.
    local = jnp.concatenate([fine[:, :2] * fine[:, 2:], fine[:, 2:], facing[:, None]], axis=1)

    def on_surface(found: Array) -> tuple[Array, Array]:
        return jnp.concatenate([found[:, :2] / found[:, 2:3], found[:, 2:3]], axis=1), found[:, 3]

    points, turned = on_surface(_landmark_values(head, local, params))
    corners = local[head.faces[head.dense.dense_face]]
    dense, dense_turned = on_surface(jnp.sum(corners * head.dense.dense_barycentric[..., None], axis=1))
    outline = jnp.arange(68) < CONTOUR
    return (
        _first(buffer, fine, TOLERANCE) & (facing > 0),
        points[:, :2] / FINER,
        dense[:, :2] / FINER,
        _first(buffer, points, LANDMARK_TOLERANCE) & (outline | (turned > GRAZING)),
        _first(buffer, dense, LANDMARK_TOLERANCE) & (head.dense.sliding | (dense_turned > GRAZING)),
    )


def _landmark_values(head: HeadModel, values: Array, params: HeadParams) -> Array:
    """As `landmarks_from_vertices`, for any number of values per vertex: (V, C) -> (68, C)."""
    triangles, barycentric = landmark_triangles(head, params)
    return jnp.sum(values[triangles] * barycentric[..., None], axis=1)
