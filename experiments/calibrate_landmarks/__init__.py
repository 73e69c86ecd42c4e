"""Calibrate the positions of the detector's landmarks on a head: `python -m experiments.calibrate_landmarks`."""

from experiments.calibrate_landmarks.command import main

__all__ = ["main"]
