"""Schedules and samplers on mixtures of Gaussians, whose noise is known exactly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sampling import SamplerConfig, add_noise, noise_error
from sampling.diffusion import apply_guidance, draw, draw_ancestral, draw_ddim, make_schedule, solver_times

HO = make_schedule("ho")
SAMPLERS = {
    "ancestral": SamplerConfig("ancestral"),
    "ddim": SamplerConfig("ddim", 200),
    "ddim, noisy": SamplerConfig("ddim", 300, eta=0.5),
    "dpm": SamplerConfig("dpm", 20),
}


class Mixture:
    """A mixture of isotropic Gaussians: weights (K,), means (K, D), deviations (K,)."""

    def __init__(self, weights, means, deviations):
        self.weights, self.means, self.deviations = (jnp.asarray(a, jnp.float32) for a in (weights, means, deviations))

    def noise(self, x, t):
        """Return the mean of the noise in x (N, D) at step t."""
        alpha, sigma = HO.alpha_sigma(t)
        variance = (alpha * self.deviations) ** 2 + sigma**2
        deviation = x[:, None] - alpha * self.means[None]
        log = jnp.log(self.weights) - 0.5 * self.means.shape[1] * jnp.log(variance)
        log = log[None] - jnp.sum(deviation**2, axis=-1) / (2 * variance[None])
        share = jax.nn.softmax(log, axis=-1) / variance[None]
        return sigma * jnp.sum(share[..., None] * deviation, axis=1)

    def moments(self):
        """Return mean (D,) and covariance (D, D)."""
        weights, means = np.asarray(self.weights), np.asarray(self.means)
        mean = weights @ means
        spread = weights @ np.asarray(self.deviations) ** 2 * np.eye(len(mean))
        return mean, spread + np.einsum("k,ki,kj->ij", weights, means, means) - np.outer(mean, mean)

    def shares(self, x):
        """Return the share of samples (N, D) that are nearest to each component."""
        distances = np.sum((np.asarray(x)[:, None] - np.asarray(self.means)[None]) ** 2, axis=-1)
        nearest = np.argmin(distances, axis=1)
        return np.bincount(nearest, minlength=len(self.weights)) / len(x)


MIXTURE_1D = Mixture([0.3, 0.7], [[-2.0], [1.0]], [0.3, 0.5])
MIXTURE_53D = Mixture(
    [0.5, 0.3, 0.2], np.random.default_rng(0).normal(size=(3, 53)) * 0.6, [0.5, 0.7, 0.4]
)  # ExpGen's size: 50 expressions and 3 of the jaw


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mixture_on_a_line_is_recovered(sampler):
    config = SAMPLERS[sampler]
    samples = np.asarray(jax.jit(lambda k: draw(MIXTURE_1D.noise, HO, k, (30_000, 1), config))(jax.random.key(0)))
    mean, covariance = MIXTURE_1D.moments()
    deviation = np.sqrt(covariance[0, 0])
    assert abs(samples.mean() - mean[0]) < 0.03 * deviation
    assert abs(samples.std() / deviation - 1) < 0.03
    np.testing.assert_allclose((samples < -0.5).mean(), 0.3, atol=0.01)
    skewness = ((samples - samples.mean()) ** 3).mean() / deviation**3
    left, right = -2 - mean[0], 1 - mean[0]
    exact = 0.3 * (left**3 + 3 * left * 0.09) + 0.7 * (right**3 + 3 * right * 0.25)
    # The standard error of the skewness of so many samples is 2 %.
    np.testing.assert_allclose(skewness, exact / deviation**3, rtol=0.05)


SLOW = pytest.mark.slow
"""These take hundreds of steps of 40,000 vectors; the mixture on a line tests the samplers as well."""


@pytest.mark.parametrize("sampler", [pytest.param(name, marks=() if name == "dpm" else SLOW) for name in SAMPLERS])
def test_a_mixture_in_53_dimensions_is_recovered(sampler):
    # The relative error of the covariance of so many exact samples is 1.7 %; that of 10,000 is 3 %.
    config = SAMPLERS[sampler]
    samples = np.asarray(jax.jit(lambda k: draw(MIXTURE_53D.noise, HO, k, (40_000, 53), config))(jax.random.key(3)))
    mean, covariance = MIXTURE_53D.moments()
    deviation = np.sqrt(np.diag(covariance))
    assert np.sqrt(np.mean(((samples.mean(axis=0) - mean) / deviation) ** 2)) < 0.03
    np.testing.assert_allclose(samples.std(axis=0) / deviation, 1, atol=0.03)
    assert np.linalg.norm(np.cov(samples.T) - covariance) < 0.03 * np.linalg.norm(covariance)
    np.testing.assert_allclose(MIXTURE_53D.shares(samples), MIXTURE_53D.weights, atol=0.02)


def test_schedules_end_at_the_documented_alphas():
    for name, final_alpha in (("ho", 0.0064), ("ofer", 0.079)):
        schedule = make_schedule(name)
        assert schedule.steps == 1000
        alpha, sigma = schedule.alpha_sigma(jnp.asarray([0.0, 1.0, 1000.0]))
        np.testing.assert_allclose(alpha, [1.0, np.sqrt(1 - 1e-4), final_alpha], rtol=0.02)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)


def test_alpha_is_the_product_of_the_rates():
    betas = np.linspace(1e-4, 2e-2, 1000)
    alpha, _ = HO.alpha_sigma(jnp.arange(1.0, 1001.0))
    np.testing.assert_allclose(alpha**2, np.cumprod(1 - betas), rtol=1e-4)
    fewer = make_schedule("ho", 250)
    np.testing.assert_allclose(fewer.alpha_sigma(jnp.asarray(250.0))[0], alpha[-1], rtol=0.15)


def test_samplers_end_in_the_data():
    narrow = Mixture([1.0], [[0.5, -1.0]], [1e-3])
    for config in SAMPLERS.values():
        samples = jax.jit(lambda key, config=config: draw(narrow.noise, HO, key, (64, 2), config))(jax.random.key(0))
        np.testing.assert_allclose(samples, np.broadcast_to([0.5, -1.0], (64, 2)), atol=0.02)


def test_ancestral_sampler_equals_ho_et_al():
    """Compare with Algorithm 2 in terms of beta; ours uses abar."""
    schedule, key = make_schedule("ho", 50), jax.random.key(5)

    def noise(x, t):
        return 0.3 * x + 0.01 * t

    samples = draw_ancestral(noise, schedule, key, (4, 3))
    start_key, steps_key = jax.random.split(key)
    x, keys = jax.random.normal(start_key, (4, 3)), jax.random.split(steps_key, 50)
    betas = np.linspace(1e-4, 2e-2, 50) * 20
    cumulative = np.cumprod(1 - betas)
    for i, t in enumerate(range(50, 0, -1)):
        beta, bar, before = betas[t - 1], cumulative[t - 1], cumulative[t - 2] if t > 1 else 1.0
        mean = (x - beta / np.sqrt(1 - bar) * noise(x, t)) / np.sqrt(1 - beta)
        x = mean + np.sqrt(beta * (1 - before) / (1 - bar)) * jax.random.normal(keys[i], (4, 3))
    np.testing.assert_allclose(samples, x, atol=2e-4)


def test_ddim_takes_any_number_of_steps():
    for steps in (1, 7, 5000):
        draw_samples = jax.jit(lambda key, steps=steps: draw_ddim(MIXTURE_1D.noise, HO, key, (2000, 1), steps))
        samples = draw_samples(jax.random.key(0))
        assert np.isfinite(samples).all()
    assert abs(float(samples.std()) / np.sqrt(MIXTURE_1D.moments()[1][0, 0]) - 1) < 0.06


def test_solver_times_decrease_evenly_in_lambda():
    times = np.asarray(solver_times(HO, 20))
    np.testing.assert_allclose(times[[0, -1]], [1000, 1], atol=1e-3)
    assert (np.diff(times) < 0).all()
    widths = np.diff(HO.log_snr(jnp.asarray(times)))
    np.testing.assert_allclose(widths, widths.mean(), rtol=1e-4)


def test_at_log_snr_inverts_log_snr():
    t = jnp.linspace(0.5, 1000.0, 200)
    chex.assert_trees_all_close(HO.at_log_snr(HO.log_snr(t)), t, rtol=1e-4)


@pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS)
def test_jit_equals_eager_and_vmap_equals_a_loop(config):
    few_steps = SamplerConfig(config.method, 6, config.eta) if config.method != "ancestral" else config
    schedule = make_schedule("ho", 30) if config.method == "ancestral" else HO
    keys = jax.random.split(jax.random.key(1), 3)

    def draw_few(key):
        return draw(MIXTURE_1D.noise, schedule, key, (5, 1), few_steps)

    single, mapped = jax.jit(draw_few), jax.jit(jax.vmap(draw_few))
    chex.assert_trees_all_close(mapped(keys), jnp.stack([single(key) for key in keys]), atol=1e-4)
    if config.method == "ddim" and not config.eta:
        chex.assert_trees_all_close(single(keys[0]), draw_few(keys[0]), atol=1e-4)


def test_add_noise_at_the_first_and_last_step():
    x, t = jnp.ones((2, 3)), jnp.asarray([0.0, 1000.0])
    noisy = add_noise(HO, x, t, jnp.full((2, 3), 2.0))
    np.testing.assert_allclose(noisy[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(noisy[1], 0.0064 + 2.0, atol=1e-3)


def test_noise_error_is_a_mean_over_coefficients():
    predicted, noise = jnp.asarray([[1.0, -2.0]]), jnp.zeros((1, 2))
    np.testing.assert_allclose(noise_error(predicted, noise), [1.5])
    np.testing.assert_allclose(noise_error(predicted, noise, "l2"), [2.5])


def test_guidance_extrapolates():
    predict = apply_guidance(lambda x, t: x + 1, lambda x, t: x, 3.0)
    np.testing.assert_allclose(predict(jnp.zeros(2), jnp.zeros(())), [3.0, 3.0])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: make_schedule("cosine"), "schedule is"),
        (lambda: make_schedule("ho", 10), "too few"),
        (lambda: SamplerConfig("euler"), "method is"),
        (lambda: SamplerConfig(steps=0), "at least 1"),
        (lambda: SamplerConfig(eta=2), "eta"),
    ],
)
def test_invalid_settings_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
