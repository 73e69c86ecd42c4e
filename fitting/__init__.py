"""Observing photos and fitting heads to them (Diverse3DFace, Algorithm 1)."""

import flamejax._shadow  # noqa: F401  says so where a folder of the user's hides `models`
from fitting._least_squares import huber_energy, least_squares
from fitting._load_detector import DetectorError, load_detector
from fitting._observe import NoFaceError, observe, observe_photo
from fitting.config import PRESETS, AnyFitConfig, FitConfig, GradientFitConfig
from fitting.detections import Detection
from fitting.detector import FaceDetector, FaceLandmarks, LiteRTDetector
from fitting.fit_model import FitModel, prepare
from fitting.global_fit import fit
from fitting.local_files import load_local_model
from fitting.occlusion import auto_masks
from fitting.scan_fit import fit_scans
from flamejax.types import FIT_REASONS, Fit, Observation, stack

__all__ = [
    "FIT_REASONS",
    "PRESETS",
    "AnyFitConfig",
    "Detection",
    "DetectorError",
    "FaceDetector",
    "FaceLandmarks",
    "Fit",
    "FitConfig",
    "FitModel",
    "GradientFitConfig",
    "LiteRTDetector",
    "NoFaceError",
    "Observation",
    "auto_masks",
    "fit",
    "fit_scans",
    "huber_energy",
    "least_squares",
    "load_detector",
    "load_local_model",
    "observe",
    "observe_photo",
    "prepare",
    "stack",
]
