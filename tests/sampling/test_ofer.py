"""`ofer` and `ofer_dpp`: placement, visible and hidden vertices, batches, refusals."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flamejax
from fitting.config import FitConfig
from flamejax.head import HeadParams
from models import GeneratorConfig, UNet1DConfig, make_schedule
from sampling import OferConfig, OferDppConfig, SamplerConfig, draw_coefficients, ofer, ofer_dpp
from sampling._ofer import _program, head_params, sample_coefficients
from sampling._ofer_dpp import select_diverse
from sampling.placement import apply_placement, fit_placement, landmark_points, landmark_view
from tests.sampling.faces import KEY, SIDE, make_fit, observed, select, small_generator, small_networks, without_dense

QUICK = OferConfig(candidates=10, sampler=SamplerConfig(steps=4))
POOL = OferDppConfig(QUICK, pool=24, identities=6, render_size=32, photometric_weight=0.0)
DRAWS = 6


def fit_and_photo(batch=(), seed=1):
    """Return a fit, and a photo that matches it, without colours."""
    fit = make_fit(batch, seed, max_angle=0.2)
    return fit, observed(fit, grey=True)


@pytest.fixture(scope="module")
def face():
    return fit_and_photo()


def run(fit, photo, key=KEY, count=DRAWS):
    return ofer(small_networks(), without_dense(), fit, photo, key, num_samples=count, config=QUICK)


def run_dpp(fit, photo, key=KEY, count=DRAWS, config=POOL):
    return ofer_dpp(small_networks(), without_dense(), fit, photo, key, num_samples=count, config=config)


@pytest.fixture(scope="module")
def samples(face):
    """The networks' samples for the photo."""
    return jax.jit(lambda networks, photo: sample_coefficients(networks, photo, KEY, DRAWS, QUICK))(
        small_networks(), face[1]
    )


def test_fit_placement_recovers_pose_and_size(face):
    """Place heads that are a tenth larger or smaller than in the photo, starting from a wrong pose."""
    head, (truth, photo) = without_dense(), face
    start = dataclasses.replace(truth.params, global_orient=truth.params.global_orient + jnp.asarray([0.15, -0.2, 0.1]))
    true_params = jax.tree.map(lambda leaf: leaf[None], truth.params)

    @jax.jit
    def place(factor):
        camera = dataclasses.replace(truth.camera, scale=truth.camera.scale * factor)
        fit = dataclasses.replace(truth, params=start, camera=camera)
        view = landmark_view(head, fit, photo, FitConfig())
        # Contour landmarks depend on the yaw, which is wrong.
        view = dataclasses.replace(view, inverse_sigma=view.inverse_sigma.at[:17].set(0))
        placement, cost = fit_placement(view, fit, SIDE, landmark_points(view, true_params))
        params, verts = apply_placement(head, true_params, placement)
        expected = placement.size[:, None, None] * flamejax.vertices(head, params)
        return placement, cost, verts, expected, camera.project(verts[0])[:, :2]

    for factor in (0.9, 1.1):
        placement, cost, verts, expected, screen = place(factor)
        np.testing.assert_allclose(placement.orient[0], truth.params.global_orient, atol=0.02)
        np.testing.assert_allclose(placement.size, 1 / factor, rtol=0.01)
        assert float(cost[0]) < 0.5
        np.testing.assert_allclose(screen, truth.camera.project(truth.vertices)[:, :2], atol=0.5)
        chex.assert_trees_all_close(verts, expected, atol=1e-6)


@pytest.mark.parametrize("draw", [run, run_dpp])
def test_vertices_are_those_of_params_and_size_best_first(face, draw):
    head, result = without_dense(), draw(*face)
    chex.assert_tree_all_finite(result)
    chex.assert_shape(result.vertices, (DRAWS, head.num_vertices, 3))
    expected = result.size[:, None, None] * flamejax.vertices(head, result.params)
    chex.assert_trees_all_close(result.vertices, expected, atol=1e-6)
    assert (np.diff(result.score) <= 0).all()


