"""Render a clean and an occluded photo of a scan, with masks, landmarks and visibility."""

from __future__ import annotations

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from PIL import Image

from experiments.datasets.open_faces import hands, objects, patterns, wearables
from experiments.datasets.open_faces.details import DetailField
from experiments.datasets.open_faces.scans import SubjectScans
from experiments.datasets.open_faces.scenes import SIZE, UPRIGHT, PhotoScene, draw_scene
from experiments.datasets.open_faces.shading import RenderLayers, render_layers
from experiments.datasets.open_faces.skin import TextureLayout, skin_tone
from experiments.datasets.open_faces.subjects import SEED
from experiments.datasets.open_faces.wearables import MM, Occluder, Wearer
from flamejax.geometry import vertex_normals
from flamejax.head import HeadModel, HeadParams, landmark_triangles, landmarks_from_vertices, rotation_matrix
from flamejax.rendering import rasterize

SUPERSAMPLING = 3
"""Samples per pixel and axis of the z-buffer for visibility tests."""
TOLERANCE, LANDMARK_TOLERANCE = 0.0015, 0.003
"""Depth in metres by which a visible vertex, or landmark, may lie behind the z-buffer."""
MIN_LANDMARK_COSINE = -0.2
"""An inner landmark whose normal has a smaller cosine to the camera is hidden."""
NUM_CONTOUR = 17
"""Number of contour landmarks, which lie where the skin turns away and have no test of the normal."""


@dataclasses.dataclass(frozen=True)
class PhotoAssets:
    """Inputs that all photos share."""

    head: HeadModel
    field: DetailField
    layout: TextureLayout


