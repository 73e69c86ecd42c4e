"""Photos in, heads out: `python -m experiments.reconstruct PHOTOS... --output OUT`."""

from experiments.reconstruct.command import main, run
from experiments.reconstruct.config import Config
from experiments.results import UsageError

__all__ = ["Config", "UsageError", "main", "run"]
