"""Local models: masks that share the head out, residuals that are counted once, files, and heads made of both."""

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
from fitting.local_training import LocalConfig, region_weights, residuals, train_local_model
from fitting.scan_fit import ScanFitConfig, fit_scans
from flamejax.head import HeadFileError, HeadParams, geometry_hash
from tests.heads import random_head, random_params

HEAD = dataclasses.replace(random_head(subdivisions=1), expression_range=jnp.asarray([[-2.0] * 4, [2.0] * 4]))
CONFIG = LocalConfig(num_betas=3, num_expression=2, explained=1.0, max_shape=20, max_expression=40)
SUBJECTS, EACH = 8, 4


def samples(seed=0):
    """Scans at rest with details the head lacks: unposed (N, V, 3), betas, expression, subject, and the two details."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(SUBJECTS), EACH)
    betas = rng.normal(size=(SUBJECTS, HEAD.num_betas)).astype(np.float32)[subject]
    expression = rng.normal(size=(len(subject), HEAD.num_expression)).astype(np.float32)
    own = 1e-3 * rng.normal(size=(SUBJECTS, HEAD.num_vertices, 3)).astype(np.float32)
    moving = 5e-4 * rng.normal(size=(SUBJECTS, EACH, HEAD.num_vertices, 3)).astype(np.float32)
    moving = (moving - moving.mean(1, keepdims=True)).reshape(len(subject), HEAD.num_vertices, 3)
    still = dataclasses.replace(HeadParams.zeros(HEAD, (len(subject),)), betas=betas, expression=expression)
    unposed = np.asarray(flamejax.vertices(HEAD, still)) + own[subject] + moving
    return unposed, betas, expression, subject, own, moving


@pytest.fixture(scope="module")
def left():
    """What the global components leave of the samples."""
    return residuals(HEAD, *samples()[:4], CONFIG)


@pytest.fixture(scope="module")
def local(left):
    """A local model of few random samples."""
    return train_local_model(HEAD, left, CONFIG, {"source": "test"})


@pytest.fixture(scope="module")
def extended(local):
    return with_local(HEAD, local)


def test_the_masks_share_the_head_out_and_fade():
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


def test_vertices_of_no_region_are_shared_by_all():
    nowhere = dataclasses.replace(HEAD, regions={name: jnp.zeros_like(mask) for name, mask in HEAD.regions.items()})
    np.testing.assert_allclose(np.stack(list(region_weights(nowhere).values())), 1 / 14, atol=1e-6)


def test_coarse_shape_and_residuals_are_the_scan(left):
    unposed, betas, expression, subject, own, moving = samples()
    coarse = dataclasses.replace(
        HeadParams.zeros(HEAD, (len(subject),)),
        betas=jnp.asarray(betas).at[:, 3:].set(0),
        expression=jnp.asarray(expression).at[:, 2:].set(0),
    )
    finer = np.swapaxes(left.shape[subject] + left.expression, 1, 2)
    np.testing.assert_allclose(np.asarray(flamejax.vertices(HEAD, coarse)) + finer, unposed, atol=1e-6)
    # Detail of the subject is shape, detail that changes is expression, and neither is in both.
    shapedirs = np.asarray(HEAD.shapedirs)
    of_subject = np.einsum("vdc,pc->pvd", shapedirs[..., 3:6], betas[::EACH, 3:]) + own
    np.testing.assert_allclose(np.swapaxes(left.shape, 1, 2), of_subject, atol=1e-6)
    of_scan = np.einsum("vdc,nc->nvd", shapedirs[..., 8:], expression[:, 2:]) + moving
    np.testing.assert_allclose(np.swapaxes(left.expression, 1, 2), of_scan, atol=1e-6)


def test_the_regions_together_hold_the_residuals(left, local):
    for part, rows in ((left.shape, "shape"), (left.expression, "expression")):
        total = np.zeros_like(part)
        for region in local.regions:
            basis = getattr(region, rows).reshape(len(getattr(region, rows)), -1)
            weights = region_weights(HEAD)[region.name][region.index]
            wanted = (part[..., region.index] * weights).reshape(len(part), -1)
            found = wanted @ np.linalg.pinv(basis) @ basis
            total[..., region.index] += found.reshape(len(part), 3, -1)
        np.testing.assert_allclose(total, part, atol=2e-6)
    assert all(min(region.explained) > 0.999 for region in local.regions)


def test_coefficients_are_standard_deviations(left, local):
    region = local.regions[0]
    weights = region_weights(HEAD)[region.name][region.index]
    wanted = (left.shape[..., region.index] * weights).reshape(SUBJECTS, -1)
    coefficients = wanted @ np.linalg.pinv(region.shape.reshape(len(region.shape), -1))
    np.testing.assert_allclose(np.sqrt(np.mean(coefficients**2, axis=0)), 1, atol=1e-2)


def test_the_extended_head_adds_local_components_to_the_top_global_ones(local, extended):
    assert (extended.num_betas, extended.num_expression) == (3 + local.num_shape, 2 + local.num_local_expression)
    assert extended.name == "random+local" and extended.expression_range.shape == (2, extended.num_expression)
    params = random_params(extended, 1, (2,), 0.5)
    shape, moved = np.asarray(params.betas)[:, 3:], np.asarray(params.expression)[:, 2:]
    offsets = np.zeros((2, 3, HEAD.num_vertices))
    for region in local.regions:
        first, shape = np.split(shape, [len(region.shape)], axis=1)
        second, moved = np.split(moved, [len(region.expression)], axis=1)
        offsets[..., region.index] += np.einsum("nc,cdv->ndv", first, region.shape)
        offsets[..., region.index] += np.einsum("nc,cdv->ndv", second, region.expression)
    # Eqs. 5-6 by hand: global coarse shape plus local variation, then posed.
    whole = flamejax.vertices(extended, params)
    plain_params = dataclasses.replace(
        params,
        betas=jnp.pad(params.betas[:, :3], ((0, 0), (0, 3))),
        expression=jnp.pad(params.expression[:, :2], ((0, 0), (0, 2))),
    )
    for i in range(2):
        richer = HEAD.v_template + offsets[i].T.astype(np.float32)
        plain = dataclasses.replace(HEAD, v_template=richer, joint_template=HEAD.J_regressor @ richer)
        expected = flamejax.vertices(plain, jax.tree.map(lambda leaf, i=i: leaf[i], plain_params))
        np.testing.assert_allclose(whole[i], expected, atol=2e-6)
    assert flamejax.landmarks(extended, params).shape == (2, 68, 3)


def test_gradients_of_the_extended_head(extended):
    params = random_params(extended, 2, scale=0.2)
    scaled = jax.jit(lambda p: 1e3 * flamejax.vertices(extended, p))
    check_grads(scaled, (params,), order=1, modes=("fwd", "rev"), eps=1e-2, rtol=0.03)


def test_scans_are_fitted_better_with_local_models(extended):
    unposed, *_ = samples()
    plain = fit_scans(HEAD, unposed[:6], config=ScanFitConfig(noise=1e-5, chunk=3))
    both = fit_scans(extended, unposed[:6], config=ScanFitConfig(noise=1e-5, chunk=3))
    assert np.asarray(both.rms).max() < 2e-4 < 1e-3 < np.asarray(plain.rms).min()


def test_eyeball_coefficients_are_marked(local, extended):
    betas, expression = eyeball_coefficients(extended, local)
    assert len(betas) == extended.num_betas and len(expression) == extended.num_expression
    eyes = [region for region in local.regions if region.name.endswith("eyeball")]
    assert betas.sum() == sum(len(region.shape) for region in eyes) > 0
    alone = dataclasses.replace(HeadParams.zeros(extended), betas=jnp.asarray(betas, jnp.float32))
    moved = np.abs(np.asarray(flamejax.vertices(extended, alone) - HEAD.v_template)).max(1) > 0
    assert set(np.flatnonzero(moved)) <= set(np.concatenate([region.index for region in eyes]))


def test_truncation_keeps_what_is_asked_for(local):
    fewer = local.truncated(0.8)
    assert 0 < fewer.num_shape < local.num_shape
    for small, large in zip(fewer.regions, local.regions, strict=True):
        assert small.explained[0] >= 0.8 and np.array_equal(small.shape, large.shape[: len(small.shape)])
        assert len(small.shape) == 1 or dataclasses.replace(small, shape=small.shape[:-1]).explained[0] < 0.8
    assert with_local(HEAD, fewer).num_betas == 3 + fewer.num_shape


def test_more_global_components_than_there_are_are_refused():
    with pytest.raises(ValueError, match="6 identity"):
        residuals(HEAD, *samples()[:4], dataclasses.replace(CONFIG, num_betas=7))
    with pytest.raises(ValueError, match="7 \\+ 0"):
        top_components(HEAD, 7, 0)


def test_a_file_holds_the_model(tmp_path, local):
    write_local_model(tmp_path / "local.npz", local)
    again = load_local_model(HEAD, tmp_path / "local.npz")
    for old, new in zip(local.regions, again.regions, strict=True):
        np.testing.assert_array_equal(new.index, old.index)
        for first, second in zip(old.bases, new.bases, strict=True):
            np.testing.assert_allclose(second, first, atol=1e-3 * np.abs(first).max(initial=0))
        np.testing.assert_allclose(new.variance, old.variance)
    changed = {"regions": (), "provenance": {}}
    assert dataclasses.replace(again, **changed) == dataclasses.replace(local, **changed)
    assert again.provenance == {"source": "test"}


@pytest.mark.parametrize("change", [{"name": "other"}, {"version": "2"}, {"v_template": 1.01 * HEAD.v_template}])
def test_another_head_is_refused_by_name(tmp_path, change, local):
    write_local_model(tmp_path / "local.npz", local)
    other = dataclasses.replace(HEAD, **change)
    with pytest.raises(HeadFileError, match=r"made for the head 'random 0'.*not for this .*--config local_pca"):
        load_local_model(other, tmp_path / "local.npz")
    with pytest.raises(HeadFileError, match="made for the head 'random 0'"):
        with_local(other, local)


def spoil(data: bytes, name: str, change) -> bytes:  # noqa: ANN001
    """An archive's content with one array changed, or left out."""
    with np.load(io.BytesIO(data)) as found:
        arrays = dict(found)
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
        ("vertex_index", lambda a: a.astype(np.float32), "not its form"),
        ("component_counts", lambda a: a[:-1], "do not agree"),
        ("component_counts", lambda a: a - 1_000, "impossible"),
        ("vertex_counts", lambda a: a * 1_000, "impossible size"),
        ("region_names", lambda a: np.array([None]), "Python objects"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, change, message, local):
    path = tmp_path / "local.npz"
    write_local_model(path, local)
    path.write_bytes(spoil(path.read_bytes(), name, change))
    with pytest.raises(HeadFileError, match=message):
        read_local_model(path)


def test_files_that_are_cut_short_missing_or_something_else_are_refused(tmp_path, local):
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


def test_what_is_shipped_is_for_the_open_head():
    head = flamejax.load_head()
    for variant, kept in (("paper", (10, 10)), ("full", (head.num_betas, head.num_expression))):
        local = load_local_model(head, variant=variant)
        assert (local.num_betas, local.num_expression) == kept and local.head_hash == geometry_hash(head)
        extended = with_local(head, local)
        chex.assert_trees_all_close(flamejax.vertices(extended, HeadParams.zeros(extended)), head.v_template, atol=1e-7)
        with pytest.raises(HeadFileError, match="flamejax-open-head"):
            load_local_model(HEAD, variant=variant)
