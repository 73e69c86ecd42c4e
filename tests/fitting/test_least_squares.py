"""`least_squares` on problems of known solution, and the guarantees of its docstring."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import fitting

NO_ROBUST = jnp.zeros((0, 1))
"""Robust residuals of a problem that has none."""


def rosenbrock(x):
    return NO_ROBUST, jnp.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]])


def test_a_linear_problem_is_solved_in_one_step_up_to_the_damping():
    rng = np.random.default_rng(0)
    matrix, target = jnp.asarray(rng.normal(size=(20, 4)), jnp.float32), jnp.asarray(rng.normal(size=20), jnp.float32)
    expected = np.linalg.lstsq(np.asarray(matrix), np.asarray(target))[0]
    solution, _ = fitting.least_squares(lambda x: (NO_ROBUST, matrix @ x - target), jnp.zeros(4), 1)
    np.testing.assert_allclose(solution, expected, atol=0.02 * np.abs(expected).max())
    solution, energies = fitting.least_squares(lambda x: (NO_ROBUST, matrix @ x - target), jnp.zeros(4), 4)
    np.testing.assert_allclose(solution, expected, atol=1e-4)
    np.testing.assert_allclose(energies[0], 0.5 * np.sum(np.square(target)), rtol=1e-5)
    np.testing.assert_allclose(energies[-1], 0.5 * np.sum(np.square(matrix @ expected - target)), rtol=1e-4)


def test_the_rosenbrock_function_is_minimised():
    solution, energies = fitting.least_squares(rosenbrock, jnp.asarray([-1.2, 1.0]), 40)
    np.testing.assert_allclose(solution, 1.0, atol=1e-4)
    assert (np.diff(energies) <= 0).all() and energies.shape == (40,)


def test_a_prior_moves_the_solution_by_its_weight():
    """Two measurements of 1, and a prior at 0 with half their standard deviation: (1 + 1) / (1 + 1 + 4)."""
    solution, _ = fitting.least_squares(lambda x: (jnp.stack([x - 1.0, x - 1.0]), 2.0 * x), jnp.asarray([0.3]), 8)
    np.testing.assert_allclose(solution, 1 / 3, atol=1e-5)


def test_the_energy_of_outliers_is_linear():
    """The mean of points with one outlier, whose gradient is limited to `ROBUST_SCALE` noise levels."""
    points = jnp.asarray([[0.0, 0.1], [0.1, 0.0], [-0.1, 0.0], [0.0, -0.1], [30.0, 40.0]])
    solution, _ = fitting.least_squares(lambda x: (points - x[None], jnp.zeros(0)), jnp.zeros(2), 10)
    np.testing.assert_allclose(solution, np.asarray([0.6, 0.8]) * 3.0 / 4.0, atol=0.01)
    np.testing.assert_allclose(fitting.huber_energy(jnp.asarray([[1.0, 0.0], [0.0, 5.0]])), 0.5 + 3 * 5 - 4.5)


def test_parameters_may_be_a_pytree():
    start = {"slope": jnp.zeros(()), "offset": jnp.zeros(2)}
    x = jnp.linspace(0, 1, 5)

    def residuals(line):
        return NO_ROBUST, (line["slope"] * x[:, None] + line["offset"][None] - (2.0 * x[:, None] - 1.0)).reshape(-1)

    solution, _ = fitting.least_squares(residuals, start, 6)
    chex.assert_trees_all_close(solution, {"slope": jnp.asarray(2.0), "offset": jnp.full(2, -1.0)}, atol=1e-3)


def test_eager_jit_and_vmap_agree_and_batches_compile_once():
    starts = jnp.asarray([[-1.2, 1.0], [0.5, 0.5], [2.0, -1.0]])

    def solve(start):
        return fitting.least_squares(rosenbrock, start, 12)

    compiled, batched = jax.jit(solve), jax.jit(jax.vmap(solve))
    batch = batched(starts)
    batched(starts + 0.1)
    assert batched._cache_size() == 1
    for i, start in enumerate(starts):
        single = compiled(start)
        chex.assert_trees_all_close(single, jax.tree.map(lambda leaf, i=i: leaf[i], batch), atol=1e-3)
        if i == 0:
            chex.assert_trees_all_close(single, solve(start), atol=1e-3)


def test_singular_and_nonfinite_problems_give_finite_results():
    # The second parameter has no residual, so it stays.
    solution, _ = fitting.least_squares(lambda x: (NO_ROBUST, x[:1] - 1.0), jnp.asarray([0.0, 5.0]), 6)
    np.testing.assert_allclose(solution, [1.0, 5.0], atol=1e-4)
    # The start is returned if no parameter has a residual, and if the residuals or their derivatives are not finite.
    start = jnp.asarray([0.5, -0.5])
    for residuals in (
        lambda x: (NO_ROBUST, jnp.zeros(3)),
        lambda x: (NO_ROBUST, x * jnp.nan),
        lambda x: (NO_ROBUST, jnp.sqrt(0.0 * x) + 1.0),
    ):
        solution, _ = fitting.least_squares(residuals, start, 3)
        np.testing.assert_array_equal(solution, start)
