"""How a scan is photographed: camera, light and background, drawn for each scan."""

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
"""Side of the photos, pixels."""
YAW, PITCH, ROLL = 40.0, 15.0, 12.0
"""Degrees: the most the head is turned by the global rotation."""
SPREAD = (20.0, 7.0, 5.0)
"""Degrees: standard deviations of yaw, pitch and roll of the face in the picture."""
NEAREST, FARTHEST = 1.0, 4.0
"""Metres from the camera to the face."""
UPRIGHT = np.diag([1.0, -1.0, -1.0])
"""From axes x right, y up, z to the viewer to the camera's x right, y down, z forward."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a photo is taken with; numpy. World is the head frame, so the head's turn is the camera's."""

    focal: float
    centre: np.ndarray
    """(2,) pixels."""
    T_camera_world: np.ndarray
    """(4, 4)"""
    params: HeadParams
    """The pose by which landmarks are placed: the head's turn before the camera as `global_orient`, and the neck's."""
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
        return camera_of(self.focal, self.centre, self.T_camera_world)


def camera_of(focal: float, centre: np.ndarray, T_camera_world: np.ndarray) -> PerspectiveCamera:
    """The camera of stored numbers."""
    return PerspectiveCamera(*(jnp.asarray(a, jnp.float32) for a in (focal, centre, T_camera_world)))


def draw_scene(
    rng: np.random.Generator, head: HeadModel, verts: np.ndarray, joint_rotations: np.ndarray,
    spread: tuple[float, float, float] = SPREAD,
) -> Scene:  # fmt: skip
    """A random scene for one posed head (V, 3), head frame; the face fills the photo as in a crop of `fitting.observe`.

    The turn of the neck counts: what is drawn is how far the face is turned in the picture, within limits for both.
    """
    neck = Rotation.from_rotvec(joint_rotations[1]).as_euler("YXZ", degrees=True)
    wanted = np.array(spread) * np.clip(rng.standard_normal(3), -2.2, 2.2)
    most = np.array([YAW, PITCH, ROLL])
    turn = Rotation.from_euler("YXZ", np.clip(wanted - 0.7 * neck, -most, most), degrees=True)
    matrix = turn.as_matrix()
    params = dataclasses.replace(
        HeadParams.zeros(head),
        global_orient=jnp.asarray(turn.as_rotvec(), jnp.float32),
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
    light, lamp, lamp_colour = _light(rng, matrix)
    return Scene(float(focal), centre, pose, params, light, lamp, lamp_colour, rng.uniform(0.002, 0.014))


def _light(rng: np.random.Generator, turn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coloured light from all around, a soft lamp from the upper front, a soft one from a side, and a small lamp."""

    def lobe(direction: np.ndarray) -> np.ndarray:
        inside = turn.T @ (direction / np.linalg.norm(direction))  # drawn before the camera, kept on the head
        return np.asarray(lamp_light(jnp.asarray(inside, jnp.float32)), np.float64)[:, None]

    def tint(spread: float) -> np.ndarray:
        return np.clip(1 + spread * rng.standard_normal(3), 0.7, 1.3)

    side = rng.uniform(-1, 1, 2)
    front = np.array([1.2 * side[0], 0.35 + 0.45 * side[1], 1.0])
    light = rng.uniform(0.40, 0.68) * tint(0.06) * np.asarray(ambient_light(), np.float64)
    light = light + rng.uniform(0.2, 0.55) * tint(0.06) * lobe(front)
    light = light + rng.uniform(0.0, 0.2) * tint(0.15) * lobe(np.array([rng.choice([-1.0, 1.0]), 0.2, 0.2]))
    lamp = np.array([rng.uniform(-1, 1), rng.uniform(0.0, 0.9), 0.9])
    strength = rng.uniform(0.05, 0.35) * tint(0.05)
    return light.astype(np.float32), turn.T @ (lamp / np.linalg.norm(lamp)), strength
