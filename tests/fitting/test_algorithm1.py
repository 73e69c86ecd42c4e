"""Algorithm 1 beyond the global fit: closure and smoothing terms, local models, the presets of paper and code."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.test_util import check_grads

import fitting
import flamejax
from fitting.fit_model import smoothing_root
from fitting.global_fit import fit_batch, fit_program
from fitting.gradient_fit import Variables, landmark_loss, loss_terms
from fitting.landmark_fit import CLOSURE_PAIRS, Geometry, closure_error, closure_residuals, smoothing_residuals
from fitting.local_model import LocalModel, LocalRegion
from fitting.photometric_fit import Evidence
from flamejax.head import HeadFileError, geometry_hash
from flamejax.rendering import ambient_light
from flamejax.types import OK
from tests.fitting.test_fit import HEAD, SIDE, SMALL, photos, random_targets
from tests.heads import random_head

KEPT = (3, 2)
"""Global components beside local ones."""


def local_model(head=HEAD):
    """Two regions that overlap, and an eyeball: shape in one, shape and expression in the other."""
    rng = np.random.default_rng(0)
    y = np.asarray(head.v_template)[:, 1]
    regions = []
    for name, index, counts in (
        ("face", np.flatnonzero(y > 0.08), (2, 0)),
        ("neck", np.flatnonzero(y < 0.12), (1, 2)),
        ("left_eyeball", np.arange(5), (1, 0)),
    ):
        shape, expression = (rng.normal(size=(count, 3, len(index))) * 1e-3 for count in counts)
        regions.append(LocalRegion(name, index.astype(np.int32), shape, expression, (1.0, 1.0)))
    return LocalModel(head.name, head.version, geometry_hash(head), head.num_vertices, *KEPT, tuple(regions), {})


LOCAL = fitting.prepare(HEAD, local_model(), explained=1.0)


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


def test_closure_residuals_have_right_gradients():
    start = dataclasses.replace(Geometry.start(HEAD), log_scale=jnp.asarray(1.2), translation=jnp.asarray([0.5, 0.8]))
    targets = random_targets(1, 0.7)

    def residuals(geometry):
        return closure_residuals(HEAD, geometry, targets, SMALL) / 10

    assert residuals(start).shape == (7, 2)
    check_grads(jax.jit(residuals), (start,), 1, ("fwd", "rev"), eps=1e-2, rtol=0.03, atol=0.01)
    assert closure_residuals(HEAD, start, targets, dataclasses.replace(SMALL, closure_sigma=0)).shape == (0, 2)


def test_smoothing_is_the_mean_squared_laplacian_of_the_displacement():
    rng = np.random.default_rng(0)
    coefficients = rng.normal(size=HEAD.num_betas + HEAD.num_expression)
    displacement = np.einsum("k,kcv->vc", coefficients, 1e3 * np.asarray(HEAD.basis[: len(coefficients)]))
    near = [set() for _ in range(HEAD.num_vertices)]
    for a, b, c in np.asarray(HEAD.faces).tolist():
        near[a] |= {b, c}
        near[b] |= {a, c}
        near[c] |= {a, b}
    laplacian = np.stack([displacement[list(n)].mean(0) - displacement[v] for v, n in enumerate(near)])
    expected = np.mean(np.sum(laplacian**2, axis=1))
    np.testing.assert_allclose(np.sum((smoothing_root(HEAD) @ coefficients) ** 2), expected, rtol=1e-4)
    geometry = dataclasses.replace(
        Geometry.start(HEAD),
        betas=jnp.asarray(coefficients[: HEAD.num_betas], jnp.float32),
        expression=jnp.asarray(coefficients[HEAD.num_betas :], jnp.float32),
    )
    config = dataclasses.replace(SMALL, smoothing_weight=2.0)
    residuals = smoothing_residuals(fitting.prepare(HEAD), geometry, config)
    np.testing.assert_allclose(0.5 * jnp.sum(residuals**2), 2.0 * expected, rtol=1e-4)


def test_a_model_with_local_parts_splits_into_global_and_local():
    assert (LOCAL.global_betas, LOCAL.global_expression) == KEPT and LOCAL.has_local
    assert (LOCAL.head.num_betas, LOCAL.head.num_expression) == (3 + 4, 2 + 2)
    coarse = LOCAL.without_local()
    assert not coarse.has_local and (coarse.head.num_betas, coarse.head.num_expression) == KEPT
    few = dataclasses.replace(flamejax.HeadParams.zeros(coarse.head), betas=jnp.ones(3), expression=jnp.ones(2))
    params = LOCAL.with_local_coefficients(few, None)
    whole = LOCAL.vertices(params)
    np.testing.assert_allclose(whole, flamejax.vertices(coarse.head, few), atol=1e-6)
    numbered = dataclasses.replace(params, betas=jnp.arange(7.0), expression=jnp.arange(4.0))
    plain, local = LOCAL.global_params(numbered), LOCAL.local_coefficients(numbered)
    np.testing.assert_array_equal(plain.betas, [0, 1, 2, 0, 0, 0])
    np.testing.assert_array_equal(plain.expression, [0, 1, 0, 0])
    np.testing.assert_array_equal(local, [3, 4, 5, 6, 2, 3])
    jax.tree.map(np.testing.assert_array_equal, LOCAL.with_local_coefficients(plain, local), numbered)
    assert coarse.local_coefficients(few) is None
    np.testing.assert_allclose(LOCAL.step_rates(0.5)[0], [1, 1, 1, 1, 1, 1, 0.5])
    # The coarse model's smoothing term is the whole model's without local coefficients.
    whole, few = LOCAL.roughness(params.betas, params.expression), coarse.roughness(jnp.ones(3), jnp.ones(2))
    assert few.shape == (5,)
    np.testing.assert_allclose(jnp.sum(few**2), jnp.sum(whole**2), rtol=1e-4)


def test_a_local_model_of_another_head_is_refused_by_name_and_version():
    other = dataclasses.replace(HEAD, name="other", version="7")
    with pytest.raises(HeadFileError, match=r"random 0.*other 7"):
        fitting.prepare(other, local_model())
    with pytest.raises(HeadFileError, match="geometry"):
        fitting.prepare(random_head(seed=5), local_model())


def test_local_models_are_fitted_and_their_coefficients_returned():
    """A head whose shape is in the local models only: they bring the landmarks nearer than the global ones kept."""
    betas = jnp.zeros((1, 7)).at[:, 3:5].set(jnp.asarray([[2.5, -2.5]]))
    params = dataclasses.replace(flamejax.HeadParams.zeros(LOCAL.head, (1,)), betas=betas)
    seen = photos((1,), seed=1)
    camera = flamejax.OrthographicCamera(jnp.full(1, 3.4 * SIDE), jnp.asarray([[0.5 * SIDE, 0.8 * SIDE]]))
    points = camera.project(flamejax.landmarks(LOCAL.head, params))[..., :2]
    seen = dataclasses.replace(seen, landmarks=points, dense_confidence=jnp.zeros((1, 468)))
    config = dataclasses.replace(SMALL, photometric_steps=0, landmark_steps=20, local_steps=20, smoothing_weight=0.0)
    config = dataclasses.replace(config, landmark_sigma=0.001, contour_sigma=0.001)
    local = fitting.fit(LOCAL, seen, config)
    coarse = fitting.fit(LOCAL.without_local(), seen, config)
    assert LOCAL.local_coefficients(local.params).shape == (1, 6) and coarse.params.betas.shape == (1, 3)
    np.testing.assert_allclose(LOCAL.vertices(local.params), local.vertices, atol=1e-6)
    plain = LOCAL.global_params(local.params).betas
    assert plain.shape == (1, HEAD.num_betas)
    np.testing.assert_array_equal(plain[:, 3:], 0.0)
    assert float(local.losses["nme"][0]) < 0.5 * float(coarse.losses["nme"][0])
    error = jnp.abs(LOCAL.local_coefficients(local.params)[0, :2] - betas[0, 3:5]).max()
    assert float(error) < 1.0
    # Vertices are those of all coefficients: the global ones alone give another head.
    assert float(jnp.abs(flamejax.vertices(HEAD, LOCAL.global_params(local.params)) - local.vertices).max()) > 1e-4


QUICK = {
    name: dataclasses.replace(
        fitting.PRESETS[name], iterations=60, rigid_iterations=20, global_iterations=20, render_size=32
    )
    for name in ("paper", "code")
}
"""The presets in short: few programs, since each takes seconds to compile."""


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_gradient_presets_bring_the_head_onto_the_photo(preset):
    seen = photos((2,), seed=3)
    result = fitting.fit(LOCAL, seen, QUICK[preset])
    assert (np.asarray(result.code) == OK).all() and float(result.losses["nme"].max()) < 0.2
    assert np.abs(np.asarray(LOCAL.local_coefficients(result.params))).max() > 0
    # What is not seen at all gives a code and finite numbers.
    blind = dataclasses.replace(seen, confidence=jnp.zeros((2, 68)))
    nothing = fitting.fit(LOCAL, blind, QUICK[preset])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nothing)) and (np.asarray(nothing.code) != OK).all()


def test_local_models_wait_for_the_last_stage():
    stopped = dataclasses.replace(QUICK["code"], iterations=40)
    found = fitting.fit(LOCAL, photos((2,), seed=3), stopped)
    np.testing.assert_array_equal(LOCAL.local_coefficients(found.params), 0.0)


def test_gradient_losses_have_right_gradients():
    rng = np.random.default_rng(0)
    plain = dataclasses.replace(
        LOCAL.head, albedo_mean=jnp.full_like(HEAD.albedo_mean, 0.5), albedo_basis=jnp.zeros_like(HEAD.albedo_basis)
    )
    model = dataclasses.replace(LOCAL, head=plain)
    variables = Variables(
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
    for preset in ("paper", "code"):
        config = dataclasses.replace(fitting.PRESETS[preset], render_size=32)

        @jax.jit
        def terms(v, config=config):
            evidence = Evidence(jnp.full((32, 32, 3), 0.3), jnp.ones((32, 32)), targets)
            found = loss_terms(model, v, evidence, jnp.ones(len(HEAD.faces)), config)
            return {name: found[name] for name in ("closure", "regularisation", "smoothing")}

        check_grads(terms, (variables,), 1, ("fwd", "rev"), eps=1e-2, rtol=0.05, atol=0.02)
        inner = jax.jit(lambda v, c=config: landmark_loss(LOCAL.head, v, targets, c, slice(17, 68)))
        check_grads(inner, (variables,), 1, ("fwd", "rev"), eps=1e-3, rtol=0.05, atol=0.02)


def test_the_camera_of_the_gradient_fit_is_the_crop_from_minus_one_to_one():
    variables = Variables(
        jnp.zeros(3), jnp.asarray([6.0, 0.1, -0.2]), *(jnp.zeros(n) for n in (3, 7, 4, 2, 3)), jnp.zeros((9, 3))
    )
    point = jnp.asarray([[0.02, 0.03, 0.1]])
    crop = variables.unknowns().geometry.camera(1.0).project(point)[0, :2]
    np.testing.assert_allclose(2 * crop - 1, [6.0 * 0.02 + 0.1, -6.0 * 0.03 - 0.2], rtol=1e-5)


def test_presets_are_as_the_sources_state_them():
    paper, code = fitting.PRESETS["paper"], fitting.PRESETS["code"]
    assert (paper.optimiser, paper.learning_rate, paper.iterations) == ("sgd", 5e-3, 2000)
    assert (paper.landmark_weight, paper.photometric_weight, paper.regularisation_weight) == (5.0, 16.0, 1e-3)
    assert (code.optimiser, code.learning_rate, code.rigid_iterations, code.iterations) == ("adam", 5e-3, 200, 1000)
    assert (code.landmark_weight, code.photometric_weight, code.regularisation_weight) == (5.0, 16.0, 1e-2)
    assert (code.smoothing_weight, code.closure_weight) == (0.1, 1.0)
    assert paper.eyeball_rate == code.eyeball_rate == fitting.PRESETS["fast"].eyeball_rate == 0.5
    with pytest.raises(ValueError, match="more than there are"):
        fitting.GradientFitConfig(iterations=10)


@pytest.mark.parametrize("config", [SMALL, QUICK["code"]], ids=["fast", "code"])
def test_fits_with_local_models_export_without_callbacks_and_compile_once(config):
    program = jax.jit(lambda model, observation: fit_batch(model, observation, config))
    exported = export.export(program, platforms=["cpu", "cuda", "tpu"])(LOCAL, photos((2,)))
    assert "callback" not in re.sub(r"(?m)^#loc.*$", "", exported.mlir_module())
    kept = fit_program(config, (jax.devices()[0],))
    for seed in (0, 1):
        fitting.fit(LOCAL, photos((2,), seed=seed), config, devices=(jax.devices()[0],))
        if seed == 0:
            programs = kept._cache_size()
    assert kept._cache_size() == programs
