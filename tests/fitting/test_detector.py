"""The default detector on a real portrait: correct, equivariant to shift, scale, tilt and mirroring, soft weights."""

import builtins
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fitting.detections import Detection, weighted_nms
from fitting.detector import Calibration, LiteRTDetector, draw_jitters
from fitting.landmark_maps import IBUG_MIRROR, MEDIAPIPE_TO_IBUG
from fitting.mediapipe_models import DETECTORS, MissingDependencyError, ssd_anchors
from fitting.regions_of_interest import PhotoPyramid, Region

data = pytest.importorskip("skimage.data")
pytest.importorskip("ai_edge_litert")

INNER = slice(17, 68)


@pytest.fixture(scope="module")
def astronaut():
    return data.astronaut()


@pytest.fixture(scope="module")
def detector():
    return LiteRTDetector()


@pytest.fixture(scope="module")
def face(detector, astronaut):
    image = unit(astronaut)
    return detector.landmarks(image, detector.detect(image)[0])


def unit(pixels):
    return np.ascontiguousarray(pixels, np.float32) / 255


def largest_face(detector, pixels):
    image = unit(pixels)
    return detector.landmarks(image, detector.detect(image)[0])


def error(points, face):
    """Return the mean distance of the inner landmarks in outer-eye distances."""
    eyes = np.linalg.norm(face.points[36] - face.points[45])
    return np.linalg.norm(points - face.points, axis=1)[INNER].mean() / eyes


def test_landmarks_lie_on_the_portraits_features(face):
    boxes = {  # x0, y0, x1, y1 read off an enlargement of the picture
        "right eye": (slice(36, 42), (192, 96, 216, 106)),
        "left eye": (slice(42, 48), (234, 98, 260, 108)),
        "nose tip": (slice(30, 31), (217, 120, 232, 130)),
        "mouth": (slice(48, 68), (197, 135, 250, 157)),
        "chin": (slice(8, 9), (212, 168, 235, 182)),
    }
    for name, (which, box) in boxes.items():
        points = face.points[which]
        assert (points >= box[:2]).all() and (points <= box[2:]).all(), (name, points)
    assert face.presence > 0.9
    assert face.points.dtype == np.float32 and face.mesh.shape == (468, 3)
    np.testing.assert_allclose(face.box, [*face.points.min(0), *face.points.max(0)])


def test_a_clean_face_has_high_confidence(face):
    assert np.median(face.confidence) > 0.8 and face.confidence.min() > 0.3


def test_detector_is_deterministic_also_in_threads(detector, astronaut, face):
    np.testing.assert_array_equal(largest_face(LiteRTDetector(), astronaut).points, face.points)
    with ThreadPoolExecutor(4) as pool:
        for other in pool.map(lambda _: largest_face(detector, astronaut), range(4)):
            np.testing.assert_array_equal(other.points, face.points)
            np.testing.assert_array_equal(other.confidence, face.confidence)


def test_landmarks_follow_a_shift(detector, astronaut, face):
    shifted = np.pad(astronaut, ((37, 0), (61, 0), (0, 0)))
    assert error(largest_face(detector, shifted).points - [61, 37], face) < 0.01


@pytest.mark.parametrize("side", [200, 1024])
def test_landmarks_follow_a_scale(detector, astronaut, face, side):
    scaled = np.asarray(Image.fromarray(astronaut).resize((side, side), Image.Resampling.LANCZOS))
    assert error(largest_face(detector, scaled).points * 512 / side, face) < 0.03


def test_a_mirrored_photo_gives_mirrored_landmarks(detector, astronaut, face):
    mirrored = largest_face(detector, astronaut[:, ::-1])
    points = mirrored.points[list(IBUG_MIRROR)] * [-1, 1] + [512, 0]
    assert error(points, face) < 0.01
    assert np.abs(mirrored.confidence[list(IBUG_MIRROR)] - face.confidence)[INNER].mean() < 0.1


@pytest.mark.parametrize("degrees", [45, 90, 180, 240])
def test_landmarks_follow_a_tilt(detector, astronaut, face, degrees):
    rotated = np.asarray(Image.fromarray(astronaut).rotate(-degrees, Image.Resampling.BICUBIC))
    angle = np.deg2rad(degrees)
    inverse = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (largest_face(detector, rotated).points - 256) @ inverse.T + 256
    assert error(points, face) < 0.02


def test_two_faces_are_detected_largest_first(detector, astronaut, face):
    half = np.asarray(Image.fromarray(astronaut).resize((256, 256), Image.Resampling.BOX))
    both = np.concatenate([astronaut, np.pad(half, ((256, 0), (0, 0), (0, 0)))], axis=1)
    image = unit(both)
    detections = detector.detect(image, all_faces=True)
    assert len(detections) == 2
    assert error(detector.landmarks(image, detections[0]).points, face) < 0.01
    assert error((detector.landmarks(image, detections[1]).points - [512, 256]) * 2, face) < 0.04


def test_a_small_face_is_detected_in_a_large_photo(detector, astronaut, face):
    small = np.asarray(Image.fromarray(astronaut).resize((240, 240), Image.Resampling.LANCZOS))
    big = np.full((1500, 2000, 3), 90, np.uint8)
    big[1100:1340, 1500:1740] = small
    assert error((largest_face(detector, big).points - [1500, 1100]) * 512 / 240, face) < 0.04


