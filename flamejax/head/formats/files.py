"""Path of the embedded head, checks and digests of head files, and the error that their readers raise."""

import hashlib
import importlib.resources
from pathlib import Path

import numpy as np

MAX_MAGNITUDE = 1e6
"""Far above any number in a head model, in metres or 8-bit colours."""


class HeadFileError(ValueError):
    """A head model's file is missing, damaged, or no head model."""


def check_numbers(array: np.ndarray, label: str) -> None:
    """Raise a HeadFileError if any number is not finite, or so large that sums would lose single precision."""
    if array.dtype.kind != "f":
        return
    # The limit exceeds the range of half precision.
    if not (np.abs(array) <= array.dtype.type(min(MAX_MAGNITUDE, float(np.finfo(array.dtype).max)))).all():
        raise HeadFileError(f"{label} holds numbers that are not finite or beyond any head. Fetch the file again.")


def open_head_path() -> Path:
    """Returns the file of the embedded open head."""
    return Path(str(importlib.resources.files("flamejax.head") / "assets" / "open_head.npz"))


def head_digest(path: Path) -> str:
    """Returns the sha256 (hex) of a head model's file, or of the names and contents of a folder's meshes and lists.

    Raises:
      OSError: the file cannot be read.
    """
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.suffix in (".obj", ".json")):
        digest.update(f"{file.relative_to(path).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()
