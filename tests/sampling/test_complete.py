"""Completion of fits: head frame, visible and hidden vertices, order, batches, refusals."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitting
import flamejax
from flamejax.head import HeadParams
from flamejax.types import sorted_best_first
from models import load_mesh_vae
from sampling import Hypotheses, complete
from sampling._complete import DECODE_BATCH, _complete, score, to_head_frame, to_world, visible_vertices
from tests.sampling.faces import KEY, head_frame, make_fit, select

COUNT = 4


def draw(vae, model, fit, key=KEY, count=COUNT):
    return complete(vae, model, fit, key, num_samples=count)


def test_to_world_inverts_to_head_frame(model, fit):
    vertices, rotation, root = to_head_frame(model, fit)
    np.testing.assert_allclose(vertices, head_frame(fit.params.betas), atol=2e-6)
    np.testing.assert_allclose(to_world(vertices[None], rotation, root)[0], fit.vertices, atol=2e-6)


def test_a_fully_visible_head_is_reproduced(vae, model, head, hidden):
    fit = make_fit(hidden=jnp.zeros_like(hidden))
    result = draw(vae, model, fit)
    assert result.vertices.shape == (COUNT, head.num_vertices, 3)
    assert float(jnp.abs(result.vertices - fit.vertices[None]).max()) < 5e-4
    assert float(jnp.abs(fit.vertices - head.v_template).max()) > 5e-3


def test_hidden_vertices_vary_more_than_visible_ones(halves, model, head, hidden, fit):
    """The halves of these heads are independent, and the left one is hidden."""
    visible, hidden = np.asarray(visible_vertices(head, fit)) & ~np.asarray(hidden), np.asarray(hidden)
    spread = np.asarray(draw(halves, model, fit).vertices).std(axis=0).max(axis=-1)
    assert np.median(spread[hidden]) > 5 * np.median(spread[visible])


def test_hidden_vertices_of_the_fit_have_no_effect(vae, model, head, fit):
    visible = visible_vertices(head, fit)
    spoilt = dataclasses.replace(fit, vertices=jnp.where(visible[:, None], fit.vertices, jnp.nan))
    chex.assert_trees_all_equal(draw(vae, model, fit), draw(vae, model, spoilt))


def test_eyeballs_count_as_visible(head, hidden):
    fit = make_fit(hidden=jnp.ones_like(hidden))
    np.testing.assert_array_equal(visible_vertices(head, fit), head.regions["left_eyeball"])
    assert visible_vertices(head, make_fit((2, 2))).shape == (2, 2, head.num_vertices)


@pytest.mark.parametrize("batch", [(1,), (2, 2)])
def test_batches_equal_singles(vae, model, head, batch):
    fit, keys = make_fit(batch), jax.random.split(KEY, batch)
    result = draw(vae, model, fit, keys)
    assert result.vertices.shape == (*batch, COUNT, head.num_vertices, 3)
    assert result.latents.shape == (*batch, COUNT, *vae.latent_shape)
    last = (-1,) * len(batch)
    single = draw(vae, model, select(fit, last), keys[last])
    np.testing.assert_allclose(result.vertices[last], single.vertices, atol=2e-5)
    np.testing.assert_allclose(result.score[last], single.score, rtol=1e-3, atol=1e-2)
    before = _complete._cache_size()
    draw(vae, model, make_fit(batch, seed=2), jax.random.split(jax.random.key(7), batch))
    assert _complete._cache_size() == before, "a second batch of the size compiles nothing"


def test_hypotheses_are_sorted_and_depend_on_the_key(vae, model, head, fit):
    result = draw(vae, model, fit)
    assert (np.diff(result.score) <= 0).all() and np.ptp(result.score) > 0
    vertices, _, _ = to_head_frame(model, fit)
    expected = score(result.latents, vae.decode(result.latents), vertices, visible_vertices(head, fit))
    np.testing.assert_allclose(result.score, expected, rtol=1e-4)
    other = draw(vae, model, fit, jax.random.key(1))
    assert float(jnp.abs(result.vertices - other.vertices).max()) > 1e-4


def test_complete_can_be_jitted(vae, model, fit):
    jitted = jax.jit(complete, static_argnames="num_samples")(vae, model, fit, KEY, num_samples=COUNT)
    np.testing.assert_allclose(jitted.vertices, draw(vae, model, fit).vertices, atol=2e-6)


def test_score_equals_its_formula():
    """Two latents, and four vertices, one of them hidden: (3 mm)^2 / (2 mm^2), times two latents / four vertices."""
    latents = jnp.asarray([[[1.0, 2.0]]])
    vertices = jnp.zeros((4, 3))
    decoded = vertices.at[0, 1].set(3e-3).at[3].set(1.0)[None]
    scores = score(latents, decoded, vertices, jnp.asarray([True, True, True, False]))
    np.testing.assert_allclose(scores, [-2 * 9 / 8 - 2.5], rtol=1e-5)


def test_sorted_best_first_sorts_all_leaves():
    heads = Hypotheses(jnp.arange(3.0)[:, None, None], None, jnp.arange(3.0)[:, None], jnp.asarray([0.0, 2.0, 1.0]))
    result = sorted_best_first(heads)
    assert result.score.tolist() == [2, 1, 0] and result.vertices[:, 0, 0].tolist() == [1, 2, 0]
    assert result.latents[:, 0].tolist() == [1, 2, 0]


def test_invalid_inputs_are_refused_by_name(vae, model, fit):
    with pytest.raises(ValueError, match="num_samples"):
        draw(vae, model, fit, count=0)
    fewer = dataclasses.replace(fit, vertices=fit.vertices[:-1], vertex_visibility=fit.vertex_visibility[:-1])
    with pytest.raises(ValueError, match="a Mesh-VAE of"):
        draw(vae, model, fewer)
    with pytest.raises(ValueError, match=r"fit.vertex_visibility should be \(162\), not \(161,\)"):
        draw(vae, model, dataclasses.replace(fit, vertex_visibility=fit.vertex_visibility[:-1]))
    with pytest.raises(ValueError, match="one key"):
        draw(vae, model, fit, jax.random.split(KEY, 3))


def test_more_samples_than_are_decoded_at_once_keep_their_latents(vae, model, head, fit):
    result = draw(vae, model, fit, count=DECODE_BATCH + 3)
    assert result.vertices.shape == (DECODE_BATCH + 3, head.num_vertices, 3)
    _, rotation, root = to_head_frame(model, fit)
    expected = to_world(vae.decode(result.latents), rotation, root)
    np.testing.assert_allclose(result.vertices, expected, atol=1e-5)


def test_new_and_old_style_keys_give_the_same_heads(vae, model, fit):
    new, old = (draw(vae, model, fit, key) for key in (jax.random.key(5), jax.random.PRNGKey(5)))
    np.testing.assert_array_equal(new.vertices, old.vertices)


def test_head_frame_of_a_fit_with_local_models_uses_their_root(fit):
    """On the open head with its local models the head frame uses the root joint of the extended head."""
    head = flamejax.load_head()
    model = fitting.prepare(head, fitting.load_local_model(head))
    extended, rng = model.head, np.random.default_rng(0)
    sizes = extended.num_betas, extended.num_expression
    betas, expression = (jnp.asarray(rng.standard_normal(size), jnp.float32) for size in sizes)
    params = dataclasses.replace(HeadParams.zeros(extended), betas=betas, expression=expression)
    posed = dataclasses.replace(params, global_orient=jnp.asarray([0.1, -0.4, 0.2]))
    visible = jnp.asarray(head.v_template[:, 2] > 0.05)
    fit = dataclasses.replace(fit, params=posed, vertices=flamejax.vertices(extended, posed), vertex_visibility=visible)
    root = extended.joint_template[0] + extended.joint_dirs[0] @ jnp.concatenate([betas, expression])
    in_head_frame, _, _ = to_head_frame(model, fit)
    np.testing.assert_allclose(in_head_frame, flamejax.vertices(extended, params) - root[None], atol=3e-6)
    vae = load_mesh_vae(head)
    distances = np.linalg.norm(draw(vae, model, fit, count=2).vertices - fit.vertices[None], axis=-1)
    assert np.median(distances[:, np.asarray(visible)]) < 5e-4
    with pytest.raises(ValueError, match="model that was fitted"):
        draw(vae, fitting.prepare(head), fit)