@pytest.mark.parametrize("name", ["coffee", "brick", "page"])
def test_pictures_without_a_face_give_no_detection(detector, name):
    picture = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    assert detector.detect(unit(picture)) == []


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_a_given_box_gives_the_same_landmarks(detector, astronaut, face, margin):
    reach = margin * (face.box[2:] - face.box[:2])
    result = detector.landmarks(unit(astronaut), np.concatenate([face.box[:2] - reach, face.box[2:] + reach]))
    assert error(result.points, face) < 0.01


def test_a_box_selects_one_of_two_faces(detector, astronaut, face):
    both = np.concatenate([astronaut, astronaut], axis=1)
    result = detector.landmarks(unit(both), face.box + np.array([512, 0, 512, 0]))
    assert error(result.points - [512, 0], face) < 0.01


def test_covering_the_mouth_lowers_its_confidence(detector, astronaut, face):
    covered = astronaut.copy()
    covered[128:180, 185:262] = 128
    result = detector.landmarks(unit(covered), face.box)
    x, y = face.points.T
    hidden = (x > 185) & (x < 262) & (y > 128) & (y < 180)
    drop = face.confidence - result.confidence
    assert hidden.sum() > 20
    assert drop[hidden].mean() > 0.2
    assert drop[hidden].mean() > drop[~hidden].mean() + 0.15


def test_jitters_are_balanced_and_mirrored():
    jitters = draw_jitters(12, 0)
    assert len(jitters) == 12 and sum(j.mirrored for j in jitters) == 6
    assert np.prod([j.scale for j in jitters]) == pytest.approx(1.0)
    assert sum(j.angle for j in jitters) == pytest.approx(0.0)
    assert len(draw_jitters(0, 0)) == 1


def test_without_jitters_the_confidence_is_one(astronaut, face):
    result = LiteRTDetector(jitters=0).landmarks(unit(astronaut), face.box)
    np.testing.assert_array_equal(result.confidence, 1.0)
    assert error(result.points, face) < 0.05


def test_a_detection_without_keypoints_is_treated_as_a_box(detector, astronaut, face):
    assert error(detector.landmarks(unit(astronaut), Detection(face.box, 1.0)).points, face) < 0.01


def test_an_import_error_of_litert_names_the_package_to_install(monkeypatch, astronaut):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        if name.startswith("ai_edge_litert"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith("ai_edge_litert")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingDependencyError, match=r"flamejax\[photos\]"):
        LiteRTDetector().detect(unit(astronaut))


def test_networks_have_896_anchors_centred_in_the_image():
    for _, side, grids in DETECTORS.values():
        anchors = ssd_anchors(side, grids)
        assert anchors.shape == (896, 2)
        np.testing.assert_allclose(anchors.mean(axis=0), 0.5, atol=1e-6)


def test_nms_averages_by_score_and_prefers_the_best_tilt():
    def detection(x, score, angle=0.0):
        eyes = np.array([[x, 0.0], [x + np.cos(angle), np.sin(angle)]])
        return Detection(np.array([x, 0, x + 10, 10]), score, np.concatenate([eyes, np.zeros((4, 2))]))

    merged = weighted_nms([detection(0, 0.6), detection(1, 0.9), detection(0, 0.5, np.pi), detection(50, 0.7)])
    assert [m.score for m in merged] == [0.9, 0.7]
    assert merged[0].box[0] == pytest.approx(0.6)  # (0.6 * 0 + 0.9 * 1) / 1.5, without the upside-down one


def test_crops_have_pixel_centres_at_a_half():
    image = np.random.default_rng(0).uniform(size=(40, 60, 3)).astype(np.float32)
    crop = PhotoPyramid(image).crop(Region(np.array([30.0, 20.0]), 16.0, 0.0), 16)
    np.testing.assert_allclose(crop, image[12:28, 22:38], atol=0.5 / 255 + 1e-6)
    rotated = PhotoPyramid(image).crop(Region(np.array([30.0, 20.0]), 16.0, np.pi / 2), 16)
    np.testing.assert_allclose(rotated, np.rot90(image[12:28, 22:38]), atol=2 / 255)
    ramp = np.repeat(np.linspace(0, 1, 255, dtype=np.float32)[None, :, None], 255, 0).repeat(3, -1)  # odd sides
    shrunk = PhotoPyramid(ramp).crop(Region(np.array([100.0, 100.0]), 160.0, 0.0), 16)
    np.testing.assert_allclose(shrunk[8, :, 0], (20 + 10 * (np.arange(16) + 0.5) - 0.5) / 254, atol=0.01)


def test_the_ibug_mirror_map_is_its_own_inverse():
    mirror = np.array(IBUG_MIRROR)
    assert len(MEDIAPIPE_TO_IBUG) == 68
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))


def test_calibration_maps_spread_to_confidence():
    calibration = Calibration.load()
    assert calibration.scale.shape == (68,) and (calibration.scale > 0).all()
    np.testing.assert_allclose(calibration.confidence(np.zeros(68)), 1.0)
    np.testing.assert_allclose(calibration.confidence(calibration.scale), np.exp(-1), rtol=1e-5)
