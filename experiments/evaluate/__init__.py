"""Evaluation: the papers' tables on the open scans. `python -m experiments.evaluate TABLE`."""

from experiments.evaluate.command import main

__all__ = ["main"]
