"""Tests of NoW's protocol on scans with known errors."""

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from flamejax.head import HeadParams, landmarks_from_vertices, load_head
from flamejax.metrics.now import LANDMARKS, MAX_EDGE_MM, ClosestPointSurface, crop_mask, now_errors, seven_landmarks

TURN = Rotation.from_rotvec([0.2, -0.3, 0.5]).as_matrix()


@pytest.fixture(scope="module")
def face():
    """Vertices, triangles and seven landmarks of the mean head, and points on its surface, metres."""
    head = load_head()
    verts, faces = np.asarray(head.v_template, np.float64), np.asarray(head.faces)
    marks = np.asarray(landmarks_from_vertices(head, head.v_template, HeadParams.zeros(head)), np.float64)
    points, _ = trimesh.sample.sample_surface(trimesh.Trimesh(verts, faces, process=False), 12_000, seed=0)
    return verts, faces, seven_landmarks(marks), np.asarray(points)


def moved(points: np.ndarray, scale: float = 1.0) -> np.ndarray:
    return scale * points @ TURN.T + [0.5, -2.0, 3.0]


def test_seven_landmarks_select_in_order():
    landmarks68 = np.arange(68.0)[:, None] * np.ones(3)
    assert seven_landmarks(landmarks68)[:, 0].tolist() == [36, 39, 42, 45, 33, 48, 54] == list(LANDMARKS)
    assert seven_landmarks(np.zeros((5, 68, 2))).shape == (5, 7, 2)


def test_crop_mask_by_hand():
    marks = np.zeros((7, 3))
    marks[:4, 0] = [-5, -2, 2, 5]
    marks[:4, 1] = 4.0  # 10 from outer corner to outer corner, a nose of 4: a radius of 9.8 about (0, 1.2, 0)
    scan = np.array([[0, 1.2, 9.79], [0, 1.2, 9.81], [0, 10.99, 0], [0, 11.01, 0], [0, -8.59, 0], [0, -8.61, 0]])
    assert crop_mask(scan, marks).tolist() == [True, False] * 3


def test_a_similarity_is_recovered_and_a_metrical_evaluation_sees_the_scale(face):
    verts, faces, marks, points = face
    rough = moved(marks, 1.05) + 0.002 * np.random.default_rng(0).normal(size=(7, 3))  # landmarks are off by 2 mm
    errors = now_errors(verts, faces, marks, moved(points, 1.05), rough)
    assert errors.distances_mm.max() < 1e-3 and errors.distances_mm.shape == (errors.inside.sum(),)
    metrical = now_errors(verts, faces, marks, moved(points, 1.05), rough, metrical=True)
    assert 0.5 < metrical.median_mm < 3 and metrical.inside.sum() == errors.inside.sum()
    same_size = now_errors(verts, faces, marks, moved(points), moved(marks), metrical=True)
    assert same_size.distances_mm.max() < 1e-3


def test_scan_units_and_known_noise(face):
    verts, faces, marks, points = face
    noisy = points + 0.0005 * np.random.default_rng(0).normal(size=points.shape)
    metres = now_errors(verts, faces, marks, noisy, marks, metrical=True)
    # Perpendicular to the surface, |N(0, 0.5 mm)|, which has a mean of 0.40, a median of 0.34 and a deviation of 0.30.
    assert (metres.mean_mm, metres.median_mm, metres.std_mm) == pytest.approx((0.40, 0.34, 0.30), abs=0.02)
    millimetres = now_errors(verts, faces, marks, 1e3 * noisy, 1e3 * marks, metrical=True, scan_unit="mm")
    np.testing.assert_allclose(millimetres.distances_mm, metres.distances_mm, atol=1e-6)
    assert metres.median_mm == np.median(metres.distances_mm) and metres.std_mm == metres.distances_mm.std()


def test_an_offset_along_the_normals_is_measured():
    """A ball that lies inside the crop: a scale can compensate the offset, a rigid motion cannot."""
    ball = trimesh.creation.icosphere(4, 0.08)
    marks = np.array([[-5, 3, 5], [-2, 3, 6], [2, 3, 6], [5, 3, 5], [0, -4, 6], [-3, -5, 5], [3, -5, 5]]) * 0.02
    scan = np.asarray(trimesh.creation.icosphere(5, 0.081).vertices)
    metrical = now_errors(ball.vertices, ball.faces, marks, scan, marks, metrical=True)
    assert metrical.inside.sum() > 0.9 * len(scan)
    assert metrical.median_mm == pytest.approx(1.0, abs=0.1) and metrical.std_mm < 0.1
    assert now_errors(ball.vertices, ball.faces, marks, scan, marks).mean_mm < 0.1


