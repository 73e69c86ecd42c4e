"""Reading `.npy` and `.npz` files that may be damaged or hostile: no size is believed before it is checked."""

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

from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.pickle_arrays import content
from flamejax.head.formats.safe_pickle import load_pickle

MAX_MEMBERS = 256
FREE_BYTES, MAX_RATIO = 64 * 2**20, 100
"""An archive may hold this much whatever its own size, and this many times its own size."""

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
    """A file's content. Raises: HeadFileError if it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise HeadFileError(f"{path}: no such file.") from error
    except (OSError, MemoryError) as error:
        raise HeadFileError(f"{path}: cannot be read ({error}).") from error


def read_npz(path: Path, objects: bool = False) -> dict[str, Any]:
    """All arrays of an archive. They are read-only.

    Args:
      objects: also read object arrays, with the safe unpickler; otherwise they are refused.

    Raises:
      HeadFileError: it is missing, damaged, holds pickles, or unpacks to much more than its size lets expect.
    """
    read = object_or_array if objects else npy_from_bytes
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
            members = archive.infolist()
        data = path.read_bytes()

        def member(info: zipfile.ZipInfo) -> Any:
            # Each thread its own archive: one that threads share loses its place in Python 3.12 (CPython issue 128258).
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return read(archive.read(info), f"{path}: '{info.filename}'")

        # The blend shapes take as long to unpack as all the rest together, and zlib runs outside Python's lock.
        with ThreadPoolExecutor(2) as pool:
            arrays = pool.map(member, members)
            return {info.filename.removesuffix(".npy"): array for info, array in zip(members, arrays, strict=True)}
    except HeadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS or len({info.filename for info in members}) < len(members):
        raise HeadFileError(f"{path}: not a readable .npz file (its list of members is not one of arrays).")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members):
        raise HeadFileError(f"{path}: not a readable .npz file (compressed in a way that numpy does not use).")
    total, size = sum(info.file_size for info in members), path.stat().st_size
    if total > max(FREE_BYTES, MAX_RATIO * size):
        raise HeadFileError(f"{path}: not a readable .npz file ({size} bytes that claim to unpack to {total}).")


def npz_names(path: Path) -> list[str]:
    """The names of an archive's arrays. Raises: HeadFileError, as `read_npz`."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except HeadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error


def read_npz_members(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Those of the named arrays that an archive has; the others are not unpacked.

    Raises:
      HeadFileError: as `read_npz`.
    """
    found = {}
    for name in names:
        try:
            with zipfile.ZipFile(path) as archive:
                _check_archive(archive, path)
                if f"{name}.npy" in archive.namelist():
                    found[name] = npy_from_bytes(archive.read(f"{name}.npy"), f"{path}: '{name}'")
        except HeadFileError:
            raise
        except _ZIP_ERRORS as error:
            raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error
    return found


class ArrayStream:
    """A large array of an archive, read along its first axis."""

    def __init__(self, file: IO[bytes], what: str, size: int) -> None:
        head = file.read(10)
        width = 2 if head[6:7] == b"\x01" else 4
        head += file.read(8 + width - len(head))
        head += file.read(min(int.from_bytes(head[8:], "little"), 10_000))
        kind, self.shape, self.fortran, start = npy_header(head, what)
        self.dtype = np.dtype(kind)
        if self.dtype.kind not in "fiu" or math.prod(self.shape) * self.dtype.itemsize != size - start:
            raise HeadFileError(f"{what}: announces shape {self.shape} of {kind}, but holds {size - start} bytes.")
        self._file, self._what = file, what

    def row(self) -> np.ndarray:
        """The next row, (shape[1:]). Raises: HeadFileError at the end."""
        count = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = self._file.read(count)
        if len(data) != count:
            raise HeadFileError(f"{self._what}: ends in the middle. Fetch it again.")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])


@contextlib.contextmanager
def open_npz_member(path: Path, name: str) -> Iterator[ArrayStream]:
    """Open one array of an archive for reading row by row.

    Raises:
      HeadFileError: as `read_npz`, or there is no such array.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, path)
            info = archive.getinfo(f"{name}.npy")
            with archive.open(info) as file:
                yield ArrayStream(file, f"{path}: '{name}'", info.file_size)
    except HeadFileError:
        raise
    except _ZIP_ERRORS as error:
        raise HeadFileError(f"{path}: not a readable .npz file ({error}). Fetch or convert it again.") from error


def npy_from_bytes(data: bytes, what: str) -> np.ndarray:
    """An array of numbers, truth values or text from a `.npy` file's content, without a copy.

    Raises:
      HeadFileError: not a `.npy` file, an array of Python objects, or of another size than announced.
    """
    kind, shape, fortran, start = npy_header(data, what)
    if kind == "O":
        raise HeadFileError(f"{what}: not a readable array (it holds Python objects).")
    dtype = np.dtype(kind)
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise HeadFileError(f"{what}: announces shape {shape} of {dtype}, but holds {len(data) - start} bytes.")
    if dtype.itemsize == 0:
        return np.zeros(shape, dtype)
    if dtype.kind == "U" and np.frombuffer(data, f"{kind[0]}u4", offset=start).max(initial=0) > 0x10FFFF:
        raise HeadFileError(f"{what}: holds text that is no text.")
    return np.frombuffer(data, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


def read_npy(path: Path) -> Any:
    """What a `.npy` file holds: an array of numbers, or the object of an object array, safely unpickled.

    Raises:
      HeadFileError: it is missing, damaged, or its pickle names what is not allowed.
    """
    return object_or_array(read_bytes(path), str(path))


def object_or_array(data: bytes, what: str) -> Any:
    """As `read_npy`, of a file's content."""
    kind, shape, _, start = npy_header(data, what)
    if kind != "O":
        return npy_from_bytes(data, what)
    if shape != ():
        raise HeadFileError(f"{what}: holds an array of {shape} Python objects, expected a single one.")
    return content(load_pickle(data, what, start)[0], what)


def npy_header(data: bytes, what: str) -> tuple[str, tuple[int, ...], bool, int]:
    """dtype's name ("O" for objects), shape, Fortran order, and where the numbers start.

    Only the form that numpy writes is understood; numpy's own reader evaluates the header as a Python expression.

    Raises:
      HeadFileError: not a `.npy` file.
    """
    width = {1: 2, 2: 4, 3: 4}.get(data[6], 0) if data[:6] == b"\x93NUMPY" and len(data) > 10 else 0
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    header = _HEADER.fullmatch(data[8 + width : start]) if width and start <= min(len(data), 10_000) else None
    if header is None:
        raise HeadFileError(f"{what}: not a readable .npy array. Fetch or convert the file again.")
    shape = tuple(int(axis) for axis in header["shape"].replace(b" ", b"").replace(b"L", b"").split(b",") if axis)
    kind = header["descr"].decode()
    if kind[1:] in ("f1", "b2", "b4", "b8"):
        raise HeadFileError(f"{what}: not a readable .npy array (of type {kind}).")
    return ("O" if kind[1] == "O" else kind), shape, header["fortran"] == b"True", start
