"""Arrays on disk: one .npz each, without pickle, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flamejax.io.files import write_bytes

DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)
"""What reading a file raises that is missing, cut off or of something else."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Keep arrays under their names, and make the folder."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_arrays` kept; None if there is nothing, or nothing whole."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            return {name: file[name] for name in file.files}
    except DAMAGED:
        return None


def array_digest(array: np.ndarray) -> str:
    """A short name of an array's shape and bytes."""
    state = hashlib.sha256(str(array.shape).encode())
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()[:16]
