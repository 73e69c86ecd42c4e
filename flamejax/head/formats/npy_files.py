"""Reading of `.npy` and `.npz` files that may be damaged or hostile: every announced size is checked."""

import contextlib
import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np

from flamejax.files import open_regular
from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.pickle_arrays import unwrap_object
from flamejax.head.formats.safe_pickle import load_pickle

MAX_MEMBERS = 256
SMALL_ARCHIVE, MAX_RATIO = 64 * 2**20, 100
"""An archive may unpack to this many bytes, or to this many times its size."""

_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=](?:[fiu][1248]|b1|O8?|U\d{1,6}|S\d{1,6}))', 'fortran_order': "
    rb"(?P<fortran>True|False), 'shape': \((?P<shape>|\d{1,12}L?,|\d{1,12}L?(?:, ?\d{1,12}L?){1,7}),?\), ?\}\s*"
)
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    IndexError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    MemoryError,
)


def read_bytes(path: Path) -> bytes:
    """Read a file. Raises HeadFileError if it is missing or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError as error:
        raise HeadFileError(f"{path}: no such file.") from error
    except (OSError, MemoryError) as error:
        raise HeadFileError(f"{path}: cannot be read ({error}).") from error


def read_npz(path: Path, objects: bool = False) -> dict[str, Any]:
    """Read all arrays of an archive. They are not writable.

    Args:
      objects: whether to read object arrays too, with the safe unpickler; otherwise they are refused.

    Raises:
      HeadFileError: it is missing or damaged, contains refused pickles, or unpacks to too many bytes for its size.
    """
    parse = npy_or_object_from_bytes if objects else npy_from_bytes
    try:
        with _open_archive(path) as archive:
            _check_archive(archive, path)
            members = archive.infolist()
        data = path.read_bytes()

        def member(info: zipfile.ZipInfo) -> Any:
            # One archive per thread: a shared one loses its file position in Python 3.12 (CPython issue 128258).
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return parse(archive.read(info), f"{path}: '{info.filename}'")

        # Two threads: unpacking the blend shapes takes as long as all other arrays, and zlib releases the GIL.
        with ThreadPoolExecutor(2) as pool:
            arrays = pool.map(member, members)
            return {info.filename.removesuffix(".npy"): array for info, array in zip(members, arrays, strict=True)}
    except HeadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        yield archive


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or len({info.filename for info in members}) < len(members):
        raise HeadFileError(f"{path}: not a readable .npz file (its list of members is not one of arrays).")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members):
        raise HeadFileError(f"{path}: not a readable .npz file (compressed in a way that numpy does not use).")
    total, size = sum(info.file_size for info in members), path.stat().st_size
    if total > max(SMALL_ARCHIVE, MAX_RATIO * size):
        raise HeadFileError(f"{path}: not a readable .npz file ({size} bytes that claim to unpack to {total}).")


def check_npz(path: Path) -> bool:
    """Returns whether the archive is whole: its arrays agree with their checksums. Does not parse them."""
    try:
        with _open_archive(path) as archive:
            _check_archive(archive, path)
            return bool(archive.namelist()) and archive.testzip() is None
    except (HeadFileError, *_ZIP_ERRORS):
        return False


def npz_names(path: Path) -> list[str]:
    """Returns the names of an archive's arrays. Raises HeadFileError, as `read_npz`."""
    try:
        with _open_archive(path) as archive:
            _check_archive(archive, path)
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except HeadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error


