"""Local models: region weights, residuals, training, files, and heads extended by local models."""

import dataclasses
import io
import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import flamejax
from fitting.local_files import load_local_model, read_local_model, write_local_model
from fitting.local_model import eyeball_coefficients, top_components, with_local
from fitting.local_training import LocalConfig, region_weights, split_residuals, train_local_model
from fitting.scan_fit import ScanFitConfig, fit_scans
from flamejax.head import HeadFileError, HeadParams, geometry_hash
from tests.heads import random_head, random_params

HEAD = dataclasses.replace(random_head(subdivisions=1), expression_range=jnp.asarray([[-2.0] * 4, [2.0] * 4]))
CONFIG = LocalConfig(num_betas=3, num_expression=2, explained=1.0, max_shape=20, max_expression=40)
SUBJECTS, SCANS_EACH = 8, 4


def sample_scans(seed=0):
    """Return scans in the rest pose with details that the head lacks.

    unposed (N, V, 3), betas, expression, subject, and the details per subject and per scan.
    """
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(SUBJECTS), SCANS_EACH)
    betas = rng.normal(size=(SUBJECTS, HEAD.num_betas)).astype(np.float32)[subject]
    expression = rng.normal(size=(len(subject), HEAD.num_expression)).astype(np.float32)
    of_subject = 1e-3 * rng.normal(size=(SUBJECTS, HEAD.num_vertices, 3)).astype(np.float32)
    of_scan = 5e-4 * rng.normal(size=(SUBJECTS, SCANS_EACH, HEAD.num_vertices, 3)).astype(np.float32)
    of_scan = (of_scan - of_scan.mean(1, keepdims=True)).reshape(len(subject), HEAD.num_vertices, 3)
    params = dataclasses.replace(HeadParams.zeros(HEAD, (len(subject),)), betas=betas, expression=expression)
    unposed = np.asarray(flamejax.vertices(HEAD, params)) + of_subject[subject] + of_scan
    return unposed, betas, expression, subject, of_subject, of_scan


@pytest.fixture(scope="module")
def scan_residuals():
    """The residuals of the sample scans after the global components."""
    return split_residuals(HEAD, *sample_scans()[:4], CONFIG)


@pytest.fixture(scope="module")
def local(scan_residuals):
    """A local model of the sample scans."""
    return train_local_model(HEAD, scan_residuals, CONFIG, {"source": "test"})


@pytest.fixture(scope="module")
def extended(local):
    return with_local(HEAD, local)


def test_region_weights_sum_to_one_and_fade():
    head = flamejax.load_head()
    weights = region_weights(head)
    table = np.stack(list(weights.values()))
    assert list(weights) == list(head.regions) and (table >= 0).all()
    np.testing.assert_allclose(table.sum(0), 1, atol=1e-6)
    edges = np.asarray(head.faces)[:, :2]
    steps = np.abs(table[:, edges[:, 0]] - table[:, edges[:, 1]])
    assert steps.max() < 0.35  # a hard border would step by 1
    for name in ("left_eyeball", "right_eyeball"):
        np.testing.assert_array_equal(weights[name], np.asarray(head.regions[name], np.float32))


def test_vertices_of_no_region_have_equal_weights_of_all():
    without = dataclasses.replace(HEAD, regions={name: jnp.zeros_like(mask) for name, mask in HEAD.regions.items()})
    np.testing.assert_allclose(np.stack(list(region_weights(without).values())), 1 / 14, atol=1e-6)


def test_coarse_shape_and_residuals_sum_to_the_scan(scan_residuals):
    unposed, betas, expression, subject, detail_of_subject, detail_of_scan = sample_scans()
    coarse = dataclasses.replace(
        HeadParams.zeros(HEAD, (len(subject),)),
        betas=jnp.asarray(betas).at[:, 3:].set(0),
        expression=jnp.asarray(expression).at[:, 2:].set(0),
    )
    total = np.swapaxes(scan_residuals.shape[subject] + scan_residuals.expression, 1, 2)
    np.testing.assert_allclose(np.asarray(flamejax.vertices(HEAD, coarse)) + total, unposed, atol=1e-6)
    # The subject's details are in shape only, those that change between its scans in expression only.
    shapedirs = np.asarray(HEAD.shapedirs)
    of_subject = np.einsum("vdc,pc->pvd", shapedirs[..., 3:6], betas[::SCANS_EACH, 3:]) + detail_of_subject
    np.testing.assert_allclose(np.swapaxes(scan_residuals.shape, 1, 2), of_subject, atol=1e-6)
    of_scan = np.einsum("vdc,nc->nvd", shapedirs[..., 8:], expression[:, 2:]) + detail_of_scan
    np.testing.assert_allclose(np.swapaxes(scan_residuals.expression, 1, 2), of_scan, atol=1e-6)


