"""Parameters -> vertices: blend shapes, joints, skinning (FLAME; Diverse3DFace Eqs. 1-2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from flamejax.head.model import HeadModel, HeadParams
from flamejax.head.rotation import rotation_matrix

HIGHEST = jax.lax.Precision.HIGHEST
FEW_VERTICES = 2048
"""Up to so many vertices (landmarks) skinning is left to autodiff: forward derivatives then take half the time."""


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
    count = betas.shape[-1]
    shaped = _add(head.v_template.T, _blend(head.basis[:count], betas))
    return ShapedHead(jnp.swapaxes(shaped, -1, -2), _joints(head, 0, betas, head.joint_template))


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
    rotations = rotation_matrix(params.joint_rotations())
    moved = _side_by_side(_filled(params.expression, head.num_expression), _pose_feature(rotations))
    rest = _add(jnp.swapaxes(shaped.vertices, -1, -2), _blend(head.basis[head.num_betas :], moved))
    return _posed(head, rest, _joints(head, head.num_betas, params.expression, shaped.joints), rotations, params.transl)


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
    _check_width("betas", params.betas, head.num_betas)
    _check_width("expression", params.expression, head.num_expression)
    # `pose_shaped` of `shape_identity`, but with one product for all bases: the basis is read once and never sliced.
    rotations = rotation_matrix(params.joint_rotations())
    coefficients = _side_by_side(_filled(params.betas, head.num_betas), _filled(params.expression, head.num_expression))
    rest = _blend(head.basis, _side_by_side(coefficients, _pose_feature(rotations)))
    joints = _joints(head, 0, coefficients, head.joint_template)
    return _posed(head, _add(head.v_template.T, rest), joints, rotations, params.transl)


def head_at(head: HeadModel, index: Array) -> HeadModel:
    """The same head with the vertices in `index` (N,) only: what a sparse loss needs. Topology is kept as it was,
    so triangles, landmarks and regions of the result do not refer to its vertices."""
    return dataclasses.replace(
        head, v_template=head.v_template[index], basis=head.basis[..., index], lbs_weights=head.lbs_weights[index]
    )


def _add(lower: Array, higher: Array) -> Array:
    """Sum over missing leading axes of either side (written out: rank promotion may be an error)."""
    rank = max(lower.ndim, higher.ndim)
    return jnp.expand_dims(lower, range(rank - lower.ndim)) + jnp.expand_dims(higher, range(rank - higher.ndim))


def _side_by_side(first: Array, second: Array) -> Array:
    """(*b, M), (*b, N) -> (*b, M + N), the batch axes broadcast."""
    batch = jnp.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return jnp.concatenate([jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in (first, second)], axis=-1)


def _check_width(name: str, coefficients: Array, available: int) -> None:
    if coefficients.shape[-1] > available:
        raise ValueError(f"{name} has {coefficients.shape[-1]} coefficients but this head has only {available}.")


def _filled(coefficients: Array, width: int) -> Array:
    """Missing trailing coefficients as zeros: cheaper than a copy of a part of the basis."""
    lack = width - coefficients.shape[-1]
    return jnp.pad(coefficients, [(0, 0)] * (coefficients.ndim - 1) + [(0, lack)]) if lack else coefficients


def _pose_feature(rotations: Array) -> Array:
    """R - I of the joints after the root: (*b, K, 3, 3) -> (*b, 9 (K - 1))."""
    moving = rotations[..., 1:, :, :]
    return (moving - jnp.broadcast_to(jnp.eye(3), moving.shape)).reshape(*moving.shape[:-3], -1)


def _blend(basis: Array, coefficients: Array) -> Array:
    """basis (C, 3, N), coefficients (*b, C) -> (*b, 3, N), as one matrix product for the whole batch."""
    rows = coefficients.reshape(-1, coefficients.shape[-1])
    # The basis stands on the left for its gradient's sake: for the g @ basis.T that `rows @ basis` would lead to, XLA's
    # CPU backend takes several times as long at a batch of 1. The values cost the same.
    flat = basis.reshape(basis.shape[0], -1)
    out = jax.lax.dot_general(flat, rows, (((0,), (1,)), ((), ())), precision=HIGHEST).T
    return out.reshape(*coefficients.shape[:-1], *basis.shape[1:])


def _joints(head: HeadModel, first: int, coefficients: Array, start: Array) -> Array:
    """Joints (*b, K, 3): `start` moved by the components from `first` on."""
    dirs = head.joint_dirs[..., first : first + coefficients.shape[-1]]
    return _add(start, _blend(jnp.moveaxis(dirs, -1, 0), coefficients))


def _posed(head: HeadModel, rest: Array, joints: Array, rotations: Array, transl: Array) -> Array:
    """Skinning. rest (*b, 3, V), joints (*b, K, 3), rotations (*b, K, 3, 3), transl (*b, 3) -> (*b, V, 3)."""
    batch = jnp.broadcast_shapes(rest.shape[:-2], joints.shape[:-2], rotations.shape[:-3], transl.shape[:-1])
    rest, joints, transl = (
        jnp.broadcast_to(x, (*batch, *x.shape[-n:])) for x, n in ((rest, 2), (joints, 2), (transl, 1))
    )
    rotations = jnp.broadcast_to(rotations, (*batch, *rotations.shape[-3:]))
    rotation, offset = _joint_transforms(rotations, joints, head.parents)
    weights = head.lbs_weights.T
    if rest.shape[-1] > FEW_VERTICES:
        moved = _skin(weights, rotation, offset, transl, rest)
    else:
        rows = _transform_rows(rotation, offset, transl)
        moved = _applied(rows, jnp.concatenate([weights, jnp.ones_like(weights[:1])]), rest)
    return jnp.swapaxes(moved, -1, -2)


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


@jax.custom_jvp
def _skin(weights: Array, rotation: Array, offset: Array, transl: Array, rest: Array) -> Array:
    """Linear blend skinning, one coordinate at a time.

    Written as sums of planes, which XLA fuses into one pass over `rest`. Its derivative (below) is written out: the
    gradient derived from this form would be a reduction over the vertices for each number in `rotation`.

    Args:
      weights: (K, V)
      rotation: (*b, K, 3, 3)
      offset: (*b, K, 3)
      transl: (*b, 3)
      rest: (*b, 3, V)

    Returns:
      (*b, 3, V)
    """
    planes = [row.reshape(*(1,) * (rest.ndim - 1), -1) for row in weights]
    moved = sum(offset[..., k, :, None] * plane for k, plane in enumerate(planes)) + transl[..., None]
    for j in range(3):
        turn = sum(rotation[..., k, :, j, None] * plane for k, plane in enumerate(planes))
        moved = moved + turn * rest[..., j, None, :]
    return moved


def _turned(weights: Array, rotation: Array, rest: Array) -> Array:
    """What `_skin` does to `rest` but for the offsets; for a derivative, whose transpose is to have no reduction: parts
    that were split are put together again, where a broadcast would be summed, which is several times as slow."""
    planes = [row.reshape(*(1,) * (rest.ndim - 1), -1) for row in weights]
    parts = jax.lax.split(rest, (1, 1, 1), axis=rest.ndim - 2)
    turn = [
        [sum(rotation[..., k, i, j, None, None] * plane for k, plane in enumerate(planes)) for j in range(3)]
        for i in range(3)
    ]
    return jnp.concatenate([row[0] * parts[0] + row[1] * parts[1] + row[2] * parts[2] for row in turn], axis=-2)


def _skin_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """Derivative of `_skin`. What moves the transforms goes through a product (12 b, K + 1) x (K + 1, V), so its
    transpose is a product too; zeros are symbolic, so what does not move costs nothing."""
    weights, rotation, offset, transl, rest = primals
    d_weights, d_rotation, d_offset, d_transl, d_rest = (
        None if isinstance(tangent, SymbolicZero) else tangent for tangent in tangents
    )
    change = jnp.zeros_like(rest)
    if d_rest is not None:
        change = change + _turned(weights, rotation, d_rest)
    if not (d_rotation is None and d_offset is None and d_transl is None):
        d_rows = _transform_rows(
            jnp.zeros_like(rotation) if d_rotation is None else d_rotation,
            jnp.zeros_like(offset) if d_offset is None else d_offset,
            jnp.zeros_like(transl) if d_transl is None else d_transl,
        )
        change = change + _applied(d_rows, jnp.concatenate([weights, jnp.ones_like(weights[:1])]), rest)
    if d_weights is not None:
        rows = _transform_rows(rotation, offset, transl)[..., :-1]
        change = change + _applied(rows, d_weights, rest)
    return _skin(*primals), change


_skin.defjvp(_skin_jvp, symbolic_zeros=True)


def _transform_rows(rotation: Array, offset: Array, transl: Array) -> Array:
    """(*b, 12, K + 1): the 3 x 4 transform of each joint, and the translation as that of one more joint."""
    joints = jnp.concatenate([rotation, offset[..., None]], axis=-1)
    last = jnp.concatenate([jnp.zeros_like(rotation[..., 0, :, :]), transl[..., None]], axis=-1)
    rows = jnp.concatenate([joints, last[..., None, :, :]], axis=-3)
    return jnp.moveaxis(rows.reshape(*rows.shape[:-2], 12), -2, -1)


def _applied(rows: Array, weights: Array, rest: Array) -> Array:
    """Transforms blended by one product, then applied. rows (*b, 12, K), weights (K, V), rest (*b, 3, V)."""
    blended = jnp.matmul(rows.reshape(-1, rows.shape[-1]), weights, precision=HIGHEST)
    blended = blended.reshape(*rest.shape[:-2], 3, 4, rest.shape[-1])
    return jnp.sum(blended[..., :3, :] * rest[..., None, :, :], axis=-2) + blended[..., 3, :]
