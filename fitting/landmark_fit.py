"""Pose, camera, identity, expression and jaw from landmarks, by least squares. One photo; `vmap` for more."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from fitting._least_squares import least_squares
from fitting.config import AnyFitConfig, FitConfig
from fitting.fit_model import FitModel, padded
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel, HeadParams, dense_landmarks, landmarks, rotation_matrix
from flamejax.types import Observation

INNER = slice(17, 68)
CLOSURE_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65))
"""Upper and lower landmarks of the right eye, the left eye and the inner lips."""
JAW_SIGMA = (0.2, 0.03, 0.03)
"""Prior of the jaw's rotation (opening, sideways, rolling), radians."""
JAW_CLOSED_SIGMA = 0.02
"""How far the jaw may bite through the closed position, radians."""
RANGE_SIGMA = 0.15
"""How far an expression coefficient may leave the head's `expression_range`: beyond it lips and cheeks fold."""
EYE_SIGMA = 0.2
OUTER_EYE_DISTANCE = 0.088
"""Metres: the unit of the spreads of dense landmarks."""
START_YAWS = (0.0, -0.7, 0.7)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Geometry:
    """The unknowns of a fit's geometry, for one photo: orient (3,) and jaw (3,) axis-angle, betas (S,), expression
    (E,)."""

    orient: Array
    log_scale: Array
    """() log of pixels per metre."""
    translation: Array
    """(2,) in units of the crop's side, so that steps are of the size of the others'."""
    jaw: Array
    betas: Array
    expression: Array
    eyes: Array
    """(2,) up-down and left-right rotation of both eyes, radians."""

    @classmethod
    def start(cls, head: HeadModel) -> "Geometry":
        """The mean head, frontal, of no particular place."""
        return cls(*(jnp.zeros(shape) for shape in (3, (), 2, 3, head.num_betas, head.num_expression, 2)))

    def params(self) -> HeadParams:
        """As head parameters."""
        zero = jnp.zeros(3)
        gaze = jnp.concatenate([self.eyes, jnp.zeros(1)])
        return HeadParams(self.betas, self.expression, self.orient, zero, self.jaw, gaze, gaze, zero)

    def shown_landmarks(self, head: HeadModel) -> Array:
        """(68, 2) the head's landmarks in the photo, in units of the crop's side."""
        return self.camera(1.0).project(landmarks(head, self.params()))[..., :2]

    def shown_dense(self, head: HeadModel) -> Array:
        """(468, 2) the dense landmarks likewise, of a head that has them."""
        assert head.dense is not None
        return self.camera(1.0).project(dense_landmarks(head, head.dense, self.params()))[..., :2]

    def camera(self, side: float) -> OrthographicCamera:
        """The camera onto an image of `side` pixels."""
        return OrthographicCamera(jnp.exp(self.log_scale) * side, self.translation * side)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Targets:
    """Where one photo shows the landmarks (68, 2) and the dense ones (468, 2), in units of the crop's side, and how
    sure that is, (68,) and (468,), 0 = hidden."""

    points: Array
    weights: Array
    dense_points: Array
    dense_weights: Array


def landmark_targets(observation: Observation, config: AnyFitConfig) -> Targets:
    """One photo's landmarks; what is unsure, missing, outside the photo or masked weighs nothing."""
    side = observation.image.shape[-2]

    def visible(points: Array, confidence: Array) -> tuple[Array, Array]:
        finite = jnp.all(jnp.isfinite(points), axis=-1)
        points = jnp.where(finite[:, None], points, 0.0)
        column, row = (jnp.clip(jnp.floor(points[:, i]).astype(jnp.int32), 0, side - 1) for i in range(2))
        confidence = jnp.where(observation.occlusion_mask[row, column] < 0.5, jnp.nan_to_num(confidence), 0.0)
        weights = jnp.where(finite & (confidence > config.visible_threshold), confidence, 0.0)
        return jnp.where(weights[:, None] > 0, points, 0.0) / side, weights

    sparse = visible(observation.landmarks, observation.confidence)
    return Targets(*sparse, *visible(observation.dense_landmarks, observation.dense_confidence))


def landmark_residuals(head: HeadModel, geometry: Geometry, targets: Targets, config: FitConfig) -> Array:
    """(L, 2) residuals in noise levels, weighted by the square root of confidence: the 68 landmarks, and the dense ones
    if the head has them and the config wants them."""
    error = geometry.shown_landmarks(head) - targets.points
    residuals = error * (jnp.sqrt(targets.weights) / landmark_noise(head, config))[:, None]
    if head.dense is None or not config.dense_weight:
        return residuals
    outer_eyes = jnp.exp(jax.lax.stop_gradient(geometry.log_scale)) * OUTER_EYE_DISTANCE
    dense_error = geometry.shown_dense(head) - targets.dense_points
    precision = jnp.sqrt(config.dense_weight * targets.dense_weights) / (head.dense.dense_spread * outer_eyes)
    return jnp.concatenate([residuals, dense_error * precision[:, None]])


def closure_error(points: Array, targets: Targets) -> tuple[Array, Array]:
    """How far the openings of lids and lips are from those seen (the closure terms of the released code).

    points (68, 2) fitted, in the targets' units -> (7, 2) difference of the vectors from lower to upper point, and
    (7,) weights, 0 where either point is hidden.
    """
    upper, lower = jnp.asarray(CLOSURE_PAIRS).T
    error = (points[upper] - points[lower]) - (targets.points[upper] - targets.points[lower])
    return error, jnp.minimum(targets.weights[upper], targets.weights[lower])


