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
from fitting.local_model import (
    eyeball_coefficients,
    global_part,
    join_coefficients,
    split_coefficients,
    top_components,
    with_local,
)
from fitting.local_training import LocalConfig, region_weights, residuals, train_local_model
from fitting.scan_fit import ScanFitConfig, fit_scans
from flamejax.head import HeadFileError, HeadParams, geometry_hash
from tests.heads import random_head, random_params

HEAD = dataclasses.replace(random_head(), expression_range=jnp.asarray([[-2.0] * 4, [2.0] * 4]))
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


def trained():
    """A local model of few random samples."""
    unposed, betas, expression, subject, _, _ = samples()
    found = residuals(HEAD, unposed, betas, expression, subject, CONFIG)
    return found, train_local_model(HEAD, found, CONFIG, {"source": "test"})


FOUND, LOCAL = trained()
EXTENDED = with_local(HEAD, LOCAL)


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


def test_coarse_shape_and_residuals_are_the_scan():
    unposed, betas, expression, subject, own, moving = samples()
    coarse = dataclasses.replace(
        HeadParams.zeros(HEAD, (len(subject),)),
        betas=jnp.asarray(betas).at[:, 3:].set(0),
        expression=jnp.asarray(expression).at[:, 2:].set(0),
    )
    left = np.swapaxes(FOUND.shape[subject] + FOUND.expression, 1, 2)
    np.testing.assert_allclose(np.asarray(flamejax.vertices(HEAD, coarse)) + left, unposed, atol=1e-6)
    # Detail of the subject is shape, detail that changes is expression, and neither is in both.
    shapedirs = np.asarray(HEAD.shapedirs)
    of_subject = np.einsum("vdc,pc->pvd", shapedirs[..., 3:6], betas[::EACH, 3:]) + own
    np.testing.assert_allclose(np.swapaxes(FOUND.shape, 1, 2), of_subject, atol=1e-6)
    of_scan = np.einsum("vdc,nc->nvd", shapedirs[..., 8:], expression[:, 2:]) + moving
    np.testing.assert_allclose(np.swapaxes(FOUND.expression, 1, 2), of_scan, atol=1e-6)


def test_the_regions_together_hold_the_residuals():
    for part, rows in ((FOUND.shape, "shape"), (FOUND.expression, "expression")):
        total = np.zeros_like(part)
        for region in LOCAL.regions:
            basis = getattr(region, rows).reshape(len(getattr(region, rows)), -1)
            weights = region_weights(HEAD)[region.name][region.index]
            wanted = (part[..., region.index] * weights).reshape(len(part), -1)
            found = wanted @ np.linalg.pinv(basis) @ basis
            total[..., region.index] += found.reshape(len(part), 3, -1)
        np.testing.assert_allclose(total, part, atol=2e-6)
    assert all(min(region.explained) > 0.999 for region in LOCAL.regions)


def test_coefficients_are_standard_deviations():
    region = LOCAL.regions[0]
    weights = region_weights(HEAD)[region.name][region.index]
    wanted = (FOUND.shape[..., region.index] * weights).reshape(SUBJECTS, -1)
    coefficients = wanted @ np.linalg.pinv(region.shape.reshape(len(region.shape), -1))
    np.testing.assert_allclose(np.sqrt(np.mean(coefficients**2, axis=0)), 1, atol=1e-2)


def test_the_extended_head_adds_local_components_to_the_top_global_ones():
    assert (EXTENDED.num_betas, EXTENDED.num_expression) == (3 + LOCAL.num_shape, 2 + LOCAL.num_local_expression)
    assert EXTENDED.name == "random+local" and EXTENDED.expression_range.shape == (2, EXTENDED.num_expression)
    params = random_params(EXTENDED, 1, (2,), 0.5)
    betas, expression, coefficients = split_coefficients(EXTENDED, LOCAL, params.betas, params.expression)
    assert (betas.shape, expression.shape) == ((2, 3), (2, 2))
    shape, moved = np.split(np.asarray(coefficients), [LOCAL.num_shape], axis=1)
    local = np.zeros((2, 3, HEAD.num_vertices))
    for region in LOCAL.regions:
        first, shape = np.split(shape, [len(region.shape)], axis=1)
        second, moved = np.split(moved, [len(region.expression)], axis=1)
        local[..., region.index] += np.einsum("nc,cdv->ndv", first, region.shape)
        local[..., region.index] += np.einsum("nc,cdv->ndv", second, region.expression)
    # Eqs. 5-6 by hand: global coarse shape plus local variation, then posed.
    for i in range(2):
        richer = HEAD.v_template + local[i].T.astype(np.float32)
        joints = HEAD.J_regressor @ richer
        plain = dataclasses.replace(HEAD, v_template=richer, joint_template=joints)
        one = global_part(HEAD, EXTENDED, LOCAL, jax.tree.map(lambda leaf, i=i: leaf[i], params))
        expected = flamejax.vertices(plain, one)
        found = flamejax.vertices(EXTENDED, jax.tree.map(lambda leaf, i=i: leaf[i], params))
        np.testing.assert_allclose(found, expected, atol=2e-6)
    again = join_coefficients(LOCAL, betas, expression, coefficients)
    chex.assert_trees_all_equal(again, (params.betas, params.expression))
    assert flamejax.landmarks(EXTENDED, params).shape == (2, 68, 3)


