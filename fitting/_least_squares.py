"""Robust nonlinear least squares: damped, reweighted Gauss-Newton steps (Levenberg-Marquardt), all of it traceable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

ROBUST_SCALE = 3.0
"""Length of a robust residual, in noise levels, beyond which it counts linearly (Huber)."""
Unknowns = TypeVar("Unknowns")


def huber_energy(residuals: Array) -> Array:
    """Sum over rows of the Huber loss of their lengths: half the square up to `ROBUST_SCALE`, linear beyond.

    residuals (L, D) in noise levels -> ().
    """
    squared = jnp.sum(residuals**2, axis=-1)
    beyond = squared > ROBUST_SCALE**2
    length = jnp.sqrt(jnp.where(beyond, squared, 1.0))
    return jnp.sum(jnp.where(beyond, ROBUST_SCALE * length - 0.5 * ROBUST_SCALE**2, 0.5 * squared))


def least_squares(
    residuals: Callable[[Unknowns], tuple[Array, Array]], start: Unknowns, steps: int
) -> tuple[Unknowns, Array]:
    """Minimise `huber_energy(robust) + sum(plain**2) / 2` by a fixed number of Levenberg-Marquardt steps.

    One problem: `vmap` for more. A step that does not lower the energy is not taken, so the result is never worse than
    the start, and a start whose residuals are not finite is returned as it is.

    Args:
      residuals: unknowns -> robust residuals (L, D), whose rows are vectors in noise levels such as a landmark's error,
        and plain ones (M,), such as priors in standard deviations. Either may be empty: (0, D) or (0,).
      start: the unknowns to begin with, an array or a pytree of float arrays.
      steps: how many steps are tried.

    Returns:
      The unknowns of least energy met, and the energies (steps,) that the steps started from, which never rise.
    """
    flat, unravel = ravel_pytree(start)

    def energy_of(robust: Array, plain: Array) -> Array:
        return huber_energy(robust) + 0.5 * jnp.sum(plain**2)

    def weighted(x: Array) -> tuple[Array, tuple[Array, Array]]:
        robust, plain = residuals(unravel(x))
        length = jnp.sqrt(jnp.sum(jax.lax.stop_gradient(robust) ** 2, axis=-1, keepdims=True) + 1e-12)
        weight = jnp.sqrt(jnp.minimum(1.0, ROBUST_SCALE / length))
        residual = jnp.concatenate([(robust * weight).reshape(-1), plain])
        return residual, (residual, energy_of(robust, plain))

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        x, damping = state
        jacobian, (residual, energy) = jax.jacfwd(weighted, has_aux=True)(x)
        normal = jacobian.T @ jacobian
        damped = normal + jnp.diag(damping * (jnp.diagonal(normal) + 1e-3))
        move = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(damped), jacobian.T @ residual)
        better = energy_of(*residuals(unravel(x - move))) < energy  # False for NaN
        damping = jnp.clip(jnp.where(better, damping / 4, damping * 5), 1e-7, 1e7)
        return (jnp.where(better, x - move, x), damping), energy

    (best, _), energies = jax.lax.scan(step, (flat, jnp.asarray(1e-2)), length=steps)
    return unravel(best), energies
