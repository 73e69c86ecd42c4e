"""Tests of reading ICT-FaceKit folders: vertices, units, joints from shapes, and errors."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from flamejax.head import REGION_NAMES, HeadFileError, HeadParams, joints
from flamejax.head.formats.ict_files import EYEBALLS, HEAD, MIRROR
from tests import ict_format

SELECTED = np.concatenate([np.asarray(part) for part in (HEAD, *EYEBALLS)])
LEFT = slice(len(HEAD) + 1570, None)
RIGHT = slice(len(HEAD), len(HEAD) + 1570)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ICT") / "FaceXModel"
    return folder, ict_format.write_folder(folder)


@pytest.fixture(scope="module")
def head(written):
    return flamejax.load_head(written[0])


def posed(head, **changes):
    rest = HeadParams.zeros(head)
    return np.asarray(flamejax.vertices(head, dataclasses.replace(rest, **changes)))


def shape(written, name):
    return written[1][name][SELECTED] / 100


def test_parts_units_and_components(head, written):
    assert (head.num_vertices, head.num_betas, head.num_expression) == (14388, 3, 2)
    assert (head.name, head.licence, head.parents) == ("ICT-FaceKit", "MIT", (-1, 0, 1, 1, 1))
    np.testing.assert_allclose(head.v_template, shape(written, "generic_neutral_mesh"), atol=1e-6)
    # Every polygon of the head and the eyeballs becomes two triangles; those of the teeth are left out.
    assert len(head.faces) == 2 * (73 * 152 + 2 * 392)
    assert set(head.regions) == set(REGION_NAMES)
    np.testing.assert_array_equal(np.flatnonzero(head.regions["left_eyeball"]), np.arange(14388)[LEFT])
    for number in range(3):
        betas = jnp.zeros(3).at[number].set(1.0)
        np.testing.assert_allclose(posed(head, betas=betas), shape(written, f"identity{number:03d}"), atol=2e-6)
    for number, name in enumerate(ict_format.EXPRESSION_SHAPES):
        expression = jnp.zeros(2).at[number].set(1.0)
        np.testing.assert_allclose(posed(head, expression=expression), shape(written, name), atol=2e-6)
    assert head.uv_faces.shape == head.faces.shape and head.uv_faces.max() < len(head.uv)
    np.testing.assert_allclose(head.lbs_weights.sum(1), 1, atol=1e-5)
    assert np.isfinite(flamejax.landmarks(head, HeadParams.zeros(head))).all()


def test_landmarks_are_the_folders_vertices(head, written):
    indices = json.loads((written[0] / "vertex_indices.json").read_text())["idx_to_landmark_verts"]
    expected = written[1]["generic_neutral_mesh"][indices] / 100
    turned = dataclasses.replace(HeadParams.zeros(head), global_orient=jnp.asarray([0.0, 0.5, 0.0]))
    np.testing.assert_allclose(flamejax.landmarks(head, HeadParams.zeros(head)), expected, atol=1e-6)
    # The contour has the same vertices at every yaw.
    np.testing.assert_allclose(
        flamejax.landmarks(head, turned), flamejax.vertices(head, turned)[np.searchsorted(SELECTED, indices)], atol=1e-6
    )


def test_jaw_rotation_reproduces_jaw_open(head, written):
    neutral, expected = shape(written, "generic_neutral_mesh"), shape(written, "jawOpen")
    # The shape is reproduced best at the angle with which it was made.
    angles = np.linspace(0.25, 0.45, 41)
    errors = [np.abs(posed(head, jaw_pose=jnp.asarray([a, 0.0, 0.0])) - expected).max() for a in angles]
    assert abs(angles[int(np.argmin(errors))] - ict_format.JAW_ANGLE) < 0.05
    assert min(errors) < 3e-4 < 1e-2 < np.abs(expected - neutral).max()
    assert np.abs(posed(head, jaw_pose=jnp.zeros(3)) - neutral).max() < 1e-6
    pivot = joints(head, HeadParams.zeros(head))[2]
    np.testing.assert_allclose(pivot[1:], ict_format.HINGE[1:] / 100, atol=0.01)


@pytest.mark.parametrize("side", ["L", "R"])
def test_eye_rotations_reproduce_look_shapes(head, written, side):
    field, eyeball = ("leye_pose", LEFT) if side == "L" else ("reye_pose", RIGHT)
    outwards = 1 if side == "L" else -1
    directions = {"Down": (0, 1), "Up": (0, -1), "Out": (1, outwards), "In": (1, -outwards)}
    for direction, (axis, sign) in directions.items():
        pose = jnp.zeros(3).at[axis].set(sign * ict_format.EYE_ANGLE)
        actual, expected = posed(head, **{field: pose}), shape(written, f"eyeLook{direction}_{side}")
        assert np.abs(actual[eyeball] - expected[eyeball]).max() < 1e-4
        assert np.abs(actual - expected).max() < 3e-4, "the lids follow"


def test_joints_are_at_eyes_and_follow_identity(head):
    root, neck, jaw, left, right = np.asarray(joints(head, HeadParams.zeros(head)))
    assert root[1] < neck[1] and jaw[2] < left[2] and left[0] > 0 > right[0]
    np.testing.assert_allclose(left * 100, ict_format.EYES[1], atol=0.1)
    wide = dataclasses.replace(HeadParams.zeros(head), betas=jnp.asarray([5.0, 0, 0]))
    np.testing.assert_allclose(joints(head, wide)[3], left * [1.1, 1, 1], atol=1e-5)
    # Nodding leaves the boundary of the neck in place.
    nod = posed(head, neck_pose=jnp.asarray([0.4, 0.0, 0.0])) - np.asarray(head.v_template)
    border = np.asarray(head.regions["boundary"])
    assert border.any() and np.abs(nod[border]).max() < 1e-5 < 5e-3 < np.abs(nod).max()


def test_parent_folder_is_accepted(written):
    from flamejax.head.formats.ict_files import find_ict_folder

    assert find_ict_folder(written[0].parent) == written[0]


def test_left_and_right_come_from_the_mesh_not_from_names(head, written, tmp_path):
    mirror = np.asarray(MIRROR)
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    for file in written[0].iterdir():
        name = file.name
        if name.startswith("eyeLook"):
            name = name.replace("_L.", "_X.").replace("_R.", "_L.").replace("_X.", "_R.")
        (tmp_path / name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "vertex_indices.json").read_text())
    content["idx_to_landmark_verts"] = np.asarray(content["idx_to_landmark_verts"])[mirror].tolist()
    (tmp_path / "vertex_indices.json").write_text(json.dumps(content))
    other = flamejax.load_head(tmp_path)
    for name in ("posedirs", "lbs_weights", "J_regressor"):
        np.testing.assert_array_equal(getattr(other, name), getattr(head, name))
    rest = HeadParams.zeros(head)
    np.testing.assert_array_equal(flamejax.landmarks(other, rest), flamejax.landmarks(head, rest))


def replaced(name, change):
    def spoil(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return spoil


CASES = {
    "no neutral mesh": (lambda f: (f / "generic_neutral_mesh.obj").unlink(), "not ICT-FaceKit's FaceXModel"),
    "no identities": (lambda f: (f / "identity000.obj").unlink(), "identity000.obj is missing"),
    "no expression": (lambda f: (f / "browDown_L.obj").unlink(), "browDown_L.obj: no such file"),
    "cut mode": (replaced("identity001.obj", lambda d: d[: len(d) // 2]), "identity001.obj"),
    "cut mesh": (replaced("generic_neutral_mesh.obj", lambda d: d[: len(d) // 3]), "generic_neutral_mesh.obj"),
    "no numbers": (replaced("jawOpen.obj", lambda d: d.replace(b"v ", b"v x", 1)), "jawOpen.obj: has a damaged 'v'"),
    "not finite": (replaced("jawOpen.obj", lambda d: b"v nan 0 0\n" + d), "jawOpen.obj holds numbers that are not"),
    "no json": (replaced("vertex_indices.json", lambda d: d[:-3]), "vertex_indices.json: not ICT-FaceKit's list"),
    "path as name": (replaced("vertex_indices.json", lambda d: d.replace(b"jawOpen", b"../jawOpen")), "names"),
    "no jaw": (replaced("vertex_indices.json", lambda d: d.replace(b'"jawOpen", ', b"")), "'jawOpen' is missing"),
    "jaw that opens nothing": (
        lambda f: (f / "jawOpen.obj").write_bytes((f / "generic_neutral_mesh.obj").read_bytes()), "opens nothing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_damaged_folders_raise_with_the_reason(written, tmp_path, case):
    change, message = CASES[case]
    for file in written[0].iterdir():
        # Links would let a change reach the other tests' folder.
        (tmp_path / file.name).write_bytes(file.read_bytes())
    change(tmp_path)
    with pytest.raises(HeadFileError, match=message):
        flamejax.load_head(tmp_path)
