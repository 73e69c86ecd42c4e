"""Files that are written whole or not at all, and where data lies that is not part of the package."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

TEMPORARY_PREFIX = ".writing-"
"""Names starting so are unfinished; whatever bears it when no run is active may be deleted."""


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replace a file's content: a reader sees the old file or the new one, never a part.

    Raises:
        OSError: the folder is missing or the disk refuses; the old file is then untouched.
    """
    write_group({Path(path): data})


def write_text(path: str | os.PathLike, text: str) -> None:
    """`write_bytes` of UTF-8 text; bytes of a file name that were never text are written as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_group(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together: none is renamed into place before all of them are on disk.

    They appear in the mapping's order, so put the file that names the others last.

    Raises:
        OSError: as `write_bytes`; nothing is left behind.
    """
    temporary = {path: temporary_sibling(path) for path in contents}
    try:
        for path, data in contents.items():
            temporary[path].write_bytes(data)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for leftover in temporary.values():
            leftover.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a folder that appears under its name only when the block ends without an exception.

    An older folder of that name is replaced. Yields the temporary sibling to write into.
    """
    path = Path(path)
    temporary = temporary_sibling(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():  # A folder can only be renamed over an empty one.
            old = temporary.with_name(temporary.name + "-old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_sibling(path: Path) -> Path:
    """An unused name in the same folder (so that a rename is atomic). Short: the target's may be as long as allowed."""
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:16]}")


def remove_unfinished(folder: str | os.PathLike) -> int:
    """Delete what a killed run left in a folder. Returns how many entries there were."""
    leftovers = list(Path(folder).glob(f"{TEMPORARY_PREFIX}*"))
    for leftover in leftovers:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return len(leftovers)


def data_folder() -> Path:
    """Where data made or fetched lies: $FLAMEJAX_DATA, by default ~/.cache/flamejax. It may not exist yet."""
    return Path(os.environ.get("FLAMEJAX_DATA") or "~/.cache/flamejax").expanduser()
