"""Shows results of `flamejax reconstruct` in the browser: `python -m experiments.view OUT`."""

from experiments.view.command import main

__all__ = ["main"]
