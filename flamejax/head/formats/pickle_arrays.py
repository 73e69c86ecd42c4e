"""Arrays from the records of a safely read pickle: numpy's, scipy's sparse matrices, chumpy's and torch's."""

import math
from typing import Any

import numpy as np

from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.safe_pickle import Name, PickleRecord, load_pickle

MAX_AXES, MAX_NESTING = 8, 4
MAX_LISTED = 1_000_000
"""Numbers in lists: only landmarks and masks come as such."""
_NUMBERS = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
_TORCH = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def to_array(value: Any, what: str, nesting: int = 0) -> np.ndarray:
    """A dense array from a number, numpy's, chumpy's or torch's record of an array, or a list of these.

    Args:
      value: from `load_pickle`.
      what: names file and entry in messages.

    Raises:
      HeadFileError: it is none of these, or its announced size is not that of its data.
    """
    if nesting > MAX_NESTING:
        raise _wrong(what, "is nested too deeply")
    if isinstance(value, bool | int | float) and abs(value) < 2**63:
        return np.asarray(value)
    if type(value) is list:
        return _from_list(value, what, nesting)
    if type(value) is PickleRecord:
        maker = _MAKERS.get(value.kind)
        if maker is not None:
            return maker(value, what, nesting)
    raise _wrong(what, f"is {_kind(value)}, not an array of numbers")


def _from_list(value: list[Any], what: str, nesting: int) -> np.ndarray:
    if all(isinstance(item, int | float) and abs(item) < 2**63 for item in value):
        return np.asarray(value)
    first = to_array(value[0], what, nesting + 1)
    # Before the others are looked at: lists that share their items can be far larger than their file.
    if first.size * len(value) > MAX_LISTED:
        raise _wrong(what, "is a list of too many numbers")
    items = [first, *(to_array(item, what, nesting + 1) for item in value[1:])]
    if len({item.shape for item in items}) != 1:
        raise _wrong(what, "is a list of arrays that differ in shape")
    return np.stack(items)


def to_dense(value: Any, what: str, shape: tuple[int, int]) -> np.ndarray:
    """A float64 matrix of the expected shape from scipy's record of a sparse one, or from a dense one.

    Raises:
      HeadFileError: another shape, or indices outside of it.
    """
    if not (type(value) is PickleRecord and value.kind[:4] in ("csc_", "csr_", "coo_")):
        dense = to_array(value, what)
        if dense.shape != shape:
            raise _wrong(what, f"has shape {dense.shape}, expected {shape}")
        return _numbers(dense, what, "iuf").astype(np.float64)
    state = value.state if isinstance(value.state, dict) else {}
    found = state.get("_shape", state.get("shape"))
    if not _is_shape(found) or found != shape:
        raise _wrong(what, f"is a sparse matrix of shape {found if _is_shape(found) else '?'}, expected {shape}")
    data = _numbers(to_array(state.get("data"), what), what, "iuf").reshape(-1)
    if value.kind.startswith("coo"):
        coords = state.get("coords") or (state.get("row"), state.get("col"))
        if type(coords) is not tuple or len(coords) != 2:
            raise _wrong(what, "is a sparse matrix of unknown form")
        row, column = (_indices(index, what, n) for index, n in zip(coords, shape, strict=True))
    else:
        by_column = value.kind.startswith("csc")
        along, across = (shape[1], shape[0]) if by_column else shape
        starts = _indices(state.get("indptr"), what, len(data) + 1)
        if len(starts) != along + 1 or starts[0] != 0 or starts[-1] != len(data) or (np.diff(starts) < 0).any():
            raise _wrong(what, "is a sparse matrix with broken row starts")
        major, minor = np.repeat(np.arange(along), np.diff(starts)), _indices(state.get("indices"), what, across)
        row, column = (minor, major) if by_column else (major, minor)
    if not len(row) == len(column) == len(data):
        raise _wrong(what, "is a sparse matrix with fewer places than numbers")
    out = np.zeros(shape)
    np.add.at(out, (row, column), data)
    return out


