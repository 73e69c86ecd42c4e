"""Lips and lids of the committed open head do not cross or uncover the eyeball within two standard deviations."""

import numpy as np
import pytest

from tools.open_head import anthropometry, gaps
from tools.open_head.gaps import gap

MAX_LIP_OVERLAP = -4.5e-4  # metres: closed lips may overlap as far (in a big smile their borders slide)
MAX_LID_OVERLAP = -5e-3  # metres: shut lids overlap, most for people with narrow eyes, the upper over the lower


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
    """Return the pose feature of one joint rotated about x."""
    c, s = np.cos(angle), np.sin(angle)
    feature = np.zeros(36)
    feature[9 * (joint - 1) : 9 * joint] = [0, 0, 0, 0, c - 1, -s, 0, s, c - 1]
    return feature


def test_a_neutral_face_has_shut_lips_and_open_eyes(asset, openings):
    v = asset["v_template"].astype(float)
    assert np.abs(gap(openings["lips"], v)).max() < 3e-4
    assert all(0.004 < gap(openings[side], v).min() for side in ("left", "right"))


def test_lips_of_random_people_stay_shut(asset, openings):
    for sex in ("men", "women"):
        people, _ = anthropometry.draw_people(asset, np.random.default_rng(3), 40, sex)
        gaps_of_lips = np.array([gap(openings["lips"], v) for v in people.astype(float)])
        assert gaps_of_lips.min() > -1e-3 and np.percentile(np.abs(gaps_of_lips), 95) < 5e-4


def two_deviations(asset, k, sign):
    """Return two standard deviations, clipped to the component's range."""
    low, high = asset["expression_range"][:, k]
    return float(np.clip(2 * sign, low, high))


def draw_expressions(asset, rng, count):
    """Draw coefficients as samplers do: reflected at the lower bound, clipped at the upper one."""
    low, high = asset["expression_range"].astype(float)
    z = rng.standard_normal((count, len(low)))
    return np.clip(np.where(z < low, 2 * low - z, z), low, high)


def test_lips_do_not_cross_at_two_standard_deviations(asset, openings, expression):
    v, part = asset["v_template"].astype(float), set(asset["parting_components"].tolist())
    assert len(part) == 3
    for k in range(expression.shape[2]):
        for sign in (1, -1):
            step = two_deviations(asset, k, sign)
            assert gap(openings["lips"], v + step * expression[:, :, k]).min() > MAX_LIP_OVERLAP, (k, step)
        if k in part:  # lips part in the positive direction only
            assert gap(openings["lips"], v + 2 * expression[:, :, k]).max() > 2e-3
            assert asset["expression_range"][0, k] == 0


def test_lips_and_lids_of_random_faces_do_not_cross(asset, openings, expression):
    rng = np.random.default_rng(5)
    people, _ = anthropometry.draw_people(asset, rng, 40, "women")
    faces = people + np.einsum("nk,vdk->nvd", draw_expressions(asset, rng, 40), expression)
    lips = np.array([gap(openings["lips"], v).min() for v in faces])
    assert lips.min() > -8e-4
    lids = np.array([min(gap(openings[s], v).min() for s in ("left", "right")) for v in faces])
    assert lids.min() > MAX_LID_OVERLAP
    assert np.median(lids) > 1e-3  # most eyes are open


def test_only_the_closing_components_close_the_lids(asset, openings, expression):
    v, closing = asset["v_template"].astype(float), set(asset["closing_components"].tolist())
    for k in range(expression.shape[2]):
        for side in ("left", "right"):
            rest = gap(openings[side], v)
            for sign in (1, -1):
                moved = gap(openings[side], v + two_deviations(asset, k, sign) * expression[:, :, k])
                if k not in closing:
                    assert np.abs(moved - rest).max() < 8e-4, (k, sign)


@pytest.mark.parametrize("sides", [("left", "right"), ("left",), ("right",)])
def test_eyes_shut_within_two_standard_deviations(asset, openings, expression, sides):
    """Both eyes and each one shut without a slit, for the mean face and with a smile."""
    v, (both, one) = asset["v_template"].astype(float), asset["closing_components"]
    z = np.zeros(expression.shape[2])
    z[both], z[one] = {2: (1.95, 0.0), 1: (0.95, 2.0 if sides == ("left",) else -2.0)}[len(sides)]
    if expression[:, 1, one] @ (v[:, 0] > 0) > 0:  # the sign of the component is not fixed
        z[one] *= -1
    for smile in (0.0, 1.0):
        z[0] = smile
        for side in sides:
            assert gap(openings[side], v + expression @ z).max() < 0
        for side in {"left", "right"} - set(sides):
            assert gap(openings[side], v + expression @ z).max() > 5e-3


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 1.0])
def test_closing_lids_do_not_penetrate_the_eyeball(asset, openings, expression, share):
    v = asset["v_template"].astype(float)
    moved = v + share * 1.92 * expression[:, :, asset["closing_components"][0]]
    names = [str(n) for n in asset["region_names"]]
    ball = v[asset["region_masks"][names.index("left_eyeball")]]
    centre = ball.mean(0)
    radius = np.linalg.norm(ball - centre, axis=1).max()
    for border in (openings["left"].upper, openings["left"].lower):
        assert (np.linalg.norm(moved[border[2:-2]] - centre, axis=1) - radius).min() > 1e-4


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
        assert gap(openings[side], moved).min() > 0.002
        heights.append(moved[openings[side].upper, 1].mean())
        centre = v[eye].mean(0)
        radius = np.linalg.norm(v[eye] - centre, axis=1).max()
        margin = np.r_[openings[side].upper, openings[side].lower]
        assert np.linalg.norm(moved[margin] - centre, axis=1).min() > radius - 8e-4
    assert 2e-4 < heights[1] - heights[2] < 3e-3 and 2e-4 < heights[0] - heights[1] < 3e-3
