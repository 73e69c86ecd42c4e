"""Convolution, residual branch and block compared with loops in numpy; padding, transformations, derivatives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from models.mesh_conv import ELU_GAIN, MeshBlock, MeshConv, MeshResidual

DIRECTIONS = {"down": (0, "pool"), "up": (0, "unpool"), "same": (1, "pool")}


def lists_of(hierarchy, direction):
    step, name = DIRECTIONS[direction]
    return getattr(hierarchy.steps[step], name)


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def randomised(module):
    """Randomise all parameters, because biases and weights of means are initially constant."""
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda leaf: normal(leaf.shape, leaf.size) * 0.3, state))
    return module


@pytest.fixture(params=[False, True], ids=["aggregate first", "project first"])
def order_of_products(request, monkeypatch):
    monkeypatch.setattr(MeshConv, "project_first", request.param)


def naive_conv(conv, x):
    """y_p = sum_n sum_m a[p, m, n] W_m x_N(p, n) + b_p for one example, one product at a time."""
    lists = conv.lists.get_value()
    index, mask = np.asarray(lists.index), np.asarray(lists.mask)
    a, bases, bias = (np.asarray(p[...], np.float64) for p in (conv.coefficients, conv.bases, conv.bias))
    out = bias.copy()
    for p in range(len(index)):
        for n in range(index.shape[1]):
            for m in range(len(bases)) if mask[p, n] else ():
                out[p] += a[p, m, n] * (np.asarray(x[index[p, n]], np.float64) @ bases[m])
    return out


def naive_residual(residual, x):
    x = np.asarray(x, np.float64)
    if residual.lists is not None:
        lists = residual.lists.get_value()
        index, mask, rho = np.asarray(lists.index), np.asarray(lists.mask), np.asarray(residual.weights[...])
        means = np.zeros((len(index), x.shape[1]))
        for p in range(len(index)):
            total = sum(abs(rho[p, n]) for n in range(index.shape[1]) if mask[p, n])
            for n in range(index.shape[1]):
                if mask[p, n]:
                    means[p] += abs(rho[p, n]) / (total + 1e-8) * x[index[p, n]]
        x = means
    return x if residual.projection is None else x @ np.asarray(residual.projection[...], np.float64)


def naive_block(block, x):
    conv = naive_conv(block.conv, x)
    if block.activate:
        conv = np.where(conv > 0, conv, np.expm1(np.minimum(conv, 0)))
    return np.sqrt(1 - block.residual_rate) * conv + np.sqrt(block.residual_rate) * naive_residual(block.residual, x)


def check_against(naive, module, x):
    """Compare the eager, compiled and mapped module with the loops."""
    expected = np.stack([naive(module, example) for example in x.reshape(-1, *x.shape[-2:])])
    expected = expected.reshape(*x.shape[:-2], *expected.shape[1:])
    if x.ndim == 2:
        np.testing.assert_allclose(module(x), expected, atol=3e-5)
    graph, state = nnx.split(module)
    call = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    np.testing.assert_allclose(call(state, x), expected, atol=3e-5)
    if len(x) == 3 and x.ndim > 2:
        mapped = jax.jit(lambda state, x: jax.vmap(nnx.merge(graph, state))(x))
        np.testing.assert_allclose(mapped(state, x), expected, atol=3e-5)


@pytest.mark.parametrize(("direction", "batch"), [("down", ()), ("down", (3,)), ("up", (1,)), ("same", (3,))])
def test_convolution_equals_its_definition(small, order_of_products, direction, batch):
    lists = lists_of(small, direction)
    conv = randomised(MeshConv(lists, 2, 4, 3, rngs=nnx.Rngs(0)))
    check_against(naive_conv, conv, normal((*batch, lists.num_sources, 2)))


@pytest.mark.parametrize(
    ("direction", "before", "after", "batch"),
    [
        ("down", 2, 2, ()), ("down", 2, 3, (1,)), ("down", 3, 2, (3,)), ("up", 2, 3, (3,)), ("up", 3, 2, ()),
        (None, 2, 2, (3,)), (None, 2, 3, ()),
    ],
)  # fmt: skip
def test_residual_equals_its_definition(small, direction, before, after, batch):
    lists = lists_of(small, direction) if direction else None
    residual = randomised(MeshResidual(lists, before, after, rngs=nnx.Rngs(0)))
    assert (residual.projection is None) == (before == after)
    check_against(naive_residual, residual, normal((*batch, lists.num_sources if direction else 7, before)))


@pytest.mark.parametrize(("direction", "activate"), [("down", True), ("up", False), ("same", True)])
def test_block_equals_its_definition(small, order_of_products, direction, activate):
    lists = lists_of(small, direction)
    settings = {"resample": direction != "same", "activate": activate, "residual_rate": 0.7}
    block = MeshBlock(lists, 2, 3, 3, **settings, rngs=nnx.Rngs(0))
    check_against(naive_block, randomised(block), normal((3, lists.num_sources, 2)))


def test_project_first_depends_on_the_shape(flame_sized):
    """With few output channels, or many more targets than sources, the projection comes first."""
    first, third = flame_sized.steps[0], flame_sized.steps[3]
    assert not MeshConv(first.pool, 3, 32, 17, rngs=nnx.Rngs(0)).project_first
    assert not MeshConv(third.pool, 128, 256, 17, rngs=nnx.Rngs(0)).project_first
    assert MeshConv(first.unpool, 32, 3, 17, rngs=nnx.Rngs(0)).project_first


def test_padded_coefficients_have_no_influence_and_no_gradient(small, order_of_products):
    lists = lists_of(small, "down")
    block = randomised(MeshBlock(lists, 2, 3, 3, resample=True, rngs=nnx.Rngs(0)))
    x, padded = normal((2, lists.num_sources, 2)), ~np.asarray(lists.mask)
    assert padded.any()
    call, gradient = nnx.jit(lambda block: block(x)), nnx.jit(nnx.grad(lambda block: jnp.sum(block(x) ** 2)))
    expected, gradients = call(block), gradient(block)
    coefficients = np.moveaxis(np.asarray(gradients["conv"]["coefficients"][...]), 1, 2)
    weights = np.asarray(gradients["residual"]["weights"][...])
    assert (coefficients[padded] == 0).all() and (coefficients[~padded] != 0).all() and (weights[padded] == 0).all()
    for parameter, mask in ((block.conv.coefficients, padded[:, None]), (block.residual.weights, padded)):
        parameter[...] = jnp.where(mask, jnp.nan, parameter[...])
    np.testing.assert_array_equal(call(block), expected)
    chex.assert_trees_all_close(gradient(block), gradients, rtol=1e-6)


@pytest.mark.parametrize("direction", ["down", "same"])
def test_derivatives_agree_with_finite_differences(small, order_of_products, direction):
    lists = lists_of(small, direction)
    block = randomised(MeshBlock(lists, 2, 3, 2, resample=direction != "same", rngs=nnx.Rngs(0)))
    graph, params, rest = nnx.split(block, nnx.Param, ...)
    scale = 1 / lists.num_targets

    def loss(params, x):
        return scale * jnp.sum(jnp.tanh(nnx.merge(graph, params, rest)(x)))

    x = normal((2, lists.num_sources, 2))
    check_grads(jax.jit(loss), (params, x), 1, ("fwd", "rev"), eps=3e-3, rtol=0.03, atol=3e-3)


def test_gradient_is_the_same_for_both_orders_of_products(small, monkeypatch):
    lists = lists_of(small, "up")
    block, x = randomised(MeshBlock(lists, 2, 3, 2, resample=True, rngs=nnx.Rngs(0))), normal((2, lists.num_sources, 2))
    gradients = []
    for first in (False, True):
        monkeypatch.setattr(MeshConv, "project_first", first)
        gradients.append(nnx.jit(nnx.grad(lambda block, x: jnp.sum(block(x) ** 2), argnums=(0, 1)))(block, x))
    chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-4)


def test_batch_equals_single_examples(small, order_of_products):
    lists = lists_of(small, "down")
    block, x = MeshBlock(lists, 2, 3, 2, resample=True, rngs=nnx.Rngs(0)), normal((2, 3, lists.num_sources, 2))
    out = block(x)
    assert out.shape == (2, 3, lists.num_targets, 3)
    np.testing.assert_allclose(out[1, 2], block(x[1, 2]), atol=1e-6)
    assert block(x[:0]).shape == (0, 3, lists.num_targets, 3)


def test_second_call_does_not_compile_again(small):
    lists = lists_of(small, "down")
    block = MeshBlock(lists, 2, 3, 2, resample=True, rngs=nnx.Rngs(0))

    @nnx.jit
    @chex.assert_max_traces(n=1)
    def call(block, x):
        return block(x)

    first = call(block, normal((2, lists.num_sources, 2)))
    block.conv.bias[...] += 1.0
    second = call(block, normal((2, lists.num_sources, 2), seed=1))
    assert not np.allclose(first, second)


def test_initial_outputs_have_the_gain_as_standard_deviation(flame_sized):
    """For white input the convolution's output has its gain as deviation, and the ELU of a gain of 1.278 has RMS 1."""
    for direction, channels in (("pool", (3, 32)), ("unpool", (32, 3))):
        lists = getattr(flame_sized.steps[0], direction)
        for gain in (1.0, ELU_GAIN):
            conv = MeshConv(lists, *channels, 17, rngs=nnx.Rngs(0), gain=gain)
            out = conv(normal((lists.num_sources, channels[0])))
            np.testing.assert_allclose(jnp.std(out), gain, rtol=0.1)
            assert float(jnp.abs(jnp.mean(out))) < 0.1
    x = normal((100_000,))
    np.testing.assert_allclose(jnp.mean(jax.nn.elu(ELU_GAIN * x) ** 2), 1, atol=0.03)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_zero_channels_are_refused(small, sizes):
    with pytest.raises(ValueError, match="at least 1"):
        MeshConv(lists_of(small, "down"), *sizes, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_out_of_range_is_refused(small, rate):
    with pytest.raises(ValueError, match="residual_rate"):
        MeshBlock(lists_of(small, "down"), 1, 1, 1, resample=True, rngs=nnx.Rngs(0), residual_rate=rate)


@pytest.mark.parametrize(("rate", "part"), [(0.0, naive_conv), (1.0, naive_residual)])
def test_rate_0_and_1_use_a_single_branch(small, rate, part):
    lists = lists_of(small, "down")
    block = MeshBlock(lists, 2, 3, 2, resample=True, rngs=nnx.Rngs(0), residual_rate=rate, activate=False)
    x = normal((lists.num_sources, 2))
    np.testing.assert_allclose(block(x), part(block.conv if rate == 0 else block.residual, x), atol=1e-5)


def test_mean_weights_at_stride_1_are_refused():
    with pytest.raises(ValueError, match="stride 1"):
        MeshResidual(None, 2, 2, rngs=nnx.Rngs(0)).mean_weights()


def test_inputs_of_wrong_shape_are_refused(small):
    lists = lists_of(small, "down")
    conv = MeshConv(lists, 2, 3, 2, rngs=nnx.Rngs(0))
    for shape in ((lists.num_sources + 1, 2), (2, lists.num_sources - 1, 2)):
        with pytest.raises(ValueError, match="one for each source"):
            conv(normal(shape))
    with pytest.raises(TypeError):
        conv(normal((lists.num_sources, 3)))
