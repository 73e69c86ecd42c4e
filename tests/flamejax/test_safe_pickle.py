"""Tests that pickles are read as data: arrays are converted, no code runs, and names outside the allow-list raise."""

import builtins
import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from flamejax.head import HeadFileError
from flamejax.head.formats import PickleRecord, load_pickle
from flamejax.head.formats.pickle_arrays import to_array, to_dense
from tests import python2_pickle
from tests.golden.make_chumpy import arrays

ARRAYS = [
    np.arange(12, dtype=np.float64).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    np.arange(5, dtype=">i4"),
    np.array(3.5),
    np.zeros((0, 3), np.uint8),
    np.array([True, False]),
]


def load(data):
    return load_pickle(data, "file")[0]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol_are_read(protocol):
    for array in ARRAYS:
        read = to_array(load(pickle.dumps({"x": array}, protocol))["x"], "x")
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
    assert to_array(load(pickle.dumps(np.float32(2.5), protocol)), "x") == 2.5


class FromBuffer:
    """An array that is pickled with chosen arguments of numpy's `_frombuffer`, whatever numpy's version."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce_ex__(self, protocol):
        return np._core.numeric._frombuffer, self.arguments


@pytest.mark.parametrize("axes", [(1, 0, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0), (0, 1, 2)])
def test_arrays_with_an_order_of_axes_as_numpy_2_3_writes_them(axes):
    stored = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    record = FromBuffer(stored.tobytes(), stored.dtype, stored.shape, "K", axes)
    np.testing.assert_array_equal(to_array(load(pickle.dumps(record, 5)), "x"), stored.transpose(axes))
    # As the installed numpy writes it, which depends on its version.
    array = stored.transpose(axes)
    np.testing.assert_array_equal(to_array(load(pickle.dumps(array, 5)), "x"), array)


@pytest.mark.parametrize(
    "order",
    [("K",), ("K", None), ("K", (0, 1)), ("K", (0, 1, 1)), ("K", (0, 1, 3)), ("K", (0, 1, -1)), ("K", [0, 1, 2]),
     ("K", (0, 1, 2.0)), ("K", (False, True, 2)), ("K", (0, 1, 2**70)), ("C", (0, 1, 2)), ("A",), (None,), ([],), (),
     ("K", (0, 1, 2), 0)],
)  # fmt: skip
def test_wrong_orders_of_axes_raise(order):
    record = FromBuffer(np.zeros(24).tobytes(), np.dtype(float), (2, 3, 4), *order)
    with pytest.raises(HeadFileError, match=r"unknown form|order of axes"):
        to_array(load(pickle.dumps(record, 5)), "x")


@pytest.mark.parametrize("protocol", [0, 2])
def test_python_2_pickles_are_read(protocol):
    content = {
        "text": "a\\'b\"\n\xe9",
        "numbers": [1, -5, 2**40, 0.1, None, True],
        "array": ARRAYS[0],
        "fortran": ARRAYS[1],
        "chumpy": python2_pickle.Chumpy(ARRAYS[0]),
        "matrix": sparse.csc_matrix(np.eye(3, 5)),
    }
    read = load(python2_pickle.dumps(content, protocol))
    assert (read["text"], read["numbers"]) == (content["text"], content["numbers"])
    for name, expected in (("array", ARRAYS[0]), ("fortran", ARRAYS[1]), ("chumpy", ARRAYS[0])):
        np.testing.assert_array_equal(to_array(read[name], name), expected)
    np.testing.assert_array_equal(to_dense(read["matrix"], "matrix", (3, 5)), np.eye(3, 5))
    assert "chumpy" not in sys.modules


@pytest.mark.parametrize("form", ["csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "csr_array", "coo_array"])
def test_sparse_matrices_of_current_scipy_are_read(form):
    dense = np.random.default_rng(0).random((4, 6)) * (np.random.default_rng(1).random((4, 6)) < 0.4)
    read = load(pickle.dumps(getattr(sparse, form)(dense)))
    np.testing.assert_allclose(to_dense(read, "x", (4, 6)), dense)
    with pytest.raises(HeadFileError, match="expected \\(5, 6\\)"):
        to_dense(read, "x", (5, 6))


def test_a_chumpy_selection_is_read():
    source = python2_pickle.Chumpy(np.arange(12.0))
    state = {"a": source, "idxs": np.array([3, 1, 0, 7]), "preferred_shape": (2, 2)}
    read = load(
        python2_pickle.dumps(python2_pickle.Raw(python2_pickle._instance(b"cchumpy.reordering\nSelect\n", state, 2)))
    )
    np.testing.assert_array_equal(to_array(read, "x"), [[3, 1], [0, 7]])


def test_real_chumpy_pickles_are_read():
    read = load((Path(__file__).parents[1] / "golden/chumpy.pkl").read_bytes())
    for name, expected in zip(("whole", "part"), arrays(), strict=True):
        np.testing.assert_array_equal(to_array(read[name], name), expected)


def test_lists_of_arrays_are_stacked():
    rows = [np.arange(3), np.arange(3, 6)]
    for content in (rows, [row.tolist() for row in rows]):
        np.testing.assert_array_equal(to_array(load(python2_pickle.dumps(content)), "x"), np.arange(6).reshape(2, 3))
    with pytest.raises(HeadFileError, match="differ in shape"):
        to_array([[1], [1, 2]], "x")
    large: list = [1.0] * 1000
    for _ in range(3):  # a thousand million numbers in three thousand items
        large = [large] * 1000
    with pytest.raises(HeadFileError, match="too many numbers"):
        to_array(large, "x")
    cyclic: list = []
    cyclic.append(cyclic)
    with pytest.raises(HeadFileError, match="too deeply"):
        to_array(cyclic, "x")


class Attack:
    """An object that pickles as a function call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("call", "name"),
    [
        ((os.system, "touch {marker}"), "system"),
        ((builtins.eval, "open({marker!r}, 'w')"), "eval"),
        ((getattr, os, "system"), "getattr"),
        ((np.load, "{marker}"), "load"),
        ((exec, "import os"), "exec"),
    ],
)
def test_code_raises_with_its_name_and_never_runs(tmp_path, protocol, call, name):
    marker = tmp_path / "ran"
    function, *args = call
    if function is getattr:
        attack = Attack(getattr, "x", "upper")
    else:
        attack = Attack(function, *(arg.format(marker=str(marker)) for arg in args))
    data = pickle.dumps({"v_template": attack}, protocol)
    with pytest.raises(HeadFileError, match=name):
        load(data)
    assert not marker.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"(S'true'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"cnumpy.core.multiarray\nos.system\n.",
        b"cscipy.sparse.csc\ncsc_matrix.__init__\n.",
        b"cchumpy.ch\nMatVecMult\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x82\x01.",
        b"Pid\n.",
    ],
)
def test_other_opcodes_that_name_code_raise(data):
    with pytest.raises(HeadFileError):
        load(data)


