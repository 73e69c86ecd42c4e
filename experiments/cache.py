"""Caches on disk: arrays and trees of dataclasses as .npz, and large arrays that grow block by block as .npy.

A file appears only when it is complete. No file uses pickle."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from flamejax.files import write_bytes, write_text

T = TypeVar("T")

READ_ERRORS = (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile)
"""Raised when a file is missing, truncated or of another format."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays under their names as .npz, and create the folder."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Read arrays that `write_arrays` wrote; None if the file is missing or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            return {name: file[name] for name in file.files}
    except READ_ERRORS:
        return None


def array_digest(array: np.ndarray) -> str:
    """Returns a short hash of an array's shape and bytes."""
    state = hashlib.sha256(str(array.shape).encode())
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()[:16]


@contextlib.contextmanager
def file_lock(folder: Path, task: str) -> Iterator[None]:
    """Hold the folder's lock while the block runs; wait while another process holds it.

    Two processes would do the same work and delete each other's files.

    Args:
      task: what is being built, for the message on stderr.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".building").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{task}: another process is building in {folder}; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def flatten_tree(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Flatten a tree of dataclasses and dictionaries into arrays under dotted names; None is left out."""
    if tree is None:
        return {}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        children = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    elif isinstance(tree, dict):
        children = tree
    else:
        return {prefix: np.asarray(tree)}
    arrays: dict[str, np.ndarray] = {}
    for name, value in children.items():
        arrays |= flatten_tree(value, f"{prefix}.{name}" if prefix else name)
    return arrays


def write_tree(path: Path, tree: Any) -> None:
    """Write a tree of dataclasses as .npz, and create its folder."""
    write_arrays(path, flatten_tree(tree))


def read_tree(path: Path, kind: type[T]) -> T | None:
    """Read a dataclass that `write_tree` wrote, with NumPy arrays; None if missing, damaged or of another type."""
    arrays = read_arrays(path)
    try:
        return None if arrays is None else _unflatten(kind, arrays)
    except READ_ERRORS:
        return None


def _unflatten(kind: Any, arrays: dict[str, np.ndarray]) -> Any:
    if get_origin(kind) is dict:
        return arrays
    hints = get_type_hints(kind)
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        field, _, rest = name.partition(".")
        parts.setdefault(field, {})[rest] = array
    values: dict[str, Any] = {name: None for name, hint in hints.items() if type(None) in get_args(hint)}
    for name, part in parts.items():
        hint = hints[name]
        if "" in part:
            values[name] = hint(part[""]) if hint in (int, float) else part[""]
        else:
            values[name] = _unflatten(hint, part)
    return kind(**values)


class CachedRows:
    """An (N, D) array on disk that is written block by block; only one process may write at a time.

    PATH, a .npy, appears when all rows are written. Until then, rows are in PATH's `.partial` and the number of
    valid rows in its `.done`."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._partial, self._progress = path.with_suffix(".partial"), path.with_suffix(".done")
        if self._open(path) is not None:
            self.done = len(self)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = self._valid_rows()

    def __len__(self) -> int:
        return self.shape[0]

    def add(self, rows: np.ndarray) -> None:
        """Append rows (n, D). Raises: OSError, the disk is full."""
        mode: Any = "r+" if self.done else "w+"
        start = np.lib.format.open_memmap(self._partial, mode, self.dtype, self.shape).offset
        rows = np.ascontiguousarray(rows, self.dtype)
        # Not through the memory map: a full disk would end the process.
        with self._partial.open("r+b") as file:
            file.seek(start + self.done * self.shape[1] * self.dtype.itemsize)
            file.write(rows.data)
        self.done += len(rows)
        if self.done < len(self):
            write_text(self._progress, f"{self.done}\n")
            return
        self._partial.replace(self.path)
        self._progress.unlink(missing_ok=True)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Returns a copy of rows that were added."""
        array = np.load(self.path if self.done == len(self) else self._partial, mmap_mode="r")
        return np.array(array[start:stop])

    def array(self) -> np.ndarray:
        """Returns all rows as a memory-mapped array. Raises: ValueError, rows are missing."""
        array = self._open(self.path)
        if array is None:
            raise ValueError(f"{self.path}: not all rows are there.")
        return array

    def _valid_rows(self) -> int:
        """Returns the number of valid rows that an earlier run wrote."""
        try:
            count = int(self._progress.read_text())
        except (OSError, ValueError):
            return 0
        return count if 0 < count < len(self) and self._open(self._partial) is not None else 0

    def _open(self, path: Path) -> np.ndarray | None:
        """Open the file's array; None if it is missing, damaged or of another shape or dtype."""
        try:
            array = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError):
            return None
        return array if array.shape == self.shape and array.dtype == self.dtype else None
