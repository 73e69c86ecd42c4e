"""Fit pose, camera, identity, expression and jaw to landmarks by least squares. One photo; use `vmap` for more."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from fitting._least_squares import least_squares
from fitting.config import AnyFitConfig, FitConfig
from fitting.fit_model import FitModel, pad_coefficients
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel, HeadParams, dense_landmarks, landmarks, rotation_matrix
from flamejax.types import Observation

INNER = slice(17, 68)
CLOSURE_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65))
"""Upper and lower landmarks of the right eye, the left eye and the inner lips."""
JAW_SIGMA = (0.2, 0.03, 0.03)
"""Prior standard deviations of the jaw's rotation (opening, sideways, rolling), radians."""
JAW_CLOSED_SIGMA = 0.02
"""Prior standard deviation of a jaw rotation beyond the closed position, radians."""
RANGE_SIGMA = 0.15
"""Prior standard deviation of a coefficient outside the head's `expression_range`, where lips and cheeks would fold."""
EYE_SIGMA = 0.2
"""Prior standard deviation of the eyes' rotation, radians."""
OUTER_EYE_DISTANCE = 0.088
"""Metres; the unit of the dense landmarks' spreads."""
START_YAWS = (0.0, -0.7, 0.7)
"""Yaws from which the rigid stage starts, radians."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GeometryParams:
    """Shape, pose and camera of one photo's head, as the optimisers vary them.

    A fit estimates these from landmarks. `FitParams` adds texture and light, `params` and `camera` convert to the
    `HeadParams` and the camera of the resulting `Fit`.
    """

    orient: Array
    """(3,) axis-angle of the head's root."""
    log_scale: Array
    """() log of the camera's scale, in crop sides per metre."""
    translation: Array
    """(2,) the camera's translation in crop sides, so that its step size resembles the others'."""
    jaw: Array
    """(3,) axis-angle."""
    betas: Array
    """(S,)"""
    expression: Array
    """(E,)"""
    eyes: Array
    """(2,) up-down and left-right rotation of both eyes, radians."""

    @classmethod
    def zeros(cls, head: HeadModel) -> "GeometryParams":
        """Return the frontal mean head, with scale 1 and translation 0."""
        return cls(*(jnp.zeros(shape) for shape in (3, (), 2, 3, head.num_betas, head.num_expression, 2)))

    def params(self) -> HeadParams:
        """Return the parameters of the head model; neck pose and `transl` are zero."""
        zero = jnp.zeros(3)
        gaze = jnp.concatenate([self.eyes, jnp.zeros(1)])
        return HeadParams(self.betas, self.expression, self.orient, zero, self.jaw, gaze, gaze, zero)

    def project_landmarks(self, head: HeadModel) -> Array:
        """Project the head's landmarks to the photo: (68, 2), in crop sides."""
        return self.camera(1.0).project(landmarks(head, self.params()))[..., :2]

    def project_dense_landmarks(self, head: HeadModel) -> Array:
        """Project the dense landmarks of a head that has them: (468, 2), in crop sides."""
        assert head.dense is not None
        return self.camera(1.0).project(dense_landmarks(head, head.dense, self.params()))[..., :2]

    def camera(self, side: float) -> OrthographicCamera:
        """Return the camera onto an image of `side` pixels."""
        return OrthographicCamera(jnp.exp(self.log_scale) * side, self.translation * side)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkTargets:
    """The landmarks that one photo's head is fitted to, with weights."""

    points: Array
    """(68, 2) in crop sides."""
    weights: Array
    """(68,) confidences; 0 = hidden."""
    dense_points: Array
    """(468, 2) in crop sides."""
    dense_weights: Array
    """(468,) confidences; 0 = hidden."""


