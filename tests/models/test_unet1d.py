"""The U-Net over coefficients: shapes, transformations, conditioning, and what is trained."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from models import UNet1D, UNet1DConfig
from models.unet1d import products, time_embedding

CONFIG = UNet1DConfig((12, 6, 4), context=8, time=16, heads=2, head_width=4, tokens=3)


@pytest.fixture(scope="module")
def net():
    """With a last layer that is not zero."""
    model = UNet1D(CONFIG, rngs=nnx.Rngs(0))
    model.noise.kernel[...] = jax.random.normal(jax.random.key(1), (12, 12)) / 4
    return model


def inputs(batch, key=0):
    """x, time, context."""
    keys = jax.random.split(jax.random.key(key), 3)
    x = jax.random.normal(keys[0], (*batch, 12))
    return x, 1 + 998 * jax.random.uniform(keys[1], batch), jax.random.normal(keys[2], (*batch, 8))


call = nnx.jit(lambda net, *given: net(*given))


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_batch_axes_jit_and_vmap(net, batch):
    x, time, context = inputs(batch)
    found = call(net, x, time, context)
    chex.assert_shape(found, (*batch, 12))
    each = net if not batch else lambda *given: call(net, *given)
    expected = [each(x[k], time[k], context[k]) for k in np.ndindex(batch)]
    chex.assert_trees_all_close(found, jnp.stack(expected).reshape(found.shape), atol=2e-5)
    mapped = net
    for _ in batch:
        mapped = jax.vmap(mapped)
    chex.assert_trees_all_close(found, jax.jit(mapped)(x, time, context), atol=2e-5)


def test_wrong_shapes_are_refused_by_name(net):
    x, time, context = inputs((3,))
    with pytest.raises(ValueError, match=r"x should be \(\*b, 12\), not \(3, 11\)"):
        net(x[:, 1:], time, context)
    with pytest.raises(ValueError, match="context should be"):
        net(x, time, context[:, 1:])
    with pytest.raises(ValueError, match=r"`time`.* too many axes"):
        net(x[0], time, context[0])


def test_a_shared_time_and_context_are_those_of_all(net):
    x, time, context = inputs((5,))
    shared = call(net, x, time[0], context[0])
    repeated = call(net, x, jnp.full(5, time[0]), jnp.broadcast_to(context[0], (5, 8)))
    chex.assert_trees_all_close(shared, repeated, atol=1e-5)


def test_derivatives(net):
    x, time, context = inputs((2,))
    noise = jax.jit(lambda x, c: net(x, time, c))
    # Smaller steps drown in float32's rounding: compiled and not they differed by 2 %.
    check_grads(noise, (x, context), order=1, modes=("fwd", "rev"), eps=2e-3, atol=1e-2, rtol=1e-2)


def test_everything_is_trained_attention_too(net):
    x, time, context = inputs((4,))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p, rest)(x, time, context) ** 2)))(params)
    flat = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(gradient)}
    assert any("attention/to_qkv" in name for name in flat)
    assert [name for name, leaf in flat.items() if not np.abs(leaf).max() > 0] == []


def test_untrained_it_says_nothing():
    x, time, context = inputs((3,))
    assert not np.any(call(UNet1D(CONFIG, rngs=nnx.Rngs(0)), x, time, context))


def test_the_papers_widths():
    for widths, context in (((300, 50, 10), 512), ((53, 25, 10), 1024)):
        config = UNet1DConfig(widths, context)
        state = nnx.state(nnx.eval_shape(lambda c=config: UNet1D(c, rngs=nnx.Rngs(0))), nnx.Param)
        shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}
        assert shapes["narrow/0/layers/0/kernel"] == widths[:2]
        assert shapes["narrow/1/layers/0/kernel"] == widths[1:]
        assert shapes["last/first/kernel"] == (2 * widths[0], widths[0])


def test_the_products_of_a_step_are_counted_exactly():
    """What the benchmark's bare GEMMs are: written out for one level of width 6 over one of width 4."""
    config = UNet1DConfig((6, 4), context=5, time=8, heads=1, head_width=2, tokens=3)

    def block(before, after):
        residual = before * after if before != after else 0
        return before * after + after * after + (8 + 5) * 2 * after + residual

    def level(width, skipped):
        return 2 * block(width + skipped, width) + width * 18 + 6 * width

    wanted = 4 * 8 + 8 * 8 + 36 + level(6, 0) + (24 + 16) + level(4, 0) + (24 + 36) + level(6, 6) + block(12, 6) + 36
    assert sum(a * b for a, b in products(config)) == wanted


def test_times_are_told_apart():
    waves = time_embedding(jnp.asarray([0.0, 1.0, 500.0, 1000.0]), 16)
    np.testing.assert_allclose(waves[0], [0.0] * 8 + [1.0] * 8, atol=1e-6)
    apart = np.linalg.norm(waves[:, None] - waves[None], axis=-1)
    assert apart[~np.eye(4, dtype=bool)].min() > 0.5


@pytest.mark.parametrize("bad", [{"widths": (12,)}, {"time": 15}, {"heads": 0}, {"widths": (12, 0)}])
def test_sizes_that_cannot_be(bad):
    with pytest.raises(ValueError, match=r"U-Net|embedding"):
        UNet1DConfig(**{"widths": (12, 6), **bad})


def test_the_context_has_no_bias_of_its_own(net):
    """One would say the same as that of the time: two numbers for one."""
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param)) if "of_context" in path]
    assert paths and all(path[-1] == "kernel" for path in paths)
