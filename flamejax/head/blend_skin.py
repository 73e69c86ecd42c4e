"""Parameters -> vertices: blend shapes, joints, skinning (FLAME; Diverse3DFace Eqs. 1-2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from flamejax.head.kinematics import HIGHEST, add, blend, joint_transforms, pose_feature, shaped_joints, transform_rows
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.head.rotation import rotation_matrix

FEW_VERTICES = 2048
"""Up to this many vertices (landmarks), autodiff differentiates skinning: forward derivatives take half the time."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ShapedHead:
    """A head with its identity applied, but not its expression and pose: computed once, posed many times."""

    vertices: Array
    """(*b, V, 3) metres."""
    joints: Array
    """(*b, K, 3) metres."""


def shape_identity(head: HeadModel, betas: Array) -> ShapedHead:
    """Apply the identity (the first term of Eq. 2).

    Args:
      betas: (*b, S) standard deviations; fewer than S are the leading ones.

    Returns:
      The shaped template and its joints.

    Raises:
      ValueError: if there are more coefficients than the head has.
    """
    _check_width("betas", betas, head.num_betas)
    count = betas.shape[-1]
    shaped = add(head.v_template.T, blend(head.basis[:count], betas))
    return ShapedHead(jnp.swapaxes(shaped, -1, -2), shaped_joints(head, betas))


def pose_shaped(head: HeadModel, shaped: ShapedHead, params: HeadParams) -> Array:
    """Apply expression, pose correctives and skinning to a shaped head; `params.betas` is ignored.

    Args:
      shaped: from `shape_identity`; its batch axes broadcast against those of `params`.

    Returns:
      (*b, V, 3) vertices, metres, world frame.

    Raises:
      ValueError: if there are more expression coefficients than the head has.
    """
    _check_width("expression", params.expression, head.num_expression)
    rotations = rotation_matrix(params.joint_rotations())
    coefficients = _concatenate(_zero_padded(params.expression, head.num_expression), pose_feature(rotations))
    rest = add(jnp.swapaxes(shaped.vertices, -1, -2), blend(head.basis[head.num_betas :], coefficients))
    joints = shaped_joints(head, params.expression, head.num_betas, shaped.joints)
    return _pose(head, rest, joints, rotations, params.transl)


@jax.jit
def vertices(head: HeadModel, params: HeadParams) -> Array:
    """Evaluate the head model (FLAME; Diverse3DFace Eqs. 1-2).

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
    # `pose_shaped` of `shape_identity` as one product of all bases: the basis is read once and not sliced.
    rotations = rotation_matrix(params.joint_rotations())
    betas, expression = _zero_padded(params.betas, head.num_betas), _zero_padded(params.expression, head.num_expression)
    coefficients = _concatenate(betas, expression)
    rest = blend(head.basis, _concatenate(coefficients, pose_feature(rotations)))
    joints = shaped_joints(head, coefficients)
    return _pose(head, add(head.v_template.T, rest), joints, rotations, params.transl)


def select_vertices(head: HeadModel, index: Array) -> HeadModel:
    """Reduce a head to the vertices `index` (N,), for sparse losses.

    Topology is unchanged: triangles, landmarks and regions of the result do not refer to its vertices.
    """
    return dataclasses.replace(
        head, v_template=head.v_template[index], basis=head.basis[..., index], lbs_weights=head.lbs_weights[index]
    )


def _concatenate(first: Array, second: Array) -> Array:
    """Concatenate (*b, M) and (*b, N) to (*b, M + N), broadcasting the batch axes."""
    batch = jnp.broadcast_shapes(first.shape[:-1], second.shape[:-1])
    return jnp.concatenate([jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in (first, second)], axis=-1)


def _check_width(name: str, coefficients: Array, available: int) -> None:
    if coefficients.shape[-1] > available:
        raise ValueError(f"{name} has {coefficients.shape[-1]} coefficients but this head has only {available}.")


def _zero_padded(coefficients: Array, width: int) -> Array:
    """Pad missing trailing coefficients by zeros: cheaper than a copy of a part of the basis."""
    missing = width - coefficients.shape[-1]
    return jnp.pad(coefficients, [(0, 0)] * (coefficients.ndim - 1) + [(0, missing)]) if missing else coefficients


def _pose(head: HeadModel, rest: Array, joints: Array, rotations: Array, transl: Array) -> Array:
    """Skin vertices: rest (*b, 3, V), joints (*b, K, 3), rotations (*b, K, 3, 3), transl (*b, 3) -> (*b, V, 3)."""
    batch = jnp.broadcast_shapes(rest.shape[:-2], joints.shape[:-2], rotations.shape[:-3], transl.shape[:-1])
    rest, joints, transl = (
        jnp.broadcast_to(x, (*batch, *x.shape[-n:])) for x, n in ((rest, 2), (joints, 2), (transl, 1))
    )
    rotations = jnp.broadcast_to(rotations, (*batch, *rotations.shape[-3:]))
    rotation, offset = joint_transforms(rotations, joints, head.parents)
    weights = head.lbs_weights.T
    if rest.shape[-1] > FEW_VERTICES:
        moved = _skin(weights, rotation, offset, transl, rest)
    else:
        rows = transform_rows(rotation, offset, transl)
        moved = _blend_and_apply(rows, jnp.concatenate([weights, jnp.ones_like(weights[:1])]), rest)
    return jnp.swapaxes(moved, -1, -2)


@jax.custom_jvp
def _skin(weights: Array, rotation: Array, offset: Array, transl: Array, rest: Array) -> Array:
    """Compute linear blend skinning, one coordinate at a time.

    XLA fuses these sums of planes into one pass over `rest`. The derivative `_skin_jvp` is explicit: autodiff of this
    form would reduce over the vertices once for each number in `rotation`.

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
        matrix = sum(rotation[..., k, :, j, None] * plane for k, plane in enumerate(planes))
        moved = moved + matrix * rest[..., j, None, :]
    return moved


