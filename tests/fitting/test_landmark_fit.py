"""Fitting landmarks: gradients of the residuals, what weighs nothing, and the coefficients that landmarks bring."""

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
    Geometry,
    Targets,
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

SURE = dataclasses.replace(
    SMALL,
    landmark_steps=20,
    local_steps=20,
    smoothing_weight=0.0,
    landmark_sigma=0.001,
    contour_sigma=0.001,
    dense_weight=1.0,
)
"""Landmarks known to a thousandth of the crop."""
fitted = jax.jit(lambda model, targets: jax.vmap(lambda one: fit_landmarks(model, one, SURE))(targets))


def test_residuals_have_right_gradients(head):
    targets = random_targets(1, 0.7)

    @jax.jit
    def terms(geometry):
        residuals = landmark_residuals(head, geometry, targets, SMALL)
        # Contour points jump between bins; the dense ones are weighted by the face's size, which is held fixed.
        inner = residuals[17:68]
        assert residuals.shape == (68 + 468, 2)
        openings = closure_residuals(head, geometry, targets, SMALL)
        assert openings.shape == (7, 2)
        return inner / 100, prior_residuals(head, geometry) / 10, fitting.huber_energy(inner) / 1e4, openings / 100

    check_grads(terms, (random_geometry(head),), 1, ("fwd", "rev"), eps=3e-3, rtol=0.04, atol=0.02)
    without = dataclasses.replace(SMALL, closure_sigma=0)
    assert closure_residuals(head, random_geometry(head), targets, without).shape == (0, 2)


def test_closure_terms_compare_openings_not_places():
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
    near = [set() for _ in range(head.num_vertices)]
    for a, b, c in np.asarray(head.faces).tolist():
        near[a] |= {b, c}
        near[b] |= {a, c}
        near[c] |= {a, b}
    laplacian = np.stack([displacement[list(n)].mean(0) - displacement[v] for v, n in enumerate(near)])
    expected = np.mean(np.sum(laplacian**2, axis=1))
    np.testing.assert_allclose(np.sum((smoothing_root(head) @ coefficients) ** 2), expected, rtol=1e-4)
    geometry = dataclasses.replace(
        Geometry.start(head),
        betas=jnp.asarray(coefficients[: head.num_betas], jnp.float32),
        expression=jnp.asarray(coefficients[head.num_betas :], jnp.float32),
    )
    config = dataclasses.replace(SMALL, smoothing_weight=2.0)
    residuals = smoothing_residuals(fitting.prepare(head), geometry, config)
    np.testing.assert_allclose(0.5 * jnp.sum(residuals**2), 2.0 * expected, rtol=1e-4)


def test_a_model_with_local_parts_splits_into_global_and_local(model):
    assert (model.global_betas, model.global_expression) == GLOBAL and model.has_local
    assert (model.head.num_betas, model.head.num_expression) == (3 + 4, 2 + 2)
    coarse = model.without_local()
    assert not coarse.has_local and (coarse.head.num_betas, coarse.head.num_expression) == GLOBAL
    few = dataclasses.replace(flamejax.HeadParams.zeros(coarse.head), betas=jnp.ones(3), expression=jnp.ones(2))
    params = model.with_local_coefficients(few, None)
    whole = model.vertices(params)
    np.testing.assert_allclose(whole, flamejax.vertices(coarse.head, few), atol=1e-6)
    numbered = dataclasses.replace(params, betas=jnp.arange(7.0), expression=jnp.arange(4.0))
    plain, local = model.global_params(numbered), model.local_coefficients(numbered)
    np.testing.assert_array_equal(plain.betas, [0, 1, 2, 0, 0, 0])
    np.testing.assert_array_equal(plain.expression, [0, 1, 0, 0])
    np.testing.assert_array_equal(local, [3, 4, 5, 6, 2, 3])
    jax.tree.map(np.testing.assert_array_equal, model.with_local_coefficients(plain, local), numbered)
    assert coarse.local_coefficients(few) is None
    np.testing.assert_allclose(model.step_rates(0.5)[0], [1, 1, 1, 1, 1, 1, 0.5])
    # The coarse model's smoothing term is the whole model's without local coefficients.
    whole, few = model.roughness(params.betas, params.expression), coarse.roughness(jnp.ones(3), jnp.ones(2))
    assert few.shape == (5,)
    np.testing.assert_allclose(jnp.sum(few**2), jnp.sum(whole**2), rtol=1e-4)


