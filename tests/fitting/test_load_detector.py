"""A user's own detector: loaded by name, checked and used, or refused with a message that says what is wrong."""

import sys

import numpy as np
import pytest

import fitting

MODULE = """
import numpy as np
import fitting

class Good:
    def detect(self, image, *, all_faces=False):
        return [fitting.Detection(np.array([10.0, 10.0, 90.0, 90.0]), 0.9)]

    def landmarks(self, image, face):
        points = np.stack([np.linspace(20, 80, 68), np.linspace(25, 75, 68)], axis=1)
        return fitting.FaceLandmarks(points, np.ones(68), 1.0, np.array([20.0, 25.0, 80.0, 75.0]))

ready = Good()

class NoLandmarks:
    def detect(self, image, *, all_faces=False):
        return []

class OtherArguments(Good):
    def detect(self, image):
        return []

class NeedsWeights(Good):
    def __init__(self, weights):
        self.weights = weights
"""


@pytest.fixture(autouse=True)
def my_faces(tmp_path, monkeypatch):
    """Create a user's modules: one that works, and one whose import fails."""
    (tmp_path / "my_faces.py").write_text(MODULE)
    (tmp_path / "my_broken_faces.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("my_faces", "my_broken_faces"):  # other tests may have imported modules of these names
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("name", ["my_faces:Good", "my_faces:ready"])
def test_a_detector_is_loaded_by_name_and_used(name):
    detector = fitting.load_detector(name)
    assert fitting.load_detector(detector) is detector
    observation = fitting.observe([np.full((100, 100, 3), 0.5, np.float32)], detector=detector, size=32)
    np.testing.assert_allclose(observation.crop.to_full(observation.landmarks)[0, [0, -1]], [[20, 25], [80, 75]], 1e-4)


@pytest.mark.parametrize("spec", ["my_faces", "my_faces.Good", "my_faces:", ":Good", "my faces:Good", "my_faces:a:b"])
def test_a_misspelled_detector_is_refused_with_the_right_spelling(spec):
    with pytest.raises(fitting.DetectorError, match=r"package\.module:Class"):
        fitting.load_detector(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_faces:Good", "no_such_faces.*PYTHONPATH"),
        ("my_broken_faces:Good", "no_such_library"),
        ("my_faces:Missing", "no 'Missing'"),
        ("my_faces:NeedsWeights", "without arguments.*weights"),
        ("my_faces:NoLandmarks", r"landmarks\(image, face\) is missing"),
        ("my_faces:OtherArguments", r"detect must be callable as detect\(image, \*, all_faces=False\)"),
        (object(), r"object is not a face detector.*detect.*missing; .*landmarks.*missing"),
    ],
)
def test_an_unusable_detector_is_refused_with_the_reason(spec, message):
    with pytest.raises(fitting.DetectorError, match=message):
        fitting.load_detector(spec)
