"""Load and check a user's own face detector, given by name or as an object."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, cast

from fitting.detector import FaceDetector

SPEC_FORM = "A detector is written as package.module:Class, for example my_package.faces:MyDetector"
METHODS = {"detect": "detect(image, *, all_faces=False)", "landmarks": "landmarks(image, face)"}
"""The methods of `FaceDetector` and their required signatures."""


class DetectorError(ValueError):
    """A user's detector cannot be used. The message says what is missing and which signature is required."""


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