def read_npz_members(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Read those of the named arrays that an archive has; others are not unpacked.

    Raises:
      HeadFileError: as `read_npz`.
    """
    arrays = {}
    for name in names:
        try:
            with _open_archive(path) as archive:
                _check_archive(archive, path)
                if f"{name}.npy" in archive.namelist():
                    arrays[name] = npy_from_bytes(archive.read(f"{name}.npy"), f"{path}: '{name}'")
        except HeadFileError:
            raise
        except _ZIP_ERRORS as error:
            raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error
    return arrays


class ArrayStream:
    """A large array of an archive, read along its first axis."""

    def __init__(self, file: IO[bytes], label: str, size: int) -> None:
        header = file.read(10)
        width = 2 if header[6:7] == b"\x01" else 4
        header += file.read(8 + width - len(header))
        header += file.read(min(int.from_bytes(header[8:], "little"), 10_000))
        kind, self.shape, self.fortran, start = parse_npy_header(header, label)
        self.dtype = np.dtype(kind)
        if self.dtype.kind not in "fiu" or math.prod(self.shape) * self.dtype.itemsize != size - start:
            raise HeadFileError(f"{label}: announces shape {self.shape} of {kind}, but holds {size - start} bytes.")
        self._file, self._label = file, label

    def read_row(self) -> np.ndarray:
        """Read the next row, of shape `shape[1:]`. Raises HeadFileError at the end."""
        count = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = self._file.read(count)
        if len(data) != count:
            raise HeadFileError(f"{self._label}: ends in the middle. Fetch it again.")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])


@contextlib.contextmanager
def open_npz_member(path: Path, name: str) -> Iterator[ArrayStream]:
    """Open one array of an archive for reading row by row.

    Raises:
      HeadFileError: as `read_npz`, or the array is missing.
    """
    try:
        with _open_archive(path) as archive:
            _check_archive(archive, path)
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as file:
                yield ArrayStream(file, f"{path}: '{name}'", info.file_size)
    except HeadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error


def npy_from_bytes(data: bytes, label: str) -> np.ndarray:
    """Parse the content of a `.npy` file of numbers, booleans or text, without a copy.

    Raises:
      HeadFileError: it is no `.npy` file, an array of Python objects, or its size differs from the announced one.
    """
    kind, shape, fortran, start = parse_npy_header(data, label)
    if kind == "O":
        raise HeadFileError(f"{label}: not a readable array (it holds Python objects).")
    dtype = np.dtype(kind)
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise HeadFileError(f"{label}: announces shape {shape} of {dtype}, but holds {len(data) - start} bytes.")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    if dtype.kind == "U" and np.frombuffer(data, f"{kind[0]}u4", offset=start).max(initial=0) > 0x10FFFF:
        raise HeadFileError(f"{label}: holds text with invalid characters.")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def read_npy(path: Path) -> Any:
    """Read a `.npy` file: an array of numbers, or the safely unpickled object of an object array.

    Raises:
      HeadFileError: it is missing, damaged, or its pickle names something that is not allowed.
    """
    return npy_or_object_from_bytes(read_bytes(path), str(path))


def npy_or_object_from_bytes(data: bytes, label: str) -> Any:
    """Parse the content of a `.npy` file, as `read_npy`."""
    kind, shape, _, start = parse_npy_header(data, label)
    if kind != "O":
        return npy_from_bytes(data, label)
    if shape != ():
        raise HeadFileError(f"{label}: holds an array of {shape} Python objects, expected a single one.")
    return unwrap_object(load_pickle(data, label, start)[0], label)


def parse_npy_header(data: bytes, label: str) -> tuple[str, tuple[int, ...], bool, int]:
    """Returns the dtype's name ("O" for objects), the shape, whether it is in Fortran order, and the data's offset.

    It parses only the form that NumPy writes; NumPy's own reader evaluates the header as a Python expression.

    Raises:
      HeadFileError: it is no `.npy` file.
    """
    width = {1: 2, 2: 4, 3: 4}.get(data[6], 0) if data[:6] == b"\x93NUMPY" and len(data) > 10 else 0
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    header = _HEADER.fullmatch(data[8 + width : start]) if width and start <= min(len(data), 10_000) else None
    if header is None:
        raise HeadFileError(f"{label}: not a readable .npy array. Fetch or convert the file again.")
    shape = tuple(int(axis) for axis in header["shape"].replace(b" ", b"").replace(b"L", b"").split(b",") if axis)
    kind = header["descr"].decode()
    if kind[1:] in ("f1", "b2", "b4", "b8"):
        raise HeadFileError(f"{label}: not a readable .npy array (of type {kind}).")
    return ("O" if kind[1] == "O" else kind), shape, header["fortran"] == b"True", start
