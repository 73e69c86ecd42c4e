"""The 68 iBUG landmarks of a posed head; the jaw contour follows the head's yaw."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from flamejax.head.blend_skin import select_vertices, vertices
from flamejax.head.formats import FLAME_NAME
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.head.rotation import rotation_matrix

MAX_YAW_DEGREES = 39


def contour_bin(params: HeadParams) -> Array:
    """Returns the row of the contour table for a head's yaw: (*b,) int32 in 0..78. Not differentiable.

    FLAME's order: bins 0..39 are rotations of -0..-39 degrees about +y, bins 40..78 are +1..+39. The yaw
    includes the neck's rotation besides the global one, as in flame-pytorch. smplx's FLAME 0.1.28 uses only the global
    rotation (its `NECK_IDX` is 0, the root), so that its contour differs if the neck is turned.
    """
    rotation = rotation_matrix(jax.lax.stop_gradient(params.global_orient)) @ rotation_matrix(
        jax.lax.stop_gradient(params.neck_pose)
    )
    sine = -rotation[..., 2, 0]
    cosine = jnp.hypot(rotation[..., 0, 0], rotation[..., 1, 0])
    degrees = jnp.rint(jnp.rad2deg(jnp.arctan2(sine, cosine)))
    # A non-finite pose must not index outside the table.
    degrees = jnp.clip(jnp.nan_to_num(degrees), -MAX_YAW_DEGREES, MAX_YAW_DEGREES).astype(jnp.int32)
    return jnp.where(degrees > 0, MAX_YAW_DEGREES + degrees, -degrees)


def check_landmarks(head: HeadModel) -> None:
    """Raise a ValueError that says where to get landmarks, if the head has none."""
    if len(head.landmark_embedding.face):
        return
    if head.name == FLAME_NAME:
        raise ValueError(
            f"the head '{head.name} {head.version}' has no landmarks: FLAME's are in a separate file. Place "
            "landmark_embedding.npy (https://github.com/yfeng95/DECA, its folder data) beside the model, and load or "
            "convert it again. flame_static_embedding.pkl with flame_dynamic_embedding.npy "
            "(https://github.com/soubhiksanyal/RingNet, its folder flame_model) serve as well."
        )
    raise ValueError(f"the head '{head.name}' has no landmarks: give `HeadModel.from_arrays` a landmark_embedding.")


def landmark_triangles(head: HeadModel, params: HeadParams) -> tuple[Array, Array]:
    """Returns the triangles' vertices (*b, 68, 3) int32 and barycentrics (*b, 68, 3) of the landmarks at this pose.

    Raises:
      ValueError: the head has no landmarks.
    """
    check_landmarks(head)
    embedding = head.landmark_embedding
    row = contour_bin(params)
    contour_face, contour_barycentric = embedding.contour_face[row], embedding.contour_barycentric[row]
    face = jnp.concatenate([contour_face, jnp.broadcast_to(embedding.face, (*row.shape, 51))], axis=-1)
    barycentric = jnp.concatenate(
        [contour_barycentric, jnp.broadcast_to(embedding.barycentric, (*row.shape, 51, 3))], axis=-2
    )
    return head.faces[face], barycentric


def landmarks_from_vertices(head: HeadModel, verts: Array, params: HeadParams) -> Array:
    """Compute the landmarks from vertices. verts: (*b, V, 3) -> (*b, 68, 3)."""
    triangles, barycentric = landmark_triangles(head, params)
    flat = triangles.reshape(*triangles.shape[:-2], -1)
    corners = jnp.take_along_axis(verts, flat[..., None], axis=-2)
    corners = corners.reshape(*triangles.shape, 3)
    return jnp.sum(corners * barycentric[..., None], axis=-2)


@jax.jit
def landmarks(head: HeadModel, params: HeadParams) -> Array:
    """Compute the 68 iBUG landmarks of a posed head, from only the vertices that they need.

    Args:
      params: batch axes (*b,).

    Returns:
      (*b, 68, 3) metres, world frame. 0..16 are the jaw contour visible at the head's yaw. Its table lookup is
      piecewise constant and has no gradient, the positions have.
    """
    if params.batch:
        return jax.vmap(lambda one: landmarks(head, one))(params)
    triangles, barycentric = landmark_triangles(head, params)
    corners = vertices(select_vertices(head, triangles.reshape(-1)), params).reshape(*triangles.shape, 3)
    return jnp.sum(corners * barycentric[..., None], axis=-2)


def landmark_head(head: HeadModel) -> HeadModel:
    """Reduce a head to the vertices of its 68 landmarks, at any yaw.

    `landmarks_from_vertices(small, vertices(small, params), params)` then gives the landmarks of many heads cheaply.
    Not traceable. Regions and texture coordinates are unchanged and do not refer to the reduced vertices.
    """
    check_landmarks(head)
    embedding = head.landmark_embedding
    used, index = np.unique(
        np.concatenate([np.asarray(embedding.contour_face).ravel(), np.asarray(embedding.face)]), return_inverse=True
    )
    selected, faces = np.unique(np.asarray(head.faces)[used], return_inverse=True)
    contour = embedding.contour_face.shape
    embedding = dataclasses.replace(
        embedding,
        contour_face=jnp.asarray(index[: np.prod(contour)].reshape(contour), jnp.int32),
        face=jnp.asarray(index[np.prod(contour) :], jnp.int32),
    )
    small = select_vertices(head, jnp.asarray(selected))
    return dataclasses.replace(small, faces=jnp.asarray(faces.reshape(-1, 3), jnp.int32), landmark_embedding=embedding)
