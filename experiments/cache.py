"""What is computed once and kept on disk, written whole or not at all: arrays, trees of dataclasses, and large
arrays that grow block by block. Files are .npz and .npy without pickle."""

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


def flat(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """A tree of dataclasses and dictionaries as arrays under dotted names; None is left out."""
    if tree is None:
        return {}
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        inner = {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    elif isinstance(tree, dict):
        inner = tree
    else:
        return {prefix: np.asarray(tree)}
    found: dict[str, np.ndarray] = {}
    for name, value in inner.items():
        found |= flat(value, f"{prefix}.{name}" if prefix else name)
    return found


def write_tree(path: Path, tree: Any) -> None:
    """Keep a tree, and make its folder."""
    write_arrays(path, flat(tree))


def read_tree(path: Path, kind: type[T]) -> T | None:
    """What `write_tree` kept of a dataclass, its arrays as NumPy's; None if there is nothing, or something else."""
    arrays = read_arrays(path)
    try:
        return None if arrays is None else _tree(kind, arrays)
    except DAMAGED:
        return None


def _tree(kind: Any, arrays: dict[str, np.ndarray]) -> Any:
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
        values[name] = _tree(hint, part) if "" not in part else hint(part[""]) if hint in (int, float) else part[""]
    return kind(**values)


class KeptRows:
    """(N, D) numbers in PATH, a .npy that appears only when all rows are there; before that in PATH's `.partial`, with
    the number of good rows in its `.done`. One process at a time may write."""

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._partial, self._progress = path.with_suffix(".partial"), path.with_suffix(".done")
        if self._opened(path, "r") is not None:
            self.done = len(self)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.done = self._rows_before()

    def __len__(self) -> int:
        return self.shape[0]

    def add(self, rows: np.ndarray) -> None:
        """The next rows (n, D). Raises: OSError, the disk is full."""
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
        """Rows that were added."""
        held = np.load(self.path if self.done == len(self) else self._partial, mmap_mode="r")
        return np.array(held[start:stop])

    def whole(self) -> np.ndarray:
        """All rows, read from disk as they are needed. Raises: ValueError, they are not all there."""
        held = self._opened(self.path, "r")
        if held is None:
            raise ValueError(f"{self.path}: not all rows are there.")
        return held

    def _rows_before(self) -> int:
        """Good rows that an earlier run left."""
        try:
            count = int(self._progress.read_text())
        except (OSError, ValueError):
            return 0
        return count if 0 < count < len(self) and self._opened(self._partial, "r") is not None else 0

    def _opened(self, path: Path, mode: Any) -> np.ndarray | None:
        """The file's array; None if there is none, or one of another kind."""
        try:
            held = np.load(path, mmap_mode=mode)
        except (OSError, ValueError, EOFError):
            return None
        return held if held.shape == self.shape and held.dtype == self.dtype else None
