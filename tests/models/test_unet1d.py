"""The U-Net over coefficients: shapes, transformations, conditioning, trained parameters."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from models import UNet1D, UNet1DConfig
from models.unet1d import matrix_shapes, time_embedding

CONFIG = UNet1DConfig((12, 6, 4), context=8, time=16, heads=2, head_width=4, tokens=3)


@pytest.fixture(scope="module")
def net():
    """A network whose last layer is not zero."""
    model = UNet1D(CONFIG, rngs=nnx.Rngs(0))
    model.noise.kernel[...] = jax.random.normal(jax.random.key(1), (12, 12)) / 4
    return model


def inputs(batch, key=0):
    """Return x, time and context."""
    keys = jax.random.split(jax.random.key(key), 3)
    x = jax.random.normal(keys[0], (*batch, 12))
    return x, 1 + 998 * jax.random.uniform(keys[1], batch), jax.random.normal(keys[2], (*batch, 8))


call = nnx.jit(lambda net, *args: net(*args))


@pytest.mark.parametrize("batch", [(), (1,), (2, 3)])
def test_batches_jit_and_vmap_agree(net, batch):
    x, time, context = inputs(batch)
    noise = call(net, x, time, context)
    chex.assert_shape(noise, (*batch, 12))
    single = net if not batch else lambda *args: call(net, *args)
    expected = [single(x[k], time[k], context[k]) for k in np.ndindex(batch)]
    chex.assert_trees_all_close(noise, jnp.stack(expected).reshape(noise.shape), atol=2e-5)
    mapped = net
    for _ in batch:
        mapped = jax.vmap(mapped)
    chex.assert_trees_all_close(noise, jax.jit(mapped)(x, time, context), atol=2e-5)


def test_wrong_shapes_are_refused_by_name(net):
    x, time, context = inputs((3,))
    with pytest.raises(ValueError, match=r"x should be \(\*b, 12\), not \(3, 11\)"):
        net(x[:, 1:], time, context)
    with pytest.raises(ValueError, match="context should be"):
        net(x, time, context[:, 1:])
    with pytest.raises(ValueError, match=r"`time`.* too many axes"):
        net(x[0], time, context[0])


def test_shared_time_and_context_equal_repeated_ones(net):
    x, time, context = inputs((5,))
    shared = call(net, x, time[0], context[0])
    repeated = call(net, x, jnp.full(5, time[0]), jnp.broadcast_to(context[0], (5, 8)))
    chex.assert_trees_all_close(shared, repeated, atol=1e-5)


def test_derivatives_agree_with_finite_differences(net):
    x, time, context = inputs((2,))
    noise = jax.jit(lambda x, c: net(x, time, c))
    # With smaller steps float32's rounding dominates: compiled and eager results differed by 2 %.
    check_grads(noise, (x, context), order=1, modes=("fwd", "rev"), eps=2e-3, atol=1e-2, rtol=1e-2)


def test_all_parameters_get_gradients(net):
    x, time, context = inputs((4,))
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(nnx.merge(graphdef, p, rest)(x, time, context) ** 2)))(params)
    flat = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(gradient)}
    assert any("attention/to_qkv" in name for name in flat)
    assert [name for name, leaf in flat.items() if not np.abs(leaf).max() > 0] == []


def test_untrained_network_predicts_zero():
    x, time, context = inputs((3,))
    assert not np.any(call(UNet1D(CONFIG, rngs=nnx.Rngs(0)), x, time, context))


def test_layer_shapes_follow_the_papers_widths():
    for widths, context in (((300, 50, 10), 512), ((53, 25, 10), 1024)):
        config = UNet1DConfig(widths, context)
        state = nnx.state(nnx.eval_shape(lambda c=config: UNet1D(c, rngs=nnx.Rngs(0))), nnx.Param)
        shapes = {"/".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(state)}
        assert shapes["narrow/0/layers/0/kernel"] == widths[:2]
        assert shapes["narrow/1/layers/0/kernel"] == widths[1:]
        assert shapes["last/first/kernel"] == (2 * widths[0], widths[0])


def test_matrix_shapes_lists_all_matrices_of_a_step():
    """The benchmark multiplies matrices of these shapes. Here they are counted for levels of widths 6 and 4."""
    config = UNet1DConfig((6, 4), context=5, time=8, heads=1, head_width=2, tokens=3)

    def block(before, after):
        residual = before * after if before != after else 0
        return before * after + after * after + (8 + 5) * 2 * after + residual

    def level(width, skipped):
        return 2 * block(width + skipped, width) + width * 18 + 6 * width

    expected = 4 * 8 + 8 * 8 + 36 + level(6, 0) + (24 + 16) + level(4, 0) + (24 + 36) + level(6, 6) + block(12, 6) + 36
    assert sum(a * b for a, b in matrix_shapes(config)) == expected


def test_time_embeddings_differ():
    waves = time_embedding(jnp.asarray([0.0, 1.0, 500.0, 1000.0]), 16)
    np.testing.assert_allclose(waves[0], [0.0] * 8 + [1.0] * 8, atol=1e-6)
    distances = np.linalg.norm(waves[:, None] - waves[None], axis=-1)
    assert distances[~np.eye(4, dtype=bool)].min() > 0.5


@pytest.mark.parametrize("bad", [{"widths": (12,)}, {"time": 15}, {"heads": 0}, {"widths": (12, 0)}])
def test_invalid_sizes_are_refused(bad):
    with pytest.raises(ValueError, match=r"U-Net|embedding"):
        UNet1DConfig(**{"widths": (12, 6), **bad})


def test_the_contexts_projection_has_no_bias(net):
    """It would be redundant beside the time's bias."""
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param)) if "of_context" in path]
    assert paths and all(path[-1] == "kernel" for path in paths)
