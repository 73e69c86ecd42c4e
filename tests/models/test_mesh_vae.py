"""The Mesh-VAE: shapes, hidden vertices, posterior, scale of activations, seeds, derivatives."""

import dataclasses
import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flamejax
from experiments.benchmark.spheres import spheres
from models import MeshVAE, MeshVAEConfig, Posterior, hierarchy_for, num_parameters
from models.mesh_vae import PAPER, SMALL
from tests.models.conftest import SMALL_SPHERES

TINY = MeshVAEConfig(strides=(2, 1, 2), features=(4, 6), latent_features=5, num_bases=3, centred=True)
RAW = dataclasses.replace(TINY, centred=False)


encode = nnx.jit(lambda model, vertices, visible: model.encode(vertices, visible))
decode = nnx.jit(lambda model, latents: model.decode(latents))
complete = nnx.jit(lambda model, vertices, visible: model.complete(vertices, visible))


@functools.cache
def hierarchy(config):
    return hierarchy_for(config, *spheres(SMALL_SPHERES))


def tiny(config=TINY, seed=0, **statistics):
    return MeshVAE(hierarchy(config), config, rngs=nnx.Rngs(seed), **statistics)


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def half_hidden(batch=()):
    return jnp.broadcast_to(jnp.arange(120) % 2 == 0, (*batch, 120))


@pytest.fixture(scope="module")
def open_head():
    head = flamejax.load_head()
    return np.asarray(head.faces), np.asarray(head.v_template)


@pytest.mark.parametrize(("config", "batch"), [(RAW, ()), (TINY, (2, 3))])
def test_outputs_have_the_batch_axes_of_the_inputs(config, batch):
    model, key = tiny(config), jax.random.key(0)
    vertices, visible = normal((*batch, 120, 3)), half_hidden(batch)

    @nnx.jit
    def all_outputs(model):
        posterior = model.encode(vertices, visible)
        path = model.interpolate(posterior.mean, posterior.mean, 5)
        heads = model.decode(posterior.mean), model.complete(vertices, visible)
        draws = model.sample(vertices, visible, key, 4)
        return posterior, posterior.sample(key), posterior.kl(), path, heads, draws, model(vertices, visible, key)

    posterior, latents, kl, path, heads, draws, (decoded, posterior_of_call) = all_outputs(model)
    chex.assert_shape([posterior.mean, posterior.log_variance, latents], (*batch, *model.latent_shape))
    chex.assert_shape(kl, batch)
    chex.assert_shape([*heads, decoded], (*batch, 120, 3))
    chex.assert_shape([draws, path], [(*batch, 4, 120, 3), (*batch, 5, 120, 3)])
    np.testing.assert_allclose(posterior_of_call.mean, posterior.mean, atol=1e-6)


@pytest.mark.parametrize("config", [TINY, RAW], ids=["centred", "raw"])
def test_values_of_hidden_vertices_have_no_effect(config):
    model, vertices, visible = tiny(config), normal((120, 3)), half_hidden()
    junk = jnp.asarray([1e3, np.nan, np.inf])[None]
    spoiled = jnp.where(visible[:, None], vertices, junk)
    expected, spoiled_posterior = encode(model, vertices, visible), encode(model, spoiled, visible)
    chex.assert_trees_all_equal(spoiled_posterior, expected)
    assert np.isfinite(spoiled_posterior.mean).all() and np.isfinite(spoiled_posterior.log_variance).all()
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(model.complete(v, visible) ** 2)))(spoiled)
    assert np.isfinite(gradient).all() and (gradient[~visible] == 0).all() and (gradient[visible] != 0).any()


def test_the_visibility_mask_has_an_effect():
    """The fourth channel marks visible vertices, even if all vertices are at the mean."""
    model = tiny()
    masks = jnp.ones(120, bool), half_hidden()
    all_visible, partly_hidden = (encode(model, jnp.zeros((120, 3)), mask).mean for mask in masks)
    assert float(jnp.abs(all_visible - partly_hidden).max()) > 1e-3


