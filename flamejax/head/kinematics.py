"""Joints: where a shape puts them, how rotations move them, and the head frame (FLAME's kinematic chain)."""

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
    """basis (C, 3, N), coefficients (*b, C) -> (*b, 3, N), as one matrix product for the whole batch."""
    rows = coefficients.reshape(math.prod(coefficients.shape[:-1]), coefficients.shape[-1])
    # The basis stands on the left for its gradient's sake: for the g @ basis.T that `rows @ basis` would lead to, XLA's
    # CPU backend takes several times as long at a batch of 1. The values cost the same.
    flat = basis.reshape(basis.shape[0], math.prod(basis.shape[1:]))
    out = jax.lax.dot_general(flat, rows, (((0,), (1,)), ((), ())), precision=HIGHEST).T
    return out.reshape(*coefficients.shape[:-1], *basis.shape[1:])


def add(lower: Array, higher: Array) -> Array:
    """Sum over missing leading axes of either side (written out: rank promotion may be an error)."""
    rank = max(lower.ndim, higher.ndim)
    return jnp.expand_dims(lower, range(rank - lower.ndim)) + jnp.expand_dims(higher, range(rank - higher.ndim))


def shaped_joints(head: HeadModel, coefficients: Array, first: int = 0, start: Array | None = None) -> Array:
    """Joints before posing, moved by coefficients of the components from `first` on.

    Args:
      coefficients: (*b, n), for the components `first` to `first + n` of identity and expression in a row.
      start: (*b, K, 3) where the joints are without them, metres; those of the mean head when left out.

    Returns:
      (*b, K, 3) metres, head model's frame.
    """
    dirs = head.joint_dirs[..., first : first + coefficients.shape[-1]]
    return add(head.joint_template if start is None else start, blend(jnp.moveaxis(dirs, -1, 0), coefficients))


def rest_joints(head: HeadModel, params: HeadParams) -> Array:
    """Joints of the shaped head before it is posed: (*b, 5, 3) metres. Pose and `transl` do not count."""
    return shaped_joints(head, params.expression, head.num_betas, shaped_joints(head, params.betas))


def root_joint(head: HeadModel, params: HeadParams) -> Array:
    """The root joint at rest, (*b, 3) metres: global rotations are about it, and it is the head frame's origin."""
    return rest_joints(head, params)[..., 0, :]


def joints(head: HeadModel, params: HeadParams) -> Array:
    """The posed joints, params of batch axes (*b,) -> (*b, 5, 3) metres, world frame: root, neck, jaw, left eye, right
    eye."""
    _, places = world_joints(rotation_matrix(params.joint_rotations()), rest_joints(head, params), head.parents)
    return places + params.transl[..., None, :]


def world_joints(rotations: Array, rest: Array, parents: tuple[int, ...]) -> tuple[Array, Array]:
    """Forward kinematics: each joint's rotation against the world (*b, K, 3, 3), and its place (*b, K, 3).

    rotations (*b, K, 3, 3) against the parents; rest (*b, K, 3) the joints before posing, with the same batch axes.
    """
    turns, places = [rotations[..., 0, :, :]], [rest[..., 0, :]]
    for joint, parent in enumerate(parents[1:], start=1):
        places.append(rotate(turns[parent], rest[..., joint, :] - rest[..., parent, :]) + places[parent])
        turns.append(jnp.matmul(turns[parent], rotations[..., joint, :, :], precision=HIGHEST))
    return jnp.stack(turns, axis=-3), jnp.stack(places, axis=-2)


def joint_transforms(rotations: Array, rest: Array, parents: tuple[int, ...]) -> tuple[Array, Array]:
    """World rotation (*b, K, 3, 3) and offset (*b, K, 3) of each joint: x -> R_k x + o_k moves a rest-pose point."""
    turns, places = world_joints(rotations, rest, parents)
    return turns, places - rotate(turns, rest)


def transform_rows(rotation: Array, offset: Array, transl: Array) -> Array:
    """(*b, 12, K + 1): the 3 x 4 transform of each joint, and the translation as that of one more joint."""
    transforms = jnp.concatenate([rotation, offset[..., None]], axis=-1)
    last = jnp.concatenate([jnp.zeros_like(rotation[..., 0, :, :]), transl[..., None]], axis=-1)
    return rearrange(jnp.concatenate([transforms, last[..., None, :, :]], axis=-3), "... k i j -> ... (i j) k")


def pose_feature(rotations: Array) -> Array:
    """R - I of the joints after the root, which drives the pose correctives: (*b, K, 3, 3) -> (*b, 9 (K - 1))."""
    moving = rotations[..., 1:, :, :]
    return rearrange(moving - jnp.broadcast_to(jnp.eye(3), moving.shape), "... k i j -> ... (k i j)")


def rotate(rotation: Array, vector: Array) -> Array:
    """rotation (*b, 3, 3), vector (*b, 3) -> (*b, 3)."""
    return jnp.matmul(rotation, vector[..., None], precision=HIGHEST)[..., 0]


def head_frame(vertices: ArrayLike, root: ArrayLike, global_orient: ArrayLike) -> Array:
    """Vertices in the head frame: the global rotation undone, the root joint at the origin.

    Args:
      vertices: (*b, V, 3) metres, world frame.
      root: (*b, 3) the root joint in the world (`root_joint` + `transl`), which the global rotation leaves where it is.
      global_orient: (*b, 3) axis-angle.

    Returns:
      (*b, V, 3) metres.
    """
    turn = rotation_matrix(jnp.asarray(global_orient))
    return jnp.matmul(jnp.asarray(vertices) - jnp.asarray(root)[..., None, :], turn, precision=HIGHEST)
