"""Where on a head the detector puts its landmarks: `python -m experiments.calibrate_landmarks`."""

from experiments.calibrate_landmarks.command import main

__all__ = ["main"]
