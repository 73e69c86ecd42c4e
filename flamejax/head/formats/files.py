"""Where the embedded head's files lie, and the error that all readers of head files raise."""

import hashlib
import importlib.resources
from pathlib import Path

import numpy as np

LARGEST = 1e6
"""No number of a head model, in metres or 8-bit colours, comes near this."""


class HeadFileError(ValueError):
    """A head model's file is missing, damaged or not a head model."""


def check_numbers(array: np.ndarray, what: str) -> None:
    """Raises: HeadFileError if any number is not finite, or so large that single precision would not hold its sums."""
    if array.dtype.kind != "f":
        return
    # Half precision has no number as large as the limit.
    if not (np.abs(array) <= array.dtype.type(min(LARGEST, float(np.finfo(array.dtype).max)))).all():
        raise HeadFileError(f"{what} holds numbers that are not finite or beyond any head. Fetch the file again.")


def open_head_path() -> Path:
    """Where the embedded open head lies."""
    return Path(str(importlib.resources.files("flamejax.head") / "assets" / "open_head.npz"))


def head_digest(path: Path) -> str:
    """sha256 (hex) of a head model's file; of a folder, of its meshes and lists with their names.

    Raises:
      OSError: it cannot be read.
    """
    if not path.is_dir():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.suffix in (".obj", ".json")):
        digest.update(f"{file.relative_to(path).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()
