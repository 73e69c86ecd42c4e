"""Observing photos and fitting heads to them (Diverse3DFace, Algorithm 1)."""

import flamejax._shadow  # noqa: F401  says so where a folder of the user's hides `models`
from fitting._observe import NoFaceError, observe, observe_photo
from fitting.config import PRESETS, AnyFitConfig, FitConfig, GradientFitConfig
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
    "Fit",
    "FitConfig",
    "FitModel",
    "GradientFitConfig",
    "NoFaceError",
    "Observation",
    "auto_masks",
    "fit",
    "fit_scans",
    "load_local_model",
    "observe",
    "observe_photo",
    "prepare",
    "stack",
]
