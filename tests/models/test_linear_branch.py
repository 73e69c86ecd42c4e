"""The linear branch: its posterior in double precision, the prior if nothing is visible, interpolation, latents."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from models.linear_branch import LinearBranch, to_coefficients, to_latents
from models.mesh_vae import Posterior

NOISE, RANK, FINE = 0.1, 6, 4


def components(count=RANK, seed=0, zeros=0):
    """Return orthogonal components on the 120 vertices, from large to small, the last `zeros` of them zero."""
    draws = np.random.default_rng(seed).standard_normal((360, count))
    rows = np.linalg.qr(draws)[0].T.reshape(count, 120, 3)
    scales = 20.0 * 0.4 ** np.arange(count)
    scales[count - zeros :] = 0
    return scales[:, None, None] * rows


def branch(small, fine=FINE, **kwargs):
    return LinearBranch(small, components(**kwargs), fine, NOISE)


def some_visible(batch=(), seed=1):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=(*batch, 120)) < 0.6)


def field(batch=(), seed=2):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*batch, 120, 3)), jnp.float32)


def covariance(factor, scale):
    """Return the covariance of the coefficients scale * L^-T e."""
    inverse = np.linalg.inv(np.asarray(factor, np.float64))
    return np.asarray(scale, np.float64)[:, None] * (inverse.T @ inverse) * np.asarray(scale, np.float64)


def test_posterior_equals_double_precision(small):
    model, x, visible = branch(small), field(), some_visible()
    mean, factor, scale = jax.jit(lambda x, v: model.posterior(x, v))(x, visible)
    centres = small.steps[0].centres[np.asarray(visible)[small.steps[0].centres]]
    assert 3 < len(centres) < len(small.steps[0].centres)
    basis = components()[:, centres].reshape(RANK, -1)
    precision = basis @ basis.T / NOISE**2 + np.eye(RANK)
    expected = np.linalg.solve(precision, basis @ np.asarray(x, np.float64)[centres].reshape(-1) / NOISE**2)
    np.testing.assert_allclose(mean, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(covariance(factor, scale), np.linalg.inv(precision), rtol=1e-3, atol=1e-5)


def test_posterior_without_visible_vertices_is_the_prior(small):
    mean, factor, scale = branch(small, zeros=1).posterior(field(), jnp.zeros(120, bool))
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(covariance(factor, scale), np.eye(RANK), atol=1e-5)


def test_components_of_zeros_stay_at_the_prior(small):
    """Latents beyond the rank have such components."""
    mean, factor, scale = branch(small, zeros=2).posterior(field(), some_visible())
    np.testing.assert_allclose(mean[-2:], 0, atol=1e-6)
    np.testing.assert_allclose(covariance(factor, scale)[-2:], np.eye(RANK)[-2:], atol=1e-4)


def test_coefficients_of_a_head_are_recovered(small):
    truth = np.random.default_rng(3).standard_normal(4)
    model = LinearBranch(small, components(4), 4, 1e-3)
    head = jnp.asarray(np.einsum("k,kvc->vc", truth, components(4)), jnp.float32)
    coefficients = model.posterior(head, some_visible())[0]
    np.testing.assert_allclose(coefficients, truth, atol=2e-3)
    np.testing.assert_allclose(model.to_vertices(coefficients), head, atol=2e-3)


def test_interpolation_is_exact_with_fewer_equations_than_weights(small):
    """Two components give six equations per vertex, and almost every vertex has more centres than that."""
    coefficients = jnp.asarray(np.random.default_rng(4).standard_normal((3, RANK)), jnp.float32)
    vertices = branch(small).to_vertices(coefficients)
    expected = np.einsum("bk,kvc->bvc", np.asarray(coefficients, np.float64), components())
    assert np.median(np.abs(vertices - expected)) < 1e-5
    centres = small.steps[0].centres
    np.testing.assert_allclose(vertices[:, centres], expected[:, centres], atol=1e-5)
    only_coarse = coefficients.at[:, :FINE].set(0)
    assert np.median(np.abs(branch(small).to_vertices(only_coarse))) > 0.01


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_batches_jit_and_vmap_agree(small, batch):
    model, x, visible = branch(small), field(batch), some_visible(batch)
    function = lambda x, v: (posterior := model.posterior(x, v), model.to_vertices(posterior[0]))  # noqa: E731
    posterior, heads = jax.jit(function)(x, visible)
    chex.assert_shape([*posterior, heads], [(*batch, RANK), (*batch, RANK, RANK), (*batch, RANK), (*batch, 120, 3)])
    mapped = function
    for _ in batch:
        mapped = jax.vmap(mapped)
    outputs = jax.jit(mapped)(x, visible) if batch else function(x, visible)
    chex.assert_trees_all_close(outputs, (posterior, heads), rtol=1e-3, atol=1e-4)


def test_derivatives_agree_with_finite_differences(small):
    model, visible = branch(small), some_visible()
    check_grads(lambda x: model.posterior(x, visible)[0], (field(),), 1, eps=1e-1, rtol=2e-2, atol=2e-2)
    check_grads(model.to_vertices, (jnp.ones(RANK),), 2, eps=1e-1, rtol=2e-2, atol=2e-2)


def test_latents_are_the_coefficients_in_another_order():
    coefficients = jnp.arange(24.0).reshape(2, 12)
    latents = to_latents(coefficients, (3, 4))
    assert latents.shape == (2, 3, 4)
    np.testing.assert_array_equal(latents[0, :, 0], [0, 1, 2])  # the leading ones lie at different vertices
    np.testing.assert_array_equal(to_coefficients(latents), coefficients)


def correlated_posterior(small, log_variance=0.3):
    """Return a posterior of 2 x 3 latents, and the covariance of its coefficients."""
    _, factor, scale = branch(small).posterior(field(), some_visible())
    mean = to_latents(jnp.asarray([0.4, -0.2, 1.0, 0.0, 0.3, -0.5]), (2, 3))
    ratio = log_variance * jnp.arange(6.0).reshape(2, 3) / 6
    stretch = np.exp(0.5 * np.asarray(to_coefficients(ratio), np.float64))
    return Posterior(mean, ratio, factor, scale), stretch[:, None] * covariance(factor, scale) * stretch


def test_samples_have_the_posteriors_covariance(small):
    posterior, expected = correlated_posterior(small)
    draws = jax.jit(jax.vmap(posterior.sample))(jax.random.split(jax.random.key(0), 40_000))
    sample_covariance = np.cov(np.asarray(to_coefficients(draws)).T)
    deviation = np.sqrt(np.diag(expected))
    unit = np.outer(deviation, deviation)
    np.testing.assert_allclose(sample_covariance / unit, expected / unit, atol=0.03)
    np.testing.assert_allclose((draws.mean(0) - posterior.mean) / to_latents(deviation, (2, 3)), 0, atol=0.03)


def test_kl_of_correlated_latents_equals_its_closed_form(small):
    posterior, sigma = correlated_posterior(small)
    mean = np.asarray(to_coefficients(posterior.mean), np.float64)
    expected = 0.5 * (np.trace(sigma) + mean @ mean - len(mean) - np.linalg.slogdet(sigma)[1])
    np.testing.assert_allclose(posterior.kl(), expected, rtol=1e-4)
    three = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), posterior)
    np.testing.assert_allclose(three.kl(), [expected] * 3, rtol=1e-4)
