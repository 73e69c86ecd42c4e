"""The head function on a synthetic model of FLAME's size, read from FLAME's files, against what the peers give."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from flamejax.head import joints
from tests import flame_format
from tests.golden.make_flame_parity import parity_model, parity_params

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5
"""Metres."""


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "flame_parity.npz", allow_pickle=False) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Read as a user would: a Python-2 pickle with chumpy arrays, and DECA's landmarks with torch tensors inside."""
    folder = tmp_path_factory.mktemp("FLAME2020")
    model, _ = parity_model()
    flame_format.write_model(folder / "generic_model.pkl", model)
    (folder / "landmark_embedding.npy").write_bytes((GOLDEN / "deca_landmark_embedding.npy").read_bytes())
    return flamejax.load_head(folder / "generic_model.pkl")


@pytest.fixture(scope="module")
def params(head):
    return flamejax.HeadParams.from_smplx(head, parity_params())


def off(ours, theirs):
    return float(np.abs(np.asarray(ours) - theirs).max())


@pytest.mark.parametrize("peer", ["smplx", "body_models", "flame_pytorch"])
def test_vertices_equal_the_peers(head, params, golden, peer):
    deviation = off(flamejax.vertices(head, params)[:, golden["sampled"]], golden[f"{peer}_vertices"])
    print(f"{peer}: vertices off by at most {deviation:.2e} m")
    assert deviation <= TOLERANCE


@pytest.mark.parametrize("peer", ["smplx", "body_models"])
def test_joints_equal_the_peers(head, params, golden, peer):
    deviation = off(joints(head, params), golden[f"{peer}_joints"])
    print(f"{peer}: joints off by at most {deviation:.2e} m")
    assert deviation <= TOLERANCE


def test_landmarks_equal_the_peers(head, params, golden):
    landmarks = flamejax.landmarks(head, params)
    found = {
        "flame_pytorch, all": off(landmarks, golden["flame_pytorch_landmarks"]),
        "smplx, inner": off(landmarks[:, 17:], golden["smplx_inner"]),
        "smplx with the neck, contour": off(landmarks[:, :17], golden["smplx_with_neck_contour"]),
    }
    print({name: f"{deviation:.2e} m" for name, deviation in found.items()})
    assert max(found.values()) <= TOLERANCE


def test_smplx_leaves_the_neck_out_of_the_contour(head, params, golden):
    """The neck-index trap: smplx's FLAME looks at the root joint alone, so ours equals it once the neck is at rest."""
    straight = parity_params()["neck_pose"] == 0
    rows = straight.all(1)
    assert 2 <= rows.sum() < len(rows)
    contour = flamejax.landmarks(head, params)[:, :17]
    assert off(contour[rows], golden["smplx_contour"][rows]) <= TOLERANCE
    assert all(off(contour[row], golden["smplx_contour"][row]) > 1e-3 for row in (1, 2, 7))
    # The row of the table is what differs: with it chosen from the root alone, their points come out at any pose.
    from flamejax.head import contour_bin

    bins = contour_bin(dataclasses.replace(params, neck_pose=jnp.zeros_like(params.neck_pose)))
    table = head.landmark_embedding
    corners = flamejax.vertices(head, params)[
        jnp.arange(len(rows))[:, None, None], head.faces[table.contour_face[bins]]
    ]
    points = jnp.sum(corners * table.contour_barycentric[bins][..., None], axis=-2)
    assert off(points, golden["smplx_contour"]) <= TOLERANCE


def test_the_reader_gives_the_model_that_was_written(head):
    model, landmarks = parity_model()
    np.testing.assert_array_equal(head.v_template, model["v_template"].astype(np.float32))
    np.testing.assert_array_equal(head.shapedirs, model["shapedirs"].astype(np.float32))
    np.testing.assert_array_equal(head.faces, model["f"])
    np.testing.assert_allclose(head.J_regressor, model["J_regressor"].toarray(), atol=1e-7)
    assert (head.num_betas, head.num_expression, head.parents) == (300, 100, (-1, 0, 1, 1, 1))
    np.testing.assert_array_equal(head.landmark_embedding.contour_face, landmarks["dynamic_lmk_faces_idx"])
