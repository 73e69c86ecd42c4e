"""Observing photos and fitting heads to them (Diverse3DFace, Algorithm 1)."""

from fitting.config import FIT_REASONS, Fit, FitConfig
from fitting.global_fit import fit
from fitting.observation import Observation, stack
from fitting.observe import NoFaceError, observe, observe_photo

__all__ = [
    "FIT_REASONS",
    "Fit",
    "FitConfig",
    "NoFaceError",
    "Observation",
    "fit",
    "observe",
    "observe_photo",
    "stack",
]