def content(array_or_record: Any, what: str) -> Any:
    """What a zero-dimensional object array holds (numpy's way to save a dictionary); other things as they are."""
    value = array_or_record
    if type(value) is PickleRecord and value.kind == "_reconstruct":
        state = _array_state(value, what)
        if _type_code(state[2]) == "O" and tuple(state[1]) == () and type(state[4]) is list and len(state[4]) == 1:
            return state[4][0]
    return value


def _from_reconstruct(value: PickleRecord, what: str, nesting: int) -> np.ndarray:
    del nesting
    _, shape, kind, fortran, data = _array_state(value, what)
    return _from_buffer(_bytes(data, what), _dtype(kind, what), shape, "F" if fortran else "C", what)


def _from_frombuffer(value: PickleRecord, what: str, nesting: int) -> np.ndarray:
    del nesting
    if len(value.args) != 4:
        raise _wrong(what, "is an array of unknown form")
    data, kind, shape, order = value.args
    return _from_buffer(_bytes(data, what), _dtype(kind, what), shape, "F" if order == "F" else "C", what)


def _from_scalar(value: PickleRecord, what: str, nesting: int) -> np.ndarray:
    del nesting
    if len(value.args) != 2:
        raise _wrong(what, "is a number of unknown form")
    return _from_buffer(_bytes(value.args[1], what), _dtype(value.args[0], what), (), "C", what)


def _from_chumpy(value: PickleRecord, what: str, nesting: int) -> np.ndarray:
    """chumpy keeps the array of a `Ch` in its attribute x."""
    state = value.state if isinstance(value.state, dict) else {}
    return to_array(state.get("x"), what, nesting + 1)


def _from_chumpy_select(value: PickleRecord, what: str, nesting: int) -> np.ndarray:
    """chumpy's `a.ravel()[idxs]`, in a preferred shape."""
    state = value.state if isinstance(value.state, dict) else {}
    source = to_array(state.get("a"), what, nesting + 1).reshape(-1)
    chosen = source[_indices(state.get("idxs"), what, len(source))]
    shape = state.get("preferred_shape", chosen.shape)
    if not _is_shape(shape) or math.prod(shape) != chosen.size:
        raise _wrong(what, "is a chumpy selection of unknown form")
    return chosen.reshape(shape)


def _from_torch(value: PickleRecord, what: str, nesting: int) -> np.ndarray:
    """A torch tensor inside a pickle: offset, size and stride into a storage that torch has saved as bytes."""
    del nesting
    storage, offset, size, stride = (*value.args, None, None, None, None)[:4]
    if type(storage) is not PickleRecord or storage.kind != "_load_from_bytes" or len(storage.args) != 1:
        raise _wrong(what, "is a torch tensor of unknown form")
    flat = _torch_storage(_bytes(storage.args[0], what), what)
    if not (_is_shape(size) and _is_shape(stride) and _is_shape((offset,))):
        raise _wrong(what, "is a torch tensor of unknown form")
    dense = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    if stride != dense or offset + math.prod(size) > len(flat):
        raise _wrong(what, "is a torch tensor that is not contiguous in its storage")
    return flat[offset : offset + math.prod(size)].reshape(size)