def test_ofer_heads_share_an_identity_and_vary_in_expression(face, samples):
    result = run(*face)
    assert np.ptp(result.params.betas, axis=0).max() == 0
    assert np.ptp(result.size) == 0
    assert np.std(result.params.expression, axis=0).min() > 0.1
    chex.assert_trees_all_close(result.params.betas[0], samples.betas[0], atol=1e-5)


def test_candidates_are_sorted_by_score(face, samples):
    networks, photo = small_networks(), face[1]
    context = networks.idrank.context(None, photo.landmarks, (photo.confidence > 0.2).astype(jnp.float32))
    scores = networks.idrank.score_betas(networks.face, samples.betas, context)
    np.testing.assert_allclose(scores, samples.rank_score, atol=1e-4)
    assert (np.diff(samples.rank_score) <= 0).all()


def test_dpp_heads_match_visible_vertices_and_differ_elsewhere(face):
    fit, photo = face
    visible = np.asarray(fit.vertex_visibility)
    refined, unrefined = run_dpp(fit, photo), run_dpp(fit, photo, config=dataclasses.replace(POOL, refine_steps=0))
    errors = [np.linalg.norm(heads.vertices - fit.vertices[None], axis=-1) for heads in (refined, unrefined)]
    assert errors[0][:, visible].mean() < 0.15 * errors[1][:, visible].mean()
    # All ten coefficients of this head affect the visible vertices, so that the hidden ones cannot differ much.
    spread, unrefined_spread = (np.asarray(heads.vertices).std(axis=0) for heads in (refined, unrefined))
    assert spread[visible].mean() < 0.1 * unrefined_spread[visible].mean()
    assert spread[~visible].mean() > 1.2 * spread[visible].mean()


def selections(verts, energy, count, seeds, config=POOL):
    """Return the indices that `select_diverse` selects for each seed: (seeds, count)."""
    hidden = jnp.ones(verts.shape[1], bool)
    select_all = jax.jit(jax.vmap(lambda key: select_diverse(key, verts, hidden, energy, count, config)))
    return np.asarray(select_all(jax.vmap(jax.random.key)(jnp.arange(seeds))))