def test_closest_points_equal_brute_force(face):
    verts, faces, _, points = face
    triangles, surface = 1e3 * verts[faces], ClosestPointSurface(1e3 * verts, faces, MAX_EDGE_MM)
    near = 1e3 * (points[::200] + 0.004 * np.random.default_rng(1).normal(size=points[::200].shape))
    closest_points, distance, direction = surface.closest(near)
    for k, point in enumerate(near):
        closest = trimesh.triangles.closest_point(triangles, np.repeat(point[None], len(triangles), axis=0))
        assert distance[k] == pytest.approx(np.linalg.norm(closest - point, axis=1).min(), rel=1e-9)
    np.testing.assert_allclose(closest_points + distance[:, None] * direction, near, atol=1e-9)
    flat = ClosestPointSurface(np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]]), np.array([[0, 1, 2]]), MAX_EDGE_MM)
    _, distance, direction = flat.closest(np.array([[1.0, 1, 0], [1, 1, -2], [-3, -4, 0]]))
    np.testing.assert_allclose(distance, [0, 2, 5], atol=1e-12)
    np.testing.assert_allclose(direction, [[0, 0, 1], [0, 0, -1], [-0.6, -0.8, 0]], atol=1e-12)


def test_unmeasurable_inputs_raise(face):
    verts, faces, marks, points = face
    bad = points.copy()
    bad[3] = np.nan
    for change, message in (
        ({"scan": bad}, "not finite"),
        ({"scan": points[:, :2]}, "scan should be \\(N, 3\\)"),
        ({"scan": points[:50]}, "the crop holds"),
        ({"scan_landmarks": 1e3 * marks}, "Is it another unit"),
        ({"scan": points + 1.0}, "the crop holds"),
        ({"landmarks": marks[:6]}, "not the 7"),
        ({"scan_landmarks": np.linspace(0, 1, 7)[:, None] * np.ones(3)}, "on one line"),
        ({"faces": faces + 1}, "vertices"),
        ({"faces": faces[:0]}, "no triangle"),
        ({"scan_unit": "inch"}, "no unit"),
    ):
        arguments = {
            "vertices": verts,
            "faces": faces,
            "landmarks": marks,
            "scan": points,
            "scan_landmarks": marks,
        } | change
        with pytest.raises(ValueError, match=message):
            now_errors(**arguments)


@pytest.mark.parametrize(("factor", "unit"), [(1e3, "m"), (1.0, "mm"), (1.0, "cm"), (100.0, "m")])
def test_a_wrong_unit_is_refused_at_once(unit, factor, face):
    """The default unit with a scan in millimetres took 58 s and 45 million triangles before."""
    verts, faces, marks, points = face
    with pytest.raises(ValueError, match=rf'mm apart if the unit is scan_unit "{unit}".*Is it another unit'):
        now_errors(verts, faces, marks, factor * points, factor * marks, scan_unit=unit)


def test_a_metrical_head_in_millimetres_is_refused(face):
    verts, faces, marks, points = face
    with pytest.raises(ValueError, match=r"landmarks: .* if the unit is metres"):
        now_errors(1e3 * verts, faces, 1e3 * marks, points, marks, metrical=True)


def test_landmarks_that_shrink_the_head_are_refused(face):
    verts, faces, marks, points = face
    with pytest.raises(ValueError, match="Do its landmarks lie on it"):
        now_errors(1e4 * verts, faces, marks, points, marks)


def test_swapped_left_and_right_is_warned_of(face):
    verts, faces, marks, points = face
    points = points[::25]
    with pytest.warns(UserWarning, match="^scan_landmarks: left and right seem to be swapped"):
        now_errors(verts, faces, marks, points, marks[[3, 2, 1, 0, 4, 6, 5]])
    with pytest.warns(UserWarning, match="^landmarks: not arranged as on a face"):
        now_errors(verts, faces, marks[[4, 1, 2, 3, 0, 5, 6]], points, marks)
