"""Evaluation: the papers' tables on the open scans. `python -m experiments.evaluate --table NAME`."""

from experiments.evaluate.command import main

__all__ = ["main"]
