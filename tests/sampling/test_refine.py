"""Refined latents: the loss decreases, hidden vertices have no effect, batches equal single heads."""

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
    """A Mesh-VAE without a linear branch, so that heads are not linear in the latents."""
    config = MeshVAEConfig(strides=(2, 2), features=(8,), latent_features=4, num_bases=3, centred=True)
    hierarchy = hierarchy_for(config, np.asarray(head.faces), np.asarray(head.v_template))
    return MeshVAE(hierarchy, config, rngs=nnx.Rngs(0), mean=head.v_template, spread=0.01)


def case(model, batch=()):
    """Return latents, their heads, and masks."""
    truth = jax.random.normal(jax.random.key(1), (*batch, *model.latent_shape))
    return truth, model.decode(truth), jnp.broadcast_to(jnp.arange(162) % 3 > 0, (*batch, 162))


def energy(model, latents, verts, visible, sigma):
    residuals = jnp.where(visible[..., None], (model.decode(latents) - verts) / sigma, 0)
    return (jnp.sum(residuals**2, axis=(-2, -1)) + jnp.sum(latents**2, axis=(-2, -1))) / 2


def test_loss_equals_its_formula_and_decreases_in_batches_too(model):
    _, verts, visible = case(model, (2, 1))
    start = jnp.zeros((2, 1, *model.latent_shape))
    refined, losses = refine_latents(model, start, verts, visible, **SETTINGS)
    assert refined.shape == start.shape and losses.shape == (2, 1, 61)
    np.testing.assert_allclose(losses[..., 0], energy(model, start, verts, visible, 1e-3), rtol=1e-4)
    np.testing.assert_allclose(losses.min(axis=-1), energy(model, refined, verts, visible, 1e-3), rtol=1e-4)
    assert (np.asarray(losses.min(axis=-1)) < 0.2 * np.asarray(losses[..., 0])).all()
    _, single = refine_latents(model, start[1, 0], verts[1, 0], visible[1, 0], **SETTINGS)
    np.testing.assert_allclose(losses[1, 0, :6], single[:6], rtol=1e-3)


def test_no_head_gets_worse_even_if_steps_are_far_too_long(model):
    truth, verts, visible = case(model)
    far_too_long = SETTINGS | {"sigma": 1e-5, "learning_rate": 30.0}
    refined, losses = refine_latents(model, truth, verts, visible, **far_too_long)
    assert energy(model, refined, verts, visible, 1e-5) <= losses[0] * 1.0001
    assert np.isfinite(np.asarray(refined)).all()


def test_hidden_vertices_have_no_effect(model):
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
