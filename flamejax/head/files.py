"""Where the embedded head's files lie, and the error that all readers of head files raise."""

import hashlib
import importlib.resources
from pathlib import Path


class HeadFileError(ValueError):
    """A head model's file is missing, damaged or not a head model."""


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
