"""Algorithm 1 by gradient descent on Eqs. 11-12, as the paper and its released code run it: to compare ours with."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fitting.appearance import skin_triangles
from fitting.config import GradientFitConfig
from fitting.fit_model import FitModel
from fitting.landmark_fit import INNER, Geometry, Targets, closure_error
from fitting.photometric_fit import Best, Evidence, Unknowns, pixel_weights, shown_surface, total, visible_faces
from flamejax.head import HeadModel, HeadParams, landmarks
from flamejax.rendering import ambient_light, shade

RIGID = ("orient", "camera")
"""Unknowns of the rigid stage."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Variables:
    """The unknowns of one photo in the released code's units: the crop reaches from -1 to 1. All but the camera are as
    in `Geometry` and `Unknowns`."""

    orient: Array
    camera: Array
    """(3,) s, tx, ty of a point's place s x + tx, -s y + ty. (The released code has s (x + tx): plain descent with the
    paper's step diverges there, as s, about 10, multiplies the gradient of tx and again what tx moves.)"""
    jaw: Array
    betas: Array
    expression: Array
    eyes: Array
    texture: Array
    light: Array

    def unknowns(self) -> Unknowns:
        """The same in the units of `fitting.photometric_fit`, where the crop reaches from 0 to 1."""
        scale, translation = 0.5 * self.camera[0], 0.5 + 0.5 * self.camera[1:]
        # A scale must stay positive for its logarithm; plain descent does not promise it.
        log_scale = jnp.log(jnp.maximum(scale, 1e-3))
        geometry = Geometry(self.orient, log_scale, translation, self.jaw, self.betas, self.expression, self.eyes)
        return Unknowns(geometry, self.texture, self.light)


def descend(model: FitModel, evidence: Evidence, config: GradientFitConfig) -> Best:
    """Fit a batch of photos: rigid, then global, then with local models, each by gradient descent.

    Args:
      evidence: leading axis (B,).

    Returns:
      The last iterates and the terms of their loss, leading axis (B,).
    """
    skin = skin_triangles(model.head)
    return jax.vmap(lambda one: _descend_one(model, one, skin, config))(evidence)


def _descend_one(model: FitModel, evidence: Evidence, skin: Array, config: GradientFitConfig) -> Best:
    optimiser = optax.sgd(config.learning_rate) if config.optimiser == "sgd" else optax.adam(config.learning_rate)

    def descended(start: Variables, steps: int, loss: Callable[[Variables], Array],
                  rates: Callable[[Array], Variables]) -> Variables:  # fmt: skip
        def step(state, index: Array):  # noqa: ANN001, ANN202
            variables, moments = state
            updates, moments = optimiser.update(jax.grad(loss)(variables), moments)
            return (optax.apply_updates(variables, jax.tree.map(jnp.multiply, updates, rates(index))), moments), None

        return jax.lax.scan(step, (start, optimiser.init(start)), jnp.arange(steps))[0][0]

    def rates(index: Array) -> Variables:
        return _rates(model, start, jnp.where(index < config.global_iterations, 0.0, 1.0), config)

    start = _start(model.head, evidence.targets)
    rigid = Variables(**{n: jnp.full_like(v, float(n in RIGID)) for n, v in vars(start).items()})
    placed = descended(
        start, config.rigid_iterations, lambda v: landmark_loss(model.head, v, evidence.targets, config, INNER),
        lambda _: rigid,
    )  # fmt: skip
    rest = config.iterations - config.rigid_iterations
    variables = descended(placed, rest, lambda v: total(loss_terms(model, v, evidence, skin, config)), rates)
    return Best(variables.unknowns(), loss_terms(model, variables, evidence, skin, config))


