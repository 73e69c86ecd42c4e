"""Completion of fits: the frame and back, what is seen stays, what is hidden varies and does not matter, order."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fitting
import flamejax
from fitting import Fit
from fitting.fit_model import bare
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadParams
from flamejax.types import Hypotheses, sorted_best_first
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for
from models.pretrained import load_mesh_vae
from sampling import complete
from sampling._complete import AT_ONCE, score, to_head_frame, to_world, visible_vertices
from tests.heads import random_head

HEAD = random_head(subdivisions=2)
EYES = (HEAD.v_template[:, 1] > 0.19) & (HEAD.v_template[:, 0] < 0)
HEAD = dataclasses.replace(HEAD, regions={**HEAD.regions, "left_eyeball": EYES, "right_eyeball": EYES})
MODEL, KEY = bare(HEAD), jax.random.key(0)
HIDDEN = HEAD.v_template[:, 0] > 0.0


def head_frame(betas):
    moved = flamejax.vertices(HEAD, dataclasses.replace(HeadParams.zeros(HEAD), betas=betas))
    root = HEAD.joint_template[0] + HEAD.joint_dirs[0, :, : HEAD.num_betas] @ betas
    return moved - root[None]


def make_vae(halves=False):
    """A Mesh-VAE whose components are the head's own betas, or those of the left and of the right half apart; the
    convolutions add a micrometre or so."""
    mean = head_frame(jnp.zeros(HEAD.num_betas))
    fields = np.stack([np.asarray(head_frame(row) - mean) for row in jnp.eye(HEAD.num_betas)])
    if halves:
        half = np.asarray(HIDDEN)[:, None]
        fields = np.concatenate([fields[:3] * half, fields[3:] * ~half])
    _, sizes, rows = np.linalg.svd(fields.reshape(len(fields), -1), full_matrices=False)
    config = MeshVAEConfig(
        strides=(2, 2), features=(6,), latent_features=4, num_bases=3, centred=True, linear_rank=len(rows),
        mean_scale=1e-4, log_variance_scale=1e-4,
    )  # fmt: skip
    hierarchy = hierarchy_for(config, np.asarray(HEAD.faces), np.asarray(HEAD.v_template))
    components = (sizes[:, None] * rows).reshape(fields.shape)
    vae = MeshVAE(
        hierarchy, config, rngs=nnx.Rngs(0), mean=mean, spread=0.01, components=jnp.asarray(components, jnp.float32)
    )
    for weights in (vae.up[-1].conv.bases, vae.up[-1].residual.projection):
        weights[...] = 1e-3 * weights[...]
    return vae


VAE = make_vae()


def make_fit(batch=(), seed=1, hidden=HIDDEN):
    rng = np.random.default_rng(seed)
    params = HeadParams.zeros(HEAD, batch)
    params = dataclasses.replace(
        params,
        betas=jnp.asarray(rng.standard_normal(params.betas.shape), jnp.float32),
        global_orient=jnp.asarray(rng.uniform(-0.5, 0.5, params.global_orient.shape), jnp.float32),
    )
    verts = flamejax.vertices(HEAD, params)
    shape = lambda *axes: jnp.zeros((*batch, *axes))  # noqa: E731
    return Fit(
        params=params, vertices=verts, landmarks=shape(68, 3),
        camera=OrthographicCamera(shape() + 1.0, shape(2)), texture=shape(3), light=shape(9, 3),
        vertex_visibility=jnp.broadcast_to(~hidden, verts.shape[:-1]), losses={}, code=jnp.zeros(batch, jnp.int32),
    )  # fmt: skip


jitted = jax.jit(complete, static_argnames="num_samples")


def test_there_and_back():
    fit = make_fit()
    vertices, rotation, root = to_head_frame(MODEL, fit)
    np.testing.assert_allclose(vertices, head_frame(fit.params.betas), atol=2e-6)
    np.testing.assert_allclose(to_world(vertices[None], rotation, root)[0], fit.vertices, atol=2e-6)


def test_a_head_that_is_seen_whole_comes_back():
    fit = make_fit(hidden=jnp.zeros_like(HIDDEN))
    found = jitted(VAE, MODEL, fit, KEY, num_samples=4)
    assert found.vertices.shape == (4, HEAD.num_vertices, 3)
    assert float(jnp.abs(found.vertices - fit.vertices[None]).max()) < 5e-4
    assert float(jnp.abs(fit.vertices - HEAD.v_template).max()) > 5e-3


def test_what_is_seen_stays_and_what_is_hidden_varies():
    """Heads whose halves know nothing of each other; the left one is hidden."""
    fit = make_fit()
    seen = np.asarray(visible_vertices(HEAD, fit)) & ~np.asarray(HIDDEN)
    heads = np.asarray(jitted(make_vae(halves=True), MODEL, fit, KEY, num_samples=8).vertices)
    spread = heads.std(axis=0).max(axis=-1)
    assert np.median(spread[np.asarray(HIDDEN)]) > 5 * np.median(spread[seen])


def test_hidden_vertices_of_the_fit_do_not_matter():
    fit = make_fit()
    seen = visible_vertices(HEAD, fit)
    spoilt = dataclasses.replace(fit, vertices=jnp.where(seen[:, None], fit.vertices, jnp.nan))
    found, again = (jitted(VAE, MODEL, one, KEY, num_samples=3) for one in (fit, spoilt))
    chex.assert_trees_all_equal(found, again)


def test_eyeballs_count_as_seen():
    fit = make_fit(hidden=jnp.ones_like(HIDDEN))
    np.testing.assert_array_equal(visible_vertices(HEAD, fit), HEAD.regions["left_eyeball"])
    assert visible_vertices(HEAD, make_fit((2, 3))).shape == (2, 3, HEAD.num_vertices)


@pytest.mark.parametrize("batch", [(1,), (3,), (2, 2)])
def test_batches_equal_singles(batch):
    fit, keys = make_fit(batch), jax.random.split(KEY, batch)
    found = jitted(VAE, MODEL, fit, keys, num_samples=2)
    assert found.vertices.shape == (*batch, 2, HEAD.num_vertices, 3)
    assert found.latents.shape == (*batch, 2, *VAE.latent_shape)
    last = (-1,) * len(batch)
    single = complete(VAE, MODEL, jax.tree.map(lambda leaf: leaf[last], fit), keys[last], num_samples=2)
    np.testing.assert_allclose(found.vertices[last], single.vertices, atol=2e-5)
    np.testing.assert_allclose(found.score[last], single.score, rtol=1e-3, atol=1e-2)


def test_the_best_comes_first_and_keys_decide():
    fit = make_fit()
    found = jitted(VAE, MODEL, fit, KEY, num_samples=6)
    assert (np.diff(found.score) <= 0).all() and np.ptp(found.score) > 0
    vertices, _, _ = to_head_frame(MODEL, fit)
    again = score(found.latents, VAE.decode(found.latents), vertices, visible_vertices(HEAD, fit))
    np.testing.assert_allclose(found.score, again, rtol=1e-4)
    other = jitted(VAE, MODEL, fit, jax.random.key(1), num_samples=6)
    assert float(jnp.abs(found.vertices - other.vertices).max()) > 1e-4


def test_scores_by_hand():
    """Two latents, four vertices, one of them hidden: (3 mm)^2 over 2 mm^2, times two latents over four vertices."""
    latents = jnp.asarray([[[1.0, 2.0]]])
    vertices = jnp.zeros((4, 3))
    decoded = vertices.at[0, 1].set(3e-3).at[3].set(1.0)[None]
    found = score(latents, decoded, vertices, jnp.asarray([True, True, True, False]))
    np.testing.assert_allclose(found, [-2 * 9 / 8 - 2.5], rtol=1e-5)


def test_sorting_moves_all_leaves():
    heads = Hypotheses(jnp.arange(3.0)[:, None, None], None, jnp.arange(3.0)[:, None], jnp.asarray([0.0, 2.0, 1.0]))
    found = sorted_best_first(heads)
    assert found.score.tolist() == [2, 1, 0] and found.vertices[:, 0, 0].tolist() == [1, 2, 0]
    assert found.latents[:, 0].tolist() == [1, 2, 0]


def test_refusals():
    with pytest.raises(ValueError, match="num_samples"):
        complete(VAE, MODEL, make_fit(), KEY, num_samples=0)
    fit = make_fit()
    with pytest.raises(ValueError, match="vertices"):
        complete(VAE, MODEL, dataclasses.replace(fit, vertices=fit.vertices[:-1]), KEY)


def test_more_draws_than_are_decoded_at_once():
    found = complete(VAE, MODEL, make_fit(), KEY, num_samples=AT_ONCE + 3)
    assert found.vertices.shape == (AT_ONCE + 3, HEAD.num_vertices, 3)
    _, rotation, root = to_head_frame(MODEL, make_fit())
    expected = to_world(VAE.decode(found.latents), rotation, root)
    np.testing.assert_allclose(found.vertices, expected, atol=1e-5)


def test_keys_of_either_kind():
    fit = make_fit((2,))
    new = complete(VAE, MODEL, fit, jax.random.key(5), num_samples=2)
    old = complete(VAE, MODEL, fit, jax.random.PRNGKey(5), num_samples=2)
    np.testing.assert_array_equal(new.vertices, old.vertices)
    with pytest.raises(ValueError, match="one key"):
        complete(VAE, MODEL, fit, jax.random.split(KEY, 3), num_samples=2)


def test_the_root_of_a_fit_with_local_models():
    """On the open head with its local models: the head frame is where the head's own root joint is."""
    head = flamejax.load_head()
    model = fitting.prepare(head, fitting.load_local_model(head))
    extended, rng = model.head, np.random.default_rng(0)
    sizes = extended.num_betas, extended.num_expression
    betas, expression = (jnp.asarray(rng.standard_normal(size), jnp.float32) for size in sizes)
    params = dataclasses.replace(HeadParams.zeros(extended), betas=betas, expression=expression)
    posed = dataclasses.replace(params, global_orient=jnp.asarray([0.1, -0.4, 0.2]))
    fit = dataclasses.replace(make_fit(), params=posed, vertices=flamejax.vertices(extended, posed))
    root = extended.joint_template[0] + extended.joint_dirs[0] @ jnp.concatenate([betas, expression])
    found, _, _ = to_head_frame(model, fit)
    np.testing.assert_allclose(found, flamejax.vertices(extended, params) - root[None], atol=3e-6)
    vae = load_mesh_vae(head)
    seen = dataclasses.replace(fit, vertex_visibility=jnp.asarray(head.v_template[:, 2] > 0.05))
    heads = complete(vae, model, seen, KEY, num_samples=2).vertices
    away = np.linalg.norm(heads - fit.vertices[None], axis=-1)[:, np.asarray(seen.vertex_visibility)]
    assert np.median(away) < 5e-4
    with pytest.raises(ValueError, match="model that was fitted"):
        complete(vae, fitting.prepare(head), seen, KEY)


def test_a_second_batch_compiles_nothing():
    chosen = jax.jit(chex.assert_max_traces(complete, n=1), static_argnames="num_samples")
    for seed in (1, 2):
        chosen(VAE, MODEL, make_fit((2,), seed), jax.random.split(jax.random.key(seed), 2), num_samples=2)