def test_the_regions_together_reconstruct_the_residuals(scan_residuals, local):
    for part, rows in ((scan_residuals.shape, "shape"), (scan_residuals.expression, "expression")):
        total = np.zeros_like(part)
        for region in local.regions:
            basis = getattr(region, rows).reshape(len(getattr(region, rows)), -1)
            weights = region_weights(HEAD)[region.name][region.index]
            weighted = (part[..., region.index] * weights).reshape(len(part), -1)
            reconstruction = weighted @ np.linalg.pinv(basis) @ basis
            total[..., region.index] += reconstruction.reshape(len(part), 3, -1)
        np.testing.assert_allclose(total, part, atol=2e-6)
    assert all(min(region.explained) > 0.999 for region in local.regions)


def test_coefficients_are_in_standard_deviations(scan_residuals, local):
    region = local.regions[0]
    weights = region_weights(HEAD)[region.name][region.index]
    weighted = (scan_residuals.shape[..., region.index] * weights).reshape(SUBJECTS, -1)
    coefficients = weighted @ np.linalg.pinv(region.shape.reshape(len(region.shape), -1))
    np.testing.assert_allclose(np.sqrt(np.mean(coefficients**2, axis=0)), 1, atol=1e-2)


def test_the_extended_head_adds_local_components_to_the_top_global_ones(local, extended):
    assert (extended.num_betas, extended.num_expression) == (3 + local.num_shape, 2 + local.num_local_expression)
    assert extended.name == "random+local" and extended.expression_range.shape == (2, extended.num_expression)
    params = random_params(extended, 1, (2,), 0.5)
    shape, expression = np.asarray(params.betas)[:, 3:], np.asarray(params.expression)[:, 2:]
    offsets = np.zeros((2, 3, HEAD.num_vertices))
    for region in local.regions:
        first, shape = np.split(shape, [len(region.shape)], axis=1)
        second, expression = np.split(expression, [len(region.expression)], axis=1)
        offsets[..., region.index] += np.einsum("nc,cdv->ndv", first, region.shape)
        offsets[..., region.index] += np.einsum("nc,cdv->ndv", second, region.expression)
    # Eqs. 5-6 by hand: global coarse shape plus local variation, then posed.
    vertices = flamejax.vertices(extended, params)
    global_params = dataclasses.replace(
        params,
        betas=jnp.pad(params.betas[:, :3], ((0, 0), (0, 3))),
        expression=jnp.pad(params.expression[:, :2], ((0, 0), (0, 2))),
    )
    for i in range(2):
        template = HEAD.v_template + offsets[i].T.astype(np.float32)
        head = dataclasses.replace(HEAD, v_template=template, joint_template=HEAD.J_regressor @ template)
        expected = flamejax.vertices(head, jax.tree.map(lambda leaf, i=i: leaf[i], global_params))
        np.testing.assert_allclose(vertices[i], expected, atol=2e-6)
    assert flamejax.landmarks(extended, params).shape == (2, 68, 3)


def test_gradients_of_the_extended_head_match_finite_differences(extended):
    params = random_params(extended, 2, scale=0.2)
    scaled = jax.jit(lambda p: 1e3 * flamejax.vertices(extended, p))
    check_grads(scaled, (params,), order=1, modes=("fwd", "rev"), eps=1e-2, rtol=0.03)


def test_local_models_lower_the_error_of_scan_fits(extended):
    unposed, *_ = sample_scans()
    without = fit_scans(HEAD, unposed[:6], config=ScanFitConfig(noise=1e-5, chunk=3))
    with_them = fit_scans(extended, unposed[:6], config=ScanFitConfig(noise=1e-5, chunk=3))
    assert np.asarray(with_them.rms).max() < 2e-4 < 1e-3 < np.asarray(without.rms).min()


def test_eyeball_coefficients_move_only_eyeballs(local, extended):
    betas, expression = eyeball_coefficients(extended, local)
    assert len(betas) == extended.num_betas and len(expression) == extended.num_expression
    eyes = [region for region in local.regions if region.name.endswith("eyeball")]
    assert betas.sum() == sum(len(region.shape) for region in eyes) > 0
    params = dataclasses.replace(HeadParams.zeros(extended), betas=jnp.asarray(betas, jnp.float32))
    moved = np.abs(np.asarray(flamejax.vertices(extended, params) - HEAD.v_template)).max(1) > 0
    assert set(np.flatnonzero(moved)) <= set(np.concatenate([region.index for region in eyes]))


