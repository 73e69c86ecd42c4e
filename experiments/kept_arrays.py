"""Arrays on disk: one .npz each, without pickle, written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
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


@contextlib.contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Waits while another process builds in a folder: two would do the same work, and tidy up each other's files.

    Args:
      what: is built, for the line on stderr that says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".building").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{what}: another process is building in {folder}; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
