"""Algorithm 1 by gradient descent, as the paper and its released code run it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import fitting
from fitting.global_fit import fit_program
from fitting.gradient_fit import DescentParams, _initial_params, _step_factors, landmark_loss, loss_terms
from fitting.photometric_fit import PhotoData
from flamejax.rendering import ambient_light
from flamejax.types import OK
from tests.fitting.scenes import PHOTOS, QUICK, random_targets


@pytest.mark.parametrize("preset", ["paper", pytest.param("code", marks=pytest.mark.slow)])
def test_gradient_presets_align_the_head_with_the_photo(model, photos, preset):
    # The last photo has no visible landmarks, which gives a failure code and finite numbers.
    one_hidden = dataclasses.replace(photos, confidence=photos.confidence.at[-1].set(0.0))
    result = fitting.fit(model, one_hidden, QUICK[preset])
    code = np.asarray(result.code)
    assert (code[:-1] == OK).all() and code[-1] != OK
    assert float(result.losses["nme"][:-1].max()) < 0.2
    assert np.abs(np.asarray(model.local_coefficients(result.params))).max() > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result))
    fitting.fit(model, photos, QUICK[preset])
    assert fit_program(QUICK[preset], tuple(jax.devices())[:PHOTOS])._cache_size() == 1


def test_step_sizes_are_zero_for_local_models_before_the_last_stage_and_half_for_eyeballs(model):
    params = _initial_params(model.head, random_targets(0, 1.0))
    before, after = (_step_factors(model, params, jnp.asarray(local), QUICK["code"]) for local in (0.0, 1.0))
    np.testing.assert_array_equal(before.betas, [1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(before.expression, [1, 1, 0, 0])
    np.testing.assert_array_equal(after.betas, [1, 1, 1, 1, 1, 1, 0.5])
    np.testing.assert_array_equal(after.eyes, 0.5)


@pytest.mark.slow  # compiles the fit again
def test_local_models_are_fitted_in_the_last_stage_only(model, photos):
    fit = fitting.fit(model, photos, dataclasses.replace(QUICK["code"], iterations=40))
    np.testing.assert_array_equal(model.local_coefficients(fit.params), 0.0)


def test_gradients_of_the_losses_match_finite_differences(model):
    rng = np.random.default_rng(0)
    head = model.head
    plain = dataclasses.replace(
        head, albedo_mean=jnp.full_like(head.albedo_mean, 0.5), albedo_basis=jnp.zeros_like(head.albedo_basis)
    )
    params = DescentParams(
        orient=jnp.asarray([0.1, 0.2, 0.0]),
        camera=jnp.asarray([6.5, 0.05, 0.6]),
        jaw=jnp.asarray([0.1, 0.0, 0.0]),
        betas=jnp.asarray(rng.normal(size=7) * 0.3, jnp.float32),
        expression=jnp.asarray(rng.normal(size=4) * 0.3, jnp.float32),
        eyes=jnp.zeros(2),
        texture=jnp.zeros(3),
        light=ambient_light(),
    )
    targets = random_targets(3, 1.0)
    code, paper = fitting.PRESETS["code"], fitting.PRESETS["paper"]

    @jax.jit
    def terms(params):
        photo = PhotoData(jnp.full((32, 32, 3), 0.3), jnp.ones((32, 32)), targets)
        config = dataclasses.replace(code, render_size=32)
        losses = loss_terms(dataclasses.replace(model, head=plain), params, photo, jnp.ones(len(head.faces)), config)
        smooth = [losses["closure"], 1e2 * losses["regularisation"], losses["smoothing"]]
        # Without the contour, whose points jump between bins.
        return smooth, [landmark_loss(head, params, targets, config, slice(17, 68)) for config in (code, paper)]

    check_grads(terms, (params,), 1, ("fwd", "rev"), eps=2e-3, rtol=0.05, atol=0.03)


def test_the_camera_of_the_gradient_fit_maps_the_crop_to_minus_one_to_one():
    params = DescentParams(
        jnp.zeros(3), jnp.asarray([6.0, 0.1, -0.2]), *(jnp.zeros(n) for n in (3, 7, 4, 2, 3)), jnp.zeros((9, 3))
    )
    point = jnp.asarray([[0.02, 0.03, 0.1]])
    crop = params.fit_params().geometry.camera(1.0).project(point)[0, :2]
    np.testing.assert_allclose(2 * crop - 1, [6.0 * 0.02 + 0.1, -6.0 * 0.03 - 0.2], rtol=1e-5)


def test_presets_have_the_values_that_their_sources_state():
    paper, code = fitting.PRESETS["paper"], fitting.PRESETS["code"]
    assert (paper.optimiser, paper.learning_rate, paper.iterations) == ("sgd", 5e-3, 2000)
    assert (paper.landmark_weight, paper.photometric_weight, paper.regularisation_weight) == (5.0, 16.0, 1e-3)
    assert (code.optimiser, code.learning_rate, code.rigid_iterations, code.iterations) == ("adam", 5e-3, 200, 1000)
    assert (code.landmark_weight, code.photometric_weight, code.regularisation_weight) == (5.0, 16.0, 1e-2)
    assert (code.smoothing_weight, code.closure_weight) == (0.1, 1.0)
    assert paper.eyeball_rate == code.eyeball_rate == fitting.PRESETS["fast"].eyeball_rate == 0.5
    with pytest.raises(ValueError, match="more than there are"):
        fitting.GradientFitConfig(iterations=10)
