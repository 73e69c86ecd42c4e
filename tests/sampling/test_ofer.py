"""OFER's inference, and ofer+dpp: what is seen is met, what is hidden differs, batches, export, refusals."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

import flamejax
from experiments.datasets.renders import exact_observation
from fitting.config import FitConfig
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadParams
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.noise_schedule import make_schedule
from models.ofer_weights import build_generator, build_rank
from models.rank import IdRankConfig, frontal_face
from models.unet1d import UNet1DConfig
from sampling import OferConfig, OferDppConfig, OferNetworks, SamplerConfig, draw_coefficients, ofer, ofer_dpp
from sampling._ofer import _program, draw_hypotheses, head_params
from sampling._ofer_dpp import _program as dpp_program
from sampling._ofer_dpp import pick
from sampling.placement import landmark_view, place, placed, seen_points
from tests.sampling.test_complete import HEAD as OTHER
from tests.sampling.test_complete import KEY, make_fit

HEAD = dataclasses.replace(OTHER, dense=None)
SIDE = 64
HIDDEN_ALL = jnp.ones(HEAD.num_vertices, bool)
SIZES = {"context": 12, "time": 16, "heads": 1, "head_width": 4, "tokens": 2}
LANDMARK = LandmarkEncoderConfig(width=12, hidden=16, blocks=1)


def generator(kind, seed=0, **changes):
    """Untrained: it draws from N(0, 1), the jaw from N(0, 0.05^2)."""
    size = HEAD.num_betas if kind == "identity" else HEAD.num_expression + 3
    config = GeneratorConfig(kind, UNet1DConfig((size, 4), **SIZES), landmark=LANDMARK, preconditioned=True, **changes)
    deviation = np.concatenate([np.ones(size - 3), np.full(3, 0.05)]) if kind == "expression" else None
    return build_generator(HEAD, config, seed, None, deviation)


NETWORKS = OferNetworks(
    generator("identity"),
    generator("expression"),
    build_rank(HEAD, IdRankConfig((16, 8), context=12, landmark=LANDMARK)),
    frontal_face(HEAD),
)
QUICK = OferConfig(candidates=10, sampler=SamplerConfig(steps=4))
POOL = OferDppConfig(QUICK, pool=24, identities=6, render_size=32, photometric_weight=0.0)


def seen(batch=(), seed=1):
    """A fit with its landmarks in the picture, and the photo that it explains."""
    fit = make_fit(batch, seed)
    params = dataclasses.replace(fit.params, global_orient=0.4 * fit.params.global_orient)
    verts = flamejax.vertices(HEAD, params)
    points = flamejax.landmarks(HEAD, params)
    camera = OrthographicCamera(
        jnp.full(batch, 3.0 * SIDE), jnp.broadcast_to(jnp.asarray([0.5 * SIDE, 0.8 * SIDE]), (*batch, 2))
    )
    light = jnp.zeros((*batch, 9, 3)).at[..., 0, :].set(2.0)
    fit = dataclasses.replace(fit, params=params, vertices=verts, landmarks=points, camera=camera, light=light)
    flat = camera.project(points)[..., :2].reshape(-1, 68, 2)
    photo = exact_observation(jnp.full((len(flat), SIDE, SIDE, 3), 0.5), flat)
    return fit, jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), photo)


FIT, SEEN = seen()


def run(config=QUICK, fit=FIT, photo=SEEN, key=KEY, count=6):
    return ofer(NETWORKS, HEAD, fit, photo, key, num_samples=count, config=config)


def run_dpp(config=POOL, fit=FIT, photo=SEEN, key=KEY, count=6):
    return ofer_dpp(NETWORKS, HEAD, fit, photo, key, num_samples=count, config=config)


def test_a_known_pose_and_size_are_found():
    """Heads a tenth larger or smaller than the photo shows them, from a pose that is off."""
    start = dataclasses.replace(FIT.params, global_orient=FIT.params.global_orient + jnp.asarray([0.15, -0.2, 0.1]))
    fit = dataclasses.replace(FIT, params=start)
    one = jax.tree.map(lambda leaf: leaf[None], FIT.params)
    for larger in (0.9, 1.1):
        camera = dataclasses.replace(FIT.camera, scale=FIT.camera.scale * larger)
        view = landmark_view(HEAD, dataclasses.replace(fit, camera=camera), SEEN, FitConfig())
        # The contour of another yaw lies elsewhere.
        view = dataclasses.replace(view, precision=view.precision.at[:17].set(0))
        placement, cost = place(view, dataclasses.replace(fit, camera=camera), SIDE, seen_points(view, one))
        np.testing.assert_allclose(placement.orient[0], FIT.params.global_orient, atol=0.02)
        np.testing.assert_allclose(placement.size, 1 / larger, rtol=0.01)
        assert float(cost[0]) < 0.5
        params, verts = placed(HEAD, one, placement)
        screen = camera.project(verts[0])[:, :2]
        np.testing.assert_allclose(screen, FIT.camera.project(FIT.vertices)[:, :2], atol=0.5)
        chex.assert_trees_all_close(verts, placement.size[:, None, None] * flamejax.vertices(HEAD, params), atol=1e-6)


@pytest.mark.parametrize("draw", [run, run_dpp])
def test_vertices_are_those_of_params_and_size_best_first(draw):
    found = draw()
    chex.assert_tree_all_finite(found)
    chex.assert_shape(found.vertices, (6, HEAD.num_vertices, 3))
    again = found.size[:, None, None] * flamejax.vertices(HEAD, found.params)
    chex.assert_trees_all_close(found.vertices, again, atol=1e-6)
    assert (np.diff(found.score) <= 0).all()


def test_ofer_keeps_one_identity_and_varies_the_expression():
    found = run()
    assert np.ptp(found.params.betas, axis=0).max() == 0
    assert np.ptp(found.size) == 0
    assert np.std(found.params.expression, axis=0).min() > 0.1
    drawn = draw_hypotheses(NETWORKS, SEEN, KEY, 6, QUICK)
    chex.assert_trees_all_close(found.params.betas[0], drawn.betas[0], atol=1e-5)


def test_candidates_come_in_the_order_of_their_scores():
    drawn = draw_hypotheses(NETWORKS, SEEN, KEY, 6, QUICK)
    context = NETWORKS.idrank.context(None, SEEN.landmarks, (SEEN.confidence > 0.2).astype(jnp.float32))
    scores = NETWORKS.idrank.of_betas(NETWORKS.face, drawn.betas, context)
    np.testing.assert_allclose(scores, drawn.rank_score, atol=1e-4)
    assert (np.diff(drawn.rank_score) <= 0).all()


def test_dpp_meets_what_is_seen_and_differs_where_nothing_is():
    found = run_dpp()
    visible = np.asarray(FIT.vertex_visibility)
    away = np.linalg.norm(np.asarray(found.vertices) - np.asarray(FIT.vertices), axis=-1)
    loose = run_dpp(dataclasses.replace(POOL, refine_steps=0))
    before = np.linalg.norm(np.asarray(loose.vertices) - np.asarray(FIT.vertices), axis=-1)
    assert away[:, visible].mean() < 0.15 * before[:, visible].mean()
    # All ten coefficients of this head show in what is seen, so little is left to differ.
    spread, wide = (np.asarray(each.vertices).std(axis=0) for each in (found, loose))
    assert spread[visible].mean() < 0.1 * wide[visible].mean()
    assert spread[~visible].mean() > 1.2 * spread[visible].mean()


def test_the_dpp_prefers_the_likely_and_the_different():
    verts = jnp.zeros((9, HEAD.num_vertices, 3)).at[3:6].add(0.01).at[6:].add(-0.01)
    hidden = jnp.ones(HEAD.num_vertices, bool)
    energy = jnp.zeros(9).at[6:].set(1e3).at[1].set(jnp.nan)
    for seed in range(5):
        chosen = np.asarray(pick(jax.random.key(seed), verts, hidden, energy, 2, POOL))
        assert sorted(chosen // 3) == [0, 1]
        assert 1 not in chosen


def test_a_head_that_is_no_number_is_left_out_and_spoils_nothing():
    verts = jnp.zeros((9, HEAD.num_vertices, 3)).at[3:6].add(0.01).at[8].set(jnp.nan)
    hidden = jnp.ones(HEAD.num_vertices, bool)
    for seed in range(8):
        chosen = np.asarray(pick(jax.random.key(seed), verts, hidden, jnp.zeros(9), 2, POOL))
        assert 8 not in chosen
        assert ((chosen >= 3) & (chosen < 6)).sum() == 1


def test_among_unlikely_heads_the_least_unlikely_are_picked():
    """Few near the best: the others must not be drawn as if all were as good."""
    rng = np.random.default_rng(0)
    verts = jnp.asarray(rng.normal(size=(32, HEAD.num_vertices, 3)) * 0.003, jnp.float32)
    energy = jnp.concatenate([jnp.zeros(6), jnp.linspace(20, 600, 26)])
    sharp = dataclasses.replace(POOL, temperature=8.0)
    places = [np.asarray(pick(jax.random.key(s), verts, HIDDEN_ALL, energy, 10, sharp)) for s in range(20)]
    assert np.mean([(chosen < 6).sum() for chosen in places]) > 5.5
    assert np.mean([chosen[chosen >= 6].mean() for chosen in places]) < 18.0


def one_of(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


@pytest.mark.parametrize("draw", [run, run_dpp])
def test_a_batch_is_its_photos_one_by_one(draw):
    fit, photo = seen((3,))
    keys = jax.random.split(jax.random.key(4), 3)
    whole = draw(fit=fit, photo=photo, key=keys)
    for k in range(3):
        one = draw(fit=one_of(fit, k), photo=one_of(photo, k), key=keys[k])
        chex.assert_trees_all_close(whole.vertices[k], one.vertices, atol=2e-4)
    first = np.s_[:1]
    single = draw(fit=one_of(fit, first), photo=one_of(photo, first), key=keys[:1])
    chex.assert_shape(single.vertices, (1, 6, HEAD.num_vertices, 3))


def test_a_second_photo_does_not_compile_again():
    program = _program(QUICK, 6, (jax.devices()[0],))
    program.clear_cache()
    for seed in (2, 3):
        fit, photo = seen(seed=seed)
        ofer(NETWORKS, HEAD, fit, photo, KEY, num_samples=6, config=QUICK, devices=(jax.devices()[0],))
    assert program._cache_size() == 1


@pytest.mark.parametrize("dpp", [False, True])
def test_it_exports_for_all_platforms_without_callbacks(dpp):
    program = dpp_program(POOL, 6, (jax.devices()[0],)) if dpp else _program(QUICK, 6, (jax.devices()[0],))
    photos = jax.tree.map(lambda leaf: leaf[None], (FIT, SEEN))
    flat, tree = jax.tree.flatten(((NETWORKS, HEAD), (*photos, jax.random.split(KEY, 1))))
    drawn = jax.jit(lambda *leaves: program(*jax.tree.unflatten(tree, leaves)).vertices)
    exported = export.export(drawn, platforms=["cpu", "cuda", "tpu"])(*flat)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    targets = set(re.findall(r"custom_call @(\w+)|custom_call_target = \"([^\"]+)", exported.mlir_module()))
    assert not any("callback" in name for pair in targets for name in pair)


def test_samplers_of_a_model_and_guidance():
    model, context = generator("identity"), jnp.ones(12)
    drawn = draw_coefficients(model, context, KEY, 500)
    assert abs(float(drawn.std()) - 1) < 0.05
    few = SamplerConfig(steps=3)
    many = jax.vmap(lambda c, k: draw_coefficients(model, c, k, 3, few))(jnp.ones((2, 12)), jax.random.split(KEY))
    for one, key in zip(many, jax.random.split(KEY), strict=True):
        chex.assert_trees_all_close(one, draw_coefficients(model, context, key, 3, few), atol=1e-5)
    with pytest.raises(ValueError, match="without guidance"):
        draw_coefficients(model, context, KEY, 2, SamplerConfig(guidance=2.0))
    guided = draw_coefficients(generator("identity", unconditional=True), context, KEY, 2, SamplerConfig(guidance=2.0))
    assert np.isfinite(guided).all()


def test_a_preconditioned_network_says_how_the_noise_differs_from_the_best_guess():
    model = generator("identity")
    model.unet.noise.bias[...] = jnp.arange(HEAD.num_betas, dtype=jnp.float32)
    x, t = jnp.ones((2, HEAD.num_betas)), jnp.asarray([10.0, 900.0])
    alpha, sigma = make_schedule("ho").alpha_sigma(t)
    wanted = sigma[:, None] * x + alpha[:, None] * model.unet(x, t, jnp.zeros(12))
    np.testing.assert_allclose(model.noise(x, t, jnp.zeros(12)), wanted, rtol=1e-6)
    plain = dataclasses.replace(model.config, preconditioned=False)
    graphdef, state = nnx.split(model)
    other = nnx.merge(graphdef, state)
    other.config = plain
    np.testing.assert_allclose(other.noise(x, t, jnp.zeros(12)), model.unet(x, t, jnp.zeros(12)), rtol=1e-6)


def test_params_take_neck_and_gaze_of_the_fit():
    params = dataclasses.replace(FIT.params, leye_pose=jnp.asarray([0.1, 0.2, 0.0]))
    made = head_params(dataclasses.replace(FIT, params=params), jnp.zeros((2, 6)), jnp.zeros((2, 4)), jnp.zeros((2, 3)))
    assert isinstance(made, HeadParams)
    np.testing.assert_allclose(made.leye_pose, np.tile([0.1, 0.2, 0.0], (2, 1)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: run(count=0), "num_samples"),
        (lambda: run(key=jax.random.split(KEY, 2)), "one key"),
        (lambda: run(photo=seen((2,))[1]), "observations"),
        (lambda: run_dpp(count=25), "pool"),
        (lambda: OferConfig(candidates=0), "candidates"),
        (lambda: OferDppConfig(sigma=0), "positive"),
        (lambda: OferDppConfig(pool=0), "pool"),
        (lambda: GeneratorConfig("pose", UNet1DConfig((4, 2))), "kind"),
    ],
)
def test_refusals(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_networks_of_another_head_are_refused():
    other = dataclasses.replace(HEAD, num_betas=5)
    with pytest.raises(ValueError, match="coefficients"):
        ofer(NETWORKS, other, FIT, SEEN, KEY)
