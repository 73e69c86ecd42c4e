"""Atomic writing of files and folders, and the folder of data that is not part of the package."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

TEMPORARY_PREFIX = ".writing-"
"""Prefix of unfinished files and folders. They may be deleted when no run is active."""


def is_file(path: str | os.PathLike) -> bool:
    """Returns whether it is a regular file. Unlike `Path.is_file`, raises nothing for names that are not allowed."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether it is a folder. Unlike `Path.is_dir`, raises nothing for names that are not allowed."""
    return os.path.isdir(path)  # noqa: PTH112


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Open a file for reading bytes. Raises: OSError, also for a folder, FIFO or device, which might block for ever."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    # In case it has become a FIFO since, opening does not wait for a writer.
    return os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Replace a file's content: a reader sees the old or the new file, never a part of it.

    Raises:
        OSError: the folder is missing or the disk refuses; the old file is then untouched.
    """
    write_group({Path(path): data})


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace a file's content by UTF-8 text. Undecodable bytes of file names (surrogates) are written as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_group(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together: none is renamed into place before all of them are on disk.

    They are renamed in the mapping's order, so put the file that refers to the others last.

    Raises:
        OSError: as `write_bytes`; no temporary file remains.
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
    """Create a folder that appears under its name only if the block ends without an exception.

    It replaces an older folder of that name; of a link only the link is replaced. Yields the temporary folder to write
    into.
    """
    path = Path(path)
    with temporary_folder(path) as temporary:
        yield temporary
        if path.is_symlink():
            path.unlink()
        if path.exists():  # A folder can only be renamed over an empty one.
            old = temporary.with_name(temporary.name + "-old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder beside `path`, and delete what is left of it at the end."""
    temporary = temporary_sibling(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_sibling(path: Path) -> Path:
    """Returns an unused path in the same folder, where a rename is atomic. Its name is short: names have a limit."""
    return path.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:16]}")


def remove_unfinished(folder: str | os.PathLike) -> int:
    """Delete the unfinished files and folders of killed runs. Returns their number."""
    leftovers = list(Path(folder).glob(f"{TEMPORARY_PREFIX}*"))
    for leftover in leftovers:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    return len(leftovers)


def data_folder() -> Path:
    """Returns the folder of fetched and generated data: $FLAMEJAX_DATA or ~/.cache/flamejax. It may not exist yet.

    Raises:
        OSError: there is no home folder to expand the path with.
    """
    folder = Path(os.path.expanduser(os.environ.get("FLAMEJAX_DATA") or "~/.cache/flamejax"))  # noqa: PTH111
    if str(folder).startswith("~"):
        raise OSError(f"{folder}: no such home folder. Set FLAMEJAX_DATA to a folder for flamejax's data, or HOME.")
    return folder
