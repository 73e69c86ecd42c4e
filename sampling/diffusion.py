"""Denoising diffusion (Ho et al. 2020) over vectors: noise, loss, three samplers, and samples of a trained generator.

A process adds noise in T steps, x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e with abar_t = prod_{s<=t} (1 - beta_s), and
a network predicts the noise e in x_t. All samplers take the network as a function `predict(x, t) -> noise`, where the
step t () float runs from T (pure noise) to 1.
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

NoisePredictor = Callable[[Array, Array], Array]
"""Maps x (*b, S) and the step t () to the noise in x (*b, S)."""


def add_noise(schedule: Schedule, x: Array, t: Array, noise: Array) -> Array:
    """Return x_t (*b, S) for x_0 = x (*b, S) at steps t (*b,)."""
    alpha, sigma = schedule.alpha_sigma(t)
    return alpha[..., None] * x + sigma[..., None] * noise


def noise_error(predicted: Array, noise: Array, loss: Literal["l1", "l2"] = "l1") -> Array:
    """Return OFER's loss (Eqs. 2 and 6) of each example, a mean over coefficients: (*b, S) -> (*b,).

    l1, as in the paper, learns the median of the noise. l2 learns its mean, which the samplers' theory requires. They
    agree if the noise is distributed symmetrically.
    """
    error = predicted - noise
    return jnp.mean(jnp.abs(error) if loss == "l1" else error**2, axis=-1)


def apply_guidance(conditional: NoisePredictor, unconditional: NoisePredictor, weight: float) -> NoisePredictor:
    """Combine two predictors by classifier-free guidance (Ho & Salimans 2022): noise = u + weight (c - u)."""

    def predict(x: Array, t: Array) -> Array:
        baseline = unconditional(x, t)
        return baseline + weight * (conditional(x, t) - baseline)

    return predict


def draw(
    predict: NoisePredictor, schedule: Schedule, key: Array, shape: tuple[int, ...], config: SamplerConfig | None = None
) -> Array:
    """Draw samples of `shape` (*b, S) by the configured sampler; supports jit, vmap and grad."""
    config = config or SamplerConfig()
    if config.method == "ancestral":
        return draw_ancestral(predict, schedule, key, shape)
    if config.method == "ddim":
        return draw_ddim(predict, schedule, key, shape, config.steps, config.eta)
    return draw_dpm(predict, schedule, key, shape, config.steps)


def draw_ancestral(predict: NoisePredictor, schedule: Schedule, key: Array, shape: tuple[int, ...]) -> Array:
    """Sample with all T steps (Ho et al. 2020, Algorithm 2) and the variance of the posterior q(x_{t-1} | x_t, x_0)."""
    return draw_ddim(predict, schedule, key, shape, schedule.steps, 1.0)


def draw_ddim(
    predict: NoisePredictor, schedule: Schedule, key: Array, shape: tuple[int, ...], steps: int, eta: float = 0.0
) -> Array:
    """Sample by DDIM (Song et al. 2021, Eqs. 12 and 16) with `steps` of the T steps, evenly spaced."""
    steps = min(steps, schedule.steps)
    times = jnp.linspace(schedule.steps, 0.0, steps + 1)
    start_key, steps_key = jax.random.split(key)

    def step(x: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, None]:
        t, next_t, step_key = inputs
        alpha, sigma = schedule.alpha_sigma(t)
        next_alpha, next_sigma = schedule.alpha_sigma(next_t)
        noise = predict(x, t)
        x_0 = (x - sigma * noise) / alpha
        new_sigma = eta * next_sigma / sigma * jnp.sqrt(jnp.maximum(1 - (alpha / next_alpha) ** 2, 0.0))
        x = next_alpha * x_0 + jnp.sqrt(jnp.maximum(next_sigma**2 - new_sigma**2, 0.0)) * noise
        if eta:
            x = x + new_sigma * jax.random.normal(step_key, shape, x.dtype)
        return x, None

    inputs = times[:-1], times[1:], jax.random.split(steps_key, steps)
    return jax.lax.scan(step, jax.random.normal(start_key, shape), inputs)[0]


def draw_dpm(predict: NoisePredictor, schedule: Schedule, key: Array, shape: tuple[int, ...], steps: int) -> Array:
    """Sample by DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): second order, deterministic, few steps.

    The steps are evenly spaced in lambda. The first and the last are of first order; the last goes from t = 1 to 0.
    """
    times = solver_times(schedule, steps)
    lambdas = schedule.log_snr(times)
    x = jax.random.normal(key, shape)

    def denoise(x: Array, t: Array) -> Array:
        alpha, sigma = schedule.alpha_sigma(t)
        return (x - sigma * predict(x, t)) / alpha

    def step(state: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        x, previous_x_0 = state
        t, next_t, width, ratio = inputs
        x_0 = denoise(x, t)
        # ratio = h_i / (2 h_{i-1}), 0 in the first step.
        extrapolated = x_0 + ratio * (x_0 - previous_x_0)
        (_, sigma), (next_alpha, next_sigma) = schedule.alpha_sigma(t), schedule.alpha_sigma(next_t)
        return (next_sigma / sigma * x - next_alpha * jnp.expm1(-width) * extrapolated, x_0), None

    widths = jnp.diff(lambdas)
    ratios = jnp.concatenate([jnp.zeros(1), 0.5 * widths[1:] / widths[:-1]])[: len(widths)]
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros(shape)), (times[:-1], times[1:], widths, ratios))
    return denoise(x, times[-1])


def solver_times(schedule: Schedule, steps: int) -> Array:
    """Return times (steps,) from T to 1, evenly spaced in lambda, at which the network is evaluated; T for one step."""
    last, first = schedule.log_snr(jnp.asarray([schedule.steps, 1.0]))
    return schedule.at_log_snr(jnp.linspace(last, first, steps))


def draw_coefficients(
    model: Generator, context: Array, key: Array, num_samples: int, config: SamplerConfig | None = None
) -> Array:
    """Sample coefficients for one photo (OFER, section 3.2); `vmap` over contexts and keys for more.

    Args:
      context: (D,) from `model.context`. num_samples: N.

    Returns:
      Coefficients (N, S). IdGen: betas. ExpGen: expression and the jaw's axis-angle (3), radians.

    Raises:
      ValueError: guidance is requested of a generator that was not trained for it.
    """
    config = config or SamplerConfig()

    def predict(x: Array, t: Array) -> Array:
        return model.predict_noise(x, t, context)

    predictor = predict
    if config.guidance != 1.0:
        if model.nothing is None:
            raise ValueError("this generator was trained without guidance (--dropped): give guidance 1.")
        no_context = model.nothing[...]
        predictor = apply_guidance(predict, lambda x, t: model.predict_noise(x, t, no_context), config.guidance)
    schedule = make_schedule(model.config.schedule)
    return model.denormalize(draw(predictor, schedule, key, (num_samples, model.config.unet.size), config))
