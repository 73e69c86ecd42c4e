"""Load a user's own face detector, given by name or as an object; check it and what it returns."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from fitting.detections import Detection
from fitting.detector import FaceDetector, FaceLandmarks

SPEC_FORM = "A detector is written as package.module:Class, for example my_package.faces:MyDetector"
METHODS = {"detect": "detect(image, *, all_faces=False)", "landmarks": "landmarks(image, face)"}
"""The methods of `FaceDetector` and their required signatures."""


class DetectorError(ValueError):
    """A user's detector cannot be used, or it returned something wrong. The message says what is required."""


def load_detector(spec: str | FaceDetector) -> FaceDetector:
    """Load and check a user's own face detector for `observe_photo`, `observe` and the command line.

    A detector is any object with the two methods of `FaceDetector`; it need not inherit from it::

        class MyDetector:
            def detect(self, image, *, all_faces=False):
                return [fitting.Detection(box=np.array([40.0, 30.0, 200.0, 190.0]), score=0.9)]

            def landmarks(self, image, face):
                points = ...  # (68, 2) iBUG points in pixels of the full photo
                confidence = np.ones(68)
                return fitting.FaceLandmarks(points, confidence, presence=1.0, box=...)

    Args:
        spec: `package.module:Class`. The module is imported and the class is built without arguments. The name after
            the colon may also be that of an instance. A detector object instead of a string is checked and returned.

    Returns:
        The detector.

    Raises:
        DetectorError: `spec` does not have the form `package.module:Class`, the module or class does not exist or
            raises an error, or a method of `FaceDetector` is missing or takes other arguments. The message says which.
    """
    detector = _import_detector(spec) if isinstance(spec, str) else spec
    name = repr(spec) if isinstance(spec, str) else type(spec).__name__
    if isinstance(detector, type):
        try:
            detector = detector()
        except Exception as error:  # whatever the user's code raises
            raise DetectorError(f"the detector {name} cannot be built without arguments: {error}") from error
    problems = [problem for method in METHODS if (problem := _method_problem(detector, method))]
    if problems:
        raise DetectorError(f"{name} is not a face detector: {'; '.join(problems)}. See fitting.FaceDetector.")
    return cast(FaceDetector, detector)


def call_detect(detector: FaceDetector, image: np.ndarray, all_faces: bool) -> Sequence[Detection]:
    """Call `detector.detect`. Raises: DetectorError, the result is not a list of `Detection`."""
    faces: Any = detector.detect(image, all_faces=all_faces)
    if isinstance(faces, (list, tuple)) and all(isinstance(face, Detection) for face in faces):
        return faces
    result = type(faces).__name__
    if isinstance(faces, (list, tuple)):
        result += f" with {next(type(face).__name__ for face in faces if not isinstance(face, Detection))}"
    raise DetectorError(f"{type(detector).__name__}.detect must return a list of fitting.Detection, not {result}.")


def call_landmarks(
    detector: FaceDetector, image: np.ndarray, face: Any, shapes: dict[str, tuple[int, ...]]
) -> FaceLandmarks:
    """Call `detector.landmarks`, and convert its lists to arrays.

    Args:
        shapes: the required shape of each array of `FaceLandmarks`.

    Returns:
        Landmarks with confidence 0 where a point or its confidence is NaN.

    Raises:
        DetectorError: the result is not a `FaceLandmarks`, an array has a wrong shape or infinite values, or confidence
            or presence lies outside [0, 1].
    """
    source = f"{type(detector).__name__}.landmarks"
    result: Any = detector.landmarks(image, face)
    if not isinstance(result, FaceLandmarks):
        raise DetectorError(f"{source} must return fitting.FaceLandmarks, not {type(result).__name__}.")
    arrays = {
        name: _to_array(f"{name} of {source}", getattr(result, name), shape)
        for name, shape in shapes.items()
        if name != "mesh" or result.mesh is not None
    }
    missing = np.isnan(arrays["points"]).any(axis=-1) | np.isnan(arrays["confidence"])
    arrays["confidence"] = np.where(missing, 0.0, arrays["confidence"])
    presence = float(_to_array(f"presence of {source}", result.presence, ()))
    for name, value in (("confidence", arrays["confidence"]), ("presence", np.asarray(presence))):
        if not ((value >= 0) & (value <= 1)).all():
            raise DetectorError(f"{name} of {source} must lie in [0, 1]; it is {value.min():g} to {value.max():g}.")
    return replace(result, **arrays, presence=presence)


def _to_array(name: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert a detector's value to an array of floats of a given shape. Raises: DetectorError."""
    try:
        array = np.asarray(value)
        array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    except Exception as error:  # whatever a list of lists or another library's array raises
        raise DetectorError(f"{name} should be an array of numbers {shape}: {error}") from error
    if array.shape != shape:
        raise DetectorError(f"{name} should be {shape}, not {array.shape}.")
    if np.isinf(array).any():
        raise DetectorError(f"{name} has infinite values; use NaN for missing points.")
    return array


def _import_detector(spec: str) -> Any:
    """Import the object that `package.module:Class` names."""
    module_name, colon, attribute = spec.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise DetectorError(f"{spec!r} names no detector. {SPEC_FORM}.")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code raises
        remedy = "Is its package installed, or its folder in PYTHONPATH?"
        raise DetectorError(f"the module of the detector {spec!r} cannot be imported: {error}. {remedy}") from error
    if not hasattr(module, attribute):
        raise DetectorError(f"the module {module_name!r} has no {attribute!r}. {SPEC_FORM}.")
    return getattr(module, attribute)


def _method_problem(detector: object, method: str) -> str | None:
    """Describe what is wrong with a detector's method; None if `observe_photo` can call it."""
    function = getattr(detector, method, None)
    if not callable(function):
        return f"the method {METHODS[method]} is missing"
    arguments: tuple[tuple, dict] = ((None,), {"all_faces": True}) if method == "detect" else ((None, None), {})
    try:
        inspect.signature(function).bind(*arguments[0], **arguments[1])
    except TypeError:
        return f"{method} must be callable as {METHODS[method]}"
    except ValueError:  # compiled functions have no signature
        return None
    return None
