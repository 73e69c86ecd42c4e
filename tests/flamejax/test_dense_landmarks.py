"""Tests of dense landmarks: their file, the heads it is for, and their points."""

import io

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from flamejax.head import (
    DENSE_FORMAT_VERSION,
    DenseLandmarks,
    HeadFileError,
    calibrated,
    dense_landmarks,
    geometry_hash,
    landmarks,
    load_dense_landmarks,
    vertices,
)
from tests.gradients import check_gradients
from tests.heads import random_head, random_params

BATCHES = [(1,), (3,)]


@pytest.fixture(scope="module")
def head():
    return random_head()


def random_dense(head, seed=0, points=468) -> DenseLandmarks:
    rng = np.random.default_rng(seed)

    def part(count):
        face = jnp.asarray(rng.integers(0, len(head.faces), count), jnp.int32)
        weights = jnp.asarray(rng.dirichlet(np.ones(3), count), jnp.float32)
        return face, weights, jnp.asarray(rng.uniform(0.01, 0.1, count), jnp.float32)

    return DenseLandmarks(*part(points), *part(51))


def write(path, head, dense, **changes):
    arrays = {name: np.asarray(value) for name, value in vars(dense).items()}
    arrays |= {
        "format_version": np.int32(DENSE_FORMAT_VERSION),
        "head_name": np.asarray(head.name),
        "head_version": np.asarray(head.version),
        "head_hash": np.asarray(geometry_hash(head)),
    }
    arrays |= changes
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in arrays.items() if value is not None})
    path.write_bytes(buffer.getvalue())
    return path


def test_written_landmarks_are_read_back(head, tmp_path):
    dense = random_dense(head)
    chex.assert_trees_all_equal(load_dense_landmarks(head, write(tmp_path / "d.npz", head, dense)), dense)


@pytest.mark.parametrize("version", [[1, 1], "one", 1.0, 2])
def test_a_file_of_another_version_raises(head, tmp_path, version):
    path = write(tmp_path / "d.npz", head, random_dense(head), format_version=np.asarray(version))
    with pytest.raises(HeadFileError, match="reads format 1"):
        load_dense_landmarks(head, path)


def test_a_file_of_another_head_raises(head, tmp_path):
    path = write(tmp_path / "d.npz", head, random_dense(head))
    with pytest.raises(HeadFileError, match=r"measured on the head 'random 0'.*calibrate-landmarks"):
        load_dense_landmarks(random_head(seed=1), path)  # same name, other geometry


def test_embedded_landmarks_are_none_for_another_head(head):
    assert load_dense_landmarks(head) is None


def test_the_open_head_has_embedded_landmarks():
    head = flamejax.load_head(calibrate=False)
    dense = load_dense_landmarks(head)
    assert dense is not None, "the open head has changed: run flamejax calibrate-landmarks again"
    assert 0 < int(dense.sliding.sum()) < 100
    assert float(dense.dense_spread.min()) > 0.005 and float(jnp.median(dense.dense_spread)) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": np.int32(99)}, "format 99"),
        ({"dense_spread": None}, "'dense_spread' is missing"),
        ({"dense_spread": np.zeros(468, np.float32)}, "must be positive"),
        ({"dense_face": np.full(468, 10**6, np.int32)}, "outside"),
        ({"landmark_barycentric": np.full((51, 3), np.nan, np.float32)}, "not finite"),
        ({"landmark_face": np.zeros(50, np.int32)}, "not the expected type and shape"),
    ],
)
def test_damaged_files_raise(head, tmp_path, change, message):
    path = write(tmp_path / "d.npz", head, random_dense(head), **change)
    with pytest.raises(HeadFileError, match=message):
        load_dense_landmarks(head, path)


def test_missing_and_unreadable_files_raise(head, tmp_path):
    with pytest.raises(HeadFileError, match="no such"):
        load_dense_landmarks(head, tmp_path / "missing.npz")
    (tmp_path / "nonsense.npz").write_bytes(b"nonsense")
    with pytest.raises(HeadFileError, match="not a readable"):
        load_dense_landmarks(head, tmp_path / "nonsense.npz")


@pytest.mark.parametrize("batch", BATCHES)
def test_points_equal_those_of_the_full_mesh(head, batch):
    dense, params = random_dense(head), random_params(head, seed=1, batch=batch)
    actual = dense_landmarks(head, dense, params)
    assert actual.shape == (*batch, 468, 3)
    corners = np.asarray(vertices(head, params))[..., np.asarray(head.faces)[np.asarray(dense.dense_face)], :]
    expected = np.einsum("lk,...lkd->...ld", np.asarray(dense.dense_barycentric), corners)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    if batch:
        mapped = jax.vmap(lambda one: dense_landmarks(head, dense, one))(params)
        chex.assert_trees_all_close(mapped, actual, atol=1e-6)


def test_gradients_agree_forward_reverse_and_finite_differences(head):
    dense, params = random_dense(head, points=20), random_params(head, seed=2, batch=(3,))
    scaled = lambda p: 1e3 * dense_landmarks(head, dense, p)  # noqa: E731
    check_gradients(scaled, (params,), eps=1e-2, rtol=0.03)


def test_calibration_moves_only_the_inner_landmarks(head):
    dense, params = random_dense(head), random_params(head, seed=3)
    before, after = landmarks(head, params), landmarks(calibrated(head, dense), params)
    np.testing.assert_array_equal(before[:17], after[:17])
    corners = np.asarray(vertices(head, params))[np.asarray(head.faces)[np.asarray(dense.landmark_face)]]
    expected = np.einsum("lk,lkd->ld", np.asarray(dense.landmark_barycentric), corners)
    np.testing.assert_allclose(after[17:], expected, atol=1e-6)
