"""Algorithm 2: what is seen stays, what is hidden spreads; knobs, baselines, batches, gradients, export, devices."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.test_util import check_grads

import flamejax
from experiments.datasets.renders import exact_observation
from flamejax.camera import OrthographicCamera
from models.mesh_vae import Posterior
from sampling import DIVERSIFY_PRESETS, DiversifyConfig, complete, diversify
from sampling._complete import to_head_frame, visible_vertices
from sampling._diversify import _program, diversify_batch
from sampling.descent import Problem, set_loss
from sampling.dpp import shell_radius
from sampling.hidden_directions import hidden_directions
from sampling.photo_match import photo_term, photometric, photometric_pull, seen_triangles
from tests.sampling.test_complete import HEAD, KEY, MODEL, VAE, make_fit, make_vae

SIDE = 48
QUICK = DiversifyConfig(iterations=24, render_size=32, directions=3)
PLAIN = dataclasses.replace(QUICK, photometric_weight=0.0)
HALVES = make_vae(halves=True)
"""Its hidden half is free of the visible one."""


def seen_fit(batch=(), seed=1):
    """A fit with a camera that has the head in the picture."""
    fit = make_fit(batch, seed)
    camera = OrthographicCamera(
        jnp.full(batch, 3.0 * SIDE), jnp.broadcast_to(jnp.asarray([0.5 * SIDE, 0.8 * SIDE]), (*batch, 2))
    )
    light = jnp.zeros((*batch, 9, 3)).at[..., 0, :].set(2.0)
    params = dataclasses.replace(fit.params, transl=jnp.zeros((*batch, 3)))
    return dataclasses.replace(fit, camera=camera, light=light, params=params)


def observed(fit):
    """The photo that a fit explains, as an observation."""
    batch = fit.vertices.shape[:-2]
    image = flamejax.render(HEAD, fit.vertices, fit.camera, size=(SIDE, SIDE))[..., :3]
    points = fit.camera.project(fit.landmarks)[..., :2]
    flat = exact_observation(image.reshape(-1, SIDE, SIDE, 3), points.reshape(-1, 68, 2))
    return jax.tree.map(lambda leaf: leaf.reshape(*batch, *leaf.shape[1:]), flat)


def spreads(heads, fit):
    """RMS distance from the mean head, metres: of visible and of hidden vertices."""
    away = np.asarray(heads) - np.asarray(heads).mean(axis=-3, keepdims=True)
    size = np.sqrt((away**2).sum(-1).mean(axis=(0, -2) if away.ndim == 4 else 0))
    seen = np.asarray(visible_vertices(HEAD, fit))
    return float(np.sqrt((size[seen] ** 2).mean())), float(np.sqrt((size[~seen] ** 2).mean()))


FIT = seen_fit()
SEEN = observed(FIT)


def run(config=PLAIN, vae=HALVES, fit=FIT, seen=SEEN, key=KEY, count=8):
    return diversify(vae, MODEL, fit, seen, key, num_samples=count, config=config)


def test_hidden_vertices_spread_and_visible_ones_stay():
    drawn, moved = complete(HALVES, MODEL, FIT, KEY, num_samples=8), run()
    before, after = spreads(drawn.vertices, FIT), spreads(moved.vertices, FIT)
    assert after[1] > 1.3 * before[1], "farther apart where nothing is seen"
    assert after[0] < before[0] + 2e-5, "and as near as before where the photo shows the head"
    assert after[1] > 20 * after[0]
    chex.assert_tree_all_finite((moved.vertices, moved.latents, moved.score))
    assert (np.diff(moved.score) <= 0).all()


def test_more_sigmas_are_more_diverse_and_keep_to_their_shell():
    found = [run(dataclasses.replace(PLAIN, n_sigma=n, iterations=60)) for n in (1.0, 3.0, 5.0)]
    hidden = [spreads(each.vertices, FIT)[1] for each in found]
    assert hidden[0] < hidden[1] < hidden[2]
    vertices, _, _ = to_head_frame(MODEL, FIT)
    posterior = HALVES.encode(vertices, visible_vertices(HEAD, FIT))
    rows, _ = hidden_directions(HALVES, posterior, ~visible_vertices(HEAD, FIT), 3, KEY)
    for each, n_sigma in zip(found, (1.0, 3.0, 5.0), strict=True):
        along = np.asarray(jax.vmap(posterior.whitened)(each.latents) @ rows.T) / PLAIN.width
        assert np.linalg.norm(along, axis=-1).max() < 1.15 * float(shell_radius(3, n_sigma)) + 0.1


def test_k_and_n_sigma_do_not_compile_again():
    program = _program(dataclasses.replace(PLAIN, k=0.0, n_sigma=0.0), 8, True, (jax.devices()[0],))
    program.clear_cache()
    for k, n_sigma in ((0.5, 3.0), (2.0, 1.0)):
        diversify(
            HALVES, MODEL, FIT, SEEN, KEY, num_samples=8, devices=(jax.devices()[0],),
            config=dataclasses.replace(PLAIN, k=k, n_sigma=n_sigma),
        )  # fmt: skip
    diversify(HALVES, MODEL, seen_fit(seed=5), SEEN, KEY, num_samples=8, devices=(jax.devices()[0],), config=PLAIN)
    assert program._cache_size() == 1


def test_no_iterations_are_plain_draws():
    plain = dataclasses.replace(QUICK, iterations=0)
    chex.assert_trees_all_equal(run(plain, VAE), complete(VAE, MODEL, FIT, KEY, num_samples=8))


def test_settled_heads_are_left_alone():
    """With a threshold that everything is below, one round is made and no more."""
    once = run(dataclasses.replace(PLAIN, settled=1.0))
    more = run(dataclasses.replace(PLAIN, settled=0.0))
    first = run(dataclasses.replace(PLAIN, settled=1.0, iterations=24 * 50), count=8)
    hidden = [spreads(each.vertices, FIT)[1] for each in (once, more, first)]
    assert hidden[0] < hidden[1]
    np.testing.assert_allclose(hidden[0], hidden[2], rtol=0.05)  # the step's decay differs, the number of steps not


@pytest.mark.parametrize("batch", [(1,), (3,)])
def test_batches_are_their_photos_one_by_one(batch):
    fit = seen_fit(batch)
    seen, keys = observed(fit), jax.random.split(KEY, batch)
    together = run(QUICK, fit=fit, seen=seen, key=keys, count=4)
    chex.assert_shape(together.vertices, (*batch, 4, HEAD.num_vertices, 3))
    for i in range(batch[0]):
        one, photo = jax.tree.map(lambda leaf: leaf[i], (fit, seen))  # noqa: B023
        alone = run(QUICK, fit=one, seen=photo, key=keys[i], count=4)
        np.testing.assert_allclose(together.vertices[i], alone.vertices, atol=2e-5)


def test_jit_is_eager():
    knobs = jnp.asarray([0.5, 3.0])
    one = jax.tree.map(lambda leaf: leaf[None], (FIT, SEEN, KEY))
    short = dataclasses.replace(PLAIN, iterations=4)
    with jax.disable_jit():
        eager = diversify_batch(HALVES, MODEL, knobs, *one, 3, short)
    jitted = jax.jit(lambda *args: diversify_batch(*args, 3, short))(HALVES, MODEL, knobs, *one)
    np.testing.assert_allclose(eager.vertices, jitted.vertices, atol=2e-5)


def test_the_paper_preset_moves_latents_themselves():
    paper = dataclasses.replace(
        DIVERSIFY_PRESETS["paper"], iterations=40, render_size=32, photometric_weight=0.0, learning_rate=0.05
    )
    assert paper.space == "latents" and DIVERSIFY_PRESETS["paper"].iterations == 300
    before, after = (spreads(run(dataclasses.replace(paper, iterations=n)).vertices, FIT) for n in (0, 40))
    assert after[1] > 1.1 * before[1] and after[1] > 5 * after[0]


@pytest.mark.parametrize("seed", [1, 2])
def test_single_stage_spreads_everything(seed):
    fit = seen_fit(seed=seed)
    found = run(dataclasses.replace(QUICK, iterations=40), vae=None, fit=fit, seen=observed(fit), count=6)
    assert found.latents is None and found.params is not None
    chex.assert_shape(found.params.betas, (6, HEAD.num_betas))
    chex.assert_tree_all_finite((found.vertices, found.score))
    implied = flamejax.vertices(HEAD, found.params)
    np.testing.assert_allclose(found.vertices, implied, atol=1e-5)
    seen, hidden = spreads(found.vertices, fit)
    assert 1e-5 < hidden < 8 * seen, "nothing holds the visible part but the photo"
    assert (np.diff(found.score) <= 0).all()


def test_single_stage_is_more_diverse_with_more_weight():
    def spread(weight):
        single = dataclasses.replace(QUICK.single_stage, dpp_weight=weight)
        return spreads(run(dataclasses.replace(QUICK, single_stage=single), vae=None).vertices, FIT)[1]

    assert spread(1.0) < spread(300.0)


def test_directions_are_the_principal_components_of_hidden_movement():
    vertices, _, _ = to_head_frame(MODEL, FIT)
    visible = visible_vertices(HEAD, FIT)
    posterior = HALVES.encode(vertices, visible)
    size = posterior.mean.size
    rows, energy = hidden_directions(HALVES, posterior, ~visible, 3, KEY)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-4)
    mask = np.asarray(~visible)
    jacobian = jax.jacfwd(lambda w: HALVES.decode(posterior.mean + posterior.deviation(w)))(jnp.zeros(size))
    jacobian = np.asarray(jacobian)[mask].reshape(-1, size).astype(np.float64)
    values = np.linalg.eigvalsh(jacobian.T @ jacobian)[::-1][:3] / (3 * mask.sum())
    np.testing.assert_allclose(energy, values, rtol=0.02)


def test_whitening_goes_there_and_back_and_draws_are_white():
    vertices, _, _ = to_head_frame(MODEL, FIT)
    posterior = VAE.encode(vertices, visible_vertices(HEAD, FIT))
    white = jax.random.normal(KEY, (5, posterior.mean.size))

    def there_and_back(found: Posterior) -> jax.Array:
        return jax.vmap(lambda w: found.whitened(found.mean + found.deviation(w)))(white)

    np.testing.assert_allclose(there_and_back(posterior), white, atol=2e-3)
    plain = Posterior(posterior.mean, posterior.log_variance + 1.0)
    np.testing.assert_allclose(there_and_back(plain), white, atol=1e-4)
    draws = jax.vmap(posterior.sample)(jax.random.split(KEY, 4000))
    covariance = np.cov(np.asarray(jax.vmap(posterior.whitened)(draws)).T)
    np.testing.assert_allclose(covariance, np.eye(white.shape[-1]), atol=0.12)


def test_the_photo_pulls_a_wrong_head_towards_the_right_one():
    wrong = dataclasses.replace(FIT, vertices=FIT.vertices + jnp.asarray([[0.004, 0.0, 0.0]]))
    term = photo_term(HEAD, FIT, SEEN, 32)
    pull = photometric_pull(HEAD, term, wrong.vertices[None], 0.15)[0]

    def cost(vertices):
        return photometric(HEAD, term, vertices, seen_triangles(HEAD, term, vertices), 0.15)

    assert cost(FIT.vertices) < cost(wrong.vertices)
    chex.assert_tree_all_finite(pull)
    step = 1e-4 * pull / jnp.max(jnp.abs(pull))
    assert cost(wrong.vertices - step) < cost(wrong.vertices) < cost(wrong.vertices + step)
    hidden = dataclasses.replace(SEEN, occlusion_mask=jnp.ones_like(SEEN.occlusion_mask))
    nothing = photometric_pull(HEAD, photo_term(HEAD, FIT, hidden, 32), wrong.vertices[None], 0.15)
    np.testing.assert_array_equal(nothing, 0)


def test_colours_have_right_gradients_at_fixed_visibility():
    plain = dataclasses.replace(
        HEAD, albedo_mean=jnp.full_like(HEAD.albedo_mean, 0.5), albedo_basis=jnp.full_like(HEAD.albedo_basis, 0.05)
    )
    term = photo_term(plain, FIT, SEEN, 32)
    term = dataclasses.replace(term, image=jax.random.uniform(KEY, term.image.shape))
    seen = seen_triangles(plain, term, FIT.vertices)
    rows = jax.random.normal(KEY, (4, HEAD.num_vertices, 3))

    def cost(weights):
        return photometric(plain, term, FIT.vertices + 1e-3 * jnp.tensordot(weights, rows, axes=1), seen, 0.15)

    check_grads(cost, (jnp.zeros(4),), 1, ("fwd", "rev"), eps=3e-3, rtol=0.05, atol=1e-4)


def test_the_set_loss_has_right_gradients():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Face:
        hidden: jax.Array

    problem = Problem(
        heads=lambda face, x: jnp.sin(x).reshape(4, 5, 3), loss=lambda *args: 0.0, plausible=lambda face, x: x,
        bounded=True,
    )  # fmt: skip
    face, knobs = Face(jnp.asarray([True, True, False, True, False])), jnp.asarray([0.5, 1.0])
    start = 1.4 * jax.random.normal(KEY, (4, 15))
    heads = problem.heads(face, start)
    # The median counts as a constant, so differences must not move it: shapes stay, plausibility moves.
    check_grads(lambda x: set_loss(problem, face, heads, x, knobs), (start,), 1, ("fwd", "rev"), eps=3e-3, rtol=0.03)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        run(count=0)
    with pytest.raises(ValueError, match="one key"):
        run(key=jax.random.split(KEY, 2))
    with pytest.raises(ValueError, match="observations"):
        run(seen=observed(seen_fit((2,))))
    with pytest.raises(ValueError, match="vertices, but a Mesh-VAE"):
        run(fit=dataclasses.replace(FIT, vertices=FIT.vertices[:-1]))
    for wrong in ({"iterations": 10}, {"k": -1.0}, {"width": 0.0}, {"render_size": 8}, {"directions": 0}):
        with pytest.raises(ValueError):
            DiversifyConfig(**wrong)


def test_photos_with_nan_give_finite_heads():
    broken = dataclasses.replace(SEEN, image=SEEN.image.at[3, 3].set(jnp.nan))
    chex.assert_tree_all_finite(run(QUICK, seen=broken, count=3).vertices)


def test_a_single_head_is_possible():
    found = run(QUICK, count=1)
    chex.assert_tree_all_finite((found.vertices, found.score))


def test_nothing_hidden_and_nothing_seen_are_finite():
    for visible in (True, False):
        fit = dataclasses.replace(FIT, vertex_visibility=jnp.full(HEAD.num_vertices, visible))
        chex.assert_tree_all_finite(run(QUICK, fit=fit, count=3).vertices)


@pytest.mark.parametrize("single", [False, True])
def test_it_exports_to_cpu_cuda_and_tpu_without_host_callbacks(single):
    program = _program(dataclasses.replace(QUICK, k=0.0, n_sigma=0.0), 3, not single, (jax.devices()[0],))
    knobs = jnp.asarray([0.5, 3.0])
    everywhere = (MODEL, knobs) if single else (HALVES, MODEL, knobs)
    one = jax.tree.map(lambda leaf: leaf[None], (FIT, SEEN, KEY))
    exported = export.export(program, platforms=["cpu", "cuda", "tpu"])(everywhere, one)
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    assert "callback" not in re.sub(r"(?m)^#loc.*$", "", exported.mlir_module())


FOUR_DEVICES = """
import numpy as np, jax
jax.config.update("jax_numpy_rank_promotion", "raise")
from tests.sampling.test_diversify import HALVES, KEY, MODEL, QUICK, diversify, observed, seen_fit
assert jax.device_count() == 4
fit = seen_fit((5,))
keys = jax.random.split(KEY, 5)
shared = diversify(HALVES, MODEL, fit, observed(fit), keys, num_samples=3, config=QUICK)
alone = diversify(HALVES, MODEL, fit, observed(fit), keys, num_samples=3, config=QUICK, devices=(jax.devices()[0],))
print("difference", float(np.abs(np.asarray(shared.vertices) - np.asarray(alone.vertices)).max()))
"""


@pytest.mark.slow
def test_photos_are_shared_out_over_devices():
    root = Path(__file__).parents[2]
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", FOUR_DEVICES], env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) < 5e-5