def test_truncation_explains_the_given_share_with_the_fewest_components(local):
    fewer = local.truncated(0.8)
    assert 0 < fewer.num_shape < local.num_shape
    for small, large in zip(fewer.regions, local.regions, strict=True):
        assert small.explained[0] >= 0.8 and np.array_equal(small.shape, large.shape[: len(small.shape)])
        assert len(small.shape) == 1 or dataclasses.replace(small, shape=small.shape[:-1]).explained[0] < 0.8
    assert with_local(HEAD, fewer).num_betas == 3 + fewer.num_shape


def test_more_global_components_than_the_head_has_are_refused():
    with pytest.raises(ValueError, match="6 identity"):
        split_residuals(HEAD, *sample_scans()[:4], dataclasses.replace(CONFIG, num_betas=7))
    with pytest.raises(ValueError, match="7 \\+ 0"):
        top_components(HEAD, 7, 0)


def test_a_written_model_is_read_again(tmp_path, local):
    write_local_model(tmp_path / "local.npz", local)
    loaded = load_local_model(HEAD, tmp_path / "local.npz")
    for old, new in zip(local.regions, loaded.regions, strict=True):
        np.testing.assert_array_equal(new.index, old.index)
        for first, second in zip(old.bases, new.bases, strict=True):
            np.testing.assert_allclose(second, first, atol=1e-3 * np.abs(first).max(initial=0))
        np.testing.assert_allclose(new.variance, old.variance)
    changed = {"regions": (), "provenance": {}}
    assert dataclasses.replace(loaded, **changed) == dataclasses.replace(local, **changed)
    assert loaded.provenance == {"source": "test"}


@pytest.mark.parametrize("change", [{"name": "other"}, {"version": "2"}, {"v_template": 1.01 * HEAD.v_template}])
def test_a_model_of_another_head_is_refused_by_name(tmp_path, change, local):
    write_local_model(tmp_path / "local.npz", local)
    other = dataclasses.replace(HEAD, **change)
    with pytest.raises(HeadFileError, match=r"made for the head 'random 0'.*not for this .*--config local_pca"):
        load_local_model(other, tmp_path / "local.npz")
    with pytest.raises(HeadFileError, match="made for the head 'random 0'"):
        with_local(other, local)


def damage(data: bytes, name: str, change) -> bytes:  # noqa: ANN001
    """Return an archive's content with one array changed or removed."""
    with np.load(io.BytesIO(data)) as archive:
        arrays = dict(archive)
    changed = change(arrays.pop(name))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **({} if changed is None else {name: changed}))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("format_version", lambda a: a + 1, "format 2"),
        ("shape_basis", lambda a: None, "'shape_basis' is missing"),
        ("shape_basis", lambda a: np.where(np.arange(len(a)) == 7, np.nan, a), "not finite"),
        ("shape_basis", lambda a: a[:-1], "expected"),
        ("shape_deviation", lambda a: 1e3 * a, "beyond any head"),
        ("vertex_index", lambda a: a + 10_000, "outside the head"),
        ("vertex_index", lambda a: a.astype(np.float32), "expected dtype kind i or u with 1"),
        ("component_counts", lambda a: a[:-1], "do not agree"),
        ("component_counts", lambda a: a - 1_000, "impossible"),
        ("vertex_counts", lambda a: a * 1_000, "impossible size"),
        ("region_names", lambda a: np.array([None]), "Python objects"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, change, message, local):
    path = tmp_path / "local.npz"
    write_local_model(path, local)
    path.write_bytes(damage(path.read_bytes(), name, change))
    with pytest.raises(HeadFileError, match=message):
        read_local_model(path)


def test_missing_truncated_and_foreign_files_are_refused(tmp_path, local):
    path = tmp_path / "local.npz"
    with pytest.raises(HeadFileError, match="no such local model"):
        load_local_model(HEAD, path)
    write_local_model(path, local)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HeadFileError, match="not a readable"):
        load_local_model(HEAD, path)
    with zipfile.ZipFile(path, "w"):
        pass
    with pytest.raises(HeadFileError, match="not a file of local models"):
        load_local_model(HEAD, path)
    with pytest.raises(ValueError, match="paper, full"):
        load_local_model(HEAD, variant="small")


def test_shipped_local_models_belong_to_the_open_head():
    head = flamejax.load_head()
    for variant, num_global in (("paper", (10, 10)), ("full", (head.num_betas, head.num_expression))):
        local = load_local_model(head, variant=variant)
        assert (local.num_betas, local.num_expression) == num_global and local.head_hash == geometry_hash(head)
        extended = with_local(head, local)
        chex.assert_trees_all_close(flamejax.vertices(extended, HeadParams.zeros(extended)), head.v_template, atol=1e-7)
        with pytest.raises(HeadFileError, match="flamejax-open-head"):
            load_local_model(HEAD, variant=variant)