def _skin_linear(weights: Array, rotation: Array, rest: Array) -> Array:
    """Apply the linear part of `_skin` to a tangent.

    It splits `rest`, so that its transpose concatenates. Indexing would transpose into sums, several times as slow.
    """
    planes = [row.reshape(*(1,) * (rest.ndim - 1), -1) for row in weights]
    parts = jax.lax.split(rest, (1, 1, 1), axis=rest.ndim - 2)
    matrix = [
        [sum(rotation[..., k, i, j, None, None] * plane for k, plane in enumerate(planes)) for j in range(3)]
        for i in range(3)
    ]
    return jnp.concatenate([row[0] * parts[0] + row[1] * parts[1] + row[2] * parts[2] for row in matrix], axis=-2)


def _skin_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    """Derivative of `_skin`. Tangents of the transforms go through a matrix product (12 b, K + 1) x (K + 1, V), whose
    transpose is a matrix product too. Symbolic zeros cost nothing."""
    weights, rotation, offset, transl, rest = primals
    d_weights, d_rotation, d_offset, d_transl, d_rest = (
        None if isinstance(tangent, SymbolicZero) else tangent for tangent in tangents
    )
    change = jnp.zeros_like(rest)
    if d_rest is not None:
        change = change + _skin_linear(weights, rotation, d_rest)
    if not (d_rotation is None and d_offset is None and d_transl is None):
        d_rows = transform_rows(
            jnp.zeros_like(rotation) if d_rotation is None else d_rotation,
            jnp.zeros_like(offset) if d_offset is None else d_offset,
            jnp.zeros_like(transl) if d_transl is None else d_transl,
        )
        change = change + _blend_and_apply(d_rows, jnp.concatenate([weights, jnp.ones_like(weights[:1])]), rest)
    if d_weights is not None:
        rows = transform_rows(rotation, offset, transl)[..., :-1]
        change = change + _blend_and_apply(rows, d_weights, rest)
    return _skin(*primals), change


_skin.defjvp(_skin_jvp, symbolic_zeros=True)


def _blend_and_apply(rows: Array, weights: Array, rest: Array) -> Array:
    """Blend the transforms by one product, then apply them. rows (*b, 12, K), weights (K, V), rest (*b, 3, V)."""
    blended = jnp.matmul(rows.reshape(-1, rows.shape[-1]), weights, precision=HIGHEST)
    blended = blended.reshape(*rest.shape[:-2], 3, 4, rest.shape[-1])
    return jnp.sum(blended[..., :3, :] * rest[..., None, :, :], axis=-2) + blended[..., 3, :]
