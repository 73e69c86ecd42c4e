"""Algorithm 1 by gradient descent on Eqs. 11-12, as the paper and its released code run it; a baseline for ours."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fitting.appearance import skin_triangles
from fitting.config import GradientFitConfig
from fitting.fit_model import FitModel
from fitting.landmark_fit import INNER, GeometryParams, LandmarkTargets, closure_error
from fitting.photometric_fit import (
    FitIterate,
    FitParams,
    PhotoData,
    pixel_weights,
    total_energy,
    visible_face_index,
    visible_surface,
)
from flamejax.head import HeadModel, HeadParams, landmarks
from flamejax.rendering import ambient_light, shade

RIGID = ("orient", "camera")
"""Fields of `DescentParams` that the rigid stage fits."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DescentParams:
    """The `FitParams` of one photo, flat and in the released code's units, where the crop reaches from -1 to 1.

    Gradient descent optimises these. All fields but `camera` are as in `GeometryParams` and `FitParams`; `fit_params`
    converts them.
    """

    orient: Array
    camera: Array
    """(3,) s, tx, ty: a point (x, y) is projected to (s x + tx, -s y + ty). The released code has s (x + tx), where
    plain descent with the paper's step size diverges: s is about 10, and multiplies both tx and its gradient."""
    jaw: Array
    betas: Array
    expression: Array
    eyes: Array
    texture: Array
    light: Array

    def fit_params(self) -> FitParams:
        """Convert to the units of `FitParams`, where the crop reaches from 0 to 1."""
        scale, translation = 0.5 * self.camera[0], 0.5 + 0.5 * self.camera[1:]
        # The scale must stay positive for its logarithm, which plain descent does not guarantee.
        log_scale = jnp.log(jnp.maximum(scale, 1e-3))
        geometry = GeometryParams(self.orient, log_scale, translation, self.jaw, self.betas, self.expression, self.eyes)
        return FitParams(geometry, self.texture, self.light)


def fit_by_gradient_descent(model: FitModel, photos: PhotoData, config: GradientFitConfig) -> FitIterate:
    """Fit a batch of photos by gradient descent: rigid, then global, then with local models.

    Args:
      photos: leading axis (B,).

    Returns:
      The last iterates and their loss terms, leading axis (B,).
    """
    skin = skin_triangles(model.head)
    return jax.vmap(lambda photo: _fit_one(model, photo, skin, config))(photos)


def _fit_one(model: FitModel, photo: PhotoData, skin: Array, config: GradientFitConfig) -> FitIterate:
    optimiser = optax.sgd(config.learning_rate) if config.optimiser == "sgd" else optax.adam(config.learning_rate)

    def minimise(start: DescentParams, steps: int, loss: Callable[[DescentParams], Array],
                 step_factors: Callable[[Array], DescentParams]) -> DescentParams:  # fmt: skip
        def step(state, index: Array):  # noqa: ANN001, ANN202
            params, moments = state
            updates, moments = optimiser.update(jax.grad(loss)(params), moments)
            updates = jax.tree.map(jnp.multiply, updates, step_factors(index))
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, (start, optimiser.init(start)), jnp.arange(steps))[0][0]

    def step_factors(index: Array) -> DescentParams:
        return _step_factors(model, start, jnp.where(index < config.global_iterations, 0.0, 1.0), config)

    start = _initial_params(model.head, photo.targets)
    only_rigid = DescentParams(**{n: jnp.full_like(v, float(n in RIGID)) for n, v in vars(start).items()})
    rigid = minimise(
        start, config.rigid_iterations, lambda p: landmark_loss(model.head, p, photo.targets, config, INNER),
        lambda _: only_rigid,
    )  # fmt: skip
    steps = config.iterations - config.rigid_iterations
    params = minimise(rigid, steps, lambda p: total_energy(loss_terms(model, p, photo, skin, config)), step_factors)
    return FitIterate(params.fit_params(), loss_terms(model, params, photo, skin, config))


