"""Parameters -> vertices: blend shapes, joints, skinning (FLAME; Diverse3DFace Eqs. 1-2)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from flamejax.head.model import HeadModel, HeadParams
from flamejax.head.rotation import rotation_matrix

HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShapedHead:
    """A head whose identity is applied and whose expression and pose are not: made once, posed many times."""

    vertices: Array
    """(*b, V, 3) metres."""
    joints: Array
    """(*b, K, 3) metres."""


def shape_identity(head: HeadModel, betas: Array) -> ShapedHead:
    """Apply the identity (the first term of Eq. 2).

    Args:
      betas: (*b, S) standard deviations; fewer than S are taken as the leading ones.

    Returns:
      The shaped template and its joints.

    Raises:
      ValueError: if there are more coefficients than the head has.
    """
    _check_width("betas", betas, head.num_betas)
    return ShapedHead(
        _add(head.v_template, _blend(head.shapedirs[..., : betas.shape[-1]], betas)),
        _add(head.joint_template, _blend(head.joint_dirs[..., : betas.shape[-1]], betas)),
    )


def pose_shaped(head: HeadModel, shaped: ShapedHead, params: HeadParams) -> Array:
    """Expression, pose correctives and skinning on a shaped head; `params.betas` is not looked at.

    Args:
      shaped: from `shape_identity`; its batch axes broadcast against those of `params`.

    Returns:
      (*b, V, 3) vertices, metres, world frame.

    Raises:
      ValueError: if there are more expression coefficients than the head has.
    """
    _check_width("expression", params.expression, head.num_expression)
    first, last = head.num_betas, head.num_betas + params.expression.shape[-1]
    rest = _add(shaped.vertices, _blend(head.shapedirs[..., first:last], params.expression))
    joints = _add(shaped.joints, _blend(head.joint_dirs[..., first:last], params.expression))
    rotations = rotation_matrix(params.joint_rotations())
    feature = (rotations[..., 1:, :, :] - jnp.broadcast_to(jnp.eye(3), rotations[..., 1:, :, :].shape)).reshape(
        *rotations.shape[:-3], -1
    )
    corrective = jnp.matmul(feature, head.posedirs, precision=HIGHEST)
    rest = rest + corrective.reshape(*corrective.shape[:-1], -1, 3)
    rotation, offset = _joint_transforms(rotations, joints, head.parents)
    return _skin(head.lbs_weights, rotation, offset, rest) + params.transl[..., None, :]


@jax.jit
def vertices(head: HeadModel, params: HeadParams) -> Array:
    """The head model (FLAME; Diverse3DFace Eqs. 1-2).

    Args:
      head: the model.
      params: coefficients and pose, batch axes (*b,).

    Returns:
      (*b, V, 3) vertices, metres, world frame.

    Raises:
      ValueError: if `params` has more coefficients than the head has components.
    """
    return pose_shaped(head, shape_identity(head, params.betas), params)


def head_at(head: HeadModel, index: Array) -> HeadModel:
    """The same head with the vertices in `index` (N,) only: what a sparse loss needs. Topology is kept as it was,
    so triangles, landmarks and regions of the result do not refer to its vertices."""
    posedirs = head.posedirs.reshape(head.posedirs.shape[0], -1, 3)[:, index]
    return dataclasses.replace(
        head,
        v_template=head.v_template[index],
        shapedirs=head.shapedirs[index],
        posedirs=posedirs.reshape(head.posedirs.shape[0], -1),
        lbs_weights=head.lbs_weights[index],
    )


def _add(lower: Array, higher: Array) -> Array:
    """Sum over missing leading axes of either side (written out: rank promotion may be an error)."""
    rank = max(lower.ndim, higher.ndim)
    return jnp.expand_dims(lower, range(rank - lower.ndim)) + jnp.expand_dims(higher, range(rank - higher.ndim))


def _check_width(name: str, coefficients: Array, available: int) -> None:
    if coefficients.shape[-1] > available:
        raise ValueError(f"{name} has {coefficients.shape[-1]} coefficients but this head has only {available}.")


def _blend(basis: Array, coefficients: Array) -> Array:
    """basis (N, 3, C), coefficients (*b, C) -> (*b, N, 3), as one matrix product for the whole batch."""
    flat = basis.reshape(-1, basis.shape[-1])
    # (W @ c.T).T: XLA's CPU backend is far slower on c @ W.T for small batches.
    rows = coefficients.reshape(-1, coefficients.shape[-1])
    out = jnp.matmul(flat, rows.T, precision=HIGHEST).T
    return out.reshape(*coefficients.shape[:-1], basis.shape[0], 3)


def _joint_transforms(rotations: Array, joints: Array, parents: tuple[int, ...]) -> tuple[Array, Array]:
    """World rotation (*b, K, 3, 3) and offset (*b, K, 3) of each joint: x -> R_k x + o_k moves a rest-pose point."""
    world_rotation, world_origin = [rotations[..., 0, :, :]], [joints[..., 0, :]]
    for joint, parent in enumerate(parents[1:], start=1):
        bone = joints[..., joint, :] - joints[..., parent, :]
        world_origin.append(_rotate(world_rotation[parent], bone) + world_origin[parent])
        world_rotation.append(jnp.matmul(world_rotation[parent], rotations[..., joint, :, :], precision=HIGHEST))
    rotation, origin = jnp.stack(world_rotation, axis=-3), jnp.stack(world_origin, axis=-2)
    return rotation, origin - _rotate(rotation, joints)


def _rotate(rotation: Array, vector: Array) -> Array:
    return jnp.matmul(rotation, vector[..., None], precision=HIGHEST)[..., 0]


def _skin(weights: Array, rotation: Array, offset: Array, rest: Array) -> Array:
    """Linear blend skinning. weights (V, K), rotation (*b, K, 3, 3), offset (*b, K, 3), rest (*b, V, 3)."""
    rows = jnp.concatenate([rotation, offset[..., None]], axis=-1)
    flat = rows.reshape(*rows.shape[:-3], rows.shape[-3], 12)
    blended = jnp.matmul(weights, flat, precision=HIGHEST)
    blended = blended.reshape(*blended.shape[:-1], 3, 4)
    return jnp.sum(blended[..., :3] * rest[..., None, :], axis=-1) + blended[..., 3]
