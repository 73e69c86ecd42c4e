"""Loading head models: the embedded one, and clear refusals of damaged files."""

import numpy as np
import pytest

import flamejax
from flamejax.head import HeadFileError, open_head_path


@pytest.fixture(scope="module")
def arrays():
    with np.load(open_head_path(), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def test_the_open_head_loads_and_has_flames_form():
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
    import dataclasses

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
    "index outside": (lambda a: {"faces": a["faces"] + 10_000}, "points outside"),
    "no tree": (lambda a: {"parents": np.array([-1, 2, 1, 1, 1])}, "not a tree"),
    "missing region": (lambda a: {"region_names": np.array(["x"] * 14)}, "regions missing"),
    "range of another form": (lambda a: {"expression_range": np.zeros((2, 3), np.float32)}, "'expression_range' is"),
    "range without neutral": (lambda a: {"expression_range": np.ones((2, 60), np.float32)}, "leaves out the neutral"),
    "too many betas": (lambda a: {"num_betas": np.int32(999)}, "num_betas is 999"),
}


def test_half_precision_is_widened_exactly(arrays):
    head = flamejax.load_head()
    for name in ("shapedirs", "posedirs"):
        assert arrays[name].dtype == np.float16
        np.testing.assert_array_equal(np.asarray(getattr(head, name)), arrays[name].astype(np.float32))
    joints = np.tensordot(arrays["J_regressor"].astype(float), arrays["shapedirs"].astype(float), axes=1)
    np.testing.assert_allclose(head.joint_dirs, joints, atol=1e-7)


def test_a_head_may_state_no_range_of_expressions(arrays, tmp_path):
    assert flamejax.load_head().expression_range.shape == (2, 60)
    np.savez(tmp_path / "head.npz", **spoil(arrays, expression_range=None))
    assert flamejax.load_head(tmp_path / "head.npz").expression_range is None


@pytest.mark.parametrize("case", CASES)
def test_damaged_models_are_refused_with_the_reason(arrays, tmp_path, case):
    change, message = CASES[case]
    path = tmp_path / "head.npz"
    np.savez(path, **spoil(arrays, **change(arrays)))
    with pytest.raises(HeadFileError, match=message):
        flamejax.load_head(path)


def test_files_that_are_not_archives_are_refused(tmp_path):
    with pytest.raises(HeadFileError, match="no such head model"):
        flamejax.load_head(tmp_path / "absent.npz")
    for content in (b"", b"not a zip", open_head_path().read_bytes()[:5000]):
        path = tmp_path / "broken.npz"
        path.write_bytes(content)
        with pytest.raises(HeadFileError, match="not a readable"):
            flamejax.load_head(path)


def test_pickles_inside_an_archive_are_never_opened(tmp_path, arrays):
    path = tmp_path / "head.npz"
    np.savez(path, **{**arrays, "name": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(HeadFileError, match="not a readable"):
        flamejax.load_head(path)