def closure_residuals(head: HeadModel, geometry: Geometry, targets: Targets, config: FitConfig) -> Array:
    """(7, 2) of the lids' and lips' openings in noise levels; (0, 2) where the config leaves them out."""
    if not config.closure_sigma:
        return jnp.zeros((0, 2))
    error, weights = closure_error(geometry.shown_landmarks(head), targets)
    return error * (jnp.sqrt(weights) / config.closure_sigma)[:, None]


def landmark_noise(head: HeadModel, config: FitConfig) -> Array:
    """(68,) standard deviations as shares of the crop's side; where the detector's spread on this head was measured,
    the inner ones are shared out by it around `landmark_sigma`."""
    inner = jnp.full((51,), config.landmark_sigma)
    if head.dense is not None:
        inner = inner * head.dense.landmark_spread / jnp.mean(head.dense.landmark_spread)
    return jnp.concatenate([jnp.full((17,), config.contour_sigma), inner])


def prior_residuals(head: HeadModel, geometry: Geometry) -> Array:
    """Residuals of the priors, in standard deviations (L_reg of Eq. 11, with joints beside the coefficients)."""
    jaw = geometry.jaw / jnp.asarray(JAW_SIGMA)
    biting = jnp.minimum(geometry.jaw[:1], 0.0) / JAW_CLOSED_SIGMA
    known = [geometry.betas, geometry.expression, jaw, biting, geometry.eyes / EYE_SIGMA]
    if head.expression_range is not None:
        low, high = head.expression_range
        inside = jnp.clip(geometry.expression, low, high)
        known.append((geometry.expression - inside) / RANGE_SIGMA)
    return jnp.concatenate(known)


def smoothing_residuals(model: FitModel, geometry: Geometry, config: FitConfig) -> Array:
    """Residuals of the smoothing term: half the sum of their squares is the mean squared Laplacian times its weight.
    (S' + E',), or (0,) where it has no weight."""
    if not config.smoothing_weight:
        return jnp.zeros(0)
    return jnp.sqrt(2.0 * config.smoothing_weight) * model.roughness(geometry.betas, geometry.expression)


def fit_landmarks(model: FitModel, targets: Targets, config: FitConfig) -> Geometry:
    """Fit one photo's landmarks: a rigid stage from several yaws, then the global coefficients, then local ones too.
    The geometry of least energy met is returned."""
    coarse = model.without_local()
    start = _fit_rigid(coarse.head, targets.points, targets.weights.at[:17].set(0.0), config)
    geometry = _fit_all(coarse, start, targets, config, config.landmark_steps)
    if not model.has_local:
        return geometry
    betas = padded(geometry.betas, model.head.num_betas)
    expression = padded(geometry.expression, model.head.num_expression)
    start = dataclasses.replace(geometry, betas=betas, expression=expression)
    return _fit_all(model, start, targets, config, config.local_steps)


def _fit_all(model: FitModel, start: Geometry, targets: Targets, config: FitConfig, steps: int) -> Geometry:
    """Pose, camera and all coefficients of a model, from a start."""
    if not steps:
        return start
    head = model.head

    def residuals(geometry: Geometry) -> tuple[Array, Array]:
        points = landmark_residuals(head, geometry, targets, config)
        openings = closure_residuals(head, geometry, targets, config)
        prior = jnp.concatenate([prior_residuals(head, geometry), smoothing_residuals(model, geometry, config)])
        return jnp.concatenate([points, openings]), prior

    return least_squares(residuals, start, steps)[0]


def _fit_rigid(head: HeadModel, target: Array, weights: Array, config: FitConfig) -> Geometry:
    """Rotation, scale and translation of the mean head, from several yaws; the best one."""
    rest = Geometry.start(head)
    points, root = landmarks(head, rest.params()), head.joint_template[0]

    def residuals(rigid: Array) -> tuple[Array, Array]:
        turned = jnp.matmul(points - root[None], rotation_matrix(rigid[:3]).T) + root[None]
        projected = OrthographicCamera(jnp.exp(rigid[3]), rigid[4:]).project(turned)[:, :2]
        return (projected - target) * (jnp.sqrt(weights) / config.landmark_sigma)[:, None], jnp.zeros(1)

    share = weights / jnp.maximum(jnp.sum(weights), 1e-6)
    spread, centre = _spread(target, share), share @ target
    log_scale = 0.5 * jnp.log((spread + 1e-12) / (_spread(points[:, :2], share) + 1e-12))
    flipped = (share @ points)[:2] * jnp.asarray([1.0, -1.0])
    translation = centre - jnp.exp(log_scale) * flipped

    def from_yaw(yaw: Array) -> tuple[Array, Array]:
        rigid = jnp.concatenate([jnp.stack([0.0, yaw, 0.0]), log_scale[None], translation])
        return least_squares(residuals, rigid, config.rigid_steps)

    candidates, energies = jax.vmap(from_yaw)(jnp.asarray(START_YAWS))
    best = candidates[jnp.argmin(jnp.nan_to_num(energies[:, -1], nan=jnp.inf))]
    return dataclasses.replace(rest, orient=best[:3], log_scale=best[3], translation=best[4:])


def _spread(points: Array, share: Array) -> Array:
    """Weighted variance. points (N, 2), share (N,) -> ()"""
    return jnp.sum(share[:, None] * (points - (share @ points)[None]) ** 2)
