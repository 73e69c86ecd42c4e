"""Refined latents: what is minimised goes down, hidden vertices do not matter, batches equal singles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for
from sampling import refine_latents
from tests.heads import random_head

HEAD = random_head(subdivisions=1)
CONFIG = MeshVAEConfig(strides=(2, 2), features=(8,), latent_features=4, num_bases=3, centred=True)
MODEL = MeshVAE(
    hierarchy_for(CONFIG, np.asarray(HEAD.faces), np.asarray(HEAD.v_template)), CONFIG, rngs=nnx.Rngs(0),
    mean=HEAD.v_template, spread=0.01,
)  # fmt: skip
VISIBLE = jnp.arange(HEAD.num_vertices) % 3 > 0
SETTINGS = {"sigma": 1e-3, "steps": 60, "learning_rate": 0.1}


def case(batch=()):
    """Latents, the heads they make, and masks."""
    truth = jax.random.normal(jax.random.key(1), (*batch, *MODEL.latent_shape))
    return truth, MODEL.decode(truth), jnp.broadcast_to(VISIBLE, (*batch, HEAD.num_vertices))


def energy(latents, verts, visible, sigma):
    away = jnp.where(visible[..., None], (MODEL.decode(latents) - verts) / sigma, 0)
    return (jnp.sum(away**2, axis=(-2, -1)) + jnp.sum(latents**2, axis=(-2, -1))) / 2


def test_the_energy_is_what_it_says_and_goes_down():
    _, verts, visible = case((2,))
    start = jnp.zeros((2, *MODEL.latent_shape))
    found, track = refine_latents(MODEL, start, verts, visible, **SETTINGS)
    assert track.shape == (2, 61)
    np.testing.assert_allclose(track[:, 0], energy(start, verts, visible, 1e-3), rtol=1e-4)
    np.testing.assert_allclose(track.min(axis=1), energy(found, verts, visible, 1e-3), rtol=1e-4)
    assert (np.asarray(track.min(axis=1)) < 0.2 * np.asarray(track[:, 0])).all()


def test_no_head_gets_worse_even_if_steps_are_far_too_long():
    truth, verts, visible = case((2,))
    found, track = refine_latents(MODEL, truth, verts, visible, sigma=1e-5, steps=5, learning_rate=30.0)
    assert (energy(found, verts, visible, 1e-5) <= track[:, 0] * 1.0001).all()
    assert np.isfinite(np.asarray(found)).all()


def test_hidden_vertices_do_not_matter():
    _, verts, visible = case()
    start = jnp.zeros(MODEL.latent_shape)
    expected = refine_latents(MODEL, start, verts, visible, **SETTINGS)[0]
    spoilt = jnp.where(visible[:, None], verts, jnp.nan)
    np.testing.assert_array_equal(refine_latents(MODEL, start, spoilt, visible, **SETTINGS)[0], expected)


def test_batches_equal_singles():
    _, verts, visible = case((2, 2))
    start = jnp.zeros((2, 2, *MODEL.latent_shape))
    found, track = refine_latents(MODEL, start, verts, visible, sigma=1e-3, steps=5)
    assert found.shape == start.shape and track.shape == (2, 2, 6)
    single, alone = refine_latents(MODEL, start[1, 0], verts[1, 0], visible[1, 0], sigma=1e-3, steps=5)
    np.testing.assert_allclose(found[1, 0], single, atol=1e-4)
    np.testing.assert_allclose(track[1, 0], alone, rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"steps": 0}, {"learning_rate": -1.0}])
def test_wrong_settings_and_shapes_are_refused(wrong):
    truth, verts, visible = case()
    with pytest.raises(ValueError, match="positive"):
        refine_latents(MODEL, truth, verts, visible, **wrong)
    with pytest.raises(ValueError, match="last axis"):
        refine_latents(MODEL, truth, verts, visible[:-1])
