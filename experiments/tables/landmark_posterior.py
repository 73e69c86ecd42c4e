"""What landmarks say of an identity if all were linear and normal: the yardstick for IdGen.

The posterior of identity, expression, jaw, pose and camera given noisy landmarks is approximated by a normal
distribution about its maximum (Laplace): damped Gauss-Newton steps, then the inverse of the last normal matrix. Priors
are the moments of the training examples, the noise is what the landmarks were made with, so it knows all that a
linear-Gaussian model can know.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.training.ofer.examples import GAZE, NEAREST, NECK, ORIENT, Source, draw_examples, project
from flamejax.head import HeadParams, landmarks_from_vertices, vertices

STEPS = 15
FLOOR = 1e-3
"""Smallest deviation of a coefficient or angle in the prior: a jaw never rolls."""
PLACE = 0.3
"""Prior deviations of the translation, metres, and of the logarithm of the scale: as good as none."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LandmarkPrior:
    """A normal distribution of all that landmarks depend on: identity (S), motion (E + 3), orientation, neck (3 each),
    gaze (2), nearness, log scale, translation (2)."""

    mean: Array
    """(D,)"""
    root: Array
    """(D, D) L with covariance L L^T."""


def learn_prior(source: Source, count: int = 8192) -> LandmarkPrior:
    """Moments of training examples. Not to be traced."""
    drawn = jax.jit(draw_examples, static_argnums=2)(source, jax.random.key(11), count)
    motion = np.asarray(drawn.motion, np.float64)
    betas = np.asarray(drawn.betas, np.float64)
    around = np.concatenate([ORIENT, NECK, GAZE, [1 / NEAREST / np.sqrt(12)], [PLACE] * 3])
    mean = np.concatenate([np.zeros(betas.shape[1]), motion.mean(axis=0), np.zeros(len(around))])
    mean[-4] = 0.5 / NEAREST
    size, moving = betas.shape[1], motion.shape[1]
    covariance = np.zeros((len(mean), len(mean)))
    covariance[:size, :size] = np.diag(betas.var(axis=0))
    covariance[size : size + moving, size : size + moving] = np.cov(motion.T)
    covariance[size + moving :, size + moving :] = np.diag(around**2)
    covariance += FLOOR**2 * np.eye(len(mean))
    return LandmarkPrior(jnp.asarray(mean, jnp.float32), jnp.asarray(np.linalg.cholesky(covariance), jnp.float32))


@partial(jax.jit, static_argnums=(5,))
def posterior_samples(
    source: Source, prior: LandmarkPrior, points: Array, visible: Array, key: Array, count: int
) -> Array:
    """(B, count, S) identities drawn from the posterior of photos, given points (B, 68, 2) as `Examples.points`, and
    which of these are visible (B, 68)."""
    keys = jax.random.split(key, len(points))
    return jax.lax.map(lambda one: _samples(source, prior, one[0], one[1], one[2], count), (points, visible, keys))


def _samples(source: Source, prior: LandmarkPrior, points: Array, visible: Array, key: Array, count: int) -> Array:
    weight = visible / source.noise

    def residuals(white: Array) -> tuple[Array, Array]:
        found = (_landmarks(source, prior.mean + prior.root @ white) - points) * weight[:, None]
        both = jnp.concatenate([found.reshape(-1), white])
        return both, both

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        white, damping = state
        jacobian, residual = jax.jacfwd(residuals, has_aux=True)(white)
        normal = jacobian.T @ jacobian
        move = jnp.linalg.solve(normal + damping * jnp.eye(len(white)), jacobian.T @ residual)
        better = jnp.sum(residuals(white - move)[0] ** 2) < jnp.sum(residual**2)
        return (jnp.where(better, white - move, white), jnp.where(better, damping / 5, damping * 5)), None

    (white, _), _ = jax.lax.scan(step, (jnp.zeros_like(prior.mean), jnp.asarray(1e-2)), length=STEPS)
    jacobian, _ = jax.jacfwd(residuals, has_aux=True)(white)
    factor = jnp.linalg.cholesky(jacobian.T @ jacobian)
    noise = jax.random.normal(key, (len(white), count))
    drawn = white[:, None] + jax.scipy.linalg.solve_triangular(factor.T, noise, lower=False)
    return (prior.mean[:, None] + prior.root @ drawn).T[:, : source.head.num_betas]


def _landmarks(source: Source, x: Array) -> Array:
    """(68, 2) of all unknowns (D,)."""
    head = source.head
    sizes = (head.num_betas, head.num_expression, 3, 3, 3, 2, 1, 1, 2)
    parts = jnp.split(x, np.cumsum(sizes)[:-1])
    betas, expression, jaw, orient, neck, gaze, nearness, log_scale, move = parts
    gaze = jnp.concatenate([gaze, jnp.zeros(1)])
    params = dataclasses.replace(
        HeadParams.zeros(head), betas=betas, expression=expression, jaw_pose=jaw, global_orient=orient, neck_pose=neck,
        leye_pose=gaze, reye_pose=gaze,
    )  # fmt: skip
    flat = project(landmarks_from_vertices(head, vertices(head, params), params), nearness[0])
    return jnp.exp(log_scale[0]) * flat + move[None]
