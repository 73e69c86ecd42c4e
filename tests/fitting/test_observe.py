"""`observe_photo` and `observe`: crops, masks, a caller's own landmarks and boxes, and helpful errors."""

import builtins
import dataclasses
import sys

import jax
import numpy as np
import pytest

from fitting._load_detector import DetectorError
from fitting._observe import NoFaceError, crop_image, crop_transform, observe, observe_photo
from fitting.detections import Detection
from fitting.detector import FaceLandmarks
from flamejax.types import stack

RNG = np.random.default_rng(0)
IMAGE = RNG.uniform(size=(200, 300, 3)).astype(np.float32)
POINTS = np.stack([RNG.uniform(100, 180, 68), RNG.uniform(60, 150, 68)], axis=1)


class FakeDetector:
    """A detector that returns given landmarks."""

    def __init__(self, *points, presence=1.0):
        self.faces, self.presence = points, presence

    def detect(self, image, *, all_faces=False):
        return [Detection(np.array([i, 0, i + 1, 1.0]), 1.0) for i in range(len(self.faces))]

    def landmarks(self, image, face):
        points = self.faces[int(face.box[0]) if isinstance(face, Detection) else 0].astype(np.float32)
        box = np.concatenate([points.min(0), points.max(0)])
        return FaceLandmarks(points, np.full(68, 0.7, np.float32), self.presence, box)


def test_observations_have_documented_shapes_and_map_back_to_the_photo():
    (observation,) = observe_photo(IMAGE, landmarks=POINTS, size=64)
    assert {x.dtype for x in jax.tree.leaves(observation)} == {np.dtype(np.float32)}
    assert observation.image.shape == (64, 64, 3) and observation.landmarks.shape == (68, 2)
    assert observation.face_mask.shape == observation.occlusion_mask.shape == (64, 64)
    np.testing.assert_array_equal(observation.confidence, 1)
    np.testing.assert_allclose(observation.crop.to_full(observation.landmarks), POINTS, atol=1e-3)
    low, high = np.asarray(observation.landmarks).min(0), np.asarray(observation.landmarks).max(0)
    assert (high - low).max() == pytest.approx(64 / 1.6, rel=1e-4)
    np.testing.assert_allclose((low + high) / 2, 32, atol=1e-3)


def test_crop_is_exact_at_unit_scale_and_antialiased_when_shrinking():
    crop = crop_transform(np.array([110.0, 70.0, 150.0, 90.0]), 64)  # side 64: one crop pixel per photo pixel
    assert float(crop.scale) == pytest.approx(1.0)
    np.testing.assert_allclose(crop_image(IMAGE, crop, 64), IMAGE[48:112, 98:162], atol=1e-5)
    checkers = np.indices((200, 300)).sum(0).astype(np.float32) % 2
    small = crop_image(checkers, crop_transform(np.array([50.0, 50.0, 150.0, 150.0]), 20), 20)
    np.testing.assert_allclose(small, 0.5, atol=0.02)


def test_crop_of_a_ramp_has_the_ramps_coordinates():
    x = (np.arange(300, dtype=np.float32) + 0.5)[None].repeat(200, 0)
    for size in (32, 256):
        crop = crop_transform(np.array([100.3, 60.7, 170.1, 120.2]), size)
        row = crop_image(x, crop, size)[size // 2]
        expected = (np.arange(size) + 0.5 - float(crop.offset[0])) / float(crop.scale)
        np.testing.assert_allclose(row, expected, atol=0.02)


def test_the_area_beyond_the_photo_is_hidden_and_no_face():
    points = POINTS - [120, 80]
    (observation,) = observe_photo(IMAGE, landmarks=points, size=64)
    beyond = np.asarray(observation.face_mask) == 0
    assert 0.1 < beyond.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(observation.occlusion_mask) == 1, beyond)
    outside = (points < 0).any(axis=1)
    np.testing.assert_array_equal(np.asarray(observation.confidence) == 0, outside)
    top_left = np.asarray(observation.image)[0, 0]
    np.testing.assert_allclose(top_left, IMAGE[0, 0], atol=1e-5)


def test_masks_are_cropped_with_the_photo():
    hidden = np.zeros((200, 300), np.float32)
    hidden[:, 150:] = 1
    (observation,) = observe_photo(IMAGE, landmarks=POINTS, occlusion_mask=hidden, face_mask=1 - hidden, size=64)
    x = (np.arange(64) + 0.5 - float(observation.crop.offset[0])) / float(observation.crop.scale)
    middle = np.asarray(observation.occlusion_mask)[32]
    np.testing.assert_array_equal(middle[np.abs(x - 150) > 5], (x > 150)[np.abs(x - 150) > 5])
    np.testing.assert_allclose(observation.face_mask, 1 - observation.occlusion_mask, atol=1e-5)