def landmark_targets(observation: Observation, config: AnyFitConfig) -> LandmarkTargets:
    """Return one photo's landmarks as fit targets; those that are unsure, missing or masked get weight 0."""
    side = observation.image.shape[-2]

    def weighted(points: Array, confidence: Array) -> tuple[Array, Array]:
        finite = jnp.all(jnp.isfinite(points), axis=-1)
        points = jnp.where(finite[:, None], points, 0.0)
        column, row = (jnp.clip(jnp.floor(points[:, i]).astype(jnp.int32), 0, side - 1) for i in range(2))
        confidence = jnp.where(observation.occlusion_mask[row, column] < 0.5, jnp.nan_to_num(confidence), 0.0)
        weights = jnp.where(finite & (confidence > config.visible_threshold), confidence, 0.0)
        return jnp.where(weights[:, None] > 0, points, 0.0) / side, weights

    sparse = weighted(observation.landmarks, observation.confidence)
    return LandmarkTargets(*sparse, *weighted(observation.dense_landmarks, observation.dense_confidence))


def landmark_residuals(head: HeadModel, geometry: GeometryParams, targets: LandmarkTargets, config: FitConfig) -> Array:
    """Return landmark residuals (L, 2) in noise levels, times the square root of confidence: the 68 landmarks, then the
    dense ones if the head has them and their weight is not 0."""
    error = geometry.project_landmarks(head) - targets.points
    residuals = error * (jnp.sqrt(targets.weights) / landmark_noise(head, config))[:, None]
    if head.dense is None or not config.dense_weight:
        return residuals
    outer_eyes = jnp.exp(jax.lax.stop_gradient(geometry.log_scale)) * OUTER_EYE_DISTANCE
    dense_error = geometry.project_dense_landmarks(head) - targets.dense_points
    precision = jnp.sqrt(config.dense_weight * targets.dense_weights) / (head.dense.dense_spread * outer_eyes)
    return jnp.concatenate([residuals, dense_error * precision[:, None]])


def closure_error(points: Array, targets: LandmarkTargets) -> tuple[Array, Array]:
    """Compare fitted and observed openings of lids and lips (the closure terms of the released code).

    points (68, 2) fitted, in the targets' units -> (7, 2) difference of the vectors from lower to upper point, and
    (7,) weights, 0 where either point is hidden.
    """
    upper, lower = jnp.asarray(CLOSURE_PAIRS).T
    error = (points[upper] - points[lower]) - (targets.points[upper] - targets.points[lower])
    return error, jnp.minimum(targets.weights[upper], targets.weights[lower])


def closure_residuals(head: HeadModel, geometry: GeometryParams, targets: LandmarkTargets, config: FitConfig) -> Array:
    """Return residuals (7, 2) of the lids' and lips' openings in noise levels; (0, 2) if `closure_sigma` is 0."""
    if not config.closure_sigma:
        return jnp.zeros((0, 2))
    error, weights = closure_error(geometry.project_landmarks(head), targets)
    return error * (jnp.sqrt(weights) / config.closure_sigma)[:, None]


def landmark_noise(head: HeadModel, config: FitConfig) -> Array:
    """Return the landmarks' standard deviations (68,) as shares of the crop's side.

    If the detector's spread on this head was measured, those of the inner landmarks are proportional to it, with mean
    `landmark_sigma`.
    """
    inner = jnp.full((51,), config.landmark_sigma)
    if head.dense is not None:
        inner = inner * head.dense.landmark_spread / jnp.mean(head.dense.landmark_spread)
    return jnp.concatenate([jnp.full((17,), config.contour_sigma), inner])


def prior_residuals(head: HeadModel, geometry: GeometryParams) -> Array:
    """Return the priors' residuals in standard deviations (L_reg of Eq. 11, for joints as well as coefficients)."""
    jaw = geometry.jaw / jnp.asarray(JAW_SIGMA)
    overclosed_jaw = jnp.minimum(geometry.jaw[:1], 0.0) / JAW_CLOSED_SIGMA
    residuals = [geometry.betas, geometry.expression, jaw, overclosed_jaw, geometry.eyes / EYE_SIGMA]
    if head.expression_range is not None:
        low, high = head.expression_range
        residuals.append((geometry.expression - jnp.clip(geometry.expression, low, high)) / RANGE_SIGMA)
    return jnp.concatenate(residuals)


