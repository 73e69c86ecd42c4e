"""Conversion of `PickleRecord`s to arrays: NumPy arrays, SciPy sparse matrices, chumpy arrays and torch tensors."""

import math
from typing import Any

import numpy as np

from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.safe_pickle import PickleName, PickleRecord, load_pickle

MAX_AXES, MAX_NESTING = 8, 4
MAX_LISTED = 1_000_000
"""Most numbers in lists: only landmarks and masks are stored as lists."""
_DTYPES = frozenset(("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"))
TORCH_DTYPES = {
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
"""Class of a torch storage -> the dtype of its numbers."""
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def to_array(value: Any, label: str, nesting: int = 0) -> np.ndarray:
    """Convert a number, a record of a NumPy, chumpy or torch array, or a list of these to a dense array.

    Args:
      value: from `load_pickle`.
      label: file and entry, for messages.

    Raises:
      HeadFileError: it is none of these, or its announced size differs from its data's.
    """
    if nesting > MAX_NESTING:
        raise _error(label, "is nested too deeply")
    if isinstance(value, bool | int | float) and abs(value) < 2**63:
        return np.asarray(value)
    if type(value) is list:
        return _from_list(value, label, nesting)
    if type(value) is PickleRecord:
        convert = _CONVERTERS.get(value.kind)
        if convert is not None:
            return convert(value, label, nesting)
    raise _error(label, f"is {_describe(value)}, not an array of numbers")


def _from_list(value: list[Any], label: str, nesting: int) -> np.ndarray:
    if all(isinstance(item, int | float) and abs(item) < 2**63 for item in value):
        return np.asarray(value)
    first = to_array(value[0], label, nesting + 1)
    # Checked before converting the others: lists that share their items can be far larger than their file.
    if first.size * len(value) > MAX_LISTED:
        raise _error(label, "is a list of too many numbers")
    items = [first, *(to_array(item, label, nesting + 1) for item in value[1:])]
    if len({item.shape for item in items}) != 1:
        raise _error(label, "is a list of arrays that differ in shape")
    return np.stack(items)


def to_dense(value: Any, label: str, shape: tuple[int, int]) -> np.ndarray:
    """Convert a record of a SciPy sparse matrix, or a dense one, to a float64 matrix of the expected shape.

    Raises:
      HeadFileError: it has another shape, or indices outside of it.
    """
    if not (type(value) is PickleRecord and value.kind[:4] in ("csc_", "csr_", "coo_")):
        dense = to_array(value, label)
        if dense.shape != shape:
            raise _error(label, f"has shape {dense.shape}, expected {shape}")
        return _check_kind(dense, label, "iuf").astype(np.float64)
    state = value.state if isinstance(value.state, dict) else {}
    actual = state.get("_shape", state.get("shape"))
    if not _is_shape(actual) or actual != shape:
        raise _error(label, f"is a sparse matrix of shape {actual if _is_shape(actual) else '?'}, expected {shape}")
    data = _check_kind(to_array(state.get("data"), label), label, "iuf").reshape(-1)
    if value.kind.startswith("coo"):
        coords = state.get("coords") or (state.get("row"), state.get("col"))
        if type(coords) is not tuple or len(coords) != 2:
            raise _error(label, "is a sparse matrix of unknown form")
        row, column = (_check_indices(index, label, n) for index, n in zip(coords, shape, strict=True))
    else:
        by_column = value.kind.startswith("csc")
        num_major, num_minor = (shape[1], shape[0]) if by_column else shape
        starts = _check_indices(state.get("indptr"), label, len(data) + 1)
        if len(starts) != num_major + 1 or starts[0] != 0 or starts[-1] != len(data) or (np.diff(starts) < 0).any():
            raise _error(label, "is a sparse matrix with broken row starts")
        major = np.repeat(np.arange(num_major), np.diff(starts))
        minor = _check_indices(state.get("indices"), label, num_minor)
        row, column = (minor, major) if by_column else (major, minor)
    if not len(row) == len(column) == len(data):
        raise _error(label, "is a sparse matrix with fewer indices than numbers")
    dense = np.zeros(shape)
    np.add.at(dense, (row, column), data)
    return dense


def unwrap_object(value: Any, label: str) -> Any:
    """Returns the item of a zero-dimensional object array (NumPy's way to save a dictionary), or else the value."""
    if type(value) is PickleRecord and value.kind == "_reconstruct":
        state = _array_state(value, label)
        if _type_code(state[2]) == "O" and tuple(state[1]) == () and type(state[4]) is list and len(state[4]) == 1:
            return state[4][0]
    return value


def _from_reconstruct(value: PickleRecord, label: str, nesting: int) -> np.ndarray:
    del nesting
    _, shape, kind, fortran, data = _array_state(value, label)
    return _from_buffer(_to_bytes(data, label), _parse_dtype(kind, label), shape, "F" if fortran else "C", label)


def _from_frombuffer(value: PickleRecord, label: str, nesting: int) -> np.ndarray:
    """Convert protocol 5's form: bytes, type, shape, order; NumPy 2.3 and later add an order of axes for order "K"."""
    del nesting
    data, kind, shape, order, axes = (*value.args, None)[:5] if len(value.args) in (4, 5) else (None,) * 5
    if order not in ("C", "F", "K") or (order == "K") != (axes is not None):
        raise _error(label, "is an array of unknown form")
    array = _from_buffer(_to_bytes(data, label), _parse_dtype(kind, label), shape, "F" if order == "F" else "C", label)
    if axes is None:
        return array
    if not _is_shape(axes) or sorted(axes) != list(range(array.ndim)):
        raise _error(label, "has an impossible order of axes")
    return array.transpose(axes)


def _from_scalar(value: PickleRecord, label: str, nesting: int) -> np.ndarray:
    del nesting
    if len(value.args) != 2:
        raise _error(label, "is a number of unknown form")
    return _from_buffer(_to_bytes(value.args[1], label), _parse_dtype(value.args[0], label), (), "C", label)


def _from_chumpy(value: PickleRecord, label: str, nesting: int) -> np.ndarray:
    """Convert chumpy's `Ch`, which stores its array in the attribute x."""
    state = value.state if isinstance(value.state, dict) else {}
    return to_array(state.get("x"), label, nesting + 1)


def _from_chumpy_select(value: PickleRecord, label: str, nesting: int) -> np.ndarray:
    """Convert chumpy's `a.ravel()[idxs]`, reshaped to a preferred shape."""
    state = value.state if isinstance(value.state, dict) else {}
    source = to_array(state.get("a"), label, nesting + 1).reshape(-1)
    selected = source[_check_indices(state.get("idxs"), label, len(source))]
    shape = state.get("preferred_shape", selected.shape)
    if not _is_shape(shape) or math.prod(shape) != selected.size:
        raise _error(label, "is a chumpy selection of unknown form")
    return selected.reshape(shape)


def _from_torch(value: PickleRecord, label: str, nesting: int) -> np.ndarray:
    """Convert a torch tensor inside a pickle: offset, size and stride into a storage that is saved as bytes."""
    del nesting
    storage, offset, size, stride = (*value.args, None, None, None, None)[:4]
    if type(storage) is not PickleRecord or storage.kind != "_load_from_bytes" or len(storage.args) != 1:
        raise _error(label, "is a torch tensor of unknown form")
    flat = _torch_storage(_to_bytes(storage.args[0], label), label)
    if not (_is_shape(size) and _is_shape(stride) and _is_shape((offset,))):
        raise _error(label, "is a torch tensor of unknown form")
    contiguous = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    if stride != contiguous or offset + math.prod(size) > len(flat):
        raise _error(label, "is a torch tensor that is not contiguous in its storage")
    return flat[offset : offset + math.prod(size)].reshape(size)


def _torch_storage(data: bytes, label: str) -> np.ndarray:
    """Read torch.save's legacy format: pickles (magic, protocol, system, object, keys), then count and numbers."""
    position, parts = 0, []
    for _ in range(5):
        part, position = load_pickle(data, label, position)
        parts.append(part)
    magic, _, _, record, keys = parts
    identifier = record.args[0] if type(record) is PickleRecord and record.kind == "persistent" else None
    if type(magic) is not int or magic != _TORCH_MAGIC or type(identifier) is not tuple or len(identifier) < 5:
        raise _error(label, "holds a torch storage of unknown form")
    if type(identifier[2]) is not str or type(keys) is not list or keys[:2] != [identifier[2]]:
        raise _error(label, "holds a torch storage of unknown form")
    kind = TORCH_DTYPES.get(identifier[1].name) if isinstance(identifier[1], PickleName) else None
    if kind is None:
        raise _error(label, "holds a torch storage of unknown type")
    count = int.from_bytes(data[position : position + 8], "little")
    numbers = data[position + 8 :]
    if count * np.dtype(kind).itemsize != len(numbers):
        raise _error(label, f"holds a torch storage of {count} numbers in {len(numbers)} bytes")
    return np.frombuffer(numbers, kind)


_CONVERTERS = {
    "_reconstruct": _from_reconstruct,
    "_frombuffer": _from_frombuffer,
    "scalar": _from_scalar,
    "Ch": _from_chumpy,
    "Select": _from_chumpy_select,
    "_rebuild_tensor": _from_torch,
    "_rebuild_tensor_v2": _from_torch,
}


def _from_buffer(data: bytes, dtype: np.dtype, shape: Any, order: str, label: str) -> np.ndarray:
    if not _is_shape(shape):
        raise _error(label, "has an impossible shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise _error(label, f"announces shape {shape} of {dtype} but holds {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and len(value) <= MAX_AXES and all(type(n) is int and 0 <= n < 2**40 for n in value)


def _array_state(value: PickleRecord, label: str) -> tuple[Any, ...]:
    state = value.state
    if type(state) is tuple and len(state) == 4:  # The oldest format has no version.
        state = (0, *state)
    if type(state) is not tuple or len(state) != 5 or type(state[1]) is not tuple:
        raise _error(label, "is an array of unknown form")
    return state


def _type_code(record: Any) -> str:
    code = record.args[0] if type(record) is PickleRecord and record.kind == "dtype" and record.args else None
    return ("O" if code in ("O", "O4", "O8") else code) if type(code) is str else ""


def _parse_dtype(record: Any, label: str) -> np.dtype:
    code = _type_code(record)
    if code[:1] in "<>=|" and code[1:] in _DTYPES:
        return np.dtype(code)
    if code not in _DTYPES:
        raise _error(label, f"has numbers of the type {code[:20]!r}, which no head model needs")
    order = record.state[1] if type(record.state) is tuple and len(record.state) > 1 else "="
    return np.dtype((order if order in ("<", ">") else "=") + code)


def _to_bytes(data: Any, label: str) -> bytes:
    if type(data) is PickleRecord and data.kind == "encode" and data.args[1:] in (("latin1",), ("latin-1",)):
        data = data.args[0]  # Python 3 stores bytes this way in protocol 2.
    if type(data) is PickleRecord and data.kind in ("bytes", "bytearray") and len(data.args) <= 1:
        data = data.args[0] if data.args else b""
    if type(data) is str:
        try:
            return data.encode("latin-1")
        except UnicodeEncodeError as error:
            raise _error(label, "stores its numbers as text") from error
    if type(data) is not bytes:
        raise _error(label, f"stores its numbers as {_describe(data)}")
    return data


def _check_indices(value: Any, label: str, limit: int) -> np.ndarray:
    array = _check_kind(to_array(value, label), label, "iu").reshape(-1)
    if array.size and not (array.min() >= 0 and array.max() < limit):
        raise _error(label, f"has indices outside of its {limit} elements")
    return array.astype(np.int64)


def _check_kind(array: np.ndarray, label: str, kinds: str) -> np.ndarray:
    if array.dtype.kind not in kinds:
        raise _error(label, f"is of the wrong type {array.dtype}")
    return array


def _describe(value: Any) -> str:
    return f"a '{value.kind}'" if isinstance(value, PickleRecord | PickleName) else f"a '{type(value).__name__}'"


def _error(label: str, message: str) -> HeadFileError:
    return HeadFileError(f"{label} {message}. Fetch the file again from where it is published.")
