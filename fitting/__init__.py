"""Observe photos and fit heads to them (Diverse3DFace, Algorithm 1).

`observe` turns photos into an `Observation`, `prepare` turns a head model into a `FitModel`, and `fit` fits it. A face
detector of your own implements the protocol `FaceDetector`; `load_detector` loads one by name. `fit_scans` fits
registered meshes, and `train_local_model` trains local models on them.
"""
# ruff: noqa: E402

from flamejax._shadow import check_packages

check_packages("models")  # before anything is imported from it

from fitting._least_squares import huber_energy, least_squares
from fitting._load_detector import DetectorError, load_detector
from fitting._observe import NoFaceError, observe, observe_photo
from fitting.config import PRESETS, AnyFitConfig, FitConfig, GradientFitConfig
from fitting.detections import Detection
from fitting.detector import FaceDetector, FaceLandmarks, LiteRTDetector
from fitting.fit_model import FitModel, prepare
from fitting.global_fit import fit, vertex_visibility
from fitting.inputs import InputError, load_landmarks
from fitting.local_files import load_local_model, local_model_path, shipped_local_model, write_local_model
from fitting.local_model import LocalModel, top_components, with_local
from fitting.local_training import LocalConfig, train_local_model
from fitting.mediapipe_models import MissingDependencyError
from fitting.occlusion import OcclusionConfig, auto_masks
from fitting.scan_fit import SCAN_REASONS, ScanFit, ScanFitConfig, fit_scans
from flamejax.types import FIT_REASONS, Fit, Observation, stack

__all__ = [
    "FIT_REASONS",
    "PRESETS",
    "SCAN_REASONS",
    "AnyFitConfig",
    "Detection",
    "DetectorError",
    "FaceDetector",
    "FaceLandmarks",
    "Fit",
    "FitConfig",
    "FitModel",
    "GradientFitConfig",
    "InputError",
    "LiteRTDetector",
    "LocalConfig",
    "LocalModel",
    "MissingDependencyError",
    "NoFaceError",
    "Observation",
    "OcclusionConfig",
    "ScanFit",
    "ScanFitConfig",
    "auto_masks",
    "fit",
    "fit_scans",
    "huber_energy",
    "least_squares",
    "load_detector",
    "load_landmarks",
    "load_local_model",
    "local_model_path",
    "observe",
    "observe_photo",
    "prepare",
    "shipped_local_model",
    "stack",
    "top_components",
    "train_local_model",
    "vertex_visibility",
    "with_local",
    "write_local_model",
]
