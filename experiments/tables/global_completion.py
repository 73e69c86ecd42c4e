"""Completion by the head model: its most likely head, pose and all, given the visible vertices of a registered one.

Levenberg-Marquardt over betas, expression and the joints' rotations, in the head frame (global rotation and translation
are known there: none). Coefficients are whitened by what a whole head would say of them, as in `fitting.scan_fit`:
their variances span six orders, too many for single precision.
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
TURNS = ("neck_pose", "jaw_pose", "leye_pose", "reye_pose")
ENOUGH = 1e-4
"""A relative change of the energy below this ends the search."""


@dataclasses.dataclass(frozen=True)
class GlobalConfig:
    """Settings of `complete_global`."""

    noise: float = 1e-4
    """Standard deviation of visible coordinates about the model, metres; coefficients and radians have N(0, 1)."""
    steps: int = 10


def complete_global(
    head: HeadModel, heads: np.ndarray, visible: np.ndarray, config: GlobalConfig | None = None
) -> np.ndarray:
    """Heads (N, V, 3) metres, head frame, visible (N, V) bool -> the model's heads (N, V, 3). What hidden vertices hold
    does not matter. One compilation for each N."""
    config, seen = config or GlobalConfig(), jnp.asarray(visible)
    solver = scan_solver(head, ScanFitConfig(noise=config.noise))
    known = jnp.where(seen[..., None], jnp.asarray(heads, jnp.float32), 0)
    return np.asarray(_complete(head, solver, known, seen, jnp.asarray(config.steps)))


@jax.jit
def _complete(head: HeadModel, solver: ScanSolver, heads: Array, visible: Array, steps: Array) -> Array:
    search = functools.partial(_search, head, solver, steps=steps)
    return jax.vmap(lambda verts, seen: _vertices(head, solver, search(verts, seen)))(heads, visible)


def _search(head: HeadModel, solver: ScanSolver, verts: Array, seen: Array, steps: Array) -> Array:
    """The unknowns of one head: whitened coefficients, then rotations."""
    count = len(solver.back)
    unknowns = jnp.zeros(count + 3 * len(TURNS))
    noise = jnp.sqrt(solver.ridge)
    prior = jnp.eye(len(unknowns)).at[:count, :count].set(solver.back) * noise
    spring = _product(prior.T, prior)

    def left(unknowns: Array) -> Array:
        return jnp.where(seen[:, None], _vertices(head, solver, unknowns) - verts, 0).reshape(-1)

    def energy(unknowns: Array) -> Array:
        return jnp.sum(left(unknowns) ** 2) + jnp.sum(_product(prior, unknowns) ** 2)

    def improve(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        unknowns, before, damping, step = carry
        value, forward = jax.linearize(left, unknowns)
        rows = jax.vmap(forward)(jnp.eye(len(unknowns)))
        normal = _product(rows, rows.T) + spring
        gradient = _product(rows, value) + _product(spring, unknowns)
        damped = normal + damping * jnp.diag(jnp.diagonal(normal))
        trial = unknowns - jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), gradient)
        tried = energy(trial)
        better = tried < before  # False for NaN
        damping = jnp.clip(jnp.where(better, damping / 10, damping * 10), 1e-7, 1e7)
        done = jnp.abs(before - tried) < ENOUGH * before
        unknowns = jnp.where(better, trial, unknowns)
        return unknowns, jnp.where(better, tried, before), damping, jnp.where(done, steps, step + 1)

    start = unknowns, energy(unknowns), jnp.asarray(1e-4), jnp.asarray(0)
    return jax.lax.while_loop(lambda carry: carry[3] < steps, improve, start)[0]


def _vertices(head: HeadModel, solver: ScanSolver, unknowns: Array) -> Array:
    """(V, 3) in the head frame."""
    count = len(solver.back)
    betas, expression = jnp.split(_product(solver.back, unknowns[:count]), [head.num_betas])
    turns = dict(zip(TURNS, unknowns[count:].reshape(len(TURNS), 3), strict=True))
    still = HeadParams(betas, expression, global_orient=jnp.zeros(3), transl=jnp.zeros(3), **turns)
    return vertices(head, still) - rest_joints(head, still)[0][None]


def _product(first: Array, second: Array) -> Array:
    return jnp.matmul(first, second, precision=HIGHEST)