def test_kl_equals_numerical_integration():
    posterior = Posterior(jnp.asarray([[0.0, 1.5], [-0.7, 0.2]]), jnp.asarray([[0.0, -2.0], [1.0, -4.0]]))
    z, total = np.linspace(-25, 25, 200_001), 0.0
    for mean, log_variance in zip(np.ravel(posterior.mean), np.ravel(posterior.log_variance), strict=True):
        log_q = -0.5 * (np.log(2 * np.pi) + log_variance + (z - mean) ** 2 / np.exp(log_variance))
        total += np.sum(np.exp(log_q) * (log_q + 0.5 * (np.log(2 * np.pi) + z**2))) * (z[1] - z[0])
    np.testing.assert_allclose(posterior.kl(), total, rtol=1e-5)
    assert Posterior(jnp.zeros((3, 2, 5)), jnp.zeros((3, 2, 5))).kl().tolist() == [0, 0, 0]


def test_samples_have_the_posteriors_mean_and_variance():
    mean, log_variance = jnp.asarray([[0.5, -3.0]]), jnp.asarray([[1.0, -4.0]])
    posterior = Posterior(mean, log_variance)
    draws = jax.vmap(posterior.sample)(jax.random.split(jax.random.key(0), 20_000))
    sigma = np.exp(0.5 * log_variance)
    np.testing.assert_allclose((draws.mean(0) - mean) / sigma, 0, atol=0.03)
    np.testing.assert_allclose(draws.std(0) / sigma, 1, atol=0.03)
    assert abs(np.corrcoef(draws[:, 0].T)[0, 1]) < 0.03


def test_samples_differ_and_depend_on_the_key_only():
    model, key = tiny(), jax.random.key(3)
    vertices, visible = normal((2, 120, 3)), half_hidden((2,))
    sample = nnx.jit(lambda model, key: model.sample(vertices, visible, key, 3))
    draws = sample(model, key)
    np.testing.assert_array_equal(sample(model, key), draws)
    flat = draws.reshape(6, -1)
    assert all(float(jnp.abs(a - b).max()) > 1e-3 for a, b in itertools.combinations(flat, 2))


def test_ends_of_an_interpolation_are_the_decodings():
    model = tiny(mean=normal((120, 3), 1), spread=0.1)
    ends = normal((2, *model.latent_shape))
    path = nnx.jit(lambda model, ends: model.interpolate(*ends, 3))(model, ends)
    expected = decode(model, jnp.stack([ends[0], ends.mean(0), ends[1]]))
    np.testing.assert_allclose(path, expected, atol=1e-6)


def test_only_a_centred_network_uses_mean_and_spread():
    vertices, visible, mean = normal((120, 3)), half_hidden(), normal((120, 3), 1)
    with_statistics, without = tiny(RAW, mean=mean, spread=0.02), tiny(RAW)
    np.testing.assert_array_equal(*(complete(model, vertices, visible) for model in (with_statistics, without)))
    with_statistics, without = tiny(mean=mean, spread=0.02), tiny()
    completed = complete(with_statistics, mean + 0.02 * vertices, visible)
    np.testing.assert_allclose((completed - mean) / 0.02, complete(without, vertices, visible), atol=1e-4)


def test_weights_depend_on_the_seed_only():
    one, same, other = (nnx.state(tiny(seed=seed), nnx.Param) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(one, same)
    drawn = [leaf for leaf in jax.tree.leaves(one) if len(np.unique(leaf)) > 2]
    changed = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]
    assert sum(changed) == len(drawn) > 10
    assert len({float(leaf.ravel()[0]) for leaf in drawn}) == len(drawn)  # no two layers alike


def test_all_parameters_but_no_statistics_get_finite_gradients():
    model = tiny(mean=normal((120, 3), 1))
    vertices, visible = normal((2, 120, 3)), half_hidden((2,))

    @nnx.jit
    def gradient(model):
        def loss(model):
            decoded, posterior = model(vertices, visible, jax.random.key(0))
            return jnp.mean((decoded - vertices) ** 2) + 1e-3 * jnp.mean(posterior.kl())

        return nnx.value_and_grad(loss)(model)

    value, gradients = gradient(model)
    chex.assert_tree_all_finite((value, gradients))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    chex.assert_trees_all_equal_shapes(nnx.to_pure_dict(gradients), nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def test_wrong_shapes_are_refused_by_name():
    model = tiny()
    with pytest.raises(ValueError, match=r"vertices should be \(\*b, 120, 3\), not \(119, 3\)"):
        model.encode(jnp.zeros((119, 3)), half_hidden())
    with pytest.raises(ValueError, match=r"visible should be \(2, 120\), not \(120,\)"):
        model.encode(jnp.zeros((2, 120, 3)), half_hidden())
    with pytest.raises(ValueError, match="latents should be"):
        model.decode(jnp.zeros((*model.latent_shape, 1)))


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="strides"):
        MeshVAE(hierarchy(TINY), PAPER, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="features"):
        dataclasses.replace(TINY, features=(4,))


