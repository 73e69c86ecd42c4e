"""Determinantal point processes compared with brute force, closed forms and float64."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import gammaln
from scipy.stats import chi2, norm

from sampling import dpp

loss_and_gradient = jax.jit(jax.value_and_grad(dpp.diversity_loss))


def _heads(count: int, vertices: int = 40, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(1, vertices, 3))
    return (0.1 * common + 1e-3 * rng.normal(size=(count, vertices, 3))).astype(np.float32)


def _latents(count: int, dimensions: int = 24, seed: int = 1) -> np.ndarray:
    return (1.3 * np.random.default_rng(seed).normal(size=(count, dimensions))).astype(np.float32)


def _numpy_loss(shapes: np.ndarray, latents: np.ndarray, k: float, n_sigma: float, median: float | None = None):
    """Return the loss by its definition in float64, and the median distance."""
    x, z = np.asarray(shapes, np.float64).reshape(len(shapes), -1), np.asarray(latents, np.float64)
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1) / np.sqrt(shapes.shape[1])
    median = np.median(distances[np.triu_indices(len(x), 1)]) if median is None else median
    radius = np.sqrt(z.shape[1] + n_sigma * np.sqrt(2 * z.shape[1]))
    q = np.exp(-np.maximum(0, np.linalg.norm(z, axis=1) - radius))
    kernel = q[:, None] * np.exp(-k * distances / median) * q[None]
    eye = np.eye(len(x))
    return -np.trace(eye - np.linalg.inv(kernel + eye)), median


def _numpy_gradient(shapes: np.ndarray, latents: np.ndarray, k: float, n_sigma: float) -> np.ndarray:
    """Return the analytic gradient of the loss with respect to the shapes, in float64."""
    x = np.asarray(shapes, np.float64).reshape(len(shapes), -1)
    _, median = _numpy_loss(shapes, latents, k, n_sigma)
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    z = np.asarray(latents, np.float64)
    radius = np.sqrt(z.shape[1] + n_sigma * np.sqrt(2 * z.shape[1]))
    q = np.exp(-np.maximum(0, np.linalg.norm(z, axis=1) - radius))
    scale = k / (median * np.sqrt(shapes.shape[1]))
    kernel = q[:, None] * np.exp(-scale * distances) * q[None]
    inverse = np.linalg.inv(kernel + np.eye(len(x)))
    factors = (inverse @ inverse) * kernel * scale / np.where(distances > 0, distances, 1)
    np.fill_diagonal(factors, 0)
    return (2 * (factors.sum(1)[:, None] * x - factors @ x)).reshape(shapes.shape)


def test_distances_are_root_mean_squares() -> None:
    shapes = np.zeros((3, 5, 3), np.float32)
    shapes[1, :, 0] = 2.0
    shapes[2, 0, 1] = 3.0
    distances = dpp.pairwise_distances(jnp.asarray(shapes))
    expected = [[0, 2, 3 / 5**0.5], [2, 0, ((4 * 5 + 9) / 5) ** 0.5], [3 / 5**0.5, ((4 * 5 + 9) / 5) ** 0.5, 0]]
    np.testing.assert_allclose(distances, expected, rtol=1e-6)


def test_similarity_equals_its_formula() -> None:
    distances = jnp.asarray([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]])
    similarities = dpp.similarity(distances, 0.5)
    np.testing.assert_allclose(similarities, np.exp(-0.5 * np.asarray(distances) / 2), rtol=1e-6)
    np.testing.assert_array_equal(dpp.similarity(jnp.zeros((3, 3))), np.ones((3, 3)))
    np.testing.assert_array_equal(dpp.similarity(jnp.zeros((1, 1))), np.ones((1, 1)))


@pytest.mark.parametrize("dimensions", [16, 100, 640])
def test_shell_contains_the_probability_of_n_sigma(dimensions: int) -> None:
    for n_sigma in (1, 2, 3):
        inside = chi2.cdf(float(dpp.shell_radius(dimensions, n_sigma)) ** 2, dimensions)
        assert abs(inside - norm.cdf(n_sigma)) < 0.035


def test_quality_is_one_inside_the_shell_and_falls_outside() -> None:
    unit = np.eye(1, 64, dtype=np.float32)
    radius = float(dpp.shell_radius(64, 3.0))
    latents = jnp.asarray(np.stack([0 * unit[0], 0.99 * radius * unit[0], (radius + 2) * unit[0]]))
    np.testing.assert_allclose(dpp.quality(latents, 3.0), [1, 1, np.exp(-2)], rtol=1e-5)
    # The paper's Eq. 9 as written would give zeros for all samples of the prior.
    draws = jax.random.normal(jax.random.key(0), (50, 640))
    assert float(jnp.mean(dpp.quality(draws, 3.0))) > 0.98


@pytest.mark.parametrize("count", [2, 100])
def test_loss_and_gradient_in_float32_equal_float64(count: int) -> None:
    shapes, latents = _heads(count, 400), _latents(count)
    expected, _ = _numpy_loss(shapes, latents, 0.5, 3.0)
    loss, gradient = loss_and_gradient(jnp.asarray(shapes), jnp.asarray(latents))
    assert abs(loss - expected) < 1e-5 * count
    exact = _numpy_gradient(shapes, latents, 0.5, 3.0)
    assert np.linalg.norm(gradient - exact) < 1e-4 * np.linalg.norm(exact)


def test_gradient_near_equal_heads_stays_accurate() -> None:
    """Initial copies are such heads: they differ by a hundredth of a millimetre, 0.1 m from the origin."""
    shapes = (_heads(1, 400) + 1e-5 * np.random.default_rng(3).normal(size=(100, 400, 3))).astype(np.float32)
    latents = _latents(100)
    _, gradient = loss_and_gradient(jnp.asarray(shapes), jnp.asarray(latents))
    exact = _numpy_gradient(shapes, latents, 0.5, 3.0)
    assert np.linalg.norm(gradient - exact) < 1e-4 * np.linalg.norm(exact)


def test_reference_gradient_equals_finite_differences() -> None:
    """Check the reference by central differences at a fixed median."""
    shapes, latents = _heads(5).astype(np.float64), _latents(5)
    _, median = _numpy_loss(shapes, latents, 0.5, 3.0)
    gradient, step = _numpy_gradient(shapes, latents, 0.5, 3.0), 1e-7
    for index in [(0, 0, 0), (2, 7, 1), (4, 30, 2)]:
        moved = [shapes.copy(), shapes.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        up, down = (_numpy_loss(m, latents, 0.5, 3.0, median)[0] for m in moved)
        np.testing.assert_allclose((up - down) / (2 * step), gradient[index], rtol=1e-5)


def test_forward_reverse_and_finite_differences_agree() -> None:
    @jax.jit
    def loss(latents: jax.Array) -> jax.Array:
        distances = 1 + jnp.abs(latents[:, None, 0] - latents[None, :, 1])
        symmetric = (distances + distances.T) / 2 * (1 - jnp.eye(6))
        return dpp.dpp_loss(dpp.kernel(dpp.quality(latents), jnp.exp(-symmetric)))

    check_grads(loss, (jnp.asarray(_latents(6)),), 2, ("fwd", "rev"), eps=1e-2, rtol=0.02, atol=1e-3)
    shapes = 1e3 * jnp.asarray(_heads(6, 20))
    check_grads(jax.jit(dpp.pairwise_distances), (shapes,), 1, ("fwd", "rev"), eps=3e-2, rtol=0.02, atol=1e-3)


def test_equal_heads_have_finite_loss_and_gradient() -> None:
    single = loss_and_gradient(jnp.asarray(_heads(1)), jnp.asarray(_latents(1)))
    chex.assert_tree_all_finite(single)
    shapes = jnp.asarray(np.repeat(_heads(1), 4, axis=0))
    value, gradient = loss_and_gradient(shapes, jnp.asarray(_latents(4)))
    chex.assert_tree_all_finite((value, gradient))
    np.testing.assert_array_equal(gradient, 0)


def test_loss_is_lower_for_more_diverse_heads_and_for_better_ones() -> None:
    shapes, latents = jnp.asarray(_heads(8)), jnp.asarray(_latents(8))
    distances = dpp.pairwise_distances(shapes)
    near = dpp.dpp_loss(dpp.kernel(jnp.ones(8), jnp.exp(-distances / 2e-3)))
    far = dpp.dpp_loss(dpp.kernel(jnp.ones(8), jnp.exp(-distances / 1e-3)))
    assert far < near < 0
    assert dpp.diversity_loss(shapes, 0.5 * latents) < dpp.diversity_loss(shapes, 3 * latents)


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_batches_jit_and_vmap_agree(batch: tuple[int, ...]) -> None:
    count = int(np.prod(batch))
    shapes = jnp.asarray(np.stack([_heads(6, seed=s) for s in range(count)])).reshape(*batch, 6, 40, 3)
    latents = jnp.asarray(np.stack([_latents(6, seed=s) for s in range(count)])).reshape(*batch, 6, 24)
    loss = jax.jit(dpp.diversity_loss)(shapes, latents)
    chex.assert_shape(loss, batch)
    if not batch:
        np.testing.assert_allclose(dpp.diversity_loss(shapes, latents), loss, rtol=1e-5)
    if batch:
        singles = [jax.jit(dpp.diversity_loss)(*one) for one in zip(shapes, latents, strict=True)]
        np.testing.assert_allclose(jax.jit(jax.vmap(dpp.diversity_loss))(shapes, latents), loss, rtol=1e-5)
        np.testing.assert_allclose(jnp.stack(singles), loss, rtol=1e-5)


def _kernel(size: int = 5) -> np.ndarray:
    rng = np.random.default_rng(5)
    features = rng.normal(size=(size, 4)) * rng.uniform(0.4, 1.6, size=(size, 1))
    return (features @ features.T + 0.02 * np.eye(size)).astype(np.float32)


def test_dpp_samples_have_the_probabilities_of_the_definition() -> None:
    likelihood, draws = _kernel(), 40_000
    keys = jax.random.split(jax.random.key(1), draws)
    chosen = np.asarray(jax.jit(jax.vmap(lambda key: dpp.sample_dpp(key, jnp.asarray(likelihood))))(keys))
    counts = np.bincount(chosen @ (2 ** np.arange(5)), minlength=32) / draws
    expected = np.zeros(32)
    for subset in itertools.chain.from_iterable(itertools.combinations(range(5), n) for n in range(6)):
        expected[sum(2**i for i in subset)] = np.linalg.det(likelihood[np.ix_(subset, subset)].astype(np.float64))
    expected /= expected.sum()
    np.testing.assert_allclose(counts, expected, atol=5 * np.sqrt(expected.max() / draws))
    np.testing.assert_allclose(expected.sum(), 1)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_k_dpp_samples_have_the_probabilities_of_the_definition(size: int) -> None:
    likelihood, draws = _kernel(), 30_000
    keys = jax.random.split(jax.random.key(2), draws)
    chosen = np.asarray(jax.vmap(lambda key: dpp.sample_k_dpp(key, jnp.asarray(likelihood), size))(keys))
    subsets = list(itertools.combinations(range(5), size))
    expected = np.array([np.linalg.det(likelihood[np.ix_(s, s)].astype(np.float64)) for s in subsets])
    expected /= expected.sum()
    frequencies = np.array([(chosen == np.array(s)).all(axis=1).mean() for s in subsets])
    np.testing.assert_allclose(frequencies.sum(), 1)  # distinct items, in order
    np.testing.assert_allclose(frequencies, expected, atol=5 * np.sqrt(expected.max() / draws))


def test_k_dpp_of_many_near_equal_items_is_finite_and_spreads() -> None:
    """For 100 items in four tight groups a subset of four almost always has one item of each."""
    rng = np.random.default_rng(0)
    points = np.repeat(np.eye(4), 25, axis=0) + 0.01 * rng.normal(size=(100, 4))
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    likelihood = jnp.asarray(np.exp(-4 * distances**2), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 200)
    groups = np.asarray(jax.vmap(lambda key: dpp.sample_k_dpp(key, likelihood, 4))(keys)) // 25
    assert np.mean([len(set(row)) == 4 for row in groups.tolist()]) > 0.8
    all_equal = jnp.ones((6, 6))
    chosen = np.asarray(dpp.sample_k_dpp(jax.random.key(3), all_equal, 4))
    assert len(set(chosen.tolist())) == 4, "a kernel without rank still gives a subset"


def test_wrong_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="likelihood_kernel should be"):
        dpp.dpp_loss(jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="likelihood_kernel should be"):
        dpp.sample_k_dpp(jax.random.key(0), jnp.zeros((2, 3, 3)), 2)
    with pytest.raises(ValueError, match=r"latents should be \(4, any\), not \(3, 2\)"):
        dpp.diversity_loss(jnp.zeros((4, 5, 3)), jnp.zeros((3, 2)))


def test_k_dpp_refuses_impossible_sizes() -> None:
    for size in (0, 6):
        with pytest.raises(ValueError, match="between 1 and 5"):
            dpp.sample_k_dpp(jax.random.key(0), jnp.asarray(_kernel()), size)


def test_closed_forms_of_a_diagonal_kernel() -> None:
    """For independent items E|A| = sum of l / (1 + l), and each item is sampled with that probability."""
    values = np.array([0.1, 1.0, 9.0], np.float32)
    np.testing.assert_allclose(dpp.dpp_loss(jnp.diag(jnp.asarray(values))), -(values / (1 + values)).sum(), rtol=1e-6)
    keys = jax.random.split(jax.random.key(4), 20_000)
    frequencies = np.asarray(jax.vmap(lambda key: dpp.sample_dpp(key, jnp.diag(jnp.asarray(values))))(keys)).mean(0)
    np.testing.assert_allclose(frequencies, values / (1 + values), atol=0.02)


def test_the_chi_mean_lies_inside_every_shell() -> None:
    dimensions = 512
    mean = np.sqrt(2) * np.exp(gammaln((dimensions + 1) / 2) - gammaln(dimensions / 2))
    assert mean < float(dpp.shell_radius(dimensions, 0.5))
