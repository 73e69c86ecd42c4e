"""Where the embedded head's files lie, and the error that all readers of head files raise."""

import importlib.resources
from pathlib import Path


class HeadFileError(ValueError):
    """A head model's file is missing, damaged or not a head model."""


def open_head_path() -> Path:
    """Where the embedded open head lies."""
    return Path(str(importlib.resources.files("flamejax.head") / "assets" / "open_head.npz"))
