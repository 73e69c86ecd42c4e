"""Denoising diffusion (Ho et al. 2020) over vectors: noise, loss, three samplers, and draws of a trained generator.

A process adds noise in T steps, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e with abar_t = prod_{s<=t} (1 - beta_s); a
network says which noise e is in x_t. All samplers take that network as a function `predict(x, t) -> noise`, where t ()
float runs from T (noise) to 1, and know nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from models.generator import Generator
from models.noise_schedule import Schedule, make_schedule
from sampling.config import SamplerConfig

Predict = Callable[[Array, Array], Array]
"""x (*b, S), t () -> the noise in x (*b, S)."""


def add_noise(schedule: Schedule, x: Array, t: Array, noise: Array) -> Array:
    """x_t of x_0 = x (*b, S) at steps t (*b)."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha[..., None] * x + sigma[..., None] * noise


def noise_error(predicted: Array, noise: Array, loss: Literal["l1", "l2"] = "l1") -> Array:
    """OFER's loss (Eqs. 2 and 6) of each example: (*b, S) -> (*b,), a mean over coefficients.

    l1, as in the paper, learns the median of the noise and l2 its mean, which is what the samplers' theory asks for:
    the same where the noise is distributed evenly about it.
    """
    error = predicted - noise
    return jnp.mean(jnp.abs(error) if loss == "l1" else error**2, axis=-1)


def guided(conditional: Predict, unconditional: Predict, weight: float) -> Predict:
    """Classifier-free guidance (Ho & Salimans 2022): noise = none + weight (context - none)."""

    def predict(x: Array, t: Array) -> Array:
        free = unconditional(x, t)
        return free + weight * (conditional(x, t) - free)

    return predict


def draw(
    predict: Predict, schedule: Schedule, key: Array, shape: tuple[int, ...], config: SamplerConfig | None = None
) -> Array:
    """Samples of `shape` (*b, S) by the configured sampler; jit, vmap and grad go through."""
    config = config or SamplerConfig()
    if config.method == "ancestral":
        return draw_ancestral(predict, schedule, key, shape)
    if config.method == "ddim":
        return draw_ddim(predict, schedule, key, shape, config.steps, config.eta)
    return draw_dpm(predict, schedule, key, shape, config.steps)


def draw_ancestral(predict: Predict, schedule: Schedule, key: Array, shape: tuple[int, ...]) -> Array:
    """All T steps (Ho et al. 2020, Algorithm 2), with the variance of the posterior q(x_{t-1} | x_t, x_0)."""
    return draw_ddim(predict, schedule, key, shape, schedule.steps, 1.0)


def draw_ddim(
    predict: Predict, schedule: Schedule, key: Array, shape: tuple[int, ...], steps: int, eta: float = 0.0
) -> Array:
    """DDIM (Song et al. 2021, Eqs. 12 and 16) with `steps` of the T steps, evenly spaced."""
    steps = min(steps, schedule.steps)
    times = jnp.linspace(schedule.steps, 0.0, steps + 1)
    start, walk = jax.random.split(key)

    def step(x: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        t, after, step_key = inputs
        alpha, sigma = schedule.alpha_sigma(t)
        next_alpha, next_sigma = schedule.alpha_sigma(after)
        noise = predict(x, t)
        x_0 = (x - sigma * noise) / alpha
        fresh = eta * next_sigma / sigma * jnp.sqrt(jnp.maximum(1 - (alpha / next_alpha) ** 2, 0.0))
        kept = jnp.sqrt(jnp.maximum(next_sigma**2 - fresh**2, 0.0))
        x = next_alpha * x_0 + kept * noise
        if eta:
            x = x + fresh * jax.random.normal(step_key, shape, x.dtype)
        return x, None

    inputs = times[:-1], times[1:], jax.random.split(walk, steps)
    return jax.lax.scan(step, jax.random.normal(start, shape), inputs)[0]


def draw_dpm(predict: Predict, schedule: Schedule, key: Array, shape: tuple[int, ...], steps: int) -> Array:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second order, deterministic, few steps.

    The steps are even in lambda. The first and the last are of first order; the last goes from t = 1 to 0.
    """
    times = solver_times(schedule, steps)
    lambdas = schedule.log_snr(times)
    x = jax.random.normal(key, shape)

    def denoised(x: Array, t: Array) -> Array:
        alpha, sigma = schedule.alpha_sigma(t)
        return (x - sigma * predict(x, t)) / alpha

    def step(state: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        x, before = state
        t, after, width, ratio = inputs
        now = denoised(x, t)
        # ratio = h_i / (2 h_{i-1}), 0 in the first step.
        ahead = now + ratio * (now - before)
        (_, sigma), (next_alpha, next_sigma) = schedule.alpha_sigma(t), schedule.alpha_sigma(after)
        return (next_sigma / sigma * x - next_alpha * jnp.expm1(-width) * ahead, now), None

    widths = jnp.diff(lambdas)
    ratios = jnp.concatenate([jnp.zeros(1), 0.5 * widths[1:] / widths[:-1]])[: len(widths)]
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros(shape)), (times[:-1], times[1:], widths, ratios))
    return denoised(x, times[-1])


def solver_times(schedule: Schedule, steps: int) -> Array:
    """(steps,) times from T to 1, evenly spaced in lambda; the network is asked once at each. Of one step: T alone."""
    last, first = schedule.log_snr(jnp.asarray([schedule.steps, 1.0]))
    return schedule.at_log_snr(jnp.linspace(last, first, steps))


def draw_coefficients(
    model: Generator, context: Array, key: Array, num_samples: int, config: SamplerConfig | None = None
) -> Array:
    """Samples of one photo (OFER, section 3.2); `vmap` over contexts and keys for more.

    Args:
      context: (D,) as `model.context` gives it. num_samples: N.

    Returns:
      (N, S) coefficients: betas of IdGen; expression and 3 of the jaw, radians, of ExpGen.

    Raises:
      ValueError: guidance is asked of a generator that was not trained for it.
    """
    config = config or SamplerConfig()

    def predict(x: Array, t: Array) -> Array:
        return model.noise(x, t, context)

    chosen = predict
    if config.guidance != 1.0:
        if model.nothing is None:
            raise ValueError("this generator was trained without guidance (--dropped): give guidance 1.")
        nothing = model.nothing[...]
        chosen = guided(predict, lambda x, t: model.noise(x, t, nothing), config.guidance)
    schedule = make_schedule(model.config.schedule)
    return model.coefficients(draw(chosen, schedule, key, (num_samples, model.config.unet.size), config))
