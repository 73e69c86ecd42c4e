"""Robust nonlinear least squares by damped, reweighted Gauss-Newton steps (Levenberg-Marquardt), traceable by JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

ROBUST_SCALE = 3.0
"""Length of a robust residual, in noise levels, beyond which it counts linearly (Huber)."""
Params = TypeVar("Params")


def huber_energy(residuals: Array) -> Array:
    """Return the sum () of the Huber losses of the rows' lengths: half the square up to `ROBUST_SCALE`, linear beyond.

    residuals: (L, D) in noise levels.
    """
    squared = jnp.sum(residuals**2, axis=-1)
    beyond = squared > ROBUST_SCALE**2
    length = jnp.sqrt(jnp.where(beyond, squared, 1.0))
    return jnp.sum(jnp.where(beyond, ROBUST_SCALE * length - 0.5 * ROBUST_SCALE**2, 0.5 * squared))


def least_squares(
    residuals: Callable[[Params], tuple[Array, Array]], start: Params, steps: int
) -> tuple[Params, Array]:
    """Minimise `huber_energy(robust) + sum(plain**2) / 2` by a fixed number of Levenberg-Marquardt steps.

    Solves one problem; use `vmap` for several. Steps that do not lower the energy are rejected, so the result is never
    worse than the start. A start whose residuals are not finite is returned unchanged.

    Args:
      residuals: maps parameters to robust residuals (L, D) and plain residuals (M,). Rows of the robust residuals are
        vectors in noise levels, such as a landmark's error. Plain residuals are for example priors in standard
        deviations. Either may be empty: (0, D) or (0,).
      start: the initial parameters, an array or a pytree of float arrays.
      steps: number of steps that are tried.

    Returns:
      The parameters of lowest energy, and the energy before each step (steps,), which never rises.
    """
    flat, unravel = ravel_pytree(start)

    def energy_of(robust: Array, plain: Array) -> Array:
        return huber_energy(robust) + 0.5 * jnp.sum(plain**2)

    def weighted_residuals(x: Array) -> tuple[Array, tuple[Array, Array]]:
        robust, plain = residuals(unravel(x))
        length = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(robust) ** 2, axis=-1, keepdims=True) + 1e-12)
        weight = jnp.sqrt(jnp.minimum(1.0, ROBUST_SCALE / length))
        residual = jnp.concatenate([(robust * weight).reshape(-1), plain])
        return residual, (residual, energy_of(robust, plain))

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        x, damping = state
        jacobian, (residual, energy) = jax.jacfwd(weighted_residuals, has_aux=True)(x)
        normal = jacobian.T @ jacobian
        damped = normal + jnp.diag(damping * (jnp.diagonal(normal) + 1e-3))
        update = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), jacobian.T @ residual)
        improved = energy_of(*residuals(unravel(x - update))) < energy  # False for NaN
        damping = jnp.clip(jnp.where(improved, damping / 4, damping * 5), 1e-7, 1e7)
        return (jnp.where(improved, x - update, x), damping), energy

    (best, _), energies = jax.lax.scan(step, (flat, jnp.asarray(1e-2)), length=steps)
    return unravel(best), energies