def test_a_mask_hides_detected_landmarks_but_not_given_ones():
    hidden = np.zeros((200, 300), np.float32)
    hidden[:, 140:] = 1
    detected = observe_photo(IMAGE, occlusion_mask=hidden, detector=FakeDetector(POINTS))[0].confidence
    np.testing.assert_allclose(detected, np.where(np.floor(POINTS[:, 0]) >= 140, 0, 0.7), rtol=1e-6)
    np.testing.assert_array_equal(observe_photo(IMAGE, landmarks=POINTS, occlusion_mask=hidden)[0].confidence, 1)


def test_given_confidences_are_used_and_missing_points_get_zero():
    given = np.concatenate([POINTS, np.full((68, 1), 0.25)], axis=1)
    given[3] = np.nan
    given[4, 2] = np.nan
    (observation,) = observe_photo(IMAGE, landmarks=given)
    confidence = np.asarray(observation.confidence)
    assert (confidence[[3, 4]] == 0).all() and confidence[5] == 0.25
    assert np.isfinite(np.asarray(observation.landmarks)).all()


def test_given_landmarks_need_no_detector(monkeypatch):
    real = builtins.__import__

    def blocked(name, *args, **kwargs):
        assert not name.startswith("ai_edge_litert")
        return real(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith("ai_edge_litert")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", blocked)
    assert observe([IMAGE], landmarks=[POINTS]).landmarks.shape == (1, 68, 2)


def test_the_given_box_sets_the_crop():
    (observation,) = observe_photo(IMAGE, box=(100, 50, 180, 150), detector=FakeDetector(POINTS), size=80)
    assert float(observation.crop.scale) == pytest.approx(0.5)
    np.testing.assert_allclose(observation.crop.to_crop(np.array([[140.0, 100.0]])), [[40, 40]], atol=1e-4)


def test_all_faces_or_only_the_first_are_returned():
    detector = FakeDetector(POINTS, POINTS + 15)
    assert len(observe_photo(IMAGE, detector=detector)) == 1
    first, second = observe_photo(IMAGE, detector=detector, all_faces=True)
    np.testing.assert_allclose(second.crop.to_full(second.landmarks), POINTS + 15, atol=1e-3)
    np.testing.assert_allclose(first.crop.to_full(first.landmarks), POINTS, atol=1e-3)


def test_a_detector_that_returns_wrong_shapes_is_named():
    with pytest.raises(ValueError, match=r"points of FakeDetector\.landmarks should be \(68, 2\), not \(5, 2\)"):
        observe_photo(IMAGE, detector=FakeDetector(POINTS[:5]))


class Returning(FakeDetector):
    """A detector whose results are changed by the caller."""

    def __init__(self, detect=None, landmarks=None):
        super().__init__(POINTS)
        self.change_detect, self.change_landmarks = detect or (lambda faces: faces), landmarks or (lambda face: face)

    def detect(self, image, *, all_faces=False):
        return self.change_detect(super().detect(image))

    def landmarks(self, image, face):
        return self.change_landmarks(super().landmarks(image, face))


def changed(**values):
    return Returning(landmarks=lambda face: dataclasses.replace(face, **values))


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (Returning(detect=lambda faces: None), r"Returning\.detect must return a list of .*Detection, not NoneType"),
        (Returning(detect=lambda faces: [faces[0].box]), "Detection, not list with ndarray"),
        (Returning(detect=lambda faces: faces[0].box), "Detection, not ndarray"),
        (Returning(landmarks=lambda face: (face.points, face.confidence)), "must return .*FaceLandmarks, not tuple"),
        (changed(confidence=np.full(68, 95.0)), r"confidence of Returning\.landmarks must lie in \[0, 1\]; it is 95"),
        (changed(presence=95.0), r"presence .* in \[0, 1\]"),
        (changed(points=POINTS[:5].tolist()), r"\(68, 2\), not \(5, 2\)"),
        (changed(points=[[1.0, 2.0], [3.0]]), "points .* array of numbers"),
        (changed(points=POINTS * np.inf), "infinite"),
        (changed(confidence=None), r"confidence .*not \(\)"),
        (changed(mesh=np.zeros((478, 3))), r"mesh .*\(468, 3\), not \(478, 3\)"),
        ("mediapipe", "package.module:Class"),
        (object(), "not a face detector"),
    ],
)
def test_a_wrong_detector_or_result_is_refused(detector, message):
    for call in (lambda: observe_photo(IMAGE, detector=detector), lambda: observe([IMAGE], detector=detector)):
        with pytest.raises(DetectorError, match=message):
            call()