def test_a_local_model_of_another_head_is_refused_by_name_and_version(head):
    other = dataclasses.replace(head, name="other", version="7")
    with pytest.raises(HeadFileError, match=r"random 0.*other 7"):
        fitting.prepare(other, small_local_model(head))
    with pytest.raises(HeadFileError, match="geometry"):
        fitting.prepare(random_head(seed=5, subdivisions=1), small_local_model(head))


def test_local_models_are_fitted_to_landmarks(model):
    """A head whose shape is in the local models only: they bring the landmarks nearer than the global ones kept."""
    betas = jnp.zeros((2, 7)).at[:, 3:5].set(jnp.asarray([[2.5, -2.5], [2.0, -1.5]]))
    params = dataclasses.replace(flamejax.HeadParams.zeros(model.head, (2,)), betas=betas)
    points = camera(2).project(flamejax.landmarks(model.head, params))[..., :2] / SIDE
    targets = Targets(points, jnp.ones((2, 68)), jnp.zeros((2, 468, 2)), jnp.zeros((2, 468)))

    def error(model):
        found = fitted(model, targets)
        shown = jax.vmap(lambda one: one.shown_landmarks(model.head))(found)
        return found, np.linalg.norm(shown - points, axis=-1)[:, 17:].mean(axis=1)

    (local, near), (coarse, far) = error(model), error(model.without_local())
    assert local.betas.shape == (2, 7) and coarse.betas.shape == (2, 3)
    assert near.mean() < 0.5 * far.mean()
    assert np.abs(local.betas[:, 3:5] - betas[:, 3:5]).max() < 1.0


def test_dense_landmarks_bring_shape_that_the_68_do_not_hold(model):
    coarse = model.without_local()
    betas = jnp.asarray(np.random.default_rng(5).normal(size=(2, 3)), jnp.float32)
    params = dataclasses.replace(flamejax.HeadParams.zeros(coarse.head, (2,)), betas=betas)
    sparse = camera(2).project(flamejax.landmarks(coarse.head, params))[..., :2] / SIDE
    dense = camera(2).project(dense_landmarks(coarse.head, coarse.head.dense, params))[..., :2] / SIDE
    # A few landmarks only, and not exact: the others are hidden.
    noise = jnp.asarray(np.random.default_rng(0).normal(size=sparse.shape), jnp.float32)
    few = Targets(sparse + 0.002 * noise, jnp.zeros((2, 68)).at[:, 17::5].set(1.0), dense, jnp.zeros((2, 468)))
    errors = [
        np.linalg.norm(fitted(coarse, targets).betas - betas)
        for targets in (few, dataclasses.replace(few, dense_weights=jnp.ones((2, 468))))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_weights_drop_hidden_unsure_and_missing_landmarks(seen):
    one = jax.tree.map(lambda leaf: leaf[0], seen)
    mask = jnp.zeros((SIDE, SIDE)).at[:, SIDE // 2 :].set(1.0)
    confidence = jnp.ones(68).at[3].set(0.2).at[4].set(0.21).at[5].set(jnp.nan)
    points = one.landmarks.at[4].set(10.0).at[7].set(jnp.nan)
    changed = dataclasses.replace(one, occlusion_mask=mask, confidence=confidence, landmarks=points)
    weights = np.asarray(landmark_targets(changed, SMALL).weights)
    under_mask = np.asarray(points)[:, 0] >= SIDE // 2
    assert (weights[under_mask] == 0).all() and (weights > 0).sum() > 10
    assert weights[3] == 0 and weights[5] == 0 and weights[7] == 0
    np.testing.assert_allclose(weights[4], 0.21, rtol=1e-5)
