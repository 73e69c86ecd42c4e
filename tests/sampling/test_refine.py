"""Refined latents: what is minimised goes down, hidden vertices do not matter, batches equal singles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for
from sampling import refine_latents

SETTINGS = {"sigma": 1e-3, "steps": 60, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def model(head):
    """Without a linear branch: its heads are not linear in the latents."""
    config = MeshVAEConfig(strides=(2, 2), features=(8,), latent_features=4, num_bases=3, centred=True)
    hierarchy = hierarchy_for(config, np.asarray(head.faces), np.asarray(head.v_template))
    return MeshVAE(hierarchy, config, rngs=nnx.Rngs(0), mean=head.v_template, spread=0.01)


def case(model, batch=()):
    """Latents, the heads they make, and masks."""
    truth = jax.random.normal(jax.random.key(1), (*batch, *model.latent_shape))
    return truth, model.decode(truth), jnp.broadcast_to(jnp.arange(162) % 3 > 0, (*batch, 162))


def energy(model, latents, verts, visible, sigma):
    away = jnp.where(visible[..., None], (model.decode(latents) - verts) / sigma, 0)
    return (jnp.sum(away**2, axis=(-2, -1)) + jnp.sum(latents**2, axis=(-2, -1))) / 2


def test_the_energy_is_what_it_says_and_goes_down_and_batches_equal_singles(model):
    _, verts, visible = case(model, (2, 1))
    start = jnp.zeros((2, 1, *model.latent_shape))
    found, track = refine_latents(model, start, verts, visible, **SETTINGS)
    assert found.shape == start.shape and track.shape == (2, 1, 61)
    np.testing.assert_allclose(track[..., 0], energy(model, start, verts, visible, 1e-3), rtol=1e-4)
    np.testing.assert_allclose(track.min(axis=-1), energy(model, found, verts, visible, 1e-3), rtol=1e-4)
    assert (np.asarray(track.min(axis=-1)) < 0.2 * np.asarray(track[..., 0])).all()
    _, alone = refine_latents(model, start[1, 0], verts[1, 0], visible[1, 0], **SETTINGS)
    np.testing.assert_allclose(track[1, 0, :6], alone[:6], rtol=1e-3)


def test_no_head_gets_worse_even_if_steps_are_far_too_long(model):
    truth, verts, visible = case(model)
    far_too_long = SETTINGS | {"sigma": 1e-5, "learning_rate": 30.0}
    found, track = refine_latents(model, truth, verts, visible, **far_too_long)
    assert energy(model, found, verts, visible, 1e-5) <= track[0] * 1.0001
    assert np.isfinite(np.asarray(found)).all()


def test_hidden_vertices_do_not_matter(model):
    _, verts, visible = case(model)
    start = jnp.zeros(model.latent_shape)
    expected = refine_latents(model, start, verts, visible, **SETTINGS)[0]
    spoilt = jnp.where(visible[:, None], verts, jnp.nan)
    np.testing.assert_array_equal(refine_latents(model, start, spoilt, visible, **SETTINGS)[0], expected)


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"steps": 0}, {"learning_rate": -1.0}])
def test_wrong_settings_are_refused(model, wrong):
    with pytest.raises(ValueError, match="positive"):
        refine_latents(model, *case(model), **wrong)


def test_wrong_shapes_are_refused_by_name(model):
    truth, verts, visible = case(model)
    for name, arguments in {
        "latents": (truth[:-1], verts, visible),
        "vertices": (truth, verts[None], visible),
        "visible": (truth, verts, visible[:-1]),
    }.items():
        with pytest.raises(ValueError, match=f"{name} should be"):
            refine_latents(model, *arguments)
