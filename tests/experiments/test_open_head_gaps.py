"""Lips and lids of the committed open head neither cross nor leave the eyeball bare, out to two standard deviations."""

import numpy as np
import pytest

from experiments.data.open_head import anthropometry, gaps

TOUCH = -3e-4  # metres: lips that touch may overlap by this much


@pytest.fixture(scope="module")
def asset():
    return anthropometry.load_asset(anthropometry.ASSET)


@pytest.fixture(scope="module")
def openings(asset):
    return gaps.asset_openings(asset)


@pytest.fixture(scope="module")
def expression(asset):
    return asset["shapedirs"][:, :, int(asset["num_betas"]) :].astype(float)


def rotation_feature(joint, angle):
    """The pose feature of one joint turned about x."""
    c, s = np.cos(angle), np.sin(angle)
    out = np.zeros(36)
    out[9 * (joint - 1) : 9 * joint] = [0, 0, 0, 0, c - 1, -s, 0, s, c - 1]
    return out


def test_a_neutral_face_has_shut_lips_and_open_eyes(asset, openings):
    v = asset["v_template"].astype(float)
    assert np.abs(openings["lips"].gap(v)).max() < 3e-4
    assert all(0.004 < openings[side].gap(v).min() for side in ("left", "right"))


def test_lips_of_random_people_stay_shut(asset, openings):
    for sex in anthropometry.SEXES:
        people, _ = anthropometry.draw_people(asset, np.random.default_rng(3), 40, sex)
        found = np.array([openings["lips"].gap(v) for v in people.astype(float)])
        assert found.min() > -1e-3 and np.percentile(np.abs(found), 95) < 5e-4


def test_lips_do_not_cross_at_two_standard_deviations(asset, openings, expression):
    v, part = asset["v_template"].astype(float), set(asset["parting_components"].tolist())
    assert len(part) == 3
    for k in range(expression.shape[2]):
        assert openings["lips"].gap(v + 2 * expression[:, :, k]).min() > TOUCH, k
        if k not in part:
            assert openings["lips"].gap(v - 2 * expression[:, :, k]).min() > TOUCH, k
        else:  # lips part in the positive direction
            assert openings["lips"].gap(v + 2 * expression[:, :, k]).max() > 2e-3


def test_random_faces_keep_lips_and_lids_apart(asset, openings, expression):
    """Faces of random people; the parting components are drawn one-sided, as they are meant."""
    rng = np.random.default_rng(5)
    people, _ = anthropometry.draw_people(asset, rng, 40, "women")
    coefficients = rng.standard_normal((40, expression.shape[2]))
    parting = asset["parting_components"]
    coefficients[:, parting] = np.abs(coefficients[:, parting])
    faces = people + np.einsum("nk,vdk->nvd", coefficients, expression)
    lips = np.array([openings["lips"].gap(v).min() for v in faces])
    assert lips.min() > -5e-4
    lids = np.array([min(openings[s].gap(v).min() for s in ("left", "right")) for v in faces])
    assert lids.min() > 0


def test_lids_do_not_cross_at_two_standard_deviations(asset, openings, expression):
    v = asset["v_template"].astype(float)
    for k in range(expression.shape[2]):
        for sign in (2, -2):
            for side in ("left", "right"):
                assert openings[side].gap(v + sign * expression[:, :, k]).min() > 0, (k, sign)


@pytest.mark.parametrize(("side", "joint"), [("left", 3), ("right", 4)])
def test_lids_follow_the_gaze_a_little(asset, openings, side, joint):
    v, ball = asset["v_template"].astype(float), asset["region_masks"][:, :]
    names = [str(n) for n in asset["region_names"]]
    eye = ball[names.index(f"{side}_eyeball")]
    heights = []
    for angle in (-0.2, 0.0, 0.2):  # looking up, ahead, down
        offset = (rotation_feature(joint, angle) @ asset["posedirs"].astype(float)).reshape(v.shape)
        assert np.abs(offset[eye]).max() == 0
        moved = v + offset
        assert openings[side].gap(moved).min() > 0.002
        heights.append(moved[openings[side].upper, 1].mean())
        centre = v[eye].mean(0)
        radius = np.linalg.norm(v[eye] - centre, axis=1).max()
        margin = np.r_[openings[side].upper, openings[side].lower]
        assert np.linalg.norm(moved[margin] - centre, axis=1).min() > radius - 8e-4
    assert 2e-4 < heights[1] - heights[2] < 3e-3 and 2e-4 < heights[0] - heights[1] < 3e-3
