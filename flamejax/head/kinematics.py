"""Joints: regression from the shape, forward kinematics, and the head frame (FLAME's kinematic chain)."""

import math

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jax.typing import ArrayLike

from flamejax.geometry import HIGHEST
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.head.rotation import rotation_matrix


def blend(basis: Array, coefficients: Array) -> Array:
    """Sum blend shapes: basis (C, 3, N), coefficients (*b, C) -> (*b, 3, N), as one matrix product for the batch."""
    rows = coefficients.reshape(math.prod(coefficients.shape[:-1]), coefficients.shape[-1])
    # The basis is on the left for the sake of the gradient: `rows @ basis` would lead to g @ basis.T, which takes XLA's
    # CPU backend several times as long at batch size 1. The forward pass costs the same.
    flat = basis.reshape(basis.shape[0], math.prod(basis.shape[1:]))
    out = jax.lax.dot_general(flat, rows, (((0,), (1,)), ((), ())), precision=HIGHEST).T
    return out.reshape(*coefficients.shape[:-1], *basis.shape[1:])


def add(first: Array, second: Array) -> Array:
    """Add with explicit broadcasting over missing leading axes, since rank promotion may be an error."""
    rank = max(first.ndim, second.ndim)
    return jnp.expand_dims(first, range(rank - first.ndim)) + jnp.expand_dims(second, range(rank - second.ndim))


def shaped_joints(head: HeadModel, coefficients: Array, first: int = 0, start: Array | None = None) -> Array:
    """Compute joints before posing from coefficients of the components from `first` on.

    Args:
      coefficients: (*b, n), for the components `first` to `first + n` of the concatenated identity and expression.
      start: (*b, K, 3) joints without these coefficients, metres; those of the mean head by default.

    Returns:
      (*b, K, 3) metres, in the frame of the head model.
    """
    dirs = head.joint_dirs[..., first : first + coefficients.shape[-1]]
    return add(head.joint_template if start is None else start, blend(jnp.moveaxis(dirs, -1, 0), coefficients))


def rest_joints(head: HeadModel, params: HeadParams) -> Array:
    """Compute the joints of the shaped head before posing: (*b, 5, 3) metres. Pose and `transl` are ignored."""
    return shaped_joints(head, params.expression, head.num_betas, shaped_joints(head, params.betas))


def root_joint(head: HeadModel, params: HeadParams) -> Array:
    """Compute the root joint at rest, (*b, 3) metres: the centre of global rotations and origin of the head frame."""
    return rest_joints(head, params)[..., 0, :]


def joints(head: HeadModel, params: HeadParams) -> Array:
    """Compute the posed joints (*b, 5, 3), metres, world frame: root, neck, jaw, left eye, right eye."""
    _, positions = world_joints(rotation_matrix(params.joint_rotations()), rest_joints(head, params), head.parents)
    return positions + params.transl[..., None, :]


def world_joints(rotations: Array, rest: Array, parents: tuple[int, ...]) -> tuple[Array, Array]:
    """Compute forward kinematics: world rotations (*b, K, 3, 3) and positions (*b, K, 3) of the joints.

    rotations (*b, K, 3, 3) are relative to the parents; rest (*b, K, 3): joints before posing, same batch axes.
    """
    world_rotations, positions = [rotations[..., 0, :, :]], [rest[..., 0, :]]
    for joint, parent in enumerate(parents[1:], start=1):
        bone = rest[..., joint, :] - rest[..., parent, :]
        positions.append(rotate(world_rotations[parent], bone) + positions[parent])
        world_rotations.append(jnp.matmul(world_rotations[parent], rotations[..., joint, :, :], precision=HIGHEST))
    return jnp.stack(world_rotations, axis=-3), jnp.stack(positions, axis=-2)


def joint_transforms(rotations: Array, rest: Array, parents: tuple[int, ...]) -> tuple[Array, Array]:
    """Returns rotations (*b, K, 3, 3) and offsets (*b, K, 3): x -> R_k x + o_k moves a rest-pose point with joint k."""
    world_rotations, positions = world_joints(rotations, rest, parents)
    return world_rotations, positions - rotate(world_rotations, rest)


def transform_rows(rotation: Array, offset: Array, transl: Array) -> Array:
    """Flatten the joints' 3 x 4 transforms to (*b, 12, K + 1), with the translation as an additional joint."""
    transforms = jnp.concatenate([rotation, offset[..., None]], axis=-1)
    last = jnp.concatenate([jnp.zeros_like(rotation[..., 0, :, :]), transl[..., None]], axis=-1)
    return rearrange(jnp.concatenate([transforms, last[..., None, :, :]], axis=-3), "... k i j -> ... (i j) k")


def pose_feature(rotations: Array) -> Array:
    """Returns R - I of the joints after the root, the input of pose correctives: (*b, K, 3, 3) -> (*b, 9 (K - 1))."""
    moving = rotations[..., 1:, :, :]
    return rearrange(moving - jnp.broadcast_to(jnp.eye(3), moving.shape), "... k i j -> ... (k i j)")


def rotate(rotation: Array, vector: Array) -> Array:
    """Rotate vectors: rotation (*b, 3, 3), vector (*b, 3) -> (*b, 3)."""
    return jnp.matmul(rotation, vector[..., None], precision=HIGHEST)[..., 0]


def head_frame(vertices: ArrayLike, root: ArrayLike, global_orient: ArrayLike) -> Array:
    """Transform vertices to the head frame: global rotation undone, root joint at the origin.

    Args:
      vertices: (*b, V, 3) metres, world frame.
      root: (*b, 3) root joint in the world (`root_joint` + `transl`), the fixed point of the global rotation.
      global_orient: (*b, 3) axis-angle.

    Returns:
      (*b, V, 3) metres.
    """
    rotation = rotation_matrix(jnp.asarray(global_orient))
    return jnp.matmul(jnp.asarray(vertices) - jnp.asarray(root)[..., None, :], rotation, precision=HIGHEST)
