"""Least squares against answers that are known, and the promises of its docstring."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import fitting

NOTHING = jnp.zeros((0, 1))


def rosenbrock(x):
    return NOTHING, jnp.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])


def test_a_linear_problem_is_solved_in_one_step_but_for_the_damping():
    rng = np.random.default_rng(0)
    matrix, target = jnp.asarray(rng.normal(size=(20, 4)), jnp.float32), jnp.asarray(rng.normal(size=20), jnp.float32)
    expected = np.linalg.lstsq(np.asarray(matrix), np.asarray(target))[0]
    found, _ = fitting.least_squares(lambda x: (NOTHING, matrix @ x - target), jnp.zeros(4), 1)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    found, energies = fitting.least_squares(lambda x: (NOTHING, matrix @ x - target), jnp.zeros(4), 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(energies[0], 0.5 * np.sum(np.square(target)), rtol=1e-5)
    np.testing.assert_allclose(energies[-1], 0.5 * np.sum(np.square(matrix @ expected - target)), rtol=1e-4)


def test_rosenbrocks_valley_is_followed_to_its_end():
    found, energies = fitting.least_squares(rosenbrock, jnp.asarray([-1.2, 1.0]), 40)
    np.testing.assert_allclose(found, 1.0, atol=1e-4)
    assert (np.diff(energies) <= 0).all() and energies.shape == (40,)


def test_a_prior_draws_the_answer_by_its_weight():
    """Two measurements of 1 and a prior at 0, twice as sure as each: (1 + 1) / (1 + 1 + 4)."""
    found, _ = fitting.least_squares(lambda x: (jnp.stack([x - 1.0, x - 1.0]), 2.0 * x), jnp.asarray([0.3]), 8)
    np.testing.assert_allclose(found, 1 / 3, atol=1e-5)


def test_rows_far_off_count_linearly():
    """A mean of points of which one lies far away: it pulls with the force of `ROBUST_SCALE` noise levels, no more."""
    points = jnp.asarray([[0.0, 0.1], [0.1, 0.0], [-0.1, 0.0], [0.0, -0.1], [30.0, 40.0]])
    found, _ = fitting.least_squares(lambda x: (points - x[None], jnp.zeros(0)), jnp.zeros(2), 10)
    np.testing.assert_allclose(found, np.asarray([0.6, 0.8]) * 3.0 / 4.0, atol=0.01)
    np.testing.assert_allclose(fitting.huber_energy(jnp.asarray([[1.0, 0.0], [0.0, 5.0]])), 0.5 + 3 * 5 - 4.5)


def test_unknowns_may_be_a_pytree():
    start = {"slope": jnp.zeros(()), "offset": jnp.zeros(2)}
    x = jnp.linspace(0, 1, 5)

    def residuals(line):
        return NOTHING, (line["slope"] * x[:, None] + line["offset"][None] - (2.0 * x[:, None] - 1.0)).reshape(-1)

    found, _ = fitting.least_squares(residuals, start, 6)
    chex.assert_trees_all_close(found, {"slope": jnp.asarray(2.0), "offset": jnp.full(2, -1.0)}, atol=1e-3)


def test_eager_jit_and_vmap_agree_and_batches_compile_once():
    starts = jnp.asarray([[-1.2, 1.0], [0.5, 0.5], [2.0, -1.0]])

    def solve(start):
        return fitting.least_squares(rosenbrock, start, 12)

    compiled, batched = jax.jit(solve), jax.jit(jax.vmap(solve))
    whole = batched(starts)
    batched(starts + 0.1)
    assert batched._cache_size() == 1
    for i, start in enumerate(starts):
        single = compiled(start)
        chex.assert_trees_all_close(single, jax.tree.map(lambda leaf, i=i: leaf[i], whole), atol=1e-3)
        if i == 0:
            chex.assert_trees_all_close(single, solve(start), atol=1e-3)


def test_singular_and_broken_problems_stay_finite():
    # The second unknown is not measured at all: it stays.
    found, _ = fitting.least_squares(lambda x: (NOTHING, x[:1] - 1.0), jnp.asarray([0.0, 5.0]), 6)
    np.testing.assert_allclose(found, [1.0, 5.0], atol=1e-4)
    # Nothing is: the start comes back; as it does where residuals are not numbers, or their slope is not.
    start = jnp.asarray([0.5, -0.5])
    for residuals in (
        lambda x: (NOTHING, jnp.zeros(3)),
        lambda x: (NOTHING, x * jnp.nan),
        lambda x: (NOTHING, jnp.sqrt(0.0 * x) + 1.0),
    ):
        found, _ = fitting.least_squares(residuals, start, 3)
        np.testing.assert_array_equal(found, start)
