"""Placement of heads of given coefficients on a photo: pose and scale are aligned to the visible landmarks. The authors
of OFER overlay heads on photos, but the paper gives no pose."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from fitting import huber_energy, least_squares
from fitting.config import FitConfig
from fitting.landmark_fit import (
    OUTER_EYE_DISTANCE,
    LandmarkTargets,
    landmark_noise,
    landmark_targets,
)
from flamejax.head import (
    HeadModel,
    HeadParams,
    axis_angle,
    landmark_triangles,
    root_joint,
    rotation_matrix,
    select_vertices,
    vertices,
)
from flamejax.types import Fit, Observation

STEPS = 8
"""Number of least-squares steps."""
NUM_LANDMARKS = 68
"""Number of iBUG landmarks, which come before the dense ones."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkView:
    """The landmarks of a photo that heads are aligned to."""

    head: HeadModel
    """A head whose vertices are the landmarks' triangle corners only: three per landmark, the 68 before dense ones."""
    barycentric: Array
    """(L, 3) barycentric coordinates of the landmarks in these triangles."""
    points: Array
    """(L, 2) observed positions, in crop sides."""
    inverse_sigma: Array
    """(L,) inverse of their standard deviations in crop sides; 0 = hidden."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placement:
    """Poses and scales of M heads in front of the fit's camera."""

    orient: Array
    """(M, 3) axis-angle rotation of the root, radians."""
    root: Array
    """(M, 3) position of the root joint in the world, metres."""
    size: Array
    """(M,) scale of each head. A photo does not determine size, and the camera is that of the fit."""


def landmark_view(head: HeadModel, fit: Fit, observation: Observation, config: FitConfig) -> LandmarkView:
    """Make the `LandmarkView` of one photo, with contour landmarks for the fit's yaw."""
    targets: LandmarkTargets = landmark_targets(observation, config)
    triangles, barycentric = landmark_triangles(head, fit.params)
    points = targets.points
    inverse_sigma = jnp.sqrt(targets.weights) / landmark_noise(head, config)
    if head.dense is not None and config.dense_weight:
        side = observation.image.shape[-2]
        outer_eyes = fit.camera.scale / side * OUTER_EYE_DISTANCE
        triangles = jnp.concatenate([triangles, head.faces[head.dense.dense_face]])
        barycentric = jnp.concatenate([barycentric, head.dense.dense_barycentric])
        points = jnp.concatenate([points, targets.dense_points])
        dense = jnp.sqrt(config.dense_weight * targets.dense_weights) / (head.dense.dense_spread * outer_eyes)
        inverse_sigma = jnp.concatenate([inverse_sigma, dense])
    corners = dataclasses.replace(select_vertices(head, triangles.reshape(-1)), dense=None)
    return LandmarkView(corners, barycentric, points, inverse_sigma)


def landmark_points(view: LandmarkView, params: HeadParams) -> Array:
    """Return the landmarks of heads in the head frame, (M, L, 3) metres, ignoring the global rotation and `transl` of
    `params`."""
    unposed = dataclasses.replace(
        params, global_orient=jnp.zeros_like(params.global_orient), transl=jnp.zeros_like(params.transl)
    )
    corners = rearrange(vertices(view.head, unposed), "... (l corner) c -> ... l corner c", corner=3)
    points = jnp.sum(corners * jnp.broadcast_to(view.barycentric[..., None], corners.shape), axis=-2)
    return points - root_joint(view.head, unposed)[..., None, :]


def fit_placement(
    view: LandmarkView, fit: Fit, side: int, points: Array, shared_size: bool = True
) -> tuple[Placement, Array]:
    """Align heads to the visible landmarks of a photo in the fit's camera, starting from the fit's pose.

    Args:
      side: side of the crop, pixels. points: (M, L, 3) from `landmark_points`.
      shared_size: whether all heads get the same size, as heads of one person.

    Returns:
      The placement, and the robust cost of the landmarks (M,), nats.
    """
    scale, translation = fit.camera.scale / side, fit.camera.translation / side
    fit_rotation, flip = rotation_matrix(fit.params.global_orient), jnp.asarray([[1.0, -1.0]])
    weights = view.inverse_sigma**2 / jnp.maximum(jnp.sum(view.inverse_sigma**2), 1e-6)

    def initial_pose(points: Array) -> Array:
        """Return the fit's rotation and scale, and the translation that aligns the weighted centres."""
        flat = scale * jnp.matmul(points, fit_rotation.T)[:, :2] * flip
        return jnp.concatenate([jnp.zeros(3), jnp.log(scale)[None], weights @ (view.points - flat)])

    def residuals(pose: Array, points: Array, log_scale: Array) -> Array:
        rotated = jnp.matmul(points, jnp.matmul(rotation_matrix(pose[:3]), fit_rotation).T, precision="highest")
        flat = rotated[:, :2] * flip * jnp.exp(log_scale)
        return (flat + pose[None, 4:] - view.points) * view.inverse_sigma[:, None]

    # With few visible landmarks the pose stays near the fit's.
    prior_inverse_sigma = jnp.asarray([5.0, 5.0, 5.0, 10.0, 2.0, 2.0])

    def align(points: Array, prior_mean: Array, start: Array, log_scale: Array | None) -> Array:
        def energy(pose: Array) -> tuple[Array, Array]:
            data = residuals(pose, points, pose[3] if log_scale is None else log_scale)
            return data, (pose - prior_mean) * prior_inverse_sigma

        return least_squares(energy, start, STEPS)[0]

    starts = jax.vmap(initial_pose)(points)
    poses = jax.vmap(lambda p, x: align(p, x, x, None))(points, starts)
    log_scales = poses[:, 3]
    if shared_size:
        log_scale = jnp.mean(log_scales)
        restarts = poses.at[:, 3].set(log_scale)
        poses = jax.vmap(lambda p, c, x: align(p, c, x, log_scale))(points, starts, restarts)
        log_scales = jnp.broadcast_to(log_scale, log_scales.shape)
    cost = jax.vmap(lambda x, p, s: huber_energy(residuals(x, p, s)))(poses, points, log_scales)
    rotations = jnp.matmul(rotation_matrix(poses[:, :3]), fit_rotation[None], precision="highest")
    # The fit's camera projects (x, y) to scale * (x, -y) + translation.
    root_xy = (poses[:, 4:] - translation[None]) / scale * flip
    size = jnp.exp(log_scales) / scale
    # The camera does not determine depth: put the mean landmark, not the root behind it, at the fit's depth.
    face = jnp.mean(points[:, :NUM_LANDMARKS], axis=1)
    depth = jnp.mean(fit.landmarks[:, 2]) - size * jnp.sum(rotations[:, 2] * face, axis=-1)
    return Placement(axis_angle(rotations), jnp.concatenate([root_xy, depth[:, None]], axis=-1), size), cost


def apply_placement(head: HeadModel, params: HeadParams, placement: Placement) -> tuple[HeadParams, Array]:
    """Pose heads by a placement.

    Returns:
      The parameters with pose and `transl`, and vertices (M, V, 3) in the world, metres: those of the parameters times
      the size.
    """
    size = placement.size[..., None]
    transl = placement.root / size - root_joint(head, params)
    params = dataclasses.replace(params, global_orient=placement.orient, transl=transl)
    return params, size[..., None] * vertices(head, params)