def test_a_detector_may_be_a_class_and_return_lists_and_missing_points():
    class Lists:
        def detect(self, image, *, all_faces=False):
            return [Detection(np.array([100, 60, 180, 150.0]), 1.0)]

        def landmarks(self, image, face):
            points, confidence = POINTS.copy(), np.full(68, 0.5)
            points[3], confidence[4], confidence[5] = np.nan, np.nan, 1
            mesh = np.concatenate([np.full((1, 3), np.nan), np.full((467, 3), 120.0)])
            return FaceLandmarks(points.tolist(), confidence.tolist(), 1, [0, 0, 1, 1], mesh=mesh.tolist())

    mask = np.zeros((200, 300), np.float32)
    (observation,) = observe_photo(IMAGE, detector=Lists, occlusion_mask=mask, size=64)
    np.testing.assert_array_equal(np.asarray(observation.confidence)[:7], [0.5, 0.5, 0.5, 0, 0, 1, 0.5])
    assert observation.dense_confidence[0] == 0 and observation.dense_confidence[1] > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(observation))
    with pytest.raises(NoFaceError, match="fewer than 3"):
        observe_photo(IMAGE, detector=FakeDetector(np.full((68, 2), np.nan)))


def test_observe_stacks_photos_and_names_the_one_that_fails():
    batch = observe([IMAGE, IMAGE[:150]], landmarks=[POINTS, None], detector=FakeDetector(POINTS - 5), size=64)
    assert batch.image.shape == (2, 64, 64, 3) and batch.crop.scale.shape == (2,)
    full = batch.crop.to_full(batch.landmarks)
    np.testing.assert_allclose(full, np.stack([POINTS, POINTS - 5]), atol=1e-3)
    with pytest.raises(NoFaceError, match="photo 1"):
        observe([IMAGE, IMAGE], landmarks=[POINTS, None], detector=FakeDetector())
    with pytest.raises(ValueError, match="2 photos"):
        observe([IMAGE, IMAGE], landmarks=[POINTS])


def test_stack_refuses_different_sizes():
    small, large = (observe_photo(IMAGE, landmarks=POINTS, size=s)[0] for s in (32, 64))
    for bad in ([], [small, large]):
        with pytest.raises(ValueError):
            stack(bad)


@pytest.mark.parametrize(
    "given",
    [
        {"detector": FakeDetector()},
        {"detector": FakeDetector(POINTS, presence=0.01)},
        {"detector": FakeDetector(POINTS, presence=0.01), "box": (0, 0, 50, 50)},
        {"landmarks": np.full((68, 2), np.nan)},
        {"landmarks": POINTS + 1000},
        {"landmarks": POINTS / 1000},
    ],
)
def test_the_error_without_a_face_names_the_remedy(given):
    with pytest.raises(NoFaceError, match="landmarks=, or --landmarks") as error:
        observe_photo(IMAGE, **given)
    assert "box" in given or "detector" not in given or "by FakeDetector" in str(error.value)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"landmarks": POINTS[:5]}, "shape"),
        ({"landmarks": POINTS * np.inf}, "infinite"),
        ({"landmarks": np.concatenate([POINTS, POINTS[:, :1]], 1)}, "confidences"),
        ({"box": (1, 2, 3)}, "four numbers"),
        ({"box": (50, 50, 20, 20)}, "exceed"),
        ({"box": (500, 500, 600, 600)}, "does not fit"),
        ({"box": (0, 0, 1e9, 1e9)}, "does not fit"),
        ({"landmarks": POINTS, "occlusion_mask": np.zeros((5, 5))}, "occlusion_mask"),
        ({"landmarks": POINTS, "face_mask": np.full((200, 300), 255)}, "face_mask"),
    ],
)
def test_invalid_arguments_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        observe_photo(IMAGE, detector=FakeDetector(POINTS), **given)
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        observe_photo(IMAGE[..., 0], landmarks=POINTS)


def test_a_real_portrait_is_observed():
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("ai_edge_litert")
    image = data.astronaut()
    (observation,) = observe_photo(image)
    full = np.asarray(observation.crop.to_full(observation.landmarks))
    np.testing.assert_allclose(full[36:48].mean(0), [225, 102], atol=4)
    assert np.median(observation.confidence) > 0.8
    both = observe_photo(np.concatenate([image, image], axis=1), all_faces=True)
    centres = sorted(float(np.asarray(o.crop.to_full(o.landmarks))[:, 0].mean()) for o in both)
    np.testing.assert_allclose(centres, [225, 737], atol=8)