def occluder_kind(subject: int, expression: int) -> str:
    """Returns the occluder of a scan: glasses, face-mask, and alternately hand or object."""
    index = subject + expression
    return ("glasses", "face-mask", ("hand", "object")[index // 3 % 2])[index % 3]


def make_photo(
    assets: PhotoAssets, scans: SubjectScans, skin: tuple[np.ndarray, np.ndarray], subject: int, expression: int
) -> dict[str, np.ndarray]:
    """Make the stored arrays of one scan except its mesh: images and masks as PNG bytes (uint8), and numbers.

    `skin` is the subject's skin from `draw_skin`.
    """
    vertices, unposed, rotations = (np.array(part[expression]) for part in vars(scans).values())
    head = assets.head
    rng = np.random.default_rng([SEED, 4, subject, expression])
    scene = draw_scene(rng, head, vertices, rotations)
    background = patterns.background(rng, SIZE)
    coefficients, texture = skin
    kind, pivot = occluder_kind(subject, expression), np.asarray(head.J_regressor, np.float64)[1] @ unposed
    occluder = occluder_for(
        assets, kind, np.random.default_rng([SEED, 5, subject, expression]), vertices, rotations, pivot, scene,
        skin_tone(texture, assets.layout),
    )  # fmt: skip
    layers = render_layers(head, vertices, texture, occluder, scene, background)
    index = np.asarray(layers.fragments.face_index)
    clean, occluded = clean_and_occluded(layers, occluder, scene, rng)
    hidden = hidden_pixels(head, layers)
    is_face = np.append(_face_triangles(head), False)  # index -1, an empty pixel, selects the last
    face_mask, face_mask_occluded = is_face[index[0]], is_face[np.where(hidden, -1, index[2])]
    pose = scene.camera.T_camera_world
    visible, points, dense, visible_points, visible_dense = (
        np.asarray(a) for a in _visibility(head, jnp.asarray(vertices), scene.params, layers, pose)
    )
    return {
        "image": encode_png(clean), "occluded": encode_png(occluded), "occlusion_mask": encode_png(hidden),
        "face_mask": encode_png(face_mask), "face_mask_occluded": encode_png(face_mask_occluded),
        "landmarks": points, "dense_landmarks": dense,
        "landmarks_visible": visible_points, "dense_visible": visible_dense, "vertices_visible": visible,
        "landmarks_visible_occluded": visible_points & ~at_pixels(hidden, points),
        "dense_visible_occluded": visible_dense & ~at_pixels(hidden, dense),
        "vertices_visible_occluded": visible & ~at_pixels(hidden, np.asarray(layers.screen)),
        "focal": np.float32(scene.focal), "centre": scene.centre.astype(np.float32),
        "T_camera_world": scene.T_camera_world.astype(np.float32),
        "light": scene.light, "lamp_direction": scene.lamp_direction.astype(np.float32),
        "lamp_colour": scene.lamp_colour.astype(np.float32), "texture": coefficients,
        "occluder": np.array(kind),
    }  # fmt: skip


def encode_png(image: np.ndarray) -> np.ndarray:
    """Encode an image (S, S, 3) or a mask (S, S) in [0, 1] as the uint8 bytes of a PNG file."""
    buffer = io.BytesIO()
    pixels = np.rint(255 * np.clip(np.asarray(image, np.float64), 0, 1)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=4)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def clean_and_occluded(
    layers: RenderLayers, occluder: Occluder, scene: PhotoScene, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Compose the clean and the occluded photo, (S, S, 3) each, with the same sensor noise."""
    images = np.asarray(layers.images, np.float64)
    grain = scene.noise * rng.standard_normal((SIZE, SIZE, 3))
    return images[0] + grain, images[1] + occluder.opacity * (images[2] - images[1]) + grain


def hidden_pixels(head: HeadModel, layers: RenderLayers) -> np.ndarray:
    """Returns (S, S) bool: the pixels of the occluder, including transparent parts."""
    return np.asarray(layers.fragments.face_index)[2] >= len(head.faces)


def occluder_for(
    assets: PhotoAssets, kind: str, rng: np.random.Generator, vertices: np.ndarray, rotations: np.ndarray,
    pivot: np.ndarray, scene: PhotoScene, tone: np.ndarray,
) -> Occluder:  # fmt: skip
    """Draw an occluder of a kind (glasses, face-mask, hand, object) and place it in the head frame.

    Args:
      vertices: (V, 3) metres, head frame. rotations: (5, 3) of the joints. pivot: (3,) the neck joint.
      tone: (3,) the colour of most hands.
    """
    head = assets.head
    if kind == "object":
        return _hold_before_face(objects.random_object(rng), rng, vertices[assets.field.outer], scene, head, vertices)
    # Undo the rotation of the neck about its joint.
    rotation = np.asarray(rotation_matrix(jnp.asarray(rotations[1])), np.float64)
    local = (vertices - pivot) @ rotation + pivot
    unposed = dataclasses.replace(scene.params, global_orient=jnp.zeros(3), neck_pose=jnp.zeros(3))
    landmarks = np.asarray(landmarks_from_vertices(head, jnp.asarray(local, jnp.float32), unposed), np.float64)
    regions = {name: np.asarray(mask) for name, mask in head.regions.items()}
    ears = regions["left_ear"] | regions["right_ear"]
    if kind == "hand":
        occluder = hands.random_hand(rng, local[assets.field.outer], landmarks, tone)
    else:
        outer = assets.field.outer & ~ears
        pair = local[regions["left_ear"]] / MM, local[regions["right_ear"]] / MM
        wearer = Wearer(local[outer] / MM, pair, landmarks / MM)
        occluder = (wearables.glasses if kind == "glasses" else wearables.face_mask)(rng, wearer)
    solid = occluder.solid.moved(np.eye(3), -pivot).moved(rotation, pivot)
    return dataclasses.replace(occluder, solid=solid)


def _hold_before_face(
    item: Occluder, rng: np.random.Generator, skin: np.ndarray, scene: PhotoScene, head: HeadModel, vertices: np.ndarray
) -> Occluder:
    """Place an object between the camera and a random part of the face, near the face and upright in the image."""
    points = np.asarray(landmarks_from_vertices(head, jnp.asarray(vertices), scene.params), np.float64)
    target_landmark = points[rng.choice([30, 33, 36, 39, 42, 45, 48, 51, 54, 57, 8, 4, 12])]
    pose = scene.T_camera_world
    local = skin @ pose[:3, :3].T + pose[:3, 3]
    target = pose[:3, :3] @ target_landmark + pose[:3, 3]
    body = item.solid.vertices @ UPRIGHT.T
    ray = target / target[2] + np.array([*rng.normal(0, 0.015, 2), 0]) / target[2]
    flat = local[:, :2] / local[:, 2:]
    reach = np.abs(body[:, :2]).max(0) / target[2] * 1.15
    behind = local[(np.abs(flat - ray[:2]) < reach).all(1), 2]
    nearest = behind.min() if len(behind) else target[2]
    depth = nearest - body[:, 2].max() - rng.uniform(0.003, 0.05)
    placed = (body + ray * depth - pose[:3, 3]) @ pose[:3, :3]
    return dataclasses.replace(item, solid=dataclasses.replace(item.solid, vertices=placed))


def _face_triangles(head: HeadModel) -> np.ndarray:
    """Returns (F,) bool: skin of the face, lips and eyeballs; not scalp, ears, neck or the inside of the mouth."""
    names = ("face", "eye_region", "forehead", "nose", "lips", "left_eyeball", "right_eyeball")
    inside = np.any([np.asarray(head.regions[name]) for name in names], axis=0)
    return inside[np.asarray(head.faces)].all(1)


def at_pixels(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Look up a mask at the pixels of points (N, 2 or more): (N,), False outside the image."""
    pixel = np.floor(points[:, :2]).astype(int)
    inside = ((pixel >= 0) & (pixel < SIZE)).all(1)
    pixel = np.clip(pixel, 0, SIZE - 1)
    return mask[pixel[:, 1], pixel[:, 0]] & inside


@jax.jit
def visible_vertices(head: HeadModel, verts: Array, screen: Array, T_camera_world: Array) -> Array:
    """Returns (V,) bool: vertices visible in the clean photo.

    They are first in the z-buffer, inside the image and face the camera. verts (V, 3) head frame; screen (V, 3) pixels
    and depth.
    """
    fine, buffer, facing = _fine_depth(head, verts, screen, T_camera_world)
    return _is_first(buffer, fine, TOLERANCE) & (facing > 0)


def _fine_depth(head: HeadModel, verts: Array, screen: Array, T_camera_world: Array) -> tuple[Array, Array, Array]:
    """Returns vertices in the supersampled z-buffer (V, 3), that buffer, and cosines of normals to the camera (V,)."""
    fine = screen * jnp.asarray([[SUPERSAMPLING, SUPERSAMPLING, 1.0]])
    buffer = rasterize(fine, head.faces, (SUPERSAMPLING * SIZE, SUPERSAMPLING * SIZE), cull=True).depth
    eye = -jnp.matmul(T_camera_world[:3, :3].T, T_camera_world[:3, 3], precision="highest")
    normals = vertex_normals(verts, head.faces)
    to_camera = jnp.broadcast_to(eye, verts.shape) - verts
    return fine, buffer, jnp.sum(normals * to_camera, axis=-1) / jnp.linalg.norm(to_camera, axis=-1)


def _is_first(buffer: Array, points: Array, tolerance: float) -> Array:
    """Returns (P,) bool: points (P, 3) inside the image and at most `tolerance` behind the buffer."""
    pixel = jnp.floor(points[:, :2]).astype(jnp.int32)
    inside = jnp.all((pixel >= 0) & (pixel < SUPERSAMPLING * SIZE), axis=-1)
    pixel = jnp.clip(pixel, 0, SUPERSAMPLING * SIZE - 1)
    return inside & (points[:, 2] <= buffer[pixel[:, 1], pixel[:, 0]] + tolerance)


@jax.jit
def _visibility(
    head: HeadModel, verts: Array, params: HeadParams, layers: RenderLayers, T_camera_world: Array
) -> tuple[Array, ...]:
    """Compute what is visible in the clean photo.

    Returns:
      Visible vertices (V,); landmarks (68, 2) and dense landmarks (468, 2), pixels; visibility of both.
    """
    assert head.dense is not None
    fine, buffer, facing = _fine_depth(head, verts, layers.screen, T_camera_world)

    # In perspective, the 3D position of a point in a triangle is interpolated and then projected.
    local = jnp.concatenate([fine[:, :2] * fine[:, 2:], fine[:, 2:], facing[:, None]], axis=1)

    def project(values: Array) -> tuple[Array, Array]:
        return jnp.concatenate([values[:, :2] / values[:, 2:3], values[:, 2:3]], axis=1), values[:, 3]

    points, cosine = project(_landmark_values(head, local, params))
    corners = local[head.faces[head.dense.dense_face]]
    dense, dense_cosine = project(jnp.sum(corners * head.dense.dense_barycentric[..., None], axis=1))
    is_contour = jnp.arange(68) < NUM_CONTOUR
    return (
        _is_first(buffer, fine, TOLERANCE) & (facing > 0),
        points[:, :2] / SUPERSAMPLING,
        dense[:, :2] / SUPERSAMPLING,
        _is_first(buffer, points, LANDMARK_TOLERANCE) & (is_contour | (cosine > MIN_LANDMARK_COSINE)),
        _is_first(buffer, dense, LANDMARK_TOLERANCE) & (head.dense.sliding | (dense_cosine > MIN_LANDMARK_COSINE)),
    )


def _landmark_values(head: HeadModel, values: Array, params: HeadParams) -> Array:
    """Interpolate vertex values at the landmarks, as `landmarks_from_vertices`: (V, C) -> (68, C)."""
    triangles, barycentric = landmark_triangles(head, params)
    return jnp.sum(values[triangles] * barycentric[..., None], axis=1)
