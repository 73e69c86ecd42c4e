"""Midpoints between hypotheses: decoded by the Mesh-VAE, in the fit's world, for all pairs in order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from models import load_mesh_vae
from sampling import complete, midpoints
from sampling._complete import DECODE_BATCH, to_head_frame, to_world
from tests.sampling.faces import KEY, make_fit, select

COUNT = 4
MANY = 7
"""Gives 21 pairs, more than are decoded at once."""


@pytest.fixture(scope="module")
def samples(vae, model, fit):
    return complete(vae, model, fit, KEY, num_samples=COUNT)


def scaled_copies(samples, count):
    """Return `count` hypotheses, whose latents are multiples of the first."""
    return dataclasses.replace(samples, latents=jnp.linspace(0.5, 1.5, count)[:, None, None] * samples.latents[:1])


def test_midpoints_decode_the_mean_latents(vae, model, head, fit, samples):
    hypotheses = scaled_copies(samples, MANY)
    middles = midpoints(vae, model, fit, hypotheses)
    assert middles.shape == (21, head.num_vertices, 3) and len(middles) > DECODE_BATCH
    _, rotation, root = to_head_frame(model, fit)
    pairs = [(i, j) for i in range(MANY) for j in range(i + 1, MANY)]
    means = jnp.stack([(hypotheses.latents[i] + hypotheses.latents[j]) / 2 for i, j in pairs])
    np.testing.assert_allclose(middles, to_world(vae.decode(means), rotation, root), atol=2e-6)
    assert float(jnp.abs(middles - fit.vertices[None]).max()) > 1e-4
    path = vae.interpolate(hypotheses.latents[2], hypotheses.latents[5], 3)
    np.testing.assert_allclose(middles[pairs.index((2, 5))], to_world(path, rotation, root)[1], atol=2e-6)


@pytest.mark.parametrize("batch", [(1,), (2, 2)])
def test_batches_equal_singles(vae, model, head, batch):
    fit = make_fit(batch)
    hypotheses = complete(vae, model, fit, KEY, num_samples=COUNT)
    middles = midpoints(vae, model, fit, hypotheses)
    assert middles.shape == (*batch, 6, head.num_vertices, 3)
    for k in np.ndindex(batch):
        single = midpoints(vae, model, select(fit, k), select(hypotheses, k))
        np.testing.assert_allclose(middles[k], single, atol=2e-6)


def test_one_head_has_no_pairs(vae, model, head, fit, samples):
    one = dataclasses.replace(samples, latents=samples.latents[:1])
    assert midpoints(vae, model, fit, one).shape == (0, head.num_vertices, 3)


def test_wrong_hypotheses_are_refused(vae, model, fit, samples):
    with pytest.raises(ValueError, match="no latents"):
        midpoints(vae, model, fit, dataclasses.replace(samples, latents=None))
    with pytest.raises(ValueError, match="Mesh-VAE of"):
        midpoints(vae, model, fit, dataclasses.replace(samples, latents=samples.latents[..., :-1]))
    with pytest.raises(ValueError, match="faces"):
        midpoints(vae, model, make_fit((1,)), samples)


def test_paths_of_the_shipped_network_are_nearly_straight():
    """The viewer relies on this: paths are nearly straight, and the midpoint determines their curvature."""
    vae, rng = load_mesh_vae(flamejax.load_head()), np.random.default_rng(0)
    latents = jnp.asarray(rng.standard_normal((2, *vae.latent_shape)), jnp.float32)
    path = np.asarray(jax.jit(lambda vae, ends: vae.interpolate(ends[0], ends[1], 5))(vae, latents), np.float64)
    bend = path[2] - (path[0] + path[4]) / 2
    largest, moved = np.abs(bend).max(), np.linalg.norm(path[4] - path[0], axis=-1).max()
    assert 0 < largest < 0.1 * moved
    quarter = 0.75 * path[0] + 0.25 * path[4]
    linear_error, error = (np.abs(path[1] - estimate).max() for estimate in (quarter, quarter + 0.75 * bend))
    assert error < linear_error / 2
