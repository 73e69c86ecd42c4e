"""Read PyTorch checkpoints as data, without PyTorch: nothing that they name is imported or called.

Since torch 1.6 a checkpoint is an uncompressed zip archive. Its pickle `*/data.pkl` refers to the tensors' storages by
persistent ids, and each storage's numbers are in `*/data/KEY`.
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
from flamejax.head.formats import PickleName, PickleRecord, load_pickle
from flamejax.head.formats.pickle_arrays import TORCH_DTYPES

MAX_PICKLE, MAX_DEPTH, MAX_DICTIONARIES = 64 * 2**20, 3, 64
"""Limits: bytes of the pickle, levels of nested dictionaries, and number of dictionaries of tensors."""
_EXTRA_NAMES = re.compile(
    r"torch\._utils _rebuild_parameter|torch BFloat16Storage|torch (?:Size|device)|argparse Namespace"
    r"|collections (?:defaultdict|Counter)|(?:__builtin__|builtins) (?:dict|list)|yacs\.config CfgNode"
    r"|easydict EasyDict|pathlib (?:Pure)?(?:Posix|Windows)Path"
)
"""Names that the pickle may contain besides tensors, because training programs store such objects with weights."""
_TYPES = TORCH_DTYPES | {"BFloat16Storage": "<u2"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file, read on demand."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def read_checkpoint(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return all dictionaries of tensors in a checkpoint by their paths ("" for the outermost, "arcface", "a/b").

    Raises:
      HeadFileError: it is damaged, or names objects that weights do not need.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            pickle_name = next(name for name in infos if name.endswith("/data.pkl"))
            if infos[pickle_name].file_size > MAX_PICKLE:
                size = infos[pickle_name].file_size
                raise HeadFileError(f"{path}: its pickle has {size} bytes: too many for weights.")
            folder = pickle_name.removesuffix("data.pkl")
            if f"{folder}byteorder" in infos and archive.read(f"{folder}byteorder").strip() == b"big":
                raise HeadFileError(f"{path}: its numbers are big-endian, which is not read here. Save it again.")
            data = archive.read(pickle_name)
            content, _ = load_pickle(data, str(path), also=_EXTRA_NAMES, of="checkpoint of weights")
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, StopIteration) as error:
        raise HeadFileError(f"{path}: a damaged checkpoint ({error}). Fetch it again.") from error
    dictionaries: dict[str, dict[str, Tensor]] = {}
    _collect_tensors(content, "", dictionaries, lambda record, name: _make_tensor(record, name, path, folder, infos))
    return dictionaries


def _collect_tensors(
    content: Any,
    key_path: str,
    dictionaries: dict[str, dict[str, Tensor]],
    make_tensor: Callable[[PickleRecord, str], Tensor],
) -> None:
    """Add the tensors in nested dictionaries to `dictionaries`."""
    if type(content) is not dict or len(dictionaries) >= MAX_DICTIONARIES:
        return
    records = {name: value for name, value in content.items() if isinstance(name, str) and _is_tensor(value)}
    if records:
        dictionaries[key_path] = {name: make_tensor(_parameter_data(value), name) for name, value in records.items()}
    if key_path.count("/") < MAX_DEPTH - 1:
        for name, value in content.items():
            if isinstance(name, str):
                _collect_tensors(value, f"{key_path}/{name}".removeprefix("/"), dictionaries, make_tensor)


def _is_tensor(value: Any) -> bool:
    if type(value) is not PickleRecord:
        return False
    data = _parameter_data(value)
    return type(data) is PickleRecord and data.kind.startswith("_rebuild_tensor")


def _parameter_data(value: PickleRecord) -> Any:
    """Return the record of a parameter's tensor, or `value` itself if it is not a parameter."""
    return value.args[0] if value.kind == "_rebuild_parameter" and value.args else value


def _make_tensor(
    record: PickleRecord, name: str, path: Path, folder: str, infos: Mapping[str, zipfile.ZipInfo]
) -> Tensor:
    """Make a tensor from its record: a storage, and the offset, shape and strides of the view in elements."""
    what = f"{path}: '{name[:80]}'"
    storage, offset, shape, strides = (*record.args, None, None, None, None)[:4]
    persistent = storage.args[0] if type(storage) is PickleRecord and storage.kind == "persistent" else None
    if type(persistent) is not tuple or len(persistent) < 5 or not isinstance(persistent[1], PickleName):
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
