"""Noise schedules of denoising diffusion (Ho et al. 2020), x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ScheduleName = Literal["ho", "ofer"]
LARGEST_BETA: dict[str, float] = {"ho": 2e-2, "ofer": 1e-2}
"""Last beta of the linear schedules, which start at 1e-4. OFER's leaves 8 % of the data's scale at T = 1000. Samplers
start from pure noise, so its samples are biased. The schedule of Ho et al. leaves 0.6 %."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """A noise schedule of T steps."""

    log_alpha: Array
    """(T + 1,) log sqrt(abar_t) for t = 0..T; 0 at t = 0."""

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return self.log_alpha.shape[0] - 1

    def alpha_sigma(self, t: Array) -> tuple[Array, Array]:
        """Return sqrt(abar_t) and sqrt(1 - abar_t) at steps t (*b,), which may be fractional."""
        log_alpha = jnp.interp(t, jnp.arange(self.steps + 1.0), self.log_alpha)
        return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))

    def log_snr(self, t: Array) -> Array:
        """Return lambda_t = log(sqrt(abar_t) / sqrt(1 - abar_t)) (Lu et al. 2022)."""
        alpha, sigma = self.alpha_sigma(t)
        return jnp.log(alpha) - jnp.log(sigma)

    def at_log_snr(self, log_snr: Array) -> Array:
        """Return the steps (*b,) at which `log_snr` has the given values, clipped to [0, T]: its inverse."""
        # abar_t is the sigmoid of 2 lambda_t. jnp.interp needs ascending abscissae, but log sqrt(abar_t) falls with t.
        log_alpha = 0.5 * jax.nn.log_sigmoid(2 * log_snr)
        return jnp.interp(log_alpha, self.log_alpha[::-1], jnp.arange(self.steps, -1.0, -1.0))


def make_schedule(name: ScheduleName = "ho", steps: int = 1000) -> Schedule:
    """Build a linear schedule of betas, from 1e-4 to `LARGEST_BETA[name]`, times 1000 / T for T `steps`.

    Raises:
      ValueError: the name is unknown, or there are so few steps that a beta is 1 or more.
    """
    if name not in LARGEST_BETA:
        raise ValueError(f"the schedule is {' or '.join(LARGEST_BETA)}, not {name!r}.")
    if steps < 1 or LARGEST_BETA[name] * 1000 / steps >= 1:
        raise ValueError(f"{steps} steps are too few for the schedule {name!r}.")
    betas = np.linspace(1e-4, LARGEST_BETA[name], steps) * (1000 / steps)
    log_alpha = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    return Schedule(jnp.asarray(log_alpha, jnp.float32))
