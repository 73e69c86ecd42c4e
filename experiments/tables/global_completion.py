"""Completion by the head model: its most likely head, including the pose, given the visible vertices of a scan.

Levenberg-Marquardt over betas, expression and the joints' rotations, in the head frame (no global rotation or
translation). Coefficients are whitened by their posterior given all vertices, as in `fitting.scan_fit`: their variances
span six orders of magnitude, too many for single precision.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fitting.scan_fit import ScanFitConfig, ScanSolver, scan_solver
from flamejax.head import HeadModel, HeadParams, rest_joints, vertices

HIGHEST = jax.lax.Precision.HIGHEST
JOINT_ROTATIONS = ("neck_pose", "jaw_pose", "leye_pose", "reye_pose")
TOLERANCE = 1e-4
"""The search ends when the relative change of the energy is below this."""


@dataclasses.dataclass(frozen=True)
class GlobalConfig:
    """Settings of `complete_global`."""

    noise: float = 1e-4
    """Standard deviation of visible coordinates about the model, metres; coefficients and radians are N(0, 1)."""
    steps: int = 10


def complete_global(
    head: HeadModel, heads: np.ndarray, visible: np.ndarray, config: GlobalConfig | None = None
) -> np.ndarray:
    """Complete heads (N, V, 3) metres, head frame, given visible (N, V) bool. Returns the model's heads (N, V, 3).

    Values of hidden vertices are ignored. Compiles once for each N.
    """
    config, mask = config or GlobalConfig(), jnp.asarray(visible)
    solver = scan_solver(head, ScanFitConfig(noise=config.noise))
    known = jnp.where(mask[..., None], jnp.asarray(heads, jnp.float32), 0)
    return np.asarray(_complete(head, solver, known, mask, jnp.asarray(config.steps)))


@jax.jit
def _complete(head: HeadModel, solver: ScanSolver, heads: Array, visible: Array, steps: Array) -> Array:
    search = functools.partial(_search, head, solver, steps=steps)
    return jax.vmap(lambda verts, mask: _vertices(head, solver, search(verts, mask)))(heads, visible)


def _search(head: HeadModel, solver: ScanSolver, verts: Array, visible: Array, steps: Array) -> Array:
    """Returns the unknowns of one head: whitened coefficients, then joint rotations."""
    count = len(solver.unwhiten)
    unknowns = jnp.zeros(count + 3 * len(JOINT_ROTATIONS))
    noise = jnp.sqrt(solver.noise_variance)
    prior = jnp.eye(len(unknowns)).at[:count, :count].set(solver.unwhiten) * noise
    prior_hessian = _product(prior.T, prior)

    def residuals(unknowns: Array) -> Array:
        return jnp.where(visible[:, None], _vertices(head, solver, unknowns) - verts, 0).reshape(-1)

    def energy(unknowns: Array) -> Array:
        return jnp.sum(residuals(unknowns) ** 2) + jnp.sum(_product(prior, unknowns) ** 2)

    def improve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        unknowns, before, damping, step = carry
        value, forward = jax.linearize(residuals, unknowns)
        jacobian = jax.vmap(forward)(jnp.eye(len(unknowns)))
        normal = _product(jacobian, jacobian.T) + prior_hessian
        gradient = _product(jacobian, value) + _product(prior_hessian, unknowns)
        damped = normal + damping * jnp.diag(jnp.diagonal(normal))
        trial = unknowns - jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
        after = energy(trial)
        better = after < before  # False for NaN
        damping = jnp.clip(jnp.where(better, damping / 10, damping * 10), 1e-7, 1e7)
        done = jnp.abs(before - after) < TOLERANCE * before
        unknowns = jnp.where(better, trial, unknowns)
        return unknowns, jnp.where(better, after, before), damping, jnp.where(done, steps, step + 1)

    start = unknowns, energy(unknowns), jnp.asarray(1e-4), jnp.asarray(0)
    return jax.lax.while_loop(lambda carry: carry[3] < steps, improve, start)[0]


def _vertices(head: HeadModel, solver: ScanSolver, unknowns: Array) -> Array:
    """Returns vertices (V, 3) in the head frame."""
    count = len(solver.unwhiten)
    betas, expression = jnp.split(_product(solver.unwhiten, unknowns[:count]), [head.num_betas])
    rotations = dict(zip(JOINT_ROTATIONS, unknowns[count:].reshape(len(JOINT_ROTATIONS), 3), strict=True))
    params = HeadParams(betas, expression, global_orient=jnp.zeros(3), transl=jnp.zeros(3), **rotations)
    return vertices(head, params) - rest_joints(head, params)[0][None]


def _product(first: Array, second: Array) -> Array:
    return jnp.matmul(first, second, precision=HIGHEST)
