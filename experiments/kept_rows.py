"""A large array on disk that is computed block by block: a run that is killed goes on after its last block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from flamejax.io.files import write_text


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
