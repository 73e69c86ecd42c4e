"""Tests of loading head models: the embedded one, models from arrays, and errors for damaged files."""

import dataclasses

import chex
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from flamejax.head import (
    REGION_NAMES,
    HeadFileError,
    HeadModel,
    HeadParams,
    landmarks_from_vertices,
    open_head_path,
    root_joint,
)
from tests.heads import random_head


@pytest.fixture(scope="module")
def arrays():
    with np.load(open_head_path(), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_open_head_has_the_expected_sizes_and_landmark_order():
    head = flamejax.load_head()
    assert (head.num_betas, head.num_expression, len(head.parents), len(head.regions)) == (150, 60, 5, 14)
    assert head.licence == "CC0-1.0"
    neutral = flamejax.landmarks(head, flamejax.HeadParams.zeros(head))
    assert neutral.shape == (68, 3)
    # iBUG order: 0 on the subject's right (-x), 16 on the left; the chin below the mouth, the mouth below the eyes.
    assert neutral[0, 0] < neutral[8, 0] < neutral[16, 0]
    assert neutral[8, 1] < neutral[57, 1] < neutral[33, 1] < neutral[36, 1] < neutral[19, 1]
    np.testing.assert_allclose(head.lbs_weights.sum(1), 1, atol=1e-3)


def test_opening_the_jaw_lowers_the_chin_and_not_the_brows():
    head = flamejax.load_head()
    rest = flamejax.HeadParams.zeros(head)
    opened = dataclasses.replace(rest, jaw_pose=rest.jaw_pose.at[0].set(0.3))
    move = flamejax.landmarks(head, opened) - flamejax.landmarks(head, rest)
    assert move[8, 1] < -0.01
    assert abs(move[17:27]).max() < 1e-3


def spoil(arrays, **changes):
    return {name: value for name, value in {**arrays, **changes}.items() if value is not None}


CASES = {
    "missing array": (lambda a: {"uv": None}, "'uv' is missing"),
    "not a head": (lambda a: {"format_version": None}, "not a flamejax head model"),
    "newer format": (lambda a: {"format_version": np.int32(9)}, "head format 9"),
    "not finite": (lambda a: {"v_template": np.full_like(a["v_template"], np.nan)}, "not finite"),
    "wrong shape": (lambda a: {"lbs_weights": a["lbs_weights"][:-1]}, "'lbs_weights' has shape"),
    "wrong kind": (lambda a: {"faces": a["faces"].astype(np.float32)}, "'faces' is float32"),
    "index outside": (lambda a: {"faces": a["faces"] + 10_000}, "has indices outside"),
    "no tree": (lambda a: {"parents": np.array([-1, 2, 1, 1, 1])}, "not a tree"),
    "missing region": (lambda a: {"region_names": np.array(["x"] * 14)}, "regions missing"),
    "range of another form": (lambda a: {"expression_range": np.zeros((2, 3), np.float32)}, "'expression_range' is"),
    "range without neutral": (lambda a: {"expression_range": np.ones((2, 60), np.float32)}, "leaves out the neutral"),
    "too many betas": (lambda a: {"num_betas": np.int32(999)}, "num_betas is 999"),
}


def test_half_precision_is_converted_exactly(arrays):
    head = flamejax.load_head()
    for name in ("shapedirs", "posedirs"):
        assert arrays[name].dtype == np.float16
        np.testing.assert_array_equal(np.asarray(getattr(head, name)), arrays[name].astype(np.float32))
    joints = np.tensordot(arrays["J_regressor"].astype(float), arrays["shapedirs"].astype(float), axes=1)
    np.testing.assert_allclose(head.joint_dirs, joints, atol=1e-7)


def test_expression_range_is_optional(arrays, tmp_path):
    assert flamejax.load_head().expression_range.shape == (2, 60)
    np.savez(tmp_path / "head.npz", **spoil(arrays, expression_range=None))
    assert flamejax.load_head(tmp_path / "head.npz").expression_range is None


@pytest.mark.parametrize("case", CASES)
def test_damaged_models_raise_with_the_reason(arrays, tmp_path, case):
    change, message = CASES[case]
    path = tmp_path / "head.npz"
    np.savez(path, **spoil(arrays, **change(arrays)))
    with pytest.raises(HeadFileError, match=message):
        flamejax.load_head(path)


def test_files_that_are_not_archives_raise(tmp_path):
    with pytest.raises(HeadFileError, match="no such head model"):
        flamejax.load_head(tmp_path / "absent.npz")
    for content in (b"", b"not a zip", open_head_path().read_bytes()[:5000]):
        path = tmp_path / "broken.npz"
        path.write_bytes(content)
        with pytest.raises(HeadFileError, match="not a readable"):
            flamejax.load_head(path)


def test_pickles_inside_an_archive_raise(tmp_path, arrays):
    path = tmp_path / "head.npz"
    np.savez(path, **{**arrays, "name": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(HeadFileError, match="not a readable"):
        flamejax.load_head(path)


def test_a_saved_model_is_read_back_exactly(tmp_path):
    for name, head in (("open", flamejax.load_head()), ("random", dataclasses.replace(random_head(), dense=None))):
        head.save(tmp_path / f"{name}.npz")
        chex.assert_trees_all_equal(flamejax.load_head(tmp_path / f"{name}.npz"), head)


def test_a_model_can_be_built_from_a_mesh_and_shapes(tmp_path):
    mesh = random_head()
    head = HeadModel.from_arrays(mesh.v_template, mesh.faces, np.asarray(mesh.shapedirs)[..., :6])
    params = dataclasses.replace(HeadParams.zeros(head, (2,)), betas=jnp.ones((2, 6)), jaw_pose=jnp.ones((2, 3)))
    expected = np.asarray(mesh.v_template) + np.asarray(mesh.shapedirs)[..., :6].sum(-1)
    np.testing.assert_allclose(flamejax.vertices(head, params), np.stack([expected] * 2), atol=1e-6)
    turned = dataclasses.replace(params, global_orient=jnp.full((2, 3), 0.3))
    verts, root = flamejax.vertices(head, turned), root_joint(head, turned)
    np.testing.assert_allclose(root[0], expected.mean(0), atol=1e-5)
    np.testing.assert_allclose(verts.mean(1), root, atol=1e-5)  # about the middle
    assert head.num_expression == 0 and set(head.regions) == set(REGION_NAMES) and head.regions["face"].all()
    for function in (flamejax.landmarks, lambda *a: landmarks_from_vertices(a[0], verts, a[1])):
        with pytest.raises(ValueError, match="'custom' has no landmarks"):
            function(head, params)
    head.save(tmp_path / "mesh.npz")
    chex.assert_trees_all_equal(flamejax.load_head(tmp_path / "mesh.npz"), head)
    marked = HeadModel.from_arrays(mesh.v_template, mesh.faces, landmark_embedding=mesh.landmark_embedding)
    assert set(marked.regions) == set(REGION_NAMES) and marked.regions["lips"].any()  # guessed from the landmarks


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"v_template": np.zeros((4, 2))}, r"v_template should be \(V, 3\)"),
        ({"faces": [[0, 1, 162]]}, "faces should lie in 0..161"),
        ({"shapedirs": np.zeros((4, 3, 2))}, r"shapedirs should be \(162, 3, S \+ E\)"),
        ({"num_betas": 3}, "num_betas is 3, but shapedirs has 0"),
        ({"lbs_weights": np.zeros((162, 4))}, r"lbs_weights should be \(162, 5\)"),
        ({"regions": {"lips": np.zeros(3, bool)}}, r"regions\['lips'\] should be \(162\)"),
        ({"uv": np.zeros((2, 2)), "uv_faces": np.full((320, 3), 2)}, "uv_faces should lie in 0..1"),
        ({"parents": (-1, 0)}, "parents should be of 5 joints"),
    ],
)
def test_arrays_with_wrong_shapes_raise_with_their_name(changes, message):
    mesh = random_head()
    with pytest.raises(ValueError, match=message):
        HeadModel.from_arrays(**{"v_template": mesh.v_template, "faces": mesh.faces, **changes})
