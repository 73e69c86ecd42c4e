"""Tests of reading .npy and .npz files: agreement with NumPy, and errors for damaged or hostile files."""

import io
import threading
import zipfile

import numpy as np
import pytest

from flamejax.head import HeadFileError
from flamejax.head.formats.npy_files import npy_from_bytes, open_npz_member, read_npy, read_npz, read_npz_members

ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype=np.float16).reshape(3, 4)),
    np.arange(3, dtype=">i8"),
    np.array(7, np.uint8),
    np.array(["lips", "é"]),
    np.array("text"),
    np.zeros((0, 5), np.float32),
    np.array([True]),
]


def npy_bytes(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_arrays_are_read_as_numpy_reads_them(array):
    read = npy_from_bytes(npy_bytes(array), "x")
    assert read.dtype == array.dtype and read.shape == array.shape
    np.testing.assert_array_equal(read, array)


def test_python_2_headers_with_long_integers_are_read():
    data = npy_bytes(np.arange(6.0).reshape(2, 3)).replace(b"(2, 3), }  ", b"(2L, 3L), }")
    np.testing.assert_array_equal(npy_from_bytes(data, "x"), np.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.replace(b"(3, 4)", b"(3, 5)"),
        lambda d: d.replace(b"(3, 4), }        ", b"(300000, 400000), }"),
        lambda d: d.replace(b"'<f8'", b"'|O8'"),
        lambda d: d.replace(b"'<f8'", b"'<f1'"),
        lambda d: d.replace(b"(3, 4), } ", b"(-3, -4), }"),
        lambda d: d.replace(b"(3, 4)", b"(1+2,)"),
        lambda d: d.replace(b"False", b"None "),
        lambda d: d[:-1],
        lambda d: d + b"\0",
        lambda d: d[:40],
        lambda d: b"",
        lambda d: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + d,
        lambda d: b"\x93NUMPY\x09\x00" + d[8:],
    ],
)
def test_invalid_headers_raise(change, tmp_path):
    data = change(npy_bytes(ARRAYS[0]))
    with pytest.raises(HeadFileError):
        npy_from_bytes(data, "x")
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(HeadFileError):
        read_npy(tmp_path / "x.npy")


def test_archives_that_unpack_to_far_more_than_their_size_raise(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("v_template.npy", bytes(200 * 2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(HeadFileError, match="claim to unpack to"):
        read_npz(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_compressions_that_numpy_does_not_use_raise(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("a.npy", npy_bytes(ARRAYS[0]))
    with pytest.raises(HeadFileError, match="does not use"):
        read_npz(tmp_path / "x.npz")


def test_archives_with_too_many_or_duplicate_members_raise(tmp_path):
    with zipfile.ZipFile(tmp_path / "many.npz", "w") as archive:
        for number in range(300):
            archive.writestr(f"{number}.npy", npy_bytes(ARRAYS[3]))
    with zipfile.ZipFile(tmp_path / "equal.npz", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", npy_bytes(ARRAYS[3]))
        archive.writestr("a.npy", npy_bytes(ARRAYS[3]))
    for name in ("many", "equal"):
        with pytest.raises(HeadFileError, match="list of members"):
            read_npz(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_read_row_by_row(tmp_path, save):
    large = np.random.default_rng(0).random((7, 3, 2)).astype(np.float32)
    save(tmp_path / "x.npz", large=large, other=np.arange(3))
    with open_npz_member(tmp_path / "x.npz", "large") as stream:
        assert stream.shape == large.shape
        np.testing.assert_array_equal([stream.read_row() for _ in range(7)], large)
        with pytest.raises(HeadFileError, match="ends in the middle"):
            stream.read_row()
    with pytest.raises(HeadFileError), open_npz_member(tmp_path / "x.npz", "absent"):
        pass
    assert list(read_npz_members(tmp_path / "x.npz", ("other", "absent"))) == ["other"]
    assert set(read_npz(tmp_path / "x.npz")) == {"large", "other"}


def test_threads_do_not_share_an_archive(tmp_path, monkeypatch):
    """In Python 3.12, reading one archive from several threads sometimes gives damaged data."""
    readers: dict[int, set[int]] = {}
    original_read = zipfile.ZipFile.read

    def read(archive, *args):
        readers.setdefault(id(archive), set()).add(threading.get_ident())
        archives.append(archive)  # so that no other gets its id
        return original_read(archive, *args)

    archives: list[zipfile.ZipFile] = []
    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    arrays = {f"a{i}": np.full((50, 100), i) for i in range(20)}
    np.savez_compressed(tmp_path / "many.npz", **arrays)
    loaded = read_npz(tmp_path / "many.npz")
    assert list(loaded) == list(arrays) and all((loaded[name] == arrays[name]).all() for name in arrays)
    assert len(readers) > 1 and all(len(threads) == 1 for threads in readers.values())
