"""`gather` by neighbour lists: values, derivatives of all kinds and orders, transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from models.gather import gather
from models.hierarchy import neighbour_lists

LISTS = neighbour_lists([np.array([0, 3, 4]), np.array([3]), np.array([1, 3])], 6)  # sources 2 and 5 are unused


def rows(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def gathered(lists, x):
    """Gather rows, with zeros where lists are padded."""
    return jnp.where(lists.mask[..., None], gather(lists, x), 0)


def indexed(lists, x):
    """The reference for `gathered`."""
    return jnp.where(lists.mask[..., None], x[lists.index], 0)


def test_gather_equals_indexing(small):
    for step in small.steps:
        for lists in (step.pool, step.unpool):
            x = rows(lists.num_sources, 3)
            neighbours = gather(lists, x)
            assert neighbours.shape == (lists.num_targets, lists.width, 3)
            np.testing.assert_array_equal(neighbours[lists.mask], x[lists.index[lists.mask]])
            np.testing.assert_array_equal(jax.jit(gather)(lists, x), neighbours)


def test_derivatives_equal_those_of_indexing(small):
    lists = small.steps[0].pool
    x, tangent = rows(lists.num_sources, 2), rows(lists.num_sources + 1, 2)[1:]
    weights = rows(lists.num_targets, lists.width, 2)
    derivatives = [jax.jvp(lambda x, f=f: f(lists, x) ** 3, (x,), (tangent,)) for f in (gathered, indexed)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *derivatives)
    derivatives = [jax.grad(lambda x, f=f: jnp.sum(weights * f(lists, x) ** 3))(x) for f in (gathered, indexed)]
    np.testing.assert_allclose(*derivatives, atol=1e-4)


def test_cotangents_at_padding_are_dropped():
    weights = jnp.where(LISTS.mask[..., None], 1.0, 1e9)
    gradient = jax.grad(lambda x: jnp.sum(weights * gather(LISTS, x)))(rows(6, 1))
    np.testing.assert_array_equal(gradient[:, 0], [1, 1, 0, 3, 1, 0])


def test_derivatives_agree_with_finite_differences():
    weights = rows(3, 3, 2)
    check_grads(lambda x: jnp.sum(weights * jnp.tanh(gathered(LISTS, x))), (rows(6, 2),), 2, ("fwd", "rev"), eps=1e-2)


def test_transpose_sums_and_its_transpose_gathers():
    x = rows(6, 2)
    transpose = jax.linear_transpose(lambda x: gather(LISTS, x), x)
    (collected,) = transpose(gather(LISTS, x))
    np.testing.assert_allclose(collected, x * jnp.asarray([1, 1, 0, 3, 1, 0])[:, None], atol=1e-6)
    transpose_of_transpose = jax.linear_transpose(lambda edges: transpose(edges)[0], rows(3, 3, 2))
    np.testing.assert_array_equal(transpose_of_transpose(x)[0], gather(LISTS, x))


def hessian_vector(f, x, tangent):
    return jax.jvp(jax.grad(lambda x: jnp.sum(jnp.sin(f(LISTS, x)))), (x,), (tangent,))[1]


def test_second_derivatives_equal_those_of_indexing():
    x, tangent = rows(6, 2), rows(7, 2)[1:]
    np.testing.assert_allclose(hessian_vector(gathered, x, tangent), hessian_vector(indexed, x, tangent), atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(jax.jvp(lambda x: jnp.sin(gathered(LISTS, x)), (x,), (tangent,))[1]))(x)
    np.testing.assert_allclose(gradient, hessian_vector(indexed, x, tangent), atol=1e-6)
    jacobians = [jac(lambda x: gathered(LISTS, x))(x) for jac in (jax.jacfwd, jax.jacrev)]
    np.testing.assert_array_equal(*jacobians)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_vmap_equals_a_loop(axis):
    x = jnp.moveaxis(rows(4, 6, 2), 0, axis)
    neighbours = jax.vmap(lambda x: gather(LISTS, x), in_axes=axis)(x)
    expected_rows = jnp.stack([gather(LISTS, one) for one in jnp.moveaxis(x, axis, 0)])
    np.testing.assert_array_equal(neighbours, expected_rows)
    gradient = jax.vmap(jax.grad(lambda x: jnp.sum(gathered(LISTS, x) ** 2)), in_axes=axis)(x)
    expected = jnp.stack([jax.grad(lambda x: jnp.sum(indexed(LISTS, x) ** 2))(one) for one in jnp.moveaxis(x, axis, 0)])
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_vmap_twice_and_under_a_map_equal_indexing():
    x = rows(2, 3, 6, 2)
    expected = x[:, :, LISTS.index]
    np.testing.assert_array_equal(jax.vmap(jax.vmap(lambda x: gather(LISTS, x)))(x), expected)
    np.testing.assert_array_equal(jax.lax.map(jax.vmap(lambda x: gather(LISTS, x)), x), expected)


def test_vmap_over_lists_is_refused():
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), LISTS)
    with pytest.raises(NotImplementedError, match="one mesh"):
        jax.vmap(gather)(many, rows(2, 6, 1))


def test_half_precision_is_preserved():
    x = rows(6, 2).astype(jnp.bfloat16)
    assert gather(LISTS, x).dtype == jnp.bfloat16
    assert jax.grad(lambda x: jnp.sum(gathered(LISTS, x)).astype(jnp.float32))(x).dtype == jnp.bfloat16
