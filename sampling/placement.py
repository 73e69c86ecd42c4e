"""Heads of known coefficients placed on a photo: a short rigid alignment to the visible landmarks (OFER shows its heads
over the photo so; the paper gives no pose)."""

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
    Targets,
    landmark_noise,
    landmark_targets,
)
from flamejax.head import (
    HeadModel,
    HeadParams,
    axis_angle,
    head_at,
    landmark_triangles,
    root_joint,
    rotation_matrix,
    vertices,
)
from flamejax.types import Fit, Observation

STEPS = 8
NUM_LANDMARKS = 68


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkView:
    """What of one photo its heads are aligned to."""

    head: HeadModel
    """Of the corners of its landmarks alone, three a landmark: the 68, then the dense ones if the head has them."""
    barycentric: Array
    """(L, 3)"""
    points: Array
    """(L, 2) where the photo shows them, in crop sides."""
    precision: Array
    """(L,) one over their deviation, in crop sides; 0 = hidden."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Placement:
    """How M heads lie before the fit's camera."""

    orient: Array
    """(M, 3) axis-angle of the root."""
    root: Array
    """(M, 3) the root joint's place in the world, metres."""
    size: Array
    """(M,) how much larger each head is shown than it is: a photo does not show size, and the camera is the fit's."""


def landmark_view(head: HeadModel, fit: Fit, observation: Observation, config: FitConfig) -> LandmarkView:
    """Of one photo; the contour is that of the fit's yaw."""
    targets: Targets = landmark_targets(observation, config)
    triangles, barycentric = landmark_triangles(head, fit.params)
    points = targets.points
    precision = jnp.sqrt(targets.weights) / landmark_noise(head, config)
    if head.dense is not None and config.dense_weight:
        side = observation.image.shape[-2]
        outer_eyes = fit.camera.scale / side * OUTER_EYE_DISTANCE
        triangles = jnp.concatenate([triangles, head.faces[head.dense.dense_face]])
        barycentric = jnp.concatenate([barycentric, head.dense.dense_barycentric])
        points = jnp.concatenate([points, targets.dense_points])
        dense = jnp.sqrt(config.dense_weight * targets.dense_weights) / (head.dense.dense_spread * outer_eyes)
        precision = jnp.concatenate([precision, dense])
    small = dataclasses.replace(head_at(head, triangles.reshape(-1)), dense=None)
    return LandmarkView(small, barycentric, points, precision)


def seen_points(view: LandmarkView, params: HeadParams) -> Array:
    """Landmarks of heads in the head frame, (M, L, 3) metres; the global rotation and `transl` of `params` do not
    count."""
    still = dataclasses.replace(
        params, global_orient=jnp.zeros_like(params.global_orient), transl=jnp.zeros_like(params.transl)
    )
    corners = rearrange(vertices(view.head, still), "... (l corner) c -> ... l corner c", corner=3)
    found = jnp.sum(corners * jnp.broadcast_to(view.barycentric[..., None], corners.shape), axis=-2)
    return found - root_joint(view.head, still)[..., None, :]


def place(view: LandmarkView, fit: Fit, side: int, points: Array, one_size: bool = True) -> tuple[Placement, Array]:
    """Align heads to the landmarks that a photo shows, from the fit's pose, in the fit's camera.

    Args:
      side: of the crop, pixels. points: (M, L, 3) of `seen_points`.
      one_size: all heads are shown at one size, as those of one person; else each at its own.

    Returns:
      The placement, and what the landmarks still cost (M,), nats (robust).
    """
    scale, translation = fit.camera.scale / side, fit.camera.translation / side
    fitted, flip = rotation_matrix(fit.params.global_orient), jnp.asarray([[1.0, -1.0]])
    share = view.precision**2 / jnp.maximum(jnp.sum(view.precision**2), 1e-6)

    def start_of(points: Array) -> Array:
        """The fit's turn and scale, and the centres of what is seen and shown together."""
        flat = scale * jnp.matmul(points, fitted.T)[:, :2] * flip
        return jnp.concatenate([jnp.zeros(3), jnp.log(scale)[None], share @ (view.points - flat)])

    def residuals(x: Array, points: Array, log_scale: Array) -> Array:
        turned = jnp.matmul(points, jnp.matmul(rotation_matrix(x[:3]), fitted).T, precision="highest")
        flat = turned[:, :2] * flip * jnp.exp(log_scale)
        return (flat + x[None, 4:] - view.points) * view.precision[:, None]

    # Few landmarks seen: the pose stays near the fit's.
    prior = jnp.asarray([5.0, 5.0, 5.0, 10.0, 2.0, 2.0])

    def aligned(points: Array, centre: Array, start: Array, log_scale: Array | None) -> Array:
        def energy(x: Array) -> tuple[Array, Array]:
            return residuals(x, points, x[3] if log_scale is None else log_scale), (x - centre) * prior

        return least_squares(energy, start, STEPS)[0]

    starts = jax.vmap(start_of)(points)
    found = jax.vmap(lambda p, x: aligned(p, x, x, None))(points, starts)
    log_size = found[:, 3]
    if one_size:
        common = jnp.mean(log_size)
        again = found.at[:, 3].set(common)
        found = jax.vmap(lambda p, c, x: aligned(p, c, x, common))(points, starts, again)
        log_size = jnp.broadcast_to(common, log_size.shape)
    cost = jax.vmap(lambda x, p, s: huber_energy(residuals(x, p, s)))(found, points, log_size)
    turns = jnp.matmul(rotation_matrix(found[:, :3]), fitted[None], precision="highest")
    # The fit's camera shows (x, y) at scale * (x, -y) + translation.
    place_xy = (found[:, 4:] - translation[None]) / scale * flip
    size = jnp.exp(log_size) / scale
    # The camera sees no depth: the face, not the root behind it, lies where the fit's does.
    face = jnp.mean(points[:, :NUM_LANDMARKS], axis=1)
    depth = jnp.mean(fit.landmarks[:, 2]) - size * jnp.sum(turns[:, 2] * face, axis=-1)
    return Placement(axis_angle(turns), jnp.concatenate([place_xy, depth[:, None]], axis=-1), size), cost


def placed(head: HeadModel, params: HeadParams, placement: Placement) -> tuple[HeadParams, Array]:
    """Heads where the placement puts them.

    Returns:
      The parameters with pose and `transl`, and vertices (M, V, 3) in the world, metres: those of the parameters times
      the size.
    """
    size = placement.size[..., None]
    transl = placement.root / size - root_joint(head, params)
    params = dataclasses.replace(params, global_orient=placement.orient, transl=transl)
    return params, size[..., None] * vertices(head, params)
