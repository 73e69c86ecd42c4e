"""Files beside the photos: read as documented, or refused with the file's name and what is wrong."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from fitting.inputs import InputError, find_landmarks, find_mask, load_boxes, load_landmarks

POINTS = np.random.default_rng(0).uniform(10, 200, (68, 2))


def pts_text(points, count=68):
    rows = "\n".join(f"{x} {y}" for x, y in points)
    return f"version: 1\nn_points: {count}\n{{\n{rows}\n}}\n"


def test_npy_and_json_files_round_trip(tmp_path):
    confident = np.concatenate([POINTS, np.full((68, 1), 0.5)], axis=1)
    np.save(tmp_path / "a.npy", POINTS)
    np.save(tmp_path / "b.npy", confident.astype(np.float32))
    (tmp_path / "c.json").write_text(json.dumps({"points": POINTS.tolist(), "confidence": [0.5] * 68}))
    (tmp_path / "d.json").write_text(json.dumps({"points": POINTS.tolist()}))
    np.testing.assert_allclose(find_landmarks(tmp_path, "a"), POINTS)
    np.testing.assert_allclose(find_landmarks(tmp_path, "b"), confident, rtol=1e-6)
    np.testing.assert_allclose(find_landmarks(tmp_path, "c"), confident)
    np.testing.assert_allclose(find_landmarks(tmp_path, "d"), POINTS)
    assert find_landmarks(tmp_path, "e") is None


def test_missing_points_become_nan(tmp_path):
    rows = POINTS.tolist()
    (tmp_path / "a.json").write_text(json.dumps({"points": [None, [None, 3.0], *rows[2:]]}))
    loaded = load_landmarks(tmp_path / "a.json")
    assert np.isnan(loaded[0]).all() and np.isnan(loaded[1]).any()
    np.testing.assert_allclose(loaded[2:], POINTS[2:])


def test_pts_pixel_numbers_become_pixel_centres(tmp_path):
    (tmp_path / "a.pts").write_text(pts_text(np.full((68, 2), 1)))
    np.testing.assert_array_equal(load_landmarks(tmp_path / "a.pts"), 0.5)  # the first pixel's centre


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("a.npy", b"nonsense", "not a NumPy array"),
        ("a.npy", b"", "not a NumPy array"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b"\xff\xfe\x00", "not a readable text"),
        ("a.json", b"[1, 2]", '"points"'),
        ("a.json", b'{"points": [[1, "x"]]}', "pairs"),
        ("a.json", b'{"points": [[1, 2], [3]]}', "pairs"),
        ("a.json", b'{"points": [[1, 2]]}', "68 rows"),
        ("a.json", json.dumps({"points": POINTS.tolist(), "confidence": [1, 2]}).encode(), "confidence"),
        ("a.json", json.dumps({"points": POINTS.tolist(), "confidence": [2.0] * 68}).encode(), "confidences"),
        ("a.json", json.dumps({"points": [[1e999, 1.0]] * 68}).encode(), "infinite"),
        ("a.json", b'{"points": %s}' % (b"[" * 900 + b"]" * 900), "nested too deeply"),
        ("a.json", b'{"points": %s' % (b"[" * 100_000), "nested too deeply"),
        ("a.json", b'{"points": [[1, %s]]}' % (b"9" * 5000), "a number is too large"),
        ("a.json", b'{"points": [[1, %s]]}' % (b"9" * 400), "pairs"),
        ("a.json", b'{"points": [[1, 2]], "confidence": [%s]}' % (b"9" * 5000), "a number is too large"),
        ("a.pts", b"n_points: %s\n{\n1 2\n}" % (b"6" * 5000), "n_points says 66666666666666666666 "),
        ("a.pts", b"no braces", "between"),
        ("a.pts", pts_text(POINTS, 5).encode(), "n_points"),
        ("a.pts", b"n_points: 2\n{\n1 2\n3\n}", "two numbers"),
        ("a.pts", b"{\na b\n}", "two numbers"),
        ("a.txt", b"", ".npy, .json, .pts"),
    ],
)
def test_malformed_landmarks_are_refused(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault) as error:
        load_landmarks(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_arrays_of_wrong_shape_or_type_are_refused(tmp_path):
    for array, fault in (
        (POINTS[:5], "68 rows"), (POINTS.ravel(), "68 rows"), (np.full((68, 2), np.nan), "every point"),
        (np.full((68, 2), np.inf), "infinite"), (np.full((68, 2), "x"), "real numbers"), (POINTS + 1j, "real numbers"),
        (np.full((68, 3), 7.0), "confidences"),
    ):  # fmt: skip
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(InputError, match=fault):
            load_landmarks(tmp_path / "a.npy")
    np.savez(tmp_path / "z.npz", POINTS)
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    with pytest.raises(InputError, match="archive"):
        load_landmarks(tmp_path / "z.npy")
    with pytest.raises(InputError, match="no such file"):
        load_landmarks(tmp_path / "none.npy")


def test_pickles_are_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "object.npy", np.array([Evil()], object), allow_pickle=True)
    for name in ("raw.npy", "object.npy"):
        with pytest.raises(InputError):
            load_landmarks(tmp_path / name)
    assert not (tmp_path / "owned").exists()


def test_two_files_for_one_photo_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", POINTS)
    (tmp_path / "a.pts").write_text(pts_text(POINTS))
    with pytest.raises(InputError, match=r"a\.npy and a\.pts"):
        find_landmarks(tmp_path, "a")
    with pytest.raises(InputError, match="no such folder"):
        find_landmarks(tmp_path / "nowhere", "a")


def test_masks_are_binary_and_resized_to_the_photo(tmp_path):
    mask = np.zeros((30, 60), np.uint8)
    mask[:10] = 255
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(find_mask(tmp_path, "a", (30, 60)), mask / 255)
    assert find_mask(tmp_path, "a", (60, 120)).sum() == 20 * 120
    assert find_mask(tmp_path, "b", (30, 60)) is None
    with pytest.raises(InputError, match="aspect ratio"):
        find_mask(tmp_path, "a", (60, 60))
    (tmp_path / "c.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"c\.png"):
        find_mask(tmp_path, "c", (30, 60))


def test_boxes_are_read_or_refused_by_name(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text('{"a": [1, 2, 30.5, 40]}')
    np.testing.assert_array_equal(load_boxes(path)["a"], [1, 2, 30.5, 40])
    for content, fault in (
        ("[]", "JSON object"), ('{"a": [1, 2, 3]}', "'a'"), ('{"a": null}', "'a'"), ('{"a": [1, 2, "3", 4]}', "'a'"),
        ('{"a": [1, 2, null, 4]}', "'a'"), ('{"a": [10, 10, 5, 20]}', "x1 <= x0"), ("{", "not valid JSON"),
        ('{"a": [true, 1, 2, 3]}', "'a'"), ('{"a": [1, 2, NaN, 4]}', "'a'"),
        (f'{{"a": {"[" * 900 + "]" * 900}}}', "nested too deeply"), ("[" * 100_000, "nested too deeply"),
        (f'{{"a": [1, 2, 3, {"9" * 5000}]}}', "a number is too large"), (f'{{"a": [1, 2, 3, {"9" * 400}]}}', "'a'"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(InputError, match=fault):
            load_boxes(path)
    with pytest.raises(InputError, match="no such file"):
        load_boxes(tmp_path / "none.json")
