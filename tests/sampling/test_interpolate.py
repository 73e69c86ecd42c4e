"""Heads half-way between hypotheses: what the Mesh-VAE decodes there, in the fit's world, for all pairs in order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from models.pretrained import load_mesh_vae
from sampling import complete, midpoints
from sampling._complete import AT_ONCE, to_head_frame, to_world
from tests.sampling.test_complete import HEAD, KEY, MODEL, VAE, make_fit

COUNT = 7  # 21 pairs: more than are decoded at once


def drawn(fit, count=COUNT):
    return complete(VAE, MODEL, fit, KEY, num_samples=count)


def test_equals_the_decoding_of_the_latents_mean():
    fit = make_fit()
    found = drawn(fit)
    middles = midpoints(VAE, MODEL, fit, found)
    assert middles.shape == (21, HEAD.num_vertices, 3) and len(middles) > AT_ONCE
    _, rotation, root = to_head_frame(MODEL, fit)
    pairs = [(i, j) for i in range(COUNT) for j in range(i + 1, COUNT)]
    means = jnp.stack([(found.latents[i] + found.latents[j]) / 2 for i, j in pairs])
    np.testing.assert_allclose(middles, to_world(VAE.decode(means), rotation, root), atol=2e-6)
    assert float(jnp.abs(middles - fit.vertices[None]).max()) > 1e-4
    whole = VAE.interpolate(found.latents[2], found.latents[5], 3)
    np.testing.assert_allclose(middles[pairs.index((2, 5))], to_world(whole, rotation, root)[1], atol=2e-6)


@pytest.mark.parametrize("batch", [(1,), (2,), (2, 2)])
def test_batches_equal_singles(batch):
    fit = make_fit(batch)
    found = drawn(fit, 3)
    middles = midpoints(VAE, MODEL, fit, found)
    assert middles.shape == (*batch, 3, HEAD.num_vertices, 3)
    for place in np.ndindex(batch):
        one, its = jax.tree.map(lambda leaf: leaf[place], (fit, found))  # noqa: B023
        np.testing.assert_allclose(middles[place], midpoints(VAE, MODEL, one, its), atol=2e-6)


def test_compiled_and_not_are_equal():
    fit = make_fit((2,))
    found = drawn(fit, 3)
    compiled = jax.jit(midpoints)(VAE, MODEL, fit, found)
    with jax.disable_jit():
        plain = midpoints(VAE, MODEL, fit, found)
    np.testing.assert_allclose(compiled, plain, atol=2e-6)


def test_one_head_has_no_pairs():
    fit = make_fit()
    assert midpoints(VAE, MODEL, fit, drawn(fit, 1)).shape == (0, HEAD.num_vertices, 3)


def test_refusals():
    fit = make_fit()
    found = drawn(fit, 2)
    with pytest.raises(ValueError, match="no latents"):
        midpoints(VAE, MODEL, fit, dataclasses.replace(found, latents=None))
    with pytest.raises(ValueError, match="Mesh-VAE of"):
        midpoints(VAE, MODEL, fit, dataclasses.replace(found, latents=found.latents[..., :-1]))
    with pytest.raises(ValueError, match="faces"):
        midpoints(VAE, MODEL, make_fit((3,)), found)


def test_between_heads_of_the_shipped_network_the_way_is_nearly_straight():
    """What the viewer relies on: the midpoint leaves the straight line by little, and gives the rest of the way."""
    head = flamejax.load_head()
    vae, rng = load_mesh_vae(head), np.random.default_rng(0)
    latents = jnp.asarray(rng.standard_normal((2, *vae.latent_shape)), jnp.float32)
    way = np.asarray(vae.interpolate(latents[0], latents[1], 5), np.float64)
    bend = way[2] - (way[0] + way[4]) / 2
    largest, moved = np.abs(bend).max(), np.linalg.norm(way[4] - way[0], axis=-1).max()
    assert 0 < largest < 0.1 * moved
    quarter = 0.75 * way[0] + 0.25 * way[4]
    straight, bent = (np.abs(way[1] - guess).max() for guess in (quarter, quarter + 0.75 * bend))
    assert bent < straight / 2
