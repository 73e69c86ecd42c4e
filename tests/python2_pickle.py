"""Writing of pickles as in Python 2: 8-bit strings, old module names, protocol 0 or 2. For tests of the reader.

The output is that of `cPickle` for FLAME's releases: NumPy arrays through `_reconstruct`, chumpy's `Ch` as an object
with attributes, SciPy's sparse matrices through `_reconstructor`.
"""

import struct

import numpy as np
from scipy import sparse


class Chumpy:
    """A stand-in for `chumpy.ch.Ch(x)`: chumpy itself does not run on current Python."""

    def __init__(self, x: np.ndarray) -> None:
        self.x = x


class Raw:
    """Opcodes that are written unchanged."""

    def __init__(self, code: bytes) -> None:
        self.code = code


def dumps(value: object, protocol: int = 2) -> bytes:
    """Pickle dictionaries, lists, tuples, numbers, strings, arrays, sparse matrices, `Chumpy` and `Raw`."""
    return (b"\x80\x02" if protocol == 2 else b"") + _write(value, protocol) + b"."


def _write(value: object, protocol: int) -> bytes:
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, str | bytes):
        return _string(value if isinstance(value, bytes) else value.encode("latin-1"), protocol)
    if value is None or isinstance(value, bool):
        return b"N" if value is None else (b"I01\n" if value else b"I00\n")
    if isinstance(value, int):
        return b"I%d\n" % value if protocol == 0 or not -(2**31) <= value < 2**31 else b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"F%r\n" % value if protocol == 0 else b"G" + struct.pack(">d", value)
    if isinstance(value, tuple):
        return b"(" + b"".join(_write(item, protocol) for item in value) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(_write(item, protocol) for item in value) + b"e"
    if isinstance(value, dict):
        items = b"".join(_write(key, protocol) + _write(item, protocol) for key, item in value.items())
        return b"(" + items + b"d" if protocol == 0 else b"}(" + items + b"u"
    if isinstance(value, np.ndarray):
        return _array(value, protocol)
    if isinstance(value, Chumpy):
        state = {"_dirty_vars": Raw(b"c__builtin__\nset\n(](etR"), "_itr": None, "_depends_on_deps": {}}
        state |= {"_make_dense": False, "_make_sparse": False, "x": value.x, "_status": "new"}
        return _instance(b"cchumpy.ch\nCh\n", state, protocol)
    if sparse.issparse(value):
        name = f"{value.format}_matrix"
        fields = ("row", "col", "data") if value.format == "coo" else ("indices", "indptr", "data")
        state = {"_shape": tuple(map(int, value.shape)), "maxprint": 50}
        state |= {field: getattr(value, field) for field in fields}
        return _instance(f"cscipy.sparse.{value.format}\n{name}\n".encode(), state, protocol)
    raise TypeError(type(value))


def _string(data: bytes, protocol: int) -> bytes:
    if protocol == 0:
        return b"S" + repr(data)[1:].encode("ascii") + b"\n"
    return (b"U" + bytes([len(data)]) if len(data) < 256 else b"T" + struct.pack("<i", len(data))) + data


def _array(array: np.ndarray, protocol: int) -> bytes:
    kind = array.dtype
    order = "|" if kind.itemsize == 1 or kind.kind == "O" else "<"
    dtype = b"cnumpy\ndtype\n" + _write((kind.str[1:] if kind.kind != "O" else "O8", 0, 1), protocol) + b"R"
    dtype += _write((3, order, None, None, None, -1, -1, 63 if kind.kind == "O" else 0), protocol) + b"b"
    fortran = array.ndim > 1 and array.flags.f_contiguous and not array.flags.c_contiguous
    data = list(array.flat) if kind.kind == "O" else array.tobytes("F" if fortran else "C")
    start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _write((0,), protocol)
    start += _string(b"b", protocol) + b"tR"
    return (
        start
        + b"("
        + _write(1, protocol)
        + _write(array.shape, protocol)
        + dtype
        + _write(fortran, protocol)
        + (_write(data, protocol) + b"tb")
    )


def _instance(name: bytes, state: dict, protocol: int) -> bytes:
    if protocol == 2:
        return name + b")\x81" + _write(state, protocol) + b"b"
    return b"ccopy_reg\n_reconstructor\n(" + name + b"c__builtin__\nobject\nNtR" + _write(state, protocol) + b"b"
