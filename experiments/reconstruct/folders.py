"""The folder of one result: which of its files are ours, whether they are complete, and replacing or deleting them.

A user's own files in it stay. Links are deleted, never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.reconstruct.results import HYPOTHESIS_FILES, SHEET, VIEWER, hypothesis_files
from flamejax.files import is_file, new_folder, open_regular, temporary_folder
from flamejax.head import HeadFileError
from flamejax.head.formats.npy_files import check_npz, read_npz_members
from flamejax.io.records import HYPOTHESES, RESULT_FILES, ResultError, read_record

PARTS_OF_A_RESULT = 3
"""A folder without a readable metrics.json is a damaged result if it has this many other files of a result."""
STARTS_AND_ENDS = {
    ".png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"),
    ".jpg": (b"\xff\xd8", b"\xff\xd9"),
    ".obj": (b"", b"\n"),
    ".mtl": (b"", b"\n"),
    ".html": (b"<", b"</html>"),
}
"""Suffix -> first and last bytes of a whole file; white space may follow."""
_HYPOTHESIS = re.compile(r"\d{2,6}")


def is_complete(folder: Path, metrics: dict[str, Any]) -> bool:
    """Return whether every file of the result is there and whole, as far as a quick look shows.

    Arrays are read and compared with their checksums, JSON is parsed, of other files the first and last bytes are read.
    """
    files = [*RESULT_FILES, *hypothesis_files(metrics.get("hypotheses", 0))]
    return all(_is_whole(folder / file) for file in files) and recorded_head(folder) == metrics["head"]["sha256"]


def recorded_head(folder: Path) -> str | None:
    """Return the digest of the head model in a result's params.npz; None if it cannot be read."""
    try:
        return str(read_npz_members(folder / "params.npz", ("head_sha256",)).get("head_sha256"))
    except HeadFileError:
        return None


def is_result_folder(path: Path) -> bool:
    """Return whether the folder is a result of ours, perhaps a damaged one, that may be replaced or deleted."""
    if not path.is_dir():
        return False
    if any((path / name).is_dir() for name in (*RESULT_FILES, VIEWER)):
        return False
    with contextlib.suppress(ResultError):
        if "format_version" in read_record(path / "metrics.json"):
            return True
    others = sum(is_file(path / name) for name in RESULT_FILES if name != "metrics.json")
    return not path.is_symlink() and others >= PARTS_OF_A_RESULT


def delete_result(path: Path) -> None:
    """Delete our files of a result, and its folder if nothing else is in it. Of a link only the link is deleted.

    Raises: OSError.
    """
    if path.is_symlink():
        path.unlink()
        return
    # First, so that an interrupted deletion leaves a result that does not count as complete.
    for name in ("metrics.json", *RESULT_FILES, VIEWER):
        delete_file(path / name)
    hypotheses = path / HYPOTHESES
    if hypotheses.is_symlink():
        hypotheses.unlink()
    elif hypotheses.is_dir():
        delete_file(path / SHEET)
        for folder in [each for each in hypotheses.iterdir() if _HYPOTHESIS.fullmatch(each.name)]:
            if folder.is_symlink():
                folder.unlink()
            elif folder.is_dir():
                for name in HYPOTHESIS_FILES:
                    delete_file(folder / name)
                _delete_if_empty(folder)
        _delete_if_empty(hypotheses)
    _delete_if_empty(path)


@contextlib.contextmanager
def new_result(path: Path) -> Iterator[Path]:
    """Write a result's folder, as `new_folder`; a user's own files in the older folder of that name stay.

    With such files, the folder is filled file by file, metrics.json last. Raises: OSError.
    """
    if path.is_symlink() or not path.exists() or not any(_user_files(path)):
        with new_folder(path) as temporary:
            yield temporary
        return
    with temporary_folder(path) as temporary:
        yield temporary
        delete_result(path)
        inner = sorted(each for each in temporary.rglob("*") if not each.is_dir())
        for source in sorted(inner, key=lambda each: each == temporary / "metrics.json"):
            target = path / source.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)


def _user_files(path: Path) -> Iterator[Path]:
    """Yield what is in a result's folder that we did not write."""
    return (each for each in path.rglob("*") if not _is_ours(each.relative_to(path).parts))


def _is_ours(parts: tuple[str, ...]) -> bool:
    """Return whether we write a file or folder of this path below a result's folder."""
    if parts[0] != HYPOTHESES:
        return len(parts) == 1 and parts[0] in (*RESULT_FILES, VIEWER)
    if len(parts) == 1 or "/".join(parts) == SHEET:
        return True
    return _HYPOTHESIS.fullmatch(parts[1]) is not None and parts[2:] in ((), *((name,) for name in HYPOTHESIS_FILES))


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            return bool(read_record(path))
        if path.suffix == ".npz":
            return check_npz(path)
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if path.suffix == ".glb":
                head = file.read(12)
                return head[:4] == b"glTF" and int.from_bytes(head[8:12], "little") == size
            start, end = STARTS_AND_ENDS[path.suffix]
            first = file.read(max(1, len(start)))
            file.seek(max(0, size - 64))
            rest = file.read()
            return first.startswith(start) and (rest.endswith(end) or rest.rstrip().endswith(end))
    except (OSError, ResultError, HeadFileError, zipfile.BadZipFile):
        return False


def delete_file(path: Path) -> None:
    """Delete a file or a link, if it is there and no folder. Raises: OSError."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)


def _delete_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
