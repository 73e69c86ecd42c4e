"""Random cameras and lights for the photos of scans."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from experiments.datasets.renders import FACE_SHARE, lamp_light
from flamejax.camera import PerspectiveCamera
from flamejax.head import HeadModel, HeadParams, landmarks_from_vertices
from flamejax.rendering import ambient_light

SIZE = 256
"""Width and height of the photos, pixels."""
YAW, PITCH, ROLL = 40.0, 15.0, 12.0
"""Degrees: largest angles of the head's global rotation."""
SPREAD = (20.0, 7.0, 5.0)
"""Degrees: standard deviations of yaw, pitch and roll of the face in the image."""
NEAREST, FARTHEST = 1.0, 4.0
"""Range of the distance from the camera to the face, metres."""
UPRIGHT = np.diag([1.0, -1.0, -1.0])
"""Maps the axes x right, y up, z towards the viewer to the camera's x right, y down, z forward."""


@dataclasses.dataclass(frozen=True)
class PhotoScene:
    """Camera and light of a photo; numpy. World is the head frame, so the camera includes the head's rotation."""

    focal: float
    centre: np.ndarray
    """(2,) pixels."""
    T_camera_world: np.ndarray
    """(4, 4)"""
    params: HeadParams
    """Pose for the landmarks: the head's rotation relative to the camera as `global_orient`, and the neck's."""
    light: np.ndarray
    """(9, 3) spherical harmonics, axes of the head frame."""
    lamp_direction: np.ndarray
    """(3,) unit, from the face to a small lamp, head frame."""
    lamp_colour: np.ndarray
    """(3,)"""
    noise: float
    """Standard deviation of the sensor's noise."""

    @property
    def camera(self) -> PerspectiveCamera:
        return make_camera(self.focal, self.centre, self.T_camera_world)


def make_camera(focal: float, centre: np.ndarray, T_camera_world: np.ndarray) -> PerspectiveCamera:
    """Returns a camera with these parameters as float32 arrays."""
    return PerspectiveCamera(*(jnp.asarray(a, jnp.float32) for a in (focal, centre, T_camera_world)))


def draw_scene(
    rng: np.random.Generator, head: HeadModel, verts: np.ndarray, joint_rotations: np.ndarray,
    spread: tuple[float, float, float] = SPREAD,
) -> PhotoScene:  # fmt: skip
    """Draw a scene for a posed head (V, 3), head frame; the face fills the photo as in a crop of `fitting.observe`.

    The rotation of the face in the image is drawn. It includes the neck's rotation, and both have limits.
    """
    neck = Rotation.from_rotvec(joint_rotations[1]).as_euler("YXZ", degrees=True)
    angles = np.array(spread) * np.clip(rng.standard_normal(3), -2.2, 2.2)
    limits = np.array([YAW, PITCH, ROLL])
    rotation = Rotation.from_euler("YXZ", np.clip(angles - 0.7 * neck, -limits, limits), degrees=True)
    matrix = rotation.as_matrix()
    params = dataclasses.replace(
        HeadParams.zeros(head),
        global_orient=jnp.asarray(rotation.as_rotvec(), jnp.float32),
        neck_pose=jnp.asarray(joint_rotations[1], jnp.float32),
    )
    points = np.asarray(landmarks_from_vertices(head, jnp.asarray(verts), params), np.float64)
    distance = NEAREST * (FARTHEST / NEAREST) ** rng.uniform()
    pose = np.eye(4)
    pose[:3, :3] = UPRIGHT @ matrix
    pose[:3, 3] = [0, 0, distance] - pose[:3, :3] @ (points.min(0) + points.max(0)) / 2
    local = points @ pose[:3, :3].T + pose[:3, 3]
    flat = local[:, :2] / local[:, 2:]
    low, high = flat.min(0), flat.max(0)
    focal = FACE_SHARE * rng.uniform(0.92, 1.06) * SIZE / (high - low).max()
    centre = SIZE / 2 + rng.uniform(-6, 6, 2) - focal * (low + high) / 2
    light, lamp, lamp_colour = _draw_light(rng, matrix)
    return PhotoScene(float(focal), centre, pose, params, light, lamp, lamp_colour, rng.uniform(0.002, 0.014))


def _draw_light(rng: np.random.Generator, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw coloured ambient light, a soft lamp from the upper front, a soft one from a side, and a small lamp."""

    def lobe(direction: np.ndarray) -> np.ndarray:
        local = rotation.T @ (direction / np.linalg.norm(direction))  # from the camera's frame to the head frame
        return np.asarray(lamp_light(jnp.asarray(local, jnp.float32)), np.float64)[:, None]

    def tint(spread: float) -> np.ndarray:
        return np.clip(1 + spread * rng.standard_normal(3), 0.7, 1.3)

    side = rng.uniform(-1, 1, 2)
    front = np.array([1.2 * side[0], 0.35 + 0.45 * side[1], 1.0])
    light = rng.uniform(0.40, 0.68) * tint(0.06) * np.asarray(ambient_light(), np.float64)
    light = light + rng.uniform(0.2, 0.55) * tint(0.06) * lobe(front)
    light = light + rng.uniform(0.0, 0.2) * tint(0.15) * lobe(np.array([rng.choice([-1.0, 1.0]), 0.2, 0.2]))
    lamp = np.array([rng.uniform(-1, 1), rng.uniform(0.0, 0.9), 0.9])
    strength = rng.uniform(0.05, 0.35) * tint(0.05)
    return light.astype(np.float32), rotation.T @ (lamp / np.linalg.norm(lamp)), strength
