"""Observing photos and fitting heads to them (Diverse3DFace, Algorithm 1)."""

from fitting.config import FIT_REASONS, PRESETS, AnyFitConfig, Fit, FitConfig, GradientFitConfig
from fitting.fit_model import FitModel, prepare
from fitting.global_fit import fit
from fitting.observation import Observation, stack
from fitting.observe import NoFaceError, observe, observe_photo

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
    "fit",
    "observe",
    "observe_photo",
    "prepare",
    "stack",
]
