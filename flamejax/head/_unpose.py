"""Unposing: vertices -> rest-pose shape, without skinning and pose correctives (Li et al. 2017, section 4).

Diverse3DFace, section 4.1: "we then unpose both the ground-truth and the fitted shapes".
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax.head.kinematics import (
    HIGHEST,
    blend,
    joint_transforms,
    pose_feature,
    rest_joints,
    rotate,
    transform_rows,
)
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.head.rotation import rotation_matrix, skew_matrix


@jax.jit
def unpose(head: HeadModel, vertices: Array, params: HeadParams, joints: Array | None = None) -> Array:
    """Compute the rest-pose shape of posed `vertices`: the inverse of `flamejax.vertices` for a known pose.

    The inverse of each vertex's blended transform is applied, and the pose correctives are subtracted. Detail that the
    model cannot express, as in a scan, is preserved. Where the blended transform has no inverse (joints rotated by 180
    degrees against each other), the result is not finite.

    Args:
      head: the model.
      vertices: (*b, V, 3) metres, world frame.
      params: the pose, batch axes (*b,); betas and expression only determine the joints.
      joints: (*b, 5, 3) rest-pose joints, metres, head frame; those of `params` by default.

    Returns:
      (*b, V, 3) metres, head frame: template + blend shapes + detail outside of the model.

    Raises:
      ValueError: `vertices` is not (*b, V, 3) with the head's V.
    """
    if vertices.shape[-2:] != (head.num_vertices, 3):
        raise ValueError(f"this head has {head.num_vertices} vertices, got an array of shape {vertices.shape}.")
    rotations = rotation_matrix(params.joint_rotations())
    joints = rest_joints(head, params) if joints is None else joints
    planes = unposed_planes(head, jnp.swapaxes(vertices, -1, -2), rotations, joints, params.transl)
    return jnp.swapaxes(planes, -1, -2)


def unposed_planes(head: HeadModel, planes: Array, rotations: Array, joints: Array, transl: Array) -> Array:
    """Compute `unpose` in the layout (*b, 3, V) -> (*b, 3, V), with rotation matrices (*b, 5, 3, 3)."""
    rotation, offset = joint_transforms(rotations, joints, head.parents)
    inverse, translation = _inverse_transforms(head, rotation, offset, transl)
    correctives = blend(head.basis[head.joint_dirs.shape[-1] :], pose_feature(rotations))
    return _apply_matrices(inverse, planes - translation) - correctives


def unposed_jacobian(
    head: HeadModel, planes: Array, rotations: Array, joints: Array, transl: Array
) -> tuple[Array, Array, Array]:
    """Compute `unposed_planes` of one scan and its derivative in closed form, much faster than by autodiff.

    Rotating a joint by a small vector d in its own axes (R -> R exp d) rotates its descendants about the joint. Moving
    a rest joint moves its descendants by the difference between the joint's and its parent's rotation.

    Args:
      planes: (3, V); rotations: (5, 3, 3); joints: (5, 3); transl: (3,).

    Returns:
      (3, V) the unposed scan; (18, 3, V) its derivative in the five joints' d, then in `transl`; (12, 3, V) its
      derivative in the positions of the joints after the root.
    """
    rotation, offset = joint_transforms(rotations, joints, head.parents)
    inverse, translation = _inverse_transforms(head, rotation, offset, transl)
    basis = head.basis[head.joint_dirs.shape[-1] :]
    corrected = _apply_matrices(inverse, planes - translation)
    positions = rotate(rotation, joints) + offset
    descends = jnp.asarray(_descendants(head.parents), planes.dtype)
    weights = head.lbs_weights.T
    carried_weights = jnp.matmul(descends, weights, precision=HIGHEST)
    # Lever arms: weighted vertices that each joint carries, relative to the joint; (5, 3, V).
    parts = weights[:, None] * (jnp.einsum("kij,jv->kiv", rotation, corrected, precision=HIGHEST) + offset[..., None])
    lever_arms = jnp.einsum("kj,jiv->kiv", descends, parts, precision=HIGHEST)
    lever_arms = lever_arms - positions[..., None] * carried_weights[:, None]
    axes = jnp.swapaxes(rotation, -1, -2)[..., None]  # (5, 3, 3, 1): three axes per joint, in the world
    by_rotation = jnp.cross(jnp.broadcast_to(lever_arms[:, None], (5, 3, *lever_arms.shape[1:])), axes, axis=-2)
    by_rotation = by_rotation.reshape(15, 3, -1)
    by_translation = -jnp.broadcast_to(jnp.eye(3)[..., None], (3, *planes.shape))
    slide = jnp.swapaxes(rotation[1:] - rotation[np.array(head.parents[1:])], -1, -2).reshape(12, 3, 1)
    by_joint = slide * jnp.repeat(carried_weights[1:], 3, axis=0)[:, None]
    derivatives = jnp.concatenate([by_rotation, by_translation, by_joint])
    columns = _apply_matrices(jnp.broadcast_to(inverse, (len(derivatives), *inverse.shape)), derivatives)
    skews = skew_matrix(jnp.eye(3))
    features = jnp.einsum("kij,ajl->kail", rotations[1:], skews, precision=HIGHEST).reshape(-1, 3, 9)
    correctives = jnp.einsum("kaf,kfv->kav", features, basis.reshape(len(features), 9, -1), precision=HIGHEST)
    columns = columns.at[3:15].add(-correctives.reshape(-1, *planes.shape))
    return corrected - blend(basis, pose_feature(rotations)), columns[:18], columns[18:]


def _descendants(parents: tuple[int, ...]) -> np.ndarray:
    """Returns (K, K) bool: [k, j] tells whether joint j is joint k or its descendant."""
    descends = np.eye(len(parents), dtype=bool)
    for joint, parent in reversed(list(enumerate(parents[1:], start=1))):
        descends[parent] |= descends[joint]
    return descends


def _inverse_transforms(head: HeadModel, rotation: Array, offset: Array, transl: Array) -> tuple[Array, Array]:
    """Returns the inverse of each vertex's blended matrix (*b, 3, 3, V), and its translation (*b, 3, V)."""
    rows, weights = transform_rows(rotation, offset, transl)[..., :-1], head.lbs_weights.T
    flat = jnp.matmul(rows.reshape(-1, rows.shape[-1]), weights, precision=HIGHEST)
    blended = flat.reshape(*rows.shape[:-2], 3, 4, weights.shape[-1])
    columns = [blended[..., :, j, :] for j in range(3)]
    cofactors = [jnp.cross(columns[(j + 1) % 3], columns[(j + 2) % 3], axis=-2) for j in range(3)]
    determinant = jnp.sum(columns[0] * cofactors[0], axis=-2)[..., None, :]
    inverse = jnp.stack([row / determinant for row in cofactors], axis=-3)
    return inverse, blended[..., 3, :] + transl[..., None]


def _apply_matrices(matrices: Array, planes: Array) -> Array:
    """Apply one matrix per vertex: (*b, 3, 3, V), (*b, 3, V) -> (*b, 3, V)."""
    parts = [matrices[..., :, j, :] * planes[..., j, None, :] for j in range(3)]
    return parts[0] + parts[1] + parts[2]