def _rates(model: FitModel, variables: Variables, local: Array, config: GradientFitConfig) -> Variables:
    """Factors on the step sizes: half speed for eyeballs, `local` (0 or 1) for the local models."""
    betas, expression = model.step_rates(config.eyeball_rate)
    ones = jax.tree.map(jnp.ones_like, variables)
    return dataclasses.replace(
        ones,
        betas=betas.at[model.global_betas :].multiply(local),
        expression=expression.at[model.global_expression :].multiply(local),
        eyes=config.eyeball_rate * ones.eyes,
    )


def _start(head: HeadModel, targets: Targets) -> Variables:
    """The mean head, frontal, over the landmarks seen: least-squares scale and place (5 and 0 in the released code,
    whose crops are all alike)."""
    points = landmarks(head, HeadParams.zeros(head))[:, :2] * jnp.asarray([[1.0, -1.0]])
    weights = targets.weights.at[:17].set(0.0)
    share = (weights / jnp.maximum(jnp.sum(weights), 1e-6))[:, None]
    seen = 2.0 * targets.points - 1.0
    centre, middle = jnp.sum(share * points, axis=0), jnp.sum(share * seen, axis=0)
    spread = jnp.sum(share * (points - centre[None]) ** 2)
    scale = jnp.sqrt(jnp.sum(share * (seen - middle[None]) ** 2) / (spread + 1e-12) + 1e-6)
    camera = jnp.concatenate([scale[None], middle - scale * centre])
    rest, texture = Geometry.start(head), jnp.zeros(head.albedo_basis.shape[0])
    return Variables(rest.orient, camera, rest.jaw, rest.betas, rest.expression, rest.eyes, texture, ambient_light())


def loss_terms(
    model: FitModel, variables: Variables, evidence: Evidence, skin: Array, config: GradientFitConfig
) -> dict[str, Array]:
    """The weighted terms of Eq. 11, and those of the released code, for one photo at the visibility of its iterate."""
    head, unknowns = model.head, variables.unknowns()
    geometry = unknowns.geometry
    face_index = visible_faces(head, jax.lax.stop_gradient(geometry), config.render_size)
    albedo, normals = shown_surface(head, unknowns, face_index, config.render_size)
    difference = jnp.abs(evidence.image - albedo * shade(normals, unknowns.light))
    weights = pixel_weights(face_index, skin, evidence.allowed)
    photometric = jnp.sum(weights[..., None] * difference) / (3.0 * jnp.maximum(jnp.sum(weights), 1.0))
    coefficients = (geometry.betas, geometry.expression, unknowns.texture)
    squared = sum((jnp.sum(c**2) for c in coefficients), start=jnp.zeros(()))
    smoothing = jnp.sum(model.roughness(geometry.betas, geometry.expression) ** 2)
    openings = closure_error(geometry.shown_landmarks(head), evidence.targets)
    return {
        "landmark": config.landmark_weight * landmark_loss(head, variables, evidence.targets, config, slice(0, 68)),
        "closure": config.closure_weight * _mean_length(*openings),
        "photometric": config.photometric_weight * photometric,
        "regularisation": config.regularisation_weight * 0.5 * squared,
        "smoothing": config.smoothing_weight * smoothing,
    }


def landmark_loss(
    head: HeadModel, variables: Variables, targets: Targets, config: GradientFitConfig, which: slice
) -> Array:
    """Mean over the visible landmarks of `which` of their distance (l2) or of its two parts' sum (l1): ()."""
    error = variables.unknowns().geometry.shown_landmarks(head) - targets.points
    return _mean_length(error[which], targets.weights[which], config.landmark_norm)


def _mean_length(error: Array, weights: Array, norm: str = "l2") -> Array:
    """Mean length of the differences (L, 2) whose weights (L,) are not 0, in units of half the crop's side: ()."""
    error, visible = 2.0 * error, (weights > 0).astype(error.dtype)
    if norm == "l1":
        distance = jnp.sum(jnp.abs(error), axis=-1)
    else:
        distance = jnp.sqrt(jnp.sum(error**2, axis=-1) + 1e-12)
    return jnp.sum(visible * distance) / jnp.maximum(jnp.sum(visible), 1.0)
