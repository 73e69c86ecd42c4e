"""Observing photos and fitting heads to them (Diverse3DFace, Algorithm 1)."""

from fitting.config import FIT_REASONS, PRESETS, AnyFitConfig, Fit, FitConfig, GradientFitConfig
from fitting.fit_model import FitModel, prepare
from fitting.global_fit import fit
from fitting.local_files import load_local_model
from fitting.observation import Observation, stack
from fitting.observe import NoFaceError, observe, observe_photo
from fitting.occlusion import auto_masks
from fitting.scan_fit import fit_scans

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
