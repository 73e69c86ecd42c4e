"""Fitting landmarks: gradients of the residuals, weights of hidden landmarks, and the fitted coefficients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import fitting
import flamejax
from fitting.fit_model import smoothing_root
from fitting.landmark_fit import (
    CLOSURE_PAIRS,
    GeometryParams,
    LandmarkTargets,
    closure_error,
    closure_residuals,
    fit_landmarks,
    landmark_residuals,
    landmark_targets,
    prior_residuals,
    smoothing_residuals,
)
from flamejax.head import HeadFileError, dense_landmarks
from tests.fitting.scenes import GLOBAL, SIDE, SMALL, camera, random_geometry, random_targets, small_local_model
from tests.heads import random_head

PRECISE = dataclasses.replace(
    SMALL,
    landmark_steps=20,
    local_steps=20,
    smoothing_weight=0.0,
    landmark_sigma=0.001,
    contour_sigma=0.001,
    dense_weight=1.0,
)
"""Landmark noise of a thousandth of the crop."""
fit_batch = jax.jit(lambda model, targets: jax.vmap(lambda one: fit_landmarks(model, one, PRECISE))(targets))


def test_gradients_of_the_residuals_match_finite_differences(head):
    targets = random_targets(1, 0.7)

    @jax.jit
    def terms(geometry):
        residuals = landmark_residuals(head, geometry, targets, SMALL)
        # Contour points jump between bins; dense ones are weighted by the face's size, without its gradient.
        inner = residuals[17:68]
        assert residuals.shape == (68 + 468, 2)
        openings = closure_residuals(head, geometry, targets, SMALL)
        assert openings.shape == (7, 2)
        return inner / 100, prior_residuals(head, geometry) / 10, fitting.huber_energy(inner) / 1e4, openings / 100

    check_grads(terms, (random_geometry(head),), 1, ("fwd", "rev"), eps=3e-3, rtol=0.04, atol=0.02)
    without = dataclasses.replace(SMALL, closure_sigma=0)
    assert closure_residuals(head, random_geometry(head), targets, without).shape == (0, 2)


def test_closure_terms_compare_openings_not_positions():
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.uniform(size=(68, 2)), jnp.float32)
    shifted = dataclasses.replace(random_targets(0, 1.0), points=points + 0.3)
    error, weights = closure_error(points, shifted)
    np.testing.assert_allclose(error, 0.0, atol=1e-6)
    np.testing.assert_array_equal(weights, 1.0)
    upper, lower = CLOSURE_PAIRS[4]
    opened = dataclasses.replace(shifted, points=shifted.points.at[lower, 1].add(0.1))
    error, _ = closure_error(points, opened)
    np.testing.assert_allclose(error[4], [0.0, 0.1], atol=1e-6)
    assert np.abs(np.delete(np.asarray(error), 4, axis=0)).max() < 1e-6
    hidden = dataclasses.replace(shifted, weights=shifted.weights.at[upper].set(0.0))
    assert closure_error(points, hidden)[1][4] == 0


def test_smoothing_is_the_mean_squared_laplacian_of_the_displacement(head):
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=head.num_betas + head.num_expression)
    displacement = np.einsum("k,kcv->vc", coefficients, 1e3 * np.asarray(head.basis[: len(coefficients)]))
    neighbours = [set() for _ in range(head.num_vertices)]
    for a, b, c in np.asarray(head.faces).tolist():
        neighbours[a] |= {b, c}
        neighbours[b] |= {a, c}
        neighbours[c] |= {a, b}
    laplacian = np.stack([displacement[list(n)].mean(0) - displacement[v] for v, n in enumerate(neighbours)])
    expected = np.mean(np.sum(laplacian**2, axis=1))
    np.testing.assert_allclose(np.sum((smoothing_root(head) @ coefficients) ** 2), expected, rtol=1e-4)
    geometry = dataclasses.replace(
        GeometryParams.zeros(head),
        betas=jnp.asarray(coefficients[: head.num_betas], jnp.float32),
        expression=jnp.asarray(coefficients[head.num_betas :], jnp.float32),
    )
    config = dataclasses.replace(SMALL, smoothing_weight=2.0)
    residuals = smoothing_residuals(fitting.prepare(head), geometry, config)
    np.testing.assert_allclose(0.5 * jnp.sum(residuals**2), 2.0 * expected, rtol=1e-4)


def test_parameters_split_into_global_and_local_coefficients(model):
    assert (model.global_betas, model.global_expression) == GLOBAL and model.has_local
    assert (model.head.num_betas, model.head.num_expression) == (3 + 4, 2 + 2)
    coarse = model.without_local()
    assert not coarse.has_local and (coarse.head.num_betas, coarse.head.num_expression) == GLOBAL
    coarse_params = flamejax.HeadParams.zeros(coarse.head)
    coarse_params = dataclasses.replace(coarse_params, betas=jnp.ones(3), expression=jnp.ones(2))
    params = model.with_local_coefficients(coarse_params, None)
    np.testing.assert_allclose(model.vertices(params), flamejax.vertices(coarse.head, coarse_params), atol=1e-6)
    numbered = dataclasses.replace(params, betas=jnp.arange(7.0), expression=jnp.arange(4.0))
    global_params, local = model.global_params(numbered), model.local_coefficients(numbered)
    np.testing.assert_array_equal(global_params.betas, [0, 1, 2, 0, 0, 0])
    np.testing.assert_array_equal(global_params.expression, [0, 1, 0, 0])
    np.testing.assert_array_equal(local, [3, 4, 5, 6, 2, 3])
    jax.tree.map(np.testing.assert_array_equal, model.with_local_coefficients(global_params, local), numbered)
    assert coarse.local_coefficients(coarse_params) is None
    np.testing.assert_allclose(model.step_size_factors(0.5)[0], [1, 1, 1, 1, 1, 1, 0.5])
    # The coarse model's smoothing term is that of the full model with zero local coefficients.
    full = model.roughness(params.betas, params.expression)
    reduced = coarse.roughness(jnp.ones(3), jnp.ones(2))
    assert reduced.shape == (5,)
    np.testing.assert_allclose(jnp.sum(reduced**2), jnp.sum(full**2), rtol=1e-4)


def test_a_local_model_of_another_head_is_refused_with_both_names(head):
    other = dataclasses.replace(head, name="other", version="7")
    with pytest.raises(HeadFileError, match=r"random 0.*other 7"):
        fitting.prepare(other, small_local_model(head))
    with pytest.raises(HeadFileError, match="geometry"):
        fitting.prepare(random_head(seed=5, subdivisions=1), small_local_model(head))


def test_local_models_lower_the_landmark_error_of_a_local_shape(model):
    betas = jnp.zeros((2, 7)).at[:, 3:5].set(jnp.asarray([[2.5, -2.5], [2.0, -1.5]]))
    params = dataclasses.replace(flamejax.HeadParams.zeros(model.head, (2,)), betas=betas)
    points = camera(2).project(flamejax.landmarks(model.head, params))[..., :2] / SIDE
    targets = LandmarkTargets(points, jnp.ones((2, 68)), jnp.zeros((2, 468, 2)), jnp.zeros((2, 468)))

    def fit_and_error(model):
        geometry = fit_batch(model, targets)
        projected = jax.vmap(lambda one: one.project_landmarks(model.head))(geometry)
        return geometry, np.linalg.norm(projected - points, axis=-1)[:, 17:].mean(axis=1)

    (local, local_error), (coarse, coarse_error) = fit_and_error(model), fit_and_error(model.without_local())
    assert local.betas.shape == (2, 7) and coarse.betas.shape == (2, 3)
    assert local_error.mean() < 0.5 * coarse_error.mean()
    assert np.abs(local.betas[:, 3:5] - betas[:, 3:5]).max() < 1.0


def test_dense_landmarks_lower_the_shape_error(model):
    coarse = model.without_local()
    betas = jnp.asarray(np.random.default_rng(5).normal(size=(2, 3)), jnp.float32)
    params = dataclasses.replace(flamejax.HeadParams.zeros(coarse.head, (2,)), betas=betas)
    sparse = camera(2).project(flamejax.landmarks(coarse.head, params))[..., :2] / SIDE
    dense = camera(2).project(dense_landmarks(coarse.head, coarse.head.dense, params))[..., :2] / SIDE
    # Few landmarks, with noise; the others are hidden.
    noise = jnp.asarray(np.random.default_rng(0).normal(size=sparse.shape), jnp.float32)
    few = LandmarkTargets(sparse + 0.002 * noise, jnp.zeros((2, 68)).at[:, 17::5].set(1.0), dense, jnp.zeros((2, 468)))
    errors = [
        np.linalg.norm(fit_batch(coarse, targets).betas - betas)
        for targets in (few, dataclasses.replace(few, dense_weights=jnp.ones((2, 468))))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_hidden_unsure_and_missing_landmarks_have_weight_zero(photos):
    one = jax.tree.map(lambda leaf: leaf[0], photos)
    mask = jnp.zeros((SIDE, SIDE)).at[:, SIDE // 2 :].set(1.0)
    confidence = jnp.ones(68).at[3].set(0.2).at[4].set(0.21).at[5].set(jnp.nan)
    points = one.landmarks.at[4].set(10.0).at[7].set(jnp.nan)
    changed = dataclasses.replace(one, occlusion_mask=mask, confidence=confidence, landmarks=points)
    weights = np.asarray(landmark_targets(changed, SMALL).weights)
    under_mask = np.asarray(points)[:, 0] >= SIDE // 2
    assert (weights[under_mask] == 0).all() and (weights > 0).sum() > 10
    assert weights[3] == 0 and weights[5] == 0 and weights[7] == 0
    np.testing.assert_allclose(weights[4], 0.21, rtol=1e-5)
