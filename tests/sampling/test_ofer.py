"""OFER's inference, and ofer+dpp: what is seen is met, what is hidden differs, batches, refusals."""

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
from sampling._ofer import _program, draw_hypotheses, head_params
from sampling._ofer_dpp import pick
from sampling.placement import landmark_view, place, placed, seen_points
from tests.sampling.faces import KEY, SIDE, make_fit, observed, small_generator, small_networks, taken, without_dense

QUICK = OferConfig(candidates=10, sampler=SamplerConfig(steps=4))
POOL = OferDppConfig(QUICK, pool=24, identities=6, render_size=32, photometric_weight=0.0)
DRAWS = 6


def seen(batch=(), seed=1):
    """A fit, and the photo that it explains, whose colours do not count."""
    fit = make_fit(batch, seed, turn=0.2)
    return fit, observed(fit, grey=True)


@pytest.fixture(scope="module")
def face():
    return seen()


def run(fit, photo, key=KEY, count=DRAWS):
    return ofer(small_networks(), without_dense(), fit, photo, key, num_samples=count, config=QUICK)


def run_dpp(fit, photo, key=KEY, count=DRAWS, config=POOL):
    return ofer_dpp(small_networks(), without_dense(), fit, photo, key, num_samples=count, config=config)


@pytest.fixture(scope="module")
def drawn(face):
    """What the networks say of the photo, before heads are placed."""
    return jax.jit(lambda networks, photo: draw_hypotheses(networks, photo, KEY, DRAWS, QUICK))(
        small_networks(), face[1]
    )


def test_a_known_pose_and_size_are_found(face):
    """Heads a tenth larger or smaller than the photo shows them, from a pose that is off."""
    head, (truth, photo) = without_dense(), face
    start = dataclasses.replace(truth.params, global_orient=truth.params.global_orient + jnp.asarray([0.15, -0.2, 0.1]))
    one = jax.tree.map(lambda leaf: leaf[None], truth.params)

    @jax.jit
    def placement_of(larger):
        camera = dataclasses.replace(truth.camera, scale=truth.camera.scale * larger)
        fit = dataclasses.replace(truth, params=start, camera=camera)
        view = landmark_view(head, fit, photo, FitConfig())
        # The contour of another yaw lies elsewhere.
        view = dataclasses.replace(view, precision=view.precision.at[:17].set(0))
        placement, cost = place(view, fit, SIDE, seen_points(view, one))
        params, verts = placed(head, one, placement)
        implied = placement.size[:, None, None] * flamejax.vertices(head, params)
        return placement, cost, verts, implied, camera.project(verts[0])[:, :2]

    for larger in (0.9, 1.1):
        placement, cost, verts, implied, screen = placement_of(larger)
        np.testing.assert_allclose(placement.orient[0], truth.params.global_orient, atol=0.02)
        np.testing.assert_allclose(placement.size, 1 / larger, rtol=0.01)
        assert float(cost[0]) < 0.5
        np.testing.assert_allclose(screen, truth.camera.project(truth.vertices)[:, :2], atol=0.5)
        chex.assert_trees_all_close(verts, implied, atol=1e-6)


@pytest.mark.parametrize("draw", [run, run_dpp])
def test_vertices_are_those_of_params_and_size_best_first(face, draw):
    head, found = without_dense(), draw(*face)
    chex.assert_tree_all_finite(found)
    chex.assert_shape(found.vertices, (DRAWS, head.num_vertices, 3))
    again = found.size[:, None, None] * flamejax.vertices(head, found.params)
    chex.assert_trees_all_close(found.vertices, again, atol=1e-6)
    assert (np.diff(found.score) <= 0).all()


def test_ofer_keeps_one_identity_and_varies_the_expression(face, drawn):
    found = run(*face)
    assert np.ptp(found.params.betas, axis=0).max() == 0
    assert np.ptp(found.size) == 0
    assert np.std(found.params.expression, axis=0).min() > 0.1
    chex.assert_trees_all_close(found.params.betas[0], drawn.betas[0], atol=1e-5)


def test_candidates_come_in_the_order_of_their_scores(face, drawn):
    networks, photo = small_networks(), face[1]
    context = networks.idrank.context(None, photo.landmarks, (photo.confidence > 0.2).astype(jnp.float32))
    scores = networks.idrank.of_betas(networks.face, drawn.betas, context)
    np.testing.assert_allclose(scores, drawn.rank_score, atol=1e-4)
    assert (np.diff(drawn.rank_score) <= 0).all()


def test_dpp_meets_what_is_seen_and_differs_where_nothing_is(face):
    fit, photo = face
    visible = np.asarray(fit.vertex_visibility)
    found, loose = run_dpp(fit, photo), run_dpp(fit, photo, config=dataclasses.replace(POOL, refine_steps=0))
    away, before = (np.linalg.norm(each.vertices - fit.vertices[None], axis=-1) for each in (found, loose))
    assert away[:, visible].mean() < 0.15 * before[:, visible].mean()
    # All ten coefficients of this head show in what is seen, so little is left to differ.
    spread, wide = (np.asarray(each.vertices).std(axis=0) for each in (found, loose))
    assert spread[visible].mean() < 0.1 * wide[visible].mean()
    assert spread[~visible].mean() > 1.2 * spread[visible].mean()


def picked(verts, energy, count, seeds, config=POOL):
    """Places of a k-DPP's draws, for each seed: (seeds, count)."""
    hidden = jnp.ones(verts.shape[1], bool)
    draw = jax.jit(jax.vmap(lambda key: pick(key, verts, hidden, energy, count, config)))
    return np.asarray(draw(jax.vmap(jax.random.key)(jnp.arange(seeds))))