def smoothing_residuals(model: FitModel, geometry: GeometryParams, config: FitConfig) -> Array:
    """Return the smoothing term's residuals (S' + E',), or (0,) if its weight is 0.

    Half the sum of their squares is the mean squared Laplacian times its weight.
    """
    if not config.smoothing_weight:
        return jnp.zeros(0)
    return jnp.sqrt(2.0 * config.smoothing_weight) * model.roughness(geometry.betas, geometry.expression)


def fit_landmarks(model: FitModel, targets: LandmarkTargets, config: FitConfig) -> GeometryParams:
    """Fit one photo's landmarks: rigid pose from several yaws, then global coefficients, then local ones too.

    Returns the geometry of lowest energy.
    """
    global_model = model.without_local()
    start = _fit_rigid(global_model.head, targets.points, targets.weights.at[:17].set(0.0), config)
    geometry = _fit_geometry(global_model, start, targets, config, config.landmark_steps)
    if not model.has_local:
        return geometry
    betas = pad_coefficients(geometry.betas, model.head.num_betas)
    expression = pad_coefficients(geometry.expression, model.head.num_expression)
    start = dataclasses.replace(geometry, betas=betas, expression=expression)
    return _fit_geometry(model, start, targets, config, config.local_steps)


def _fit_geometry(
    model: FitModel, start: GeometryParams, targets: LandmarkTargets, config: FitConfig, steps: int
) -> GeometryParams:
    """Fit pose, camera and all coefficients of a model by `least_squares` from a start."""
    if not steps:
        return start
    head = model.head

    def residuals(geometry: GeometryParams) -> tuple[Array, Array]:
        points = landmark_residuals(head, geometry, targets, config)
        openings = closure_residuals(head, geometry, targets, config)
        prior = jnp.concatenate([prior_residuals(head, geometry), smoothing_residuals(model, geometry, config)])
        return jnp.concatenate([points, openings]), prior

    return least_squares(residuals, start, steps)[0]


def _fit_rigid(head: HeadModel, target: Array, weights: Array, config: FitConfig) -> GeometryParams:
    """Fit rotation, scale and translation of the mean head from several yaws, and return the best result."""
    mean_head = GeometryParams.zeros(head)
    points, root = landmarks(head, mean_head.params()), head.joint_template[0]

    def residuals(rigid: Array) -> tuple[Array, Array]:
        rotated = jnp.matmul(points - root[None], rotation_matrix(rigid[:3]).T) + root[None]
        projected = OrthographicCamera(jnp.exp(rigid[3]), rigid[4:]).project(rotated)[:, :2]
        return (projected - target) * (jnp.sqrt(weights) / config.landmark_sigma)[:, None], jnp.zeros(1)

    share = weights / jnp.maximum(jnp.sum(weights), 1e-6)
    ratio = (_variance(target, share) + 1e-12) / (_variance(points[:, :2], share) + 1e-12)
    log_scale = 0.5 * jnp.log(ratio)
    flipped = (share @ points)[:2] * jnp.asarray([1.0, -1.0])
    translation = share @ target - jnp.exp(log_scale) * flipped

    def fit_from_yaw(yaw: Array) -> tuple[Array, Array]:
        rigid = jnp.concatenate([jnp.stack([0.0, yaw, 0.0]), log_scale[None], translation])
        return least_squares(residuals, rigid, config.rigid_steps)

    candidates, energies = jax.vmap(fit_from_yaw)(jnp.asarray(START_YAWS))
    best = candidates[jnp.argmin(jnp.nan_to_num(energies[:, -1], nan=jnp.inf))]
    return dataclasses.replace(mean_head, orient=best[:3], log_scale=best[3], translation=best[4:])


def _variance(points: Array, share: Array) -> Array:
    """Return the weighted variance. points (N, 2), share (N,) -> ()"""
    return jnp.sum(share[:, None] * (points - (share @ points)[None]) ** 2)