def test_select_diverse_prefers_likely_and_different_heads():
    verts = jnp.zeros((9, 162, 3)).at[3:6].add(0.01).at[6:].add(-0.01)
    for selected in selections(verts, jnp.zeros(9).at[6:].set(1e3).at[1].set(jnp.nan), 2, 5):
        assert sorted(selected // 3) == [0, 1]
        assert 1 not in selected


def test_select_diverse_ignores_heads_of_nan():
    verts = jnp.zeros((9, 162, 3)).at[3:6].add(0.01).at[8].set(jnp.nan)
    for selected in selections(verts, jnp.zeros(9), 2, 8):
        assert 8 not in selected
        assert ((selected >= 3) & (selected < 6)).sum() == 1


def test_select_diverse_prefers_the_least_unlikely_heads():
    """If few heads are near the best, the others must not all have the same quality."""
    verts = jnp.asarray(np.random.default_rng(0).normal(size=(32, 162, 3)) * 0.003, jnp.float32)
    energy = jnp.concatenate([jnp.zeros(6), jnp.linspace(20, 600, 26)])
    indices = selections(verts, energy, 10, 20, dataclasses.replace(POOL, temperature=8.0))
    assert np.mean([(selected < 6).sum() for selected in indices]) > 5.5
    assert np.mean([selected[selected >= 6].mean() for selected in indices]) < 18.0


@pytest.mark.parametrize("draw", [run, pytest.param(run_dpp, marks=pytest.mark.slow)])
def test_batches_equal_single_photos(draw):
    fit, photo = fit_and_photo((3,))
    keys = jax.random.split(jax.random.key(4), 3)
    batch = draw(fit, photo, keys)
    for k in range(3):
        single = draw(select(fit, k), select(photo, k), keys[k])
        chex.assert_trees_all_close(batch.vertices[k], single.vertices, atol=2e-4)
    first = draw(*select((fit, photo), np.s_[:1]), keys[:1])
    chex.assert_shape(first.vertices, (1, *batch.vertices.shape[1:]))


def test_a_second_photo_does_not_compile_again(face):
    run(*face)
    program = _program(QUICK, DRAWS, (jax.devices()[0],))
    before = program._cache_size()
    run(*fit_and_photo(seed=2))
    assert program._cache_size() == before


def test_draw_coefficients_with_and_without_guidance():
    model, context = small_generator("identity"), jnp.ones(12)
    coefficients = jax.jit(lambda model: draw_coefficients(model, context, KEY, 500))(model)
    assert abs(float(coefficients.std()) - 1) < 0.05
    few, keys = SamplerConfig(steps=3), jax.random.split(KEY)
    draw = jax.jit(lambda c, k: draw_coefficients(model, c, k, 3, few))
    many = jax.vmap(draw)(jnp.ones((2, 12)), keys)
    for one, key in zip(many, keys, strict=True):
        chex.assert_trees_all_close(one, draw(context, key), atol=1e-5)
    guided = SamplerConfig(steps=3, guidance=2.0)
    with pytest.raises(ValueError, match="without guidance"):
        draw_coefficients(model, context, KEY, 2, guided)
    unconditional = small_generator("identity", unconditional=True)
    assert np.isfinite(jax.jit(lambda model: draw_coefficients(model, context, KEY, 2, guided))(unconditional)).all()


def test_preconditioned_prediction_is_relative_to_the_noisy_input():
    model = small_generator("identity")
    size = model.config.unet.size
    model.unet.noise.bias[...] = jnp.arange(size, dtype=jnp.float32)
    x, t, context = jnp.ones((2, size)), jnp.asarray([10.0, 900.0]), jnp.zeros(12)
    alpha, sigma = make_schedule("ho").alpha_sigma(t)
    both = nnx.jit(lambda model: (model.predict_noise(x, t, context), model.unet(x, t, context)))
    noise, prediction = both(model)
    np.testing.assert_allclose(noise, sigma[:, None] * x + alpha[:, None] * prediction, rtol=1e-6)
    model.config = dataclasses.replace(model.config, preconditioned=False)
    np.testing.assert_allclose(*both(model), rtol=1e-6)


def test_head_params_use_neck_and_gaze_of_the_fit(face):
    fit = face[0]
    params = dataclasses.replace(fit.params, leye_pose=jnp.asarray([0.1, 0.2, 0.0]))
    fit = dataclasses.replace(fit, params=params)
    combined = head_params(fit, jnp.zeros((2, 6)), jnp.zeros((2, 4)), jnp.zeros((2, 3)))
    assert isinstance(combined, HeadParams)
    np.testing.assert_allclose(combined.leye_pose, np.tile([0.1, 0.2, 0.0], (2, 1)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda fit, photo: run(fit, photo, count=0), "num_samples"),
        (lambda fit, photo: run(fit, photo, jax.random.split(KEY, 2)), "one key"),
        (lambda fit, photo: run(fit, fit_and_photo((2,))[1]), "observations"),
        (lambda fit, photo: run(fit, dataclasses.replace(photo, image=photo.image[0])), "observation.image should be"),
        (lambda fit, photo: run_dpp(fit, photo, count=25), "pool"),
        (lambda fit, photo: OferConfig(candidates=0), "candidates"),
        (lambda fit, photo: OferDppConfig(sigma=0), "positive"),
        (lambda fit, photo: OferDppConfig(pool=0), "pool"),
        (lambda fit, photo: GeneratorConfig("pose", UNet1DConfig((4, 2))), "kind"),
    ],
)
def test_invalid_inputs_are_refused(face, call, match):
    with pytest.raises(ValueError, match=match):
        call(*face)


def test_networks_of_another_head_are_refused(face):
    with pytest.raises(ValueError, match="coefficients"):
        ofer(small_networks(), dataclasses.replace(without_dense(), num_betas=5), *face, KEY)