def test_gradients_of_the_extended_head():
    params = random_params(EXTENDED, 2, scale=0.2)
    scaled = jax.jit(lambda p: 1e3 * flamejax.vertices(EXTENDED, p))
    check_grads(scaled, (params,), order=1, modes=("fwd", "rev"), eps=1e-2, rtol=0.03)


def test_scans_are_fitted_better_with_local_models():
    unposed, *_ = samples()
    plain = fit_scans(HEAD, unposed[:6], config=ScanFitConfig(noise=1e-5, chunk=6))
    both = fit_scans(EXTENDED, unposed[:6], config=ScanFitConfig(noise=1e-5, chunk=6))
    assert np.asarray(both.rms).max() < 2e-4 < 1e-3 < np.asarray(plain.rms).min()


def test_eyeball_coefficients_are_marked():
    betas, expression = eyeball_coefficients(EXTENDED, LOCAL)
    assert len(betas) == EXTENDED.num_betas and len(expression) == EXTENDED.num_expression
    eyes = [region for region in LOCAL.regions if region.name.endswith("eyeball")]
    assert betas.sum() == sum(len(region.shape) for region in eyes) > 0
    alone = dataclasses.replace(HeadParams.zeros(EXTENDED), betas=jnp.asarray(betas, jnp.float32))
    moved = np.abs(np.asarray(flamejax.vertices(EXTENDED, alone) - HEAD.v_template)).max(1) > 0
    assert set(np.flatnonzero(moved)) <= set(np.concatenate([region.index for region in eyes]))


def test_truncation_keeps_what_is_asked_for():
    fewer = LOCAL.truncated(0.8)
    assert 0 < fewer.num_shape < LOCAL.num_shape
    for small, large in zip(fewer.regions, LOCAL.regions, strict=True):
        assert small.explained[0] >= 0.8 and np.array_equal(small.shape, large.shape[: len(small.shape)])
        assert len(small.shape) == 1 or dataclasses.replace(small, shape=small.shape[:-1]).explained[0] < 0.8
    assert with_local(HEAD, fewer).num_betas == 3 + fewer.num_shape


def test_more_global_components_than_trained_against_are_refused():
    with pytest.raises(ValueError, match="3 global components leave"):
        with_local(HEAD, LOCAL, num_betas=4)
    assert with_local(HEAD, LOCAL, num_betas=0, num_expression=1).num_betas == LOCAL.num_shape
    with pytest.raises(ValueError, match="6 identity"):
        residuals(HEAD, *samples()[:4], dataclasses.replace(CONFIG, num_betas=7))
    with pytest.raises(ValueError, match="7 \\+ 0"):
        top_components(HEAD, 7, 0)


def test_a_file_holds_the_model(tmp_path):
    write_local_model(tmp_path / "local.npz", LOCAL)
    again = load_local_model(HEAD, tmp_path / "local.npz")
    for old, new in zip(LOCAL.regions, again.regions, strict=True):
        np.testing.assert_array_equal(new.index, old.index)
        for first, second in zip(old.bases, new.bases, strict=True):
            np.testing.assert_allclose(second, first, atol=1e-3 * np.abs(first).max(initial=0))
        np.testing.assert_allclose(new.variance, old.variance)
    changed = {"regions": (), "provenance": {}}
    assert dataclasses.replace(again, **changed) == dataclasses.replace(LOCAL, **changed)
    assert again.provenance == {"source": "test"}


@pytest.mark.parametrize("change", [{"name": "other"}, {"version": "2"}, {"v_template": 1.01 * HEAD.v_template}])
def test_another_head_is_refused_by_name(tmp_path, change):
    write_local_model(tmp_path / "local.npz", LOCAL)
    other = dataclasses.replace(HEAD, **change)
    with pytest.raises(HeadFileError, match=r"made for the head 'random 0'.*not for this .*--config local_pca"):
        load_local_model(other, tmp_path / "local.npz")
    with pytest.raises(HeadFileError, match="made for the head 'random 0'"):
        with_local(other, LOCAL)


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
def test_damaged_files_are_refused(tmp_path, name, change, message):
    path = tmp_path / "local.npz"
    write_local_model(path, LOCAL)
    path.write_bytes(spoil(path.read_bytes(), name, change))
    with pytest.raises(HeadFileError, match=message):
        read_local_model(path)


def test_files_that_are_cut_short_missing_or_something_else_are_refused(tmp_path):
    path = tmp_path / "local.npz"
    with pytest.raises(HeadFileError, match="no such local model"):
        load_local_model(HEAD, path)
    write_local_model(path, LOCAL)
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
