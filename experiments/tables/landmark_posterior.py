"""Identity given landmarks by a linear-Gaussian approximation: the baseline for IdGen.

The posterior of identity, expression, jaw, pose and camera given noisy landmarks is approximated by a normal
distribution about its maximum (Laplace): damped Gauss-Newton steps, then the inverse of the last normal matrix. Priors
are the moments of the training examples, and the noise is that of the simulated landmarks, so this is the best that a
linear-Gaussian model can do.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.training.ofer.examples import (
    GAZE_STD,
    MIN_DISTANCE,
    NECK_STD,
    ORIENT_STD,
    ExampleSource,
    draw_examples,
    project,
)
from flamejax.head import HeadParams, landmarks_from_vertices, vertices

STEPS = 15
MIN_DEVIATION = 1e-3
"""Smallest prior deviation of a coefficient or angle, since a jaw never rolls."""
PLACEMENT_DEVIATION = 0.3
"""Prior deviations of the translation, metres, and of the logarithm of the scale; practically uninformative."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkPrior:
    """A normal distribution of the unknowns that landmarks depend on: identity (S), motion (E + 3), orientation, neck
    (3 each), gaze (2), nearness, log scale, translation (2)."""

    mean: Array
    """(D,)"""
    root: Array
    """(D, D) matrix L with covariance L L^T."""


def learn_prior(source: ExampleSource, count: int = 8192) -> LandmarkPrior:
    """Returns the prior with the moments of drawn training examples. Must not be traced."""
    drawn = jax.jit(draw_examples, static_argnums=2)(source, jax.random.key(11), count)
    motion = np.asarray(drawn.motion, np.float64)
    betas = np.asarray(drawn.betas, np.float64)
    pose_deviation = np.concatenate(
        [ORIENT_STD, NECK_STD, GAZE_STD, [1 / MIN_DISTANCE / np.sqrt(12)], [PLACEMENT_DEVIATION] * 3]
    )
    mean = np.concatenate([np.zeros(betas.shape[1]), motion.mean(axis=0), np.zeros(len(pose_deviation))])
    mean[-4] = 0.5 / MIN_DISTANCE
    num_betas, num_motion = betas.shape[1], motion.shape[1]
    covariance = np.zeros((len(mean), len(mean)))
    covariance[:num_betas, :num_betas] = np.diag(betas.var(axis=0))
    moved = slice(num_betas, num_betas + num_motion)
    covariance[moved, moved] = np.cov(motion.T)
    covariance[moved.stop :, moved.stop :] = np.diag(pose_deviation**2)
    covariance += MIN_DEVIATION**2 * np.eye(len(mean))
    return LandmarkPrior(jnp.asarray(mean, jnp.float32), jnp.asarray(np.linalg.cholesky(covariance), jnp.float32))


@partial(jax.jit, static_argnums=(5,))
def posterior_samples(
    source: ExampleSource, prior: LandmarkPrior, points: Array, visible: Array, key: Array, count: int
) -> Array:
    """Draw identities (B, count, S) from the posterior, given points (B, 68, 2) as `Examples.points` and visible
    (B, 68)."""
    keys = jax.random.split(key, len(points))
    photos = points, visible, keys
    return jax.lax.map(lambda photo: _samples(source, prior, photo[0], photo[1], photo[2], count), photos)


def _samples(
    source: ExampleSource, prior: LandmarkPrior, points: Array, visible: Array, key: Array, count: int
) -> Array:
    weight = visible / source.noise

    def residuals(whitened: Array) -> tuple[Array, Array]:
        errors = (_landmarks(source, prior.mean + prior.root @ whitened) - points) * weight[:, None]
        stacked = jnp.concatenate([errors.reshape(-1), whitened])
        return stacked, stacked

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        whitened, damping = state
        jacobian, residual = jax.jacfwd(residuals, has_aux=True)(whitened)
        normal = jacobian.T @ jacobian
        move = jnp.linalg.solve(normal + damping * jnp.eye(len(whitened)), jacobian.T @ residual)
        better = jnp.sum(residuals(whitened - move)[0] ** 2) < jnp.sum(residual**2)
        return (jnp.where(better, whitened - move, whitened), jnp.where(better, damping / 5, damping * 5)), None

    (whitened, _), _ = jax.lax.scan(step, (jnp.zeros_like(prior.mean), jnp.asarray(1e-2)), length=STEPS)
    jacobian, _ = jax.jacfwd(residuals, has_aux=True)(whitened)
    factor = jnp.linalg.cholesky(jacobian.T @ jacobian)
    noise = jax.random.normal(key, (len(whitened), count))
    drawn = whitened[:, None] + jax.scipy.linalg.solve_triangular(factor.T, noise, lower=False)
    return (prior.mean[:, None] + prior.root @ drawn).T[:, : source.head.num_betas]


def _landmarks(source: ExampleSource, x: Array) -> Array:
    """Returns landmarks (68, 2) of the unknowns (D,)."""
    head = source.head
    sizes = (head.num_betas, head.num_expression, 3, 3, 3, 2, 1, 1, 2)
    parts = jnp.split(x, np.cumsum(sizes)[:-1])
    betas, expression, jaw, orient, neck, gaze, nearness, log_scale, translation = parts
    gaze = jnp.concatenate([gaze, jnp.zeros(1)])
    params = dataclasses.replace(
        HeadParams.zeros(head), betas=betas, expression=expression, jaw_pose=jaw, global_orient=orient, neck_pose=neck,
        leye_pose=gaze, reye_pose=gaze,
    )  # fmt: skip
    projected = project(landmarks_from_vertices(head, vertices(head, params), params), nearness[0])
    return jnp.exp(log_scale[0]) * projected + translation[None]
