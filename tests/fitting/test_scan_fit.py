"""Fitting registered scans: known parameters are recovered, failures get a code."""

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
CONFIG = ScanFitConfig(noise=1e-5, chunk=3)  # one chunk size for all tests, since each compiles


def known_scans(batch=(), seed=0, scale=0.3):
    """Return random parameters and the scans made of them, with large rotations and translations."""
    params = random_params(HEAD, seed, batch, scale)
    params = dataclasses.replace(params, betas=3 * params.betas, global_orient=4 * params.global_orient)
    return params, flamejax.vertices(HEAD, params)


def test_known_parameters_are_recovered():
    params, scans = known_scans((7,))
    fit = fit_scans(HEAD, scans, config=CONFIG)
    assert np.abs(np.asarray(fit.vertices - scans)).max() < 5e-5
    assert (np.asarray(fit.code) == OK).all() and np.asarray(fit.rms).max() < 5e-5
    np.testing.assert_allclose(fit.params.betas, params.betas, atol=0.05)
    np.testing.assert_allclose(fit.params.expression, params.expression, atol=0.05)
    for name in ("neck_pose", "jaw_pose", "leye_pose", "reye_pose"):
        np.testing.assert_allclose(getattr(fit.params, name), getattr(params, name), atol=0.01)
    turn = flamejax.head.rotation_matrix
    np.testing.assert_allclose(turn(fit.params.global_orient), turn(params.global_orient), atol=0.01)
    np.testing.assert_allclose(flamejax.vertices(HEAD, fit.params), fit.vertices, atol=1e-6)


@pytest.mark.slow
def test_the_open_head_is_recovered_from_large_rotations_of_neck_and_jaw():
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
    fit = fit_scans(head, scans)
    assert np.linalg.norm(np.asarray(fit.vertices - scans), axis=-1).max() < 5e-5
    np.testing.assert_allclose(fit.params.neck_pose, params.neck_pose, atol=1e-3)
    np.testing.assert_allclose(fit.params.jaw_pose, params.jaw_pose, atol=1e-3)
    np.testing.assert_allclose(fit.params.betas[:, :20], params.betas[:, :20], atol=0.02)


def test_noise_of_scans_is_not_amplified():
    params, scans = known_scans((3,), seed=2)
    noise = 2e-4 * np.random.default_rng(0).normal(size=scans.shape).astype(np.float32)
    fit = fit_scans(HEAD, scans + noise, config=ScanFitConfig(noise=2e-4, chunk=3))
    assert np.asarray(fit.rms).max() < 2e-4 * np.sqrt(3)  # that of the noise itself
    # 28 parameters are estimated from 126 noisy numbers.
    assert np.sqrt(np.mean(np.sum(np.asarray(fit.vertices - scans) ** 2, axis=-1))) < 2e-4
    np.testing.assert_allclose(fit.params.betas, params.betas, atol=0.5)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 2), (0,)])
def test_batches_equal_singles(batch):
    scans = np.zeros((*batch, HEAD.num_vertices, 3)) if 0 in batch else known_scans(batch, seed=3)[1]
    fit = fit_scans(HEAD, scans, config=CONFIG)
    assert fit.rms.shape == fit.code.shape == batch
    assert fit.params.betas.shape == (*batch, HEAD.num_betas)
    assert fit.vertices.shape == fit.unposed.shape == (*batch, HEAD.num_vertices, 3)
    for index in list(np.ndindex(*batch))[:2]:
        single = fit_scans(HEAD, scans[index], config=CONFIG)
        chex.assert_trees_all_close(fit.vertices[index], single.vertices, atol=1e-5)


def test_unposed_is_the_scan_in_the_rest_pose():
    _, scans = known_scans((3,), seed=4)
    fit = fit_scans(HEAD, scans, config=CONFIG)
    np.testing.assert_allclose(fit.unposed, unpose(HEAD, scans, fit.params), atol=2e-6)


def test_failed_scans_get_a_code_and_do_not_affect_the_others():
    _, scans = known_scans((5,), seed=5)
    damaged = np.array(scans)
    damaged[1, 3, 0], damaged[2], damaged[3] = np.nan, 1e3 * damaged[2], 0.7
    counted = []
    fit = fit_scans(HEAD, damaged, config=ScanFitConfig(noise=1e-5, chunk=3), advance=counted.append)
    assert np.asarray(fit.code).tolist() == [OK, NOT_FINITE, NO_HEAD, NO_HEAD, OK] and counted == [3, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit))
    single = fit_scans(HEAD, scans[:1], config=CONFIG)
    chex.assert_trees_all_close(fit.vertices[0], single.vertices[0], atol=1e-5)
    damaged[0] = np.inf
    assert int(fit_scans(HEAD, damaged[0], config=CONFIG).code) == NOT_FINITE


def test_wrong_shapes_and_configs_are_refused():
    with pytest.raises(ValueError, match=r"vertices should be \(\*b, 42, 3\), not \(2, 5, 3\)"):
        fit_scans(HEAD, np.zeros((2, 5, 3)))
    with pytest.raises(ValueError, match="positive"):
        ScanFitConfig(noise=0)
