"""Reading PyTorch's checkpoints as data, without PyTorch: nothing that they name is imported or called.

Format: since torch 1.6 a zip archive, uncompressed, with a pickle `*/data.pkl` that refers to tensors' storages by
persistent ids, and each storage's numbers as `*/data/KEY`.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head import HeadFileError
from flamejax.head.formats import Name, PickleRecord, load_pickle

MAX_PICKLE, MAX_DEPTH, MAX_DICTIONARIES = 64 * 2**20, 3, 64
_ALSO = re.compile(
    r"torch\._utils _rebuild_parameter|torch BFloat16Storage|torch (?:Size|device)|argparse Namespace"
    r"|collections (?:defaultdict|Counter)|(?:__builtin__|builtins) (?:dict|list)|yacs\.config CfgNode"
    r"|easydict EasyDict|pathlib (?:Pure)?(?:Posix|Windows)Path"
)
"""What training programs keep beside weights."""
_TYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, which is read when it is asked for."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    """All dictionaries of tensors in a checkpoint, by where they lie ("" for the outermost, "arcface", "a/b").

    Raises:
      HeadFileError: it is damaged, or names something that no weights need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            place = next(name for name in infos if name.endswith("/data.pkl"))
            if infos[place].file_size > MAX_PICKLE:
                raise HeadFileError(f"{path}: its pickle has {infos[place].file_size} bytes: no weights.")
            folder = place.removesuffix("data.pkl")
            if f"{folder}byteorder" in infos and archive.read(f"{folder}byteorder").strip() == b"big":
                raise HeadFileError(f"{path}: its numbers are big-endian, which is not read here. Save it again.")
            content, _ = load_pickle(archive.read(place), str(path), also=_ALSO, of="checkpoint of weights")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, StopIteration) as error:
        raise HeadFileError(f"{path}: a damaged checkpoint ({error}). Fetch it again.") from error
    found: dict[str, dict[str, Tensor]] = {}
    _collect(content, "", found, lambda record, what: _tensor(record, what, path, folder, infos))
    return found


def _collect(
    content: Any, place: str, found: dict[str, dict[str, Tensor]], tensor: Callable[[PickleRecord, str], Tensor]
) -> None:
    """Fill `found` from nested dictionaries."""
    if type(content) is not dict or len(found) >= MAX_DICTIONARIES:
        return
    records = {name: value for name, value in content.items() if isinstance(name, str) and _is_tensor(value)}
    if records:
        found[place] = {name: tensor(_bare(record), name) for name, record in records.items()}
    if place.count("/") < MAX_DEPTH - 1:
        for name, value in content.items():
            if isinstance(name, str):
                _collect(value, f"{place}/{name}".removeprefix("/"), found, tensor)


def _is_tensor(value: Any) -> bool:
    return type(value) is PickleRecord and type(_bare(value)) is PickleRecord and _bare(value).kind.startswith("_rebuild_tensor")


def _bare(value: PickleRecord) -> Any:
    """The tensor of a parameter."""
    return value.args[0] if value.kind == "_rebuild_parameter" and value.args else value


def _tensor(record: PickleRecord, name: str, path: Path, folder: str, infos: Mapping[str, zipfile.ZipInfo]) -> Tensor:
    """A view of a storage, from its record: storage, offset, shape and strides in numbers."""
    what = f"{path}: '{name[:80]}'"
    storage, offset, shape, strides = (*record.args, None, None, None, None)[:4]
    persistent = storage.args[0] if type(storage) is PickleRecord and storage.kind == "persistent" else None
    if type(persistent) is not tuple or len(persistent) < 5 or not isinstance(persistent[1], Name):
        raise HeadFileError(f"{what} is a tensor of unknown form.")
    code, key, count = _TYPES.get(persistent[1].name), persistent[2], persistent[4]
    info = infos.get(f"{folder}data/{key}") if isinstance(key, str) else None
    if code is None or info is None or not (_is_shape(shape) and _is_shape(strides) and _is_shape((offset, count))):
        raise HeadFileError(f"{what} is a tensor of unknown form, or its numbers are missing.")
    dtype = np.dtype(code)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=False))
    if (
        info.compress_type != zipfile.ZIP_STORED
        or count * dtype.itemsize != info.file_size
        or len(shape) != len(strides)
        # A stride of zero would let a small file fill the memory.
        or math.prod(shape) > count
        or (math.prod(shape) and last >= count)
    ):
        raise HeadFileError(f"{what} reaches beyond its numbers. The file is damaged: fetch it again.")

    def read() -> np.ndarray:
        try:
            with zipfile.ZipFile(path) as archive:
                flat = np.frombuffer(archive.read(info), dtype)
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError) as error:
            raise HeadFileError(f"{what} is damaged ({error}). Fetch the file again.") from error
        if code == "<u2":  # bfloat16 is the upper half of a float32.
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        in_bytes = tuple(step * flat.itemsize for step in strides)
        return np.lib.stride_tricks.as_strided(flat[offset:], shape, in_bytes, writeable=False)

    return Tensor(shape, read)


def _is_shape(values: Any) -> bool:
    return type(values) is tuple and all(type(n) is int and 0 <= n < 2**40 for n in values)
