"""Fitting registered scans: heads of known parameters come back, failures are values."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from fitting.scan_fit import NO_HEAD, NOT_FINITE, OK, ScanFitConfig, fit_scans
from flamejax.head import unpose
from tests.heads import random_head, random_params

HEAD = random_head(subdivisions=1)
CONFIG = ScanFitConfig(noise=1e-5, chunk=3)  # one chunk size for all: each is compiled


def known(batch=(), seed=0, scale=0.3):
    """Parameters and the scans they make; turned and moved far, as scans are."""
    params = random_params(HEAD, seed, batch, scale)
    params = dataclasses.replace(params, betas=3 * params.betas, global_orient=4 * params.global_orient)
    return params, flamejax.vertices(HEAD, params)


def test_known_parameters_come_back():
    params, scans = known((7,))
    found = fit_scans(HEAD, scans, config=CONFIG)
    assert np.abs(np.asarray(found.vertices - scans)).max() < 5e-5
    assert (np.asarray(found.code) == OK).all() and np.asarray(found.rms).max() < 5e-5
    np.testing.assert_allclose(found.params.betas, params.betas, atol=0.05)
    np.testing.assert_allclose(found.params.expression, params.expression, atol=0.05)
    for name in ("neck_pose", "jaw_pose", "leye_pose", "reye_pose"):
        np.testing.assert_allclose(getattr(found.params, name), getattr(params, name), atol=0.01)
    turn = flamejax.head.rotation_matrix
    np.testing.assert_allclose(turn(found.params.global_orient), turn(params.global_orient), atol=0.01)
    np.testing.assert_allclose(flamejax.vertices(HEAD, found.params), found.vertices, atol=1e-6)


@pytest.mark.slow
def test_the_open_head_comes_back_from_large_turns_of_neck_and_jaw():
    head = flamejax.load_head()
    params = random_params(head, 1, (2,), 0.7)
    pose = {
        "global_orient": [[2.0, 0.5, -1.0], [0.0, 3.0, 0.3]],
        "neck_pose": [[0.6, 0.5, 0.2], [-0.5, 0.6, -0.3]],
        "jaw_pose": [[0.4, 0.05, 0.0], [0.0, 0.0, 0.0]],
        "leye_pose": [[0.3, -0.4, 0.0], [0.0, 0.5, 0.0]],
    }
    params = dataclasses.replace(params, **{name: jnp.asarray(value) for name, value in pose.items()})
    scans = flamejax.vertices(head, params)
    found = fit_scans(head, scans)
    assert np.linalg.norm(np.asarray(found.vertices - scans), axis=-1).max() < 5e-5
    np.testing.assert_allclose(found.params.neck_pose, params.neck_pose, atol=1e-3)
    np.testing.assert_allclose(found.params.jaw_pose, params.jaw_pose, atol=1e-3)
    np.testing.assert_allclose(found.params.betas[:, :20], params.betas[:, :20], atol=0.02)


def test_noise_stays_noise():
    params, scans = known((3,), seed=2)
    noise = 2e-4 * np.random.default_rng(0).normal(size=scans.shape).astype(np.float32)
    found = fit_scans(HEAD, scans + noise, config=ScanFitConfig(noise=2e-4, chunk=3))
    assert np.asarray(found.rms).max() < 2e-4 * np.sqrt(3)  # of the noise itself
    # 28 unknowns share the noise of 126 numbers.
    assert np.sqrt(np.mean(np.sum(np.asarray(found.vertices - scans) ** 2, axis=-1))) < 2e-4
    np.testing.assert_allclose(found.params.betas, params.betas, atol=0.5)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2), (0,)])
def test_batches_equal_singles(batch):
    scans = np.zeros((*batch, HEAD.num_vertices, 3)) if 0 in batch else known(batch, seed=3)[1]
    found = fit_scans(HEAD, scans, config=CONFIG)
    assert found.rms.shape == found.code.shape == batch
    assert found.params.betas.shape == (*batch, HEAD.num_betas)
    assert found.vertices.shape == found.unposed.shape == (*batch, HEAD.num_vertices, 3)
    for index in list(np.ndindex(*batch))[:2]:
        single = fit_scans(HEAD, scans[index], config=CONFIG)
        chex.assert_trees_all_close(found.vertices[index], single.vertices, atol=1e-5)


def test_unposed_is_the_scan_at_rest():
    _, scans = known((3,), seed=4)
    found = fit_scans(HEAD, scans, config=CONFIG)
    np.testing.assert_allclose(found.unposed, unpose(HEAD, scans, found.params), atol=2e-6)


def test_failures_are_codes_and_touch_nobody_else():
    _, scans = known((5,), seed=5)
    spoilt = np.array(scans)
    spoilt[1, 3, 0], spoilt[2], spoilt[3] = np.nan, 1e3 * spoilt[2], 0.7
    counted = []
    found = fit_scans(HEAD, spoilt, config=ScanFitConfig(noise=1e-5, chunk=3), advance=counted.append)
    assert np.asarray(found.code).tolist() == [OK, NOT_FINITE, NO_HEAD, NO_HEAD, OK] and counted == [3, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    sound = fit_scans(HEAD, scans[:1], config=CONFIG)
    chex.assert_trees_all_close(found.vertices[0], sound.vertices[0], atol=1e-5)
    spoilt[0] = np.inf
    assert int(fit_scans(HEAD, spoilt[0], config=CONFIG).code) == NOT_FINITE


def test_wrong_shapes_and_settings_are_refused():
    with pytest.raises(ValueError, match=r"vertices should be \(\*b, 42, 3\), not \(2, 5, 3\)"):
        fit_scans(HEAD, np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="positive"):
        ScanFitConfig(noise=0)