def test_allowed_names_remain_data():
    record = load(b"\x80\x02cnumpy\ndtype\n(U\x02f8K\x00K\x01tR.")
    assert type(record) is PickleRecord
    # Setting a state on a name, or a second one on a record, could change our own classes.
    for data in (b"\x80\x02cnumpy\ndtype\n}b.", b"\x80\x02cnumpy\ndtype\n(tR}(U\x01aK\x01ub}b."):
        with pytest.raises(HeadFileError):
            load(data)


def bomb(depth: int) -> bytes:
    """Nested tuples for which visiting every leaf takes 2^depth steps."""
    return b"\x80\x02)" + b"".join(b"q%c" % i + b"h%c" % i + b"\x86" for i in range(depth))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02}" + bomb(60)[2:] + b"K\x01s.",  # as a dictionary's key: hashing takes for ever
        b"\x80\x04\x96" + struct.pack("<Q", 2**40) + b".",  # a terabyte is announced
        b"\x80\x04\x8e" + struct.pack("<Q", 2**63) + b".",
        b"\x80\x02T\xff\xff\xff\x7f.",
        b"\x80\x02\x8b\xff\xff\xff\x7f.",
        b"\x80\x02" + b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02",
        b"",
        b".",
        b"\x80\x09.",
    ],
)
def test_bombs_and_truncated_pickles_raise(data):
    with pytest.raises(HeadFileError):
        load(data)


def test_number_of_steps_is_bounded():
    pair = b"(U\x01aK\x01l"
    many = b"\x80\x02ccollections\nOrderedDict\nq\x00(" + pair * 3000 + b"l\x85q\x01"
    with pytest.raises(HeadFileError, match="steps"):
        load(many + b"h\x00h\x01R0" * 10_000 + b".")
    with pytest.raises(HeadFileError, match="steps"):
        load(b"\x80\x02" + b"N0" * 1_500_000 + b".")
    assert load(b"\x80\x02ccollections\nOrderedDict\n(" + pair + b"l\x85R.") == {"a": 1}


def test_a_high_memo_number_takes_no_memory():
    assert load(b"\x80\x02K\x07r\xff\xff\xff\x7f.") == 7


@pytest.mark.parametrize(
    "state",
    [
        (1, (2**39,), "f8", b""),
        (1, (2, 3), "f8", b"\0" * 8),
        (1, (-1,), "f8", b""),
        (1, (1,) * 9, "f8", b"\0" * 8),
        (1, (1,), "O8", [1]),
        (1, (1,), "V8", b"\0" * 8),
    ],
)
def test_arrays_with_a_wrong_size_raise(state):
    version, shape, kind, data = state
    dtype = PickleRecord("dtype", (kind, 0, 1), (3, "<", None))
    with pytest.raises(HeadFileError):
        to_array(PickleRecord("_reconstruct", (), (version, shape, dtype, False, data)), "x")
    nested_shape, dtype = load(bomb(60) + b"."), PickleRecord("dtype", ("f8", 0, 1))
    with pytest.raises(HeadFileError):
        to_array(PickleRecord("_reconstruct", (), (1, nested_shape, dtype, False, b"")), "x")


def test_appending_to_a_record_raises():
    """Protocol 0: an object of an allowed class, a mark, a number, and APPENDS."""
    with pytest.raises(HeadFileError, match="appends to something that is no list"):
        load(b"cnumpy\ndtype\n(S'f4'\ntR(I1\ne.")


@pytest.mark.parametrize("names", [b"K\x01\x8c\x01a", b"\x8c\x01aK\x01"])
def test_names_that_are_no_text_raise(names):
    with pytest.raises(HeadFileError, match="names something that is no text"):
        load(b"\x80\x04" + names + b"\x93.")
