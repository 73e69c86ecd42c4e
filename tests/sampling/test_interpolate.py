"""Heads half-way between hypotheses: what the Mesh-VAE decodes there, in the fit's world, for all pairs in order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from models import load_mesh_vae
from sampling import complete, midpoints
from sampling._complete import AT_ONCE, to_head_frame, to_world
from tests.sampling.faces import KEY, make_fit, taken

COUNT = 4
MANY = 7
"""21 pairs: more than are decoded at once."""


@pytest.fixture(scope="module")
def drawn(vae, model, fit):
    return complete(vae, model, fit, KEY, num_samples=COUNT)


def repeated(drawn, count):
    """As many hypotheses, made of few."""
    return dataclasses.replace(drawn, latents=jnp.linspace(0.5, 1.5, count)[:, None, None] * drawn.latents[:1])


def test_equals_the_decoding_of_the_latents_mean(vae, model, head, fit, drawn):
    found = repeated(drawn, MANY)
    middles = midpoints(vae, model, fit, found)
    assert middles.shape == (21, head.num_vertices, 3) and len(middles) > AT_ONCE
    _, rotation, root = to_head_frame(model, fit)
    pairs = [(i, j) for i in range(MANY) for j in range(i + 1, MANY)]
    means = jnp.stack([(found.latents[i] + found.latents[j]) / 2 for i, j in pairs])
    np.testing.assert_allclose(middles, to_world(vae.decode(means), rotation, root), atol=2e-6)
    assert float(jnp.abs(middles - fit.vertices[None]).max()) > 1e-4
    whole = vae.interpolate(found.latents[2], found.latents[5], 3)
    np.testing.assert_allclose(middles[pairs.index((2, 5))], to_world(whole, rotation, root)[1], atol=2e-6)


@pytest.mark.parametrize("batch", [(1,), (2, 2)])
def test_batches_equal_singles(vae, model, head, batch):
    fit = make_fit(batch)
    found = complete(vae, model, fit, KEY, num_samples=COUNT)
    middles = midpoints(vae, model, fit, found)
    assert middles.shape == (*batch, 6, head.num_vertices, 3)
    for place in np.ndindex(batch):
        np.testing.assert_allclose(
            middles[place], midpoints(vae, model, taken(fit, place), taken(found, place)), atol=2e-6
        )


def test_one_head_has_no_pairs(vae, model, head, fit, drawn):
    one = dataclasses.replace(drawn, latents=drawn.latents[:1])
    assert midpoints(vae, model, fit, one).shape == (0, head.num_vertices, 3)


def test_refusals(vae, model, fit, drawn):
    with pytest.raises(ValueError, match="no latents"):
        midpoints(vae, model, fit, dataclasses.replace(drawn, latents=None))
    with pytest.raises(ValueError, match="Mesh-VAE of"):
        midpoints(vae, model, fit, dataclasses.replace(drawn, latents=drawn.latents[..., :-1]))
    with pytest.raises(ValueError, match="faces"):
        midpoints(vae, model, make_fit((1,)), drawn)


def test_between_heads_of_the_shipped_network_the_way_is_nearly_straight():
    """What the viewer relies on: the midpoint leaves the straight line by little, and gives the rest of the way."""
    vae, rng = load_mesh_vae(flamejax.load_head()), np.random.default_rng(0)
    latents = jnp.asarray(rng.standard_normal((2, *vae.latent_shape)), jnp.float32)
    way = np.asarray(jax.jit(lambda vae, ends: vae.interpolate(ends[0], ends[1], 5))(vae, latents), np.float64)
    bend = way[2] - (way[0] + way[4]) / 2
    largest, moved = np.abs(bend).max(), np.linalg.norm(way[4] - way[0], axis=-1).max()
    assert 0 < largest < 0.1 * moved
    quarter = 0.75 * way[0] + 0.25 * way[4]
    straight, bent = (np.abs(way[1] - guess).max() for guess in (quarter, quarter + 0.75 * bend))
    assert bent < straight / 2
