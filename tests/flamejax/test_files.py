"""Tests of atomic writing of files and folders."""

import pytest

from flamejax import files


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_new_folder_appears_at_the_end_and_replaces_the_old_one(tmp_path):
    for content in ("first", "second"):
        with files.new_folder(tmp_path / "a") as folder:
            (folder / content).write_text(content)
            assert not (tmp_path / "a" / content).exists()
        assert names(tmp_path / "a") == [content]
    assert names(tmp_path) == ["a"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    with files.new_folder(tmp_path / "a") as folder:
        (folder / "old").touch()
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "a") as folder:
        (folder / "new").touch()
        raise RuntimeError
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def test_a_failed_file_leaves_the_old_one(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a.txt", "old")

    def refuse(source, target):
        raise OSError("no")

    monkeypatch.setattr("flamejax.files.os.replace", refuse)
    with pytest.raises(OSError, match="no"):
        files.write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_group_is_renamed_in_order(tmp_path, monkeypatch):
    replace, order = files.os.replace, []
    monkeypatch.setattr("flamejax.files.os.replace", lambda s, t: (order.append(t.name), replace(s, t)))
    files.write_group({tmp_path / "texture.png": b"1", tmp_path / "mesh.mtl": b"2", tmp_path / "mesh.obj": b"3"})
    assert order == ["texture.png", "mesh.mtl", "mesh.obj"]


def test_names_of_maximum_length_are_written(tmp_path):
    files.write_bytes(tmp_path / ("x" * 255), b"1")
    with files.new_folder(tmp_path / ("y" * 255)):
        pass
    assert len(names(tmp_path)) == 2


def test_remove_unfinished_deletes_nothing_else(tmp_path):
    (tmp_path / f"{files.TEMPORARY_PREFIX}1").mkdir()
    (tmp_path / f"{files.TEMPORARY_PREFIX}1" / "inner").touch()
    (tmp_path / f"{files.TEMPORARY_PREFIX}2").touch()
    (tmp_path / "mine").mkdir()
    assert files.remove_unfinished(tmp_path) == 2 and names(tmp_path) == ["mine"]
