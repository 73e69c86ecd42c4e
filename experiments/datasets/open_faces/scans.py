"""Make the registered scans of one subject: identity + expression + details, then pose."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces.details import DetailField, detail_heights, displace, draw_latents
from experiments.datasets.open_faces.expressions import EXPRESSIONS, draw_activation, muscle_activations
from experiments.datasets.open_faces.subjects import SEED, PeopleAndUnits
from flamejax.head import HeadModel, HeadParams, ShapedHead, pose_shaped

NECK_DEGREES = (1.5, 2.0, 1.0)
"""Standard deviations of the neck's rotation about x, y and z, truncated at two of them.

They are small because a photo of a face shows the rotation of the head but not the neck's part in it. A larger neck
rotation would dominate all other errors.
"""
GAZE_DEGREES = (6.0, 11.0)
"""Standard deviations of both eyes' common rotation about x and y, truncated at two of them."""


@dataclasses.dataclass(frozen=True)
class SubjectScans:
    """All scans of one subject; numpy, E expressions."""

    vertices: np.ndarray
    """(E, V, 3) float32 metres, head frame."""
    unposed: np.ndarray
    """(E, V, 3) float32 metres: before skinning and pose correctives, the root joint at the origin."""
    joint_rotations: np.ndarray
    """(E, 5, 3) float32 axis-angle: root (zero), neck, jaw, left eye, right eye."""


def pose_rest_shape(head: HeadModel, unposed: np.ndarray, joint_rotations: np.ndarray) -> np.ndarray:
    """Apply pose correctives and skinning to an arbitrary rest shape: (V, 3), (5, 3) -> (V, 3).

    The joints are `J_regressor @ unposed`.
    """
    rest = jnp.asarray(unposed)
    joints = jnp.matmul(head.J_regressor, rest, precision="highest")
    _, neck, jaw, left, right = jnp.asarray(joint_rotations)
    params = dataclasses.replace(HeadParams.zeros(head), neck_pose=neck, jaw_pose=jaw, leye_pose=left, reye_pose=right)
    return np.asarray(pose_shaped(head, ShapedHead(rest, joints), params))


def make_subject(head: HeadModel, field: DetailField, sources: PeopleAndUnits, subject: int) -> SubjectScans:
    """Make the twelve scans of a subject; they depend on the arguments only."""
    latents, scans = draw_latents(subject), []
    peaks = np.maximum(np.linalg.norm(sources.units, axis=2).max(1), 1e-4)
    regressor = np.asarray(head.J_regressor, np.float64)
    identity = sources.people[subject].astype(np.float64)
    for expression in range(len(EXPRESSIONS)):
        rng = np.random.default_rng([SEED, 2, subject, expression])
        activation, hollow, jaw = draw_activation(rng, expression, sources.unit_names, peaks)
        rest = identity + np.tensordot(activation.astype(np.float32), sources.units, axes=1)
        muscles = muscle_activations(activation, hollow, jaw, sources.unit_names)
        detail, expressive = detail_heights(field, latents, muscles)
        rest = displace(rest, detail + expressive, field)
        rest = (rest - regressor[0] @ rest).astype(np.float32)
        rotations = _draw_pose(rng, jaw).astype(np.float32)
        scans.append((pose_rest_shape(head, rest, rotations), rest, rotations))
    return SubjectScans(*(np.stack(arrays) for arrays in zip(*scans, strict=True)))


def _draw_pose(rng: np.random.Generator, jaw: np.ndarray) -> np.ndarray:
    """Draw joint rotations (5, 3), radians: a random neck and gaze, and the given jaw."""
    neck = np.array(NECK_DEGREES) * np.clip(rng.standard_normal(3), -2, 2)
    gaze = np.array(GAZE_DEGREES) * np.clip(rng.standard_normal(2), -2, 2)
    eye = np.array([gaze[0], gaze[1], 0.0])
    vergence = np.array([0.0, 0.8 * rng.standard_normal(), 0.0])
    return np.stack([np.zeros(3), np.deg2rad(neck), jaw, np.deg2rad(eye + vergence), np.deg2rad(eye - vergence)])
