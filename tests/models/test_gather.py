"""Gathering by neighbour lists: values, derivatives of all kinds and orders, transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from models.gather import gather
from models.hierarchy import neighbour_lists

LISTS = neighbour_lists([np.array([0, 3, 4]), np.array([3]), np.array([1, 3])], 6)  # nobody draws from 2 and 5


def rows(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def valid(lists, x):
    """The rows gathered, zero where lists are padded."""
    return jnp.where(lists.mask[..., None], gather(lists, x), 0)


def plain(lists, x):
    return jnp.where(lists.mask[..., None], x[lists.index], 0)


def test_it_is_indexing(small):
    for step in small.steps:
        for lists in (step.pool, step.unpool):
            x = rows(lists.num_sources, 3)
            found = gather(lists, x)
            assert found.shape == (lists.num_targets, lists.width, 3)
            np.testing.assert_array_equal(found[lists.mask], x[lists.index[lists.mask]])
            np.testing.assert_array_equal(jax.jit(gather)(lists, x), found)


def test_derivatives_are_those_of_indexing(small):
    lists = small.steps[0].pool
    x, tangent = rows(lists.num_sources, 2), rows(lists.num_sources + 1, 2)[1:]
    weights = rows(lists.num_targets, lists.width, 2)
    both = [jax.jvp(lambda x, f=f: f(lists, x) ** 3, (x,), (tangent,)) for f in (valid, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *both)
    both = [jax.grad(lambda x, f=f: jnp.sum(weights * f(lists, x) ** 3))(x) for f in (valid, plain)]
    np.testing.assert_allclose(*both, atol=1e-4)


def test_cotangents_at_padding_are_dropped():
    weights = jnp.where(LISTS.mask[..., None], 1.0, 1e9)
    found = jax.grad(lambda x: jnp.sum(weights * gather(LISTS, x)))(rows(6, 1))
    np.testing.assert_array_equal(found[:, 0], [1, 1, 0, 3, 1, 0])


def test_derivatives_agree_with_finite_differences():
    weights = rows(3, 3, 2)
    check_grads(lambda x: jnp.sum(weights * jnp.tanh(valid(LISTS, x))), (rows(6, 2),), 2, ("fwd", "rev"), eps=1e-2)


def test_linear_transpose_and_back():
    x = rows(6, 2)
    back = jax.linear_transpose(lambda x: gather(LISTS, x), x)
    (collected,) = back(gather(LISTS, x))
    np.testing.assert_allclose(collected, x * jnp.asarray([1, 1, 0, 3, 1, 0])[:, None], atol=1e-6)
    again = jax.linear_transpose(lambda edges: back(edges)[0], rows(3, 3, 2))
    np.testing.assert_array_equal(again(x)[0], gather(LISTS, x))


def hessian_vector(f, x, tangent):
    return jax.jvp(jax.grad(lambda x: jnp.sum(jnp.sin(f(LISTS, x)))), (x,), (tangent,))[1]


def test_forward_over_reverse_and_reverse_over_forward():
    x, tangent = rows(6, 2), rows(7, 2)[1:]
    np.testing.assert_allclose(hessian_vector(valid, x, tangent), hessian_vector(plain, x, tangent), atol=1e-6)
    found = jax.grad(lambda x: jnp.sum(jax.jvp(lambda x: jnp.sin(valid(LISTS, x)), (x,), (tangent,))[1]))(x)
    np.testing.assert_allclose(found, hessian_vector(plain, x, tangent), atol=1e-6)
    jacobians = [jac(lambda x: valid(LISTS, x))(x) for jac in (jax.jacfwd, jax.jacrev)]
    np.testing.assert_array_equal(*jacobians)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_vmap_is_a_loop(axis):
    x = jnp.moveaxis(rows(4, 6, 2), 0, axis)
    found = jax.vmap(lambda x: gather(LISTS, x), in_axes=axis)(x)
    loop = jnp.stack([gather(LISTS, one) for one in jnp.moveaxis(x, axis, 0)])
    np.testing.assert_array_equal(found, loop)
    gradient = jax.vmap(jax.grad(lambda x: jnp.sum(valid(LISTS, x) ** 2)), in_axes=axis)(x)
    expected = jnp.stack([jax.grad(lambda x: jnp.sum(plain(LISTS, x) ** 2))(one) for one in jnp.moveaxis(x, axis, 0)])
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_vmap_twice_and_under_a_map():
    x = rows(2, 3, 6, 2)
    expected = x[:, :, LISTS.index]
    np.testing.assert_array_equal(jax.vmap(jax.vmap(lambda x: gather(LISTS, x)))(x), expected)
    np.testing.assert_array_equal(jax.lax.map(jax.vmap(lambda x: gather(LISTS, x)), x), expected)


def test_meshes_are_not_batched():
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), LISTS)
    with pytest.raises(NotImplementedError, match="one mesh"):
        jax.vmap(gather)(many, rows(2, 6, 1))


def test_half_precision_stays():
    x = rows(6, 2).astype(jnp.bfloat16)
    assert gather(LISTS, x).dtype == jnp.bfloat16
    assert jax.grad(lambda x: jnp.sum(valid(LISTS, x)).astype(jnp.float32))(x).dtype == jnp.bfloat16