def test_a_mesh_with_few_latents_takes_the_leading_components():
    config = dataclasses.replace(TINY, linear_rank=60)
    fields = np.linalg.qr(np.random.default_rng(0).standard_normal((360, 60)))[0].T.reshape(60, 120, 3)
    fields *= np.linspace(2, 1, 60)[:, None, None]
    model = tiny(config, components=jnp.asarray(fields, jnp.float32))
    size = int(np.prod(model.latent_shape))
    assert size < 60
    np.testing.assert_allclose(model.linear.scales[...], np.linspace(2, 1, 60)[:size], rtol=1e-5)
    with pytest.raises(ValueError, match="linear_rank is 60, but 59"):
        tiny(config, components=jnp.asarray(fields[:59], jnp.float32))


def test_networks_have_the_papers_numbers_of_latents_and_parameters(flame_sized):
    on_spheres = MeshVAE(flame_sized, PAPER, rngs=nnx.Rngs(0))
    assert on_spheres.latent_shape == (flame_sized.num_vertices[-1], 64)
    assert num_parameters(on_spheres) == pytest.approx(2 * 17.4e6, rel=0.1)  # Tables 5 and 6 as they are written
    small = MeshVAE(hierarchy_for(SMALL, *spheres()), SMALL, rngs=nnx.Rngs(0))  # FLAME's size: fewer latents than rank
    assert np.prod(small.latent_shape) < SMALL.linear_rank and 2e6 < num_parameters(small) <= 4.5e6


def waves(positions):
    """Return smooth displacements (V, 3) of RMS 1: sums of waves about as long as the head."""
    rng, x = np.random.default_rng(0), (positions - positions.mean(0)) / positions.std(0)
    columns = [np.cos(x @ rng.normal(size=(3, 8)) + rng.uniform(0, 6.28, 8)) @ rng.normal(size=8) for _ in range(3)]
    field = np.stack(columns, axis=1)
    return jnp.asarray(field / np.sqrt(np.mean(field**2)), jnp.float32)


@nnx.jit
def activation_scales(model, vertices, visible, latents):
    """Return the RMS of each layer's output, of the encoder for heads and of the decoder for latents."""
    down, (x, _) = [], model._encoder_input(vertices, visible)
    for block in model.down:
        down.append(x := block(x))
    layers = [*down, model.to_mean(x)], model._decoder_outputs(latents)
    return jax.tree.map(lambda x: jnp.sqrt(jnp.mean(x**2)), layers)


@pytest.mark.parametrize("config", [pytest.param(PAPER, marks=pytest.mark.slow), SMALL], ids=["paper", "small"])
def test_initialisation_keeps_the_scale(open_head, config):
    """The residual branch, sqrt(0.9) of a block, is a mean over neighbours, which preserves smooth signals and averages
    out white noise, more so in deeper encoders. Activations must not explode, and smooth ones must not vanish.

    There is no linear branch, because that scales some channels by 10 and the last layer by 0.05 on purpose."""
    config, visible = dataclasses.replace(config, linear_rank=0), jnp.ones(len(open_head[1]), bool)
    model = MeshVAE(hierarchy_for(config, *open_head), config, rngs=nnx.Rngs(0))
    if config.strides == PAPER.strides:
        assert 7 <= model.latent_shape[0] <= 13 and model.latent_shape[1] == 64
    latents = normal(model.latent_shape)
    encoder, decoder = jax.device_get(activation_scales(model, waves(open_head[1]), visible, latents))
    noise, _ = jax.device_get(activation_scales(model, normal((len(open_head[1]), 3)), visible, latents))
    ratios = [after / before for part in ([1, *encoder], [1, *decoder]) for before, after in itertools.pairwise(part)]
    assert 0.3 < min(encoder) and max(encoder) < 1.3
    assert 0.35 < min(decoder) and max(decoder) < 0.8
    assert 0.5 < min(ratios) and max(ratios) < 1.4
    assert 0.05 < min(noise) and max(noise) < 0.8


def test_output_layers_of_mean_and_variance_have_no_activation():
    """An ELU would restrict latents' means and log variances to above -1."""
    vae = tiny()
    assert not (vae.to_mean.activate or vae.to_log_variance.activate) and vae.down[0].activate
