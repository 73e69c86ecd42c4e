"""Schedules and samplers, on mixtures of Gaussians whose noise is known exactly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sampling import SamplerConfig, add_noise, noise_error
from sampling.diffusion import draw, draw_ancestral, draw_ddim, guided, make_schedule, solver_times

HO = make_schedule("ho")
SAMPLERS = {
    "ancestral": SamplerConfig("ancestral"),
    "ddim": SamplerConfig("ddim", 200),
    "ddim, noisy": SamplerConfig("ddim", 300, eta=0.5),
    "dpm": SamplerConfig("dpm", 20),
}


class Mixture:
    """Of isotropic Gaussians: weights (K,), means (K, D), deviations (K,)."""

    def __init__(self, weights, means, deviations):
        self.weights, self.means, self.deviations = (jnp.asarray(a, jnp.float32) for a in (weights, means, deviations))

    def noise(self, x, t):
        """The mean of the noise in x (N, D) at step t."""
        alpha, sigma = HO.alpha_sigma(t)
        variance = (alpha * self.deviations) ** 2 + sigma**2
        away = x[:, None] - alpha * self.means[None]
        log = jnp.log(self.weights) - 0.5 * self.means.shape[1] * jnp.log(variance)
        log = log[None] - jnp.sum(away**2, axis=-1) / (2 * variance[None])
        share = jax.nn.softmax(log, axis=-1) / variance[None]
        return sigma * jnp.sum(share[..., None] * away, axis=1)

    def moments(self):
        """Mean (D,) and covariance (D, D)."""
        weights, means = np.asarray(self.weights), np.asarray(self.means)
        mean = weights @ means
        spread = weights @ np.asarray(self.deviations) ** 2 * np.eye(len(mean))
        return mean, spread + np.einsum("k,ki,kj->ij", weights, means, means) - np.outer(mean, mean)

    def shares(self, x):
        """Of samples (N, D), by component."""
        away = np.sum((np.asarray(x)[:, None] - np.asarray(self.means)[None]) ** 2, axis=-1)
        nearest = np.argmin(away, axis=1)
        return np.bincount(nearest, minlength=len(self.weights)) / len(x)


ONE = Mixture([0.3, 0.7], [[-2.0], [1.0]], [0.3, 0.5])
MANY = Mixture(
    [0.5, 0.3, 0.2], np.random.default_rng(0).normal(size=(3, 53)) * 0.6, [0.5, 0.7, 0.4]
)  # ExpGen's size: 50 expressions and 3 of the jaw


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_mixture_on_a_line_is_recovered(sampler):
    found = np.asarray(jax.jit(lambda k: draw(ONE.noise, HO, k, (30_000, 1), SAMPLERS[sampler]))(jax.random.key(0)))
    mean, covariance = ONE.moments()
    deviation = np.sqrt(covariance[0, 0])
    assert abs(found.mean() - mean[0]) < 0.03 * deviation
    assert abs(found.std() / deviation - 1) < 0.03
    np.testing.assert_allclose((found < -0.5).mean(), 0.3, atol=0.01)
    skewness = ((found - found.mean()) ** 3).mean() / deviation**3
    left, right = -2 - mean[0], 1 - mean[0]
    exact = 0.3 * (left**3 + 3 * left * 0.09) + 0.7 * (right**3 + 3 * right * 0.25)
    # So many samples know their skewness to 2 % themselves.
    np.testing.assert_allclose(skewness, exact / deviation**3, rtol=0.05)


SLOW = pytest.mark.slow
"""Hundreds of steps of 40,000 vectors; the samplers themselves are told apart by the mixture on a line."""


@pytest.mark.parametrize("sampler", [pytest.param(name, marks=() if name == "dpm" else SLOW) for name in SAMPLERS])
def test_a_mixture_in_53_dimensions_is_recovered(sampler):
    # So many exact draws know their covariance to 1.7 %; 10,000 know it to 3 %.
    found = np.asarray(jax.jit(lambda k: draw(MANY.noise, HO, k, (40_000, 53), SAMPLERS[sampler]))(jax.random.key(3)))
    mean, covariance = MANY.moments()
    deviation = np.sqrt(np.diag(covariance))
    assert np.sqrt(np.mean(((found.mean(axis=0) - mean) / deviation) ** 2)) < 0.03
    np.testing.assert_allclose(found.std(axis=0) / deviation, 1, atol=0.03)
    assert np.linalg.norm(np.cov(found.T) - covariance) < 0.03 * np.linalg.norm(covariance)
    np.testing.assert_allclose(MANY.shares(found), MANY.weights, atol=0.02)


def test_ofers_schedule_leaves_some_of_the_data_and_hos_hardly_any():
    for name, left in (("ho", 0.0064), ("ofer", 0.079)):
        schedule = make_schedule(name)
        assert schedule.steps == 1000
        alpha, sigma = schedule.alpha_sigma(jnp.asarray([0.0, 1.0, 1000.0]))
        np.testing.assert_allclose(alpha, [1.0, np.sqrt(1 - 1e-4), left], rtol=0.02)
        np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-6)


def test_alpha_is_the_product_of_the_rates():
    betas = np.linspace(1e-4, 2e-2, 1000)
    alpha, _ = HO.alpha_sigma(jnp.arange(1.0, 1001.0))
    np.testing.assert_allclose(alpha**2, np.cumprod(1 - betas), rtol=1e-4)
    fewer = make_schedule("ho", 250)
    np.testing.assert_allclose(fewer.alpha_sigma(jnp.asarray(250.0))[0], alpha[-1], rtol=0.15)


def test_samplers_start_from_noise_and_end_in_the_data():
    one = Mixture([1.0], [[0.5, -1.0]], [1e-3])
    for config in SAMPLERS.values():
        found = jax.jit(lambda key, config=config: draw(one.noise, HO, key, (64, 2), config))(jax.random.key(0))
        np.testing.assert_allclose(found, np.broadcast_to([0.5, -1.0], (64, 2)), atol=0.02)


def test_ancestral_steps_are_those_of_ho_et_al():
    """One step of Algorithm 2, written out with beta, against ours with abar."""
    schedule, key = make_schedule("ho", 50), jax.random.key(5)

    def noise(x, t):
        return 0.3 * x + 0.01 * t

    found = draw_ancestral(noise, schedule, key, (4, 3))
    start, walk = jax.random.split(key)
    x, keys = jax.random.normal(start, (4, 3)), jax.random.split(walk, 50)
    betas = np.linspace(1e-4, 2e-2, 50) * 20
    bars = np.cumprod(1 - betas)
    for i, t in enumerate(range(50, 0, -1)):
        beta, bar, before = betas[t - 1], bars[t - 1], bars[t - 2] if t > 1 else 1.0
        mean = (x - beta / np.sqrt(1 - bar) * noise(x, t)) / np.sqrt(1 - beta)
        x = mean + np.sqrt(beta * (1 - before) / (1 - bar)) * jax.random.normal(keys[i], (4, 3))
    np.testing.assert_allclose(found, x, atol=2e-4)


def test_ddim_takes_any_number_of_steps():
    for steps in (1, 7, 5000):
        found = jax.jit(lambda key, steps=steps: draw_ddim(ONE.noise, HO, key, (2000, 1), steps))(jax.random.key(0))
        assert np.isfinite(found).all()
    assert abs(float(found.std()) / np.sqrt(ONE.moments()[1][0, 0]) - 1) < 0.06


def test_solver_times_fall_and_cover_all():
    times = np.asarray(solver_times(HO, 20))
    np.testing.assert_allclose(times[[0, -1]], [1000, 1], atol=1e-3)
    assert (np.diff(times) < 0).all()
    widths = np.diff(HO.log_snr(jnp.asarray(times)))
    np.testing.assert_allclose(widths, widths.mean(), rtol=1e-4)


def test_steps_are_found_from_their_signal_to_noise_ratio():
    t = jnp.linspace(0.5, 1000.0, 200)
    chex.assert_trees_all_close(HO.at_log_snr(HO.log_snr(t)), t, rtol=1e-4)


@pytest.mark.parametrize("config", SAMPLERS.values(), ids=SAMPLERS)
def test_jit_is_eager_and_vmap_is_a_loop(config):
    few = SamplerConfig(config.method, 6, config.eta) if config.method != "ancestral" else config
    schedule = make_schedule("ho", 30) if config.method == "ancestral" else HO
    keys = jax.random.split(jax.random.key(1), 3)

    def drawn(key):
        return draw(ONE.noise, schedule, key, (5, 1), few)

    single, mapped = jax.jit(drawn), jax.jit(jax.vmap(drawn))
    chex.assert_trees_all_close(mapped(keys), jnp.stack([single(key) for key in keys]), atol=1e-4)
    if config.method == "ddim" and not config.eta:
        chex.assert_trees_all_close(single(keys[0]), drawn(keys[0]), atol=1e-4)


def test_noise_is_added_as_stated():
    x, t = jnp.ones((2, 3)), jnp.asarray([0.0, 1000.0])
    noisy = add_noise(HO, x, t, jnp.full((2, 3), 2.0))
    np.testing.assert_allclose(noisy[0], 1.0, atol=1e-6)
    np.testing.assert_allclose(noisy[1], 0.0064 + 2.0, atol=1e-3)


def test_losses():
    predicted, noise = jnp.asarray([[1.0, -2.0]]), jnp.zeros((1, 2))
    np.testing.assert_allclose(noise_error(predicted, noise), [1.5])
    np.testing.assert_allclose(noise_error(predicted, noise, "l2"), [2.5])


def test_guidance_goes_beyond_the_context():
    predict = guided(lambda x, t: x + 1, lambda x, t: x, 3.0)
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
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()
