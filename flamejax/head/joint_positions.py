"""Where the joints of a posed head are."""

import jax.numpy as jnp
from jax import Array

from flamejax.head.blend_skin import HIGHEST
from flamejax.head.model import HeadModel, HeadParams
from flamejax.head.rotation import rotation_matrix


def root_joint(head: HeadModel, params: HeadParams) -> Array:
    """The root joint at rest, (*b, 3) metres: global rotations are about it, and it is the head frame's origin."""
    coefficients = jnp.concatenate([params.betas, params.expression], axis=-1)
    offset = jnp.matmul(coefficients, head.joint_dirs[0].T, precision=HIGHEST)
    return offset + jnp.broadcast_to(head.joint_template[0], offset.shape)


def joints(head: HeadModel, params: HeadParams) -> Array:
    """The posed joints (FLAME's kinematic chain).

    Args:
      params: batch axes (*b,), with all of the head's coefficients.

    Returns:
      (*b, 5, 3) metres, world frame: root, neck, jaw, left eye, right eye.
    """
    coefficients = jnp.concatenate([params.betas, params.expression], axis=-1)
    change = jnp.einsum("kdc,...c->...kd", head.joint_dirs, coefficients, precision=HIGHEST)
    rest = jnp.broadcast_to(head.joint_template, change.shape) + change
    rotations = rotation_matrix(params.joint_rotations())
    turns, places = [rotations[..., 0, :, :]], [rest[..., 0, :]]
    for joint, parent in enumerate(head.parents[1:], start=1):
        bone = (rest[..., joint, :] - rest[..., parent, :])[..., None]
        places.append(jnp.matmul(turns[parent], bone, precision=HIGHEST)[..., 0] + places[parent])
        turns.append(jnp.matmul(turns[parent], rotations[..., joint, :, :], precision=HIGHEST))
    return jnp.stack(places, axis=-2) + params.transl[..., None, :]
