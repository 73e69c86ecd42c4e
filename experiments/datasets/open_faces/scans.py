"""Registered scans of one subject: identity + expression + details, then pose."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.datasets.open_faces.details import Skin, displaced, draw_latents, heights
from experiments.datasets.open_faces.expressions import EXPRESSIONS, draw, muscles
from experiments.datasets.open_faces.subjects import SEED, Sources
from flamejax.head import HeadModel, HeadParams, ShapedHead, pose_shaped

NECK_DEGREES = (1.5, 2.0, 1.0)
"""Standard deviations of the neck's rotation about x, y and z; twice that is the most.

Small: a photo of a face shows how the head is turned, not how much of the turn the neck makes, so that a larger one
would drown every other error.
"""
GAZE_DEGREES = (6.0, 11.0)
"""Standard deviations of the eyes' rotation about x and y, which both make together; twice that is the most."""


@dataclasses.dataclass(frozen=True)
class SubjectScans:
    """All scans of one subject, numpy, E expressions."""

    vertices: np.ndarray
    """(E, V, 3) float32 metres, head frame."""
    unposed: np.ndarray
    """(E, V, 3) float32 metres: before skinning and pose correctives, the root joint at the origin."""
    joint_rotations: np.ndarray
    """(E, 5, 3) float32 axis-angle: root (zero), neck, jaw, left eye, right eye."""


def posed(head: HeadModel, unposed: np.ndarray, joint_rotations: np.ndarray) -> np.ndarray:
    """Skinning and pose correctives of a rest shape that is not of the head's components: (V, 3), (5, 3) -> (V, 3).

    The joints are `J_regressor @ unposed`.
    """
    rest = jnp.asarray(unposed)
    joints = jnp.matmul(head.J_regressor, rest, precision="highest")
    _, neck, jaw, left, right = jnp.asarray(joint_rotations)
    params = dataclasses.replace(HeadParams.zeros(head), neck_pose=neck, jaw_pose=jaw, leye_pose=left, reye_pose=right)
    return np.asarray(pose_shaped(head, ShapedHead(rest, joints), params))


def make_subject(head: HeadModel, skin: Skin, sources: Sources, subject: int) -> SubjectScans:
    """The twelve scans of a subject; depends on nothing but the arguments."""
    latents, found = draw_latents(subject), []
    peaks = np.maximum(np.linalg.norm(sources.units, axis=2).max(1), 1e-4)
    regressor = np.asarray(head.J_regressor, np.float64)
    identity = sources.people[subject].astype(np.float64)
    for expression in range(len(EXPRESSIONS)):
        rng = np.random.default_rng([SEED, 2, subject, expression])
        activation, hollow, jaw = draw(rng, expression, sources.unit_names, peaks)
        rest = identity + np.tensordot(activation.astype(np.float32), sources.units, axes=1)
        detail, making = heights(skin, latents, muscles(activation, hollow, jaw, sources.unit_names))
        rest = displaced(rest, detail + making, skin)
        rest = (rest - regressor[0] @ rest).astype(np.float32)
        rotations = _pose(rng, jaw).astype(np.float32)
        found.append((posed(head, rest, rotations), rest, rotations))
    return SubjectScans(*(np.stack(part) for part in zip(*found, strict=True)))


def _pose(rng: np.random.Generator, jaw: np.ndarray) -> np.ndarray:
    """(5, 3) joint rotations, radians: a random neck and gaze, and the expression's jaw."""
    neck = np.array(NECK_DEGREES) * np.clip(rng.standard_normal(3), -2, 2)
    gaze = np.array(GAZE_DEGREES) * np.clip(rng.standard_normal(2), -2, 2)
    eye = np.array([gaze[0], gaze[1], 0.0])
    squint = 0.8 * rng.standard_normal()
    apart = np.array([0.0, squint, 0.0])
    return np.stack([np.zeros(3), np.deg2rad(neck), jaw, np.deg2rad(eye + apart), np.deg2rad(eye - apart)])