def test_the_dpp_prefers_the_likely_and_the_different():
    verts = jnp.zeros((9, 162, 3)).at[3:6].add(0.01).at[6:].add(-0.01)
    for chosen in picked(verts, jnp.zeros(9).at[6:].set(1e3).at[1].set(jnp.nan), 2, 5):
        assert sorted(chosen // 3) == [0, 1]
        assert 1 not in chosen


def test_a_head_that_is_no_number_is_left_out_and_spoils_nothing():
    verts = jnp.zeros((9, 162, 3)).at[3:6].add(0.01).at[8].set(jnp.nan)
    for chosen in picked(verts, jnp.zeros(9), 2, 8):
        assert 8 not in chosen
        assert ((chosen >= 3) & (chosen < 6)).sum() == 1


def test_among_unlikely_heads_the_least_unlikely_are_picked():
    """Few near the best: the others must not be drawn as if all were as good."""
    verts = jnp.asarray(np.random.default_rng(0).normal(size=(32, 162, 3)) * 0.003, jnp.float32)
    energy = jnp.concatenate([jnp.zeros(6), jnp.linspace(20, 600, 26)])
    places = picked(verts, energy, 10, 20, dataclasses.replace(POOL, temperature=8.0))
    assert np.mean([(chosen < 6).sum() for chosen in places]) > 5.5
    assert np.mean([chosen[chosen >= 6].mean() for chosen in places]) < 18.0


@pytest.mark.parametrize("draw", [run, pytest.param(run_dpp, marks=pytest.mark.slow)])
def test_a_batch_is_its_photos_one_by_one(draw):
    fit, photo = seen((3,))
    keys = jax.random.split(jax.random.key(4), 3)
    whole = draw(fit, photo, keys)
    for k in range(3):
        one = draw(taken(fit, k), taken(photo, k), keys[k])
        chex.assert_trees_all_close(whole.vertices[k], one.vertices, atol=2e-4)
    first = np.s_[:1]
    single = draw(taken(fit, first), taken(photo, first), keys[:1])
    chex.assert_shape(single.vertices, (1, *whole.vertices.shape[1:]))


def test_a_second_photo_does_not_compile_again(face):
    run(*face)
    program = _program(QUICK, DRAWS, (jax.devices()[0],))
    before = program._cache_size()
    run(*seen(seed=2))
    assert program._cache_size() == before


def test_samplers_of_a_model_and_guidance():
    model, context = small_generator("identity"), jnp.ones(12)
    drawn = jax.jit(lambda model: draw_coefficients(model, context, KEY, 500))(model)
    assert abs(float(drawn.std()) - 1) < 0.05
    few, keys = SamplerConfig(steps=3), jax.random.split(KEY)
    draw = jax.jit(lambda c, k: draw_coefficients(model, c, k, 3, few))
    many = jax.vmap(draw)(jnp.ones((2, 12)), keys)
    for one, key in zip(many, keys, strict=True):
        chex.assert_trees_all_close(one, draw(context, key), atol=1e-5)
    guided = SamplerConfig(steps=3, guidance=2.0)
    with pytest.raises(ValueError, match="without guidance"):
        draw_coefficients(model, context, KEY, 2, guided)
    free = small_generator("identity", unconditional=True)
    assert np.isfinite(jax.jit(lambda model: draw_coefficients(model, context, KEY, 2, guided))(free)).all()


def test_a_preconditioned_network_says_how_the_noise_differs_from_the_best_guess():
    model = small_generator("identity")
    size = model.config.unet.size
    model.unet.noise.bias[...] = jnp.arange(size, dtype=jnp.float32)
    x, t, context = jnp.ones((2, size)), jnp.asarray([10.0, 900.0]), jnp.zeros(12)
    alpha, sigma = make_schedule("ho").alpha_sigma(t)
    both = nnx.jit(lambda model: (model.noise(x, t, context), model.unet(x, t, context)))
    found, said = both(model)
    np.testing.assert_allclose(found, sigma[:, None] * x + alpha[:, None] * said, rtol=1e-6)
    model.config = dataclasses.replace(model.config, preconditioned=False)
    np.testing.assert_allclose(*both(model), rtol=1e-6)


def test_params_take_neck_and_gaze_of_the_fit(face):
    fit = face[0]
    params = dataclasses.replace(fit.params, leye_pose=jnp.asarray([0.1, 0.2, 0.0]))
    made = head_params(dataclasses.replace(fit, params=params), jnp.zeros((2, 6)), jnp.zeros((2, 4)), jnp.zeros((2, 3)))
    assert isinstance(made, HeadParams)
    np.testing.assert_allclose(made.leye_pose, np.tile([0.1, 0.2, 0.0], (2, 1)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda fit, photo: run(fit, photo, count=0), "num_samples"),
        (lambda fit, photo: run(fit, photo, jax.random.split(KEY, 2)), "one key"),
        (lambda fit, photo: run(fit, seen((2,))[1]), "observations"),
        (lambda fit, photo: run(fit, dataclasses.replace(photo, image=photo.image[0])), "observation.image should be"),
        (lambda fit, photo: run_dpp(fit, photo, count=25), "pool"),
        (lambda fit, photo: OferConfig(candidates=0), "candidates"),
        (lambda fit, photo: OferDppConfig(sigma=0), "positive"),
        (lambda fit, photo: OferDppConfig(pool=0), "pool"),
        (lambda fit, photo: GeneratorConfig("pose", UNet1DConfig((4, 2))), "kind"),
    ],
)
def test_refusals(face, call, match):
    with pytest.raises(ValueError, match=match):
        call(*face)


def test_networks_of_another_head_are_refused(face):
    with pytest.raises(ValueError, match="coefficients"):
        ofer(small_networks(), dataclasses.replace(without_dense(), num_betas=5), *face, KEY)