def _torch_storage(data: bytes, what: str) -> np.ndarray:
    """torch.save's first format: four pickles (magic, protocol, system, object), the keys, then count and numbers."""
    at, parts = 0, []
    for _ in range(5):
        part, at = load_pickle(data, what, at)
        parts.append(part)
    magic, _, _, record, keys = parts
    place = record.args[0] if type(record) is PickleRecord and record.kind == "persistent" else None
    if type(magic) is not int or magic != _TORCH_MAGIC or type(place) is not tuple or len(place) < 5:
        raise _wrong(what, "holds a torch storage of unknown form")
    if type(place[2]) is not str or type(keys) is not list or keys[:2] != [place[2]]:
        raise _wrong(what, "holds a torch storage of unknown form")
    kind = _TORCH.get(place[1].name) if isinstance(place[1], Name) else None
    if kind is None:
        raise _wrong(what, "holds a torch storage of unknown type")
    count = int.from_bytes(data[at : at + 8], "little")
    numbers = data[at + 8 :]
    if count * np.dtype(kind).itemsize != len(numbers):
        raise _wrong(what, f"holds a torch storage of {count} numbers in {len(numbers)} bytes")
    return np.frombuffer(numbers, kind)


_MAKERS = {
    "_reconstruct": _from_reconstruct,
    "_frombuffer": _from_frombuffer,
    "scalar": _from_scalar,
    "Ch": _from_chumpy,
    "Select": _from_chumpy_select,
    "_rebuild_tensor": _from_torch,
    "_rebuild_tensor_v2": _from_torch,
}


def _from_buffer(data: bytes, dtype: np.dtype, shape: Any, order: str, what: str) -> np.ndarray:
    if not _is_shape(shape):
        raise _wrong(what, "has an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise _wrong(what, f"announces shape {shape} of {dtype} but holds {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and len(value) <= MAX_AXES and all(type(n) is int and 0 <= n < 2**40 for n in value)


def _array_state(value: PickleRecord, what: str) -> tuple[Any, ...]:
    state = value.state
    if type(state) is tuple and len(state) == 4:  # The oldest form has no version in front.
        state = (0, *state)
    if type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple:
        raise _wrong(what, "is an array of unknown form")
    return state


def _type_code(record: Any) -> str:
    code = record.args[0] if type(record) is PickleRecord and record.kind == "dtype" and record.args else None
    return ("O" if code in ("O", "O4", "O8") else code) if type(code) is str else ""


def _dtype(record: Any, what: str) -> np.dtype:
    code = _type_code(record)
    if code[:1] in "<>=|" and code[1:] in _NUMBERS:
        return np.dtype(code)
    if code not in _NUMBERS:
        raise _wrong(what, f"has numbers of the type {code[:20]!r}, which no head model needs")
    order = record.state[1] if type(record.state) is tuple and len(record.state) > 1 else "="
    return np.dtype((order if order in ("<", ">") else "=") + code)


def _bytes(data: Any, what: str) -> bytes:
    if type(data) is PickleRecord and data.kind == "encode" and data.args[1:] in (("latin1",), ("latin-1",)):
        data = data.args[0]  # Python 3's way to put bytes into protocol 2.
    if type(data) is PickleRecord and data.kind in ("bytes", "bytearray") and len(data.args) <= 1:
        data = data.args[0] if data.args else b""
    if type(data) is str:
        try:
            return data.encode("latin-1")
        except UnicodeEncodeError as error:
            raise _wrong(what, "has its numbers in a text") from error
    if type(data) is not bytes:
        raise _wrong(what, f"has its numbers in {_kind(data)}")
    return data


def _indices(value: Any, what: str, limit: int) -> np.ndarray:
    array = _numbers(to_array(value, what), what, "iu").reshape(-1)
    if array.size and not (array.min() >= 0 and array.max() < limit):
        raise _wrong(what, f"has places outside of its {limit} elements")
    return array.astype(np.int64)


def _numbers(array: np.ndarray, what: str, kinds: str) -> np.ndarray:
    if array.dtype.kind not in kinds:
        raise _wrong(what, f"is of type {array.dtype}, which is not its form")
    return array


def _kind(value: Any) -> str:
    return f"a '{value.kind}'" if isinstance(value, PickleRecord | Name) else f"a '{type(value).__name__}'"


def _wrong(what: str, message: str) -> HeadFileError:
    return HeadFileError(f"{what} {message}. Fetch the file again from where it is published.")
