"""Comparison with smplx, body-models and flame-pytorch on a synthetic model of FLAME's size, in FLAME's files."""

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


def max_deviation(actual, expected):
    return float(np.abs(np.asarray(actual) - expected).max())


@pytest.mark.parametrize("peer", ["smplx", "body_models", "flame_pytorch"])
def test_vertices_equal_the_peers(head, params, golden, peer):
    deviation = max_deviation(flamejax.vertices(head, params)[:, golden["sampled"]], golden[f"{peer}_vertices"])
    print(f"{peer}: vertices off by at most {deviation:.2e} m")
    assert deviation <= TOLERANCE


@pytest.mark.parametrize("peer", ["smplx", "body_models"])
def test_joints_equal_the_peers(head, params, golden, peer):
    deviation = max_deviation(joints(head, params), golden[f"{peer}_joints"])
    print(f"{peer}: joints off by at most {deviation:.2e} m")
    assert deviation <= TOLERANCE


def test_landmarks_equal_the_peers(head, params, golden):
    landmarks = flamejax.landmarks(head, params)
    deviations = {
        "flame_pytorch, all": max_deviation(landmarks, golden["flame_pytorch_landmarks"]),
        "smplx, inner": max_deviation(landmarks[:, 17:], golden["smplx_inner"]),
        "smplx with the neck, contour": max_deviation(landmarks[:, :17], golden["smplx_with_neck_contour"]),
    }
    print({name: f"{deviation:.2e} m" for name, deviation in deviations.items()})
    assert max(deviations.values()) <= TOLERANCE


def test_smplx_leaves_the_neck_out_of_the_contour(head, params, golden):
    """smplx's FLAME ignores the neck for the contour, so the contours agree only if the neck is at rest."""
    straight = parity_params()["neck_pose"] == 0
    rows = straight.all(1)
    assert 2 <= rows.sum() < len(rows)
    contour = flamejax.landmarks(head, params)[:, :17]
    assert max_deviation(contour[rows], golden["smplx_contour"][rows]) <= TOLERANCE
    assert all(max_deviation(contour[row], golden["smplx_contour"][row]) > 1e-3 for row in (1, 2, 7))
    # Only the row of the table differs: with the row of the root rotation, the points agree at any pose.
    from flamejax.head import contour_bin

    bins = contour_bin(dataclasses.replace(params, neck_pose=jnp.zeros_like(params.neck_pose)))
    table = head.landmark_embedding
    corners = flamejax.vertices(head, params)[
        jnp.arange(len(rows))[:, None, None], head.faces[table.contour_face[bins]]
    ]
    points = jnp.sum(corners * table.contour_barycentric[bins][..., None], axis=-2)
    assert max_deviation(points, golden["smplx_contour"]) <= TOLERANCE


def test_the_written_model_is_read_back(head):
    model, landmarks = parity_model()
    np.testing.assert_array_equal(head.v_template, model["v_template"].astype(np.float32))
    np.testing.assert_array_equal(head.shapedirs, model["shapedirs"].astype(np.float32))
    np.testing.assert_array_equal(head.faces, model["f"])
    np.testing.assert_allclose(head.J_regressor, model["J_regressor"].toarray(), atol=1e-7)
    assert (head.num_betas, head.num_expression, head.parents) == (300, 100, (-1, 0, 1, 1, 1))
    np.testing.assert_array_equal(head.landmark_embedding.contour_face, landmarks["dynamic_lmk_faces_idx"])