def _step_factors(model: FitModel, params: DescentParams, local: Array, config: GradientFitConfig) -> DescentParams:
    """Return factors on the step sizes: `eyeball_rate` for the eyeballs, `local` (0 or 1) for the local models."""
    betas, expression = model.step_size_factors(config.eyeball_rate)
    ones = jax.tree.map(jnp.ones_like, params)
    return dataclasses.replace(
        ones,
        betas=betas.at[model.global_betas :].multiply(local),
        expression=expression.at[model.global_expression :].multiply(local),
        eyes=config.eyeball_rate * ones.eyes,
    )


def _initial_params(head: HeadModel, targets: LandmarkTargets) -> DescentParams:
    """Return the frontal mean head whose inner landmarks have the mean and the spread of the visible ones of the photo.

    The released code starts with scale 5 and translation 0, since its crops are all alike.
    """
    points = landmarks(head, HeadParams.zeros(head))[:, :2] * jnp.asarray([[1.0, -1.0]])
    weights = targets.weights.at[:17].set(0.0)
    weights = (weights / jnp.maximum(jnp.sum(weights), 1e-6))[:, None]
    target = 2.0 * targets.points - 1.0
    centre, target_centre = jnp.sum(weights * points, axis=0), jnp.sum(weights * target, axis=0)
    variance = jnp.sum(weights * (points - centre[None]) ** 2)
    scale = jnp.sqrt(jnp.sum(weights * (target - target_centre[None]) ** 2) / (variance + 1e-12) + 1e-6)
    camera = jnp.concatenate([scale[None], target_centre - scale * centre])
    zeros, texture = GeometryParams.zeros(head), jnp.zeros(head.albedo_basis.shape[0])
    return DescentParams(
        zeros.orient, camera, zeros.jaw, zeros.betas, zeros.expression, zeros.eyes, texture, ambient_light()
    )


def loss_terms(
    model: FitModel, params: DescentParams, photo: PhotoData, skin: Array, config: GradientFitConfig
) -> dict[str, Array]:
    """Return one photo's weighted terms of Eq. 11, and the released code's further terms, at the iterate's visibility.

    All have shape (); their sum is minimised.
    """
    head, fit_params = model.head, params.fit_params()
    geometry = fit_params.geometry
    face_index = visible_face_index(head, jax.lax.stop_gradient(geometry), config.render_size)
    albedo, normals = visible_surface(head, fit_params, face_index, config.render_size)
    difference = jnp.abs(photo.image - albedo * shade(normals, fit_params.light))
    weights = pixel_weights(face_index, skin, photo.mask)
    photometric = jnp.sum(weights[..., None] * difference) / (3.0 * jnp.maximum(jnp.sum(weights), 1.0))
    coefficients = (geometry.betas, geometry.expression, fit_params.texture)
    squared = sum((jnp.sum(c**2) for c in coefficients), start=jnp.zeros(()))
    smoothing = jnp.sum(model.roughness(geometry.betas, geometry.expression) ** 2)
    openings = closure_error(geometry.project_landmarks(head), photo.targets)
    return {
        "landmark": config.landmark_weight * landmark_loss(head, params, photo.targets, config, slice(0, 68)),
        "closure": config.closure_weight * _mean_length(*openings),
        "photometric": config.photometric_weight * photometric,
        "regularisation": config.regularisation_weight * 0.5 * squared,
        "smoothing": config.smoothing_weight * smoothing,
    }


def landmark_loss(
    head: HeadModel, params: DescentParams, targets: LandmarkTargets, config: GradientFitConfig, which: slice
) -> Array:
    """Return the mean distance () over the visible landmarks of `which`, in half crop sides, by `landmark_norm`."""
    error = params.fit_params().geometry.project_landmarks(head) - targets.points
    return _mean_length(error[which], targets.weights[which], config.landmark_norm)


def _mean_length(error: Array, weights: Array, norm: str = "l2") -> Array:
    """Return the mean length of the differences (L, 2) with nonzero weights (L,), in half crop sides: ()."""
    error, visible = 2.0 * error, (weights > 0).astype(error.dtype)
    if norm == "l1":
        distance = jnp.sum(jnp.abs(error), axis=-1)
    else:
        distance = jnp.sqrt(jnp.sum(error**2, axis=-1) + 1e-12)
    return jnp.sum(visible * distance) / jnp.maximum(jnp.sum(visible), 1.0)
