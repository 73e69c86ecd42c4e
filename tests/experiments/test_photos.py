"""Listing of input photos, and naming of their results."""

import os
from pathlib import Path

import pytest

from experiments.photos import PhotoFile, face_name, find_photos, name_photos, safe_name
from tests.experiments.fakes import write_photo


def named(tmp_path: Path, *files: str, arguments: list[str] | None = None, reserved=()) -> dict[str, str]:
    for file in files:
        write_photo(tmp_path / file)
    photos, _ = find_photos(arguments or [str(tmp_path)], exclude=tmp_path / "out")
    return {p.path.relative_to(tmp_path).as_posix(): p.name for p in name_photos(photos, reserved)}


def test_unique_stems_are_names(tmp_path):
    assert named(tmp_path, "a.jpg", "b.png", "deep/er/c.webp") == {"a.jpg": "a", "b.png": "b", "deep/er/c.webp": "c"}


def test_equal_stems_get_the_suffix(tmp_path):
    assert named(tmp_path, "a.jpg", "a.png", "b.png") == {"a.jpg": "a_jpg", "a.png": "a_png", "b.png": "b"}


def test_equal_file_names_get_the_folder(tmp_path):
    assert named(tmp_path, "x/a.png", "y/z/a.png", "y/a.jpg") == {
        "x/a.png": "x_a_png",
        "y/z/a.png": "y_z_a_png",
        "y/a.jpg": "a_jpg",
    }


def test_stems_that_differ_only_in_case_are_equal(tmp_path):
    names = named(tmp_path, "x/Face.png", "y/face.png").values()
    assert len({name.casefold() for name in names}) == 2


def test_names_with_suffix_differ_from_other_stems(tmp_path):
    names = named(tmp_path, "a.jpg", "a.png", "a_png.png", "a_jpg.bmp")
    assert len({name.casefold() for name in names.values()}) == 4


def test_equal_files_of_several_folders_get_the_folder_name(tmp_path):
    files = ["x/a.png", "y/a.png"]
    arguments = [str(tmp_path / f) for f in files]
    assert named(tmp_path, *files, arguments=arguments) == {"x/a.png": "x_a_png", "y/a.png": "y_a_png"}


def test_names_do_not_depend_on_the_order_of_the_file_system(tmp_path):
    files = ["b/a.png", "c.jpg", "a.png", "a/a.png", "a.jpg"]
    assert list(named(tmp_path, *files)) == [str(path) for path in sorted(map(Path, files))]


def test_reserved_names_get_a_number(tmp_path):
    assert named(tmp_path, "a.png", reserved={"A", "a_2"}) == {"a.png": "a_3"}


def test_face_name_numbers_further_faces(tmp_path):
    photo = PhotoFile(Path("a.png"), name="a")
    assert [face_name(photo, i, {"a_face2"}) for i in range(3)] == ["a", "a_face1", "a_face2_2"]


def test_find_photos_accepts_globs_files_and_duplicates(tmp_path):
    for file in ("a.png", "b.jpg", "sub/c.png", "notes.txt", ".hidden.png", ".cache/d.png"):
        write_photo(tmp_path / file) if not file.endswith("txt") else (tmp_path / file).write_text("x")
    star = str(tmp_path / "**" / "*.png")
    arguments = [str(tmp_path / "b.jpg"), star, str(tmp_path), str(tmp_path / "notes.txt")]
    photos, failures = find_photos(arguments, tmp_path)
    assert [p.path.name for p in photos] == ["b.jpg", "a.png", "c.png", "notes.txt"]  # any file is accepted
    assert not failures


def test_arguments_without_photos_are_failures(tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / name) for name in ("empty", "*.png", "gone.png")]
    photos, failures = find_photos(arguments, tmp_path)
    assert [p.path.name for p in photos] == ["gone.png"]  # fails at loading, with a reason
    assert [(Path(f.photo).name, f.stage) for f in failures] == [("empty", "find"), ("*.png", "find")]


def test_a_file_name_with_brackets_is_a_file(tmp_path):
    photos, _ = find_photos([str(write_photo(tmp_path / "me[1].png"))], tmp_path)
    assert [p.path.name for p in photos] == ["me[1].png"]


def test_output_folder_is_skipped_but_may_be_an_argument(tmp_path):
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "out" / "photos" / "b.png")
    out = tmp_path / "out"
    assert [p.path.name for p in find_photos([str(tmp_path)], out)[0]] == ["a.png"]
    assert [p.path.name for p in find_photos([str(out / "photos")], out)[0]] == ["b.png"]


@pytest.mark.parametrize("text", ["a/b", "..", ".hid", "con:1", "tail. ", "x" * 400, "é" * 200, "\udcff", "\n", ""])
def test_safe_name_makes_valid_file_names(text):
    name = safe_name(text)
    assert name and name == Path(name).name and not name.startswith(".") and len(name.encode()) <= 160


def write_output(folder: Path) -> Path:
    """Write an output folder of reconstruct with pictures, and a photo that lies in it."""
    for picture in ("contact_sheet.png", "thumbnails/a.jpg", "a/overlay.png", "a/hypotheses/sheet.jpg", "photos/b.png"):
        write_photo(folder / picture)
    (folder / "run.json").write_text('{"format_version": 1, "versions": {}}')
    (folder / "a" / "metrics.json").write_text('{"format_version": 1, "photo_sha256": ""}')
    return folder


@pytest.mark.parametrize("pattern", ["", "**/*.*g", "old/../**/*.png", "*/*.jpg", "*.jpg"])
def test_outputs_of_earlier_runs_are_not_photos(tmp_path, monkeypatch, pattern):
    write_photo(tmp_path / "me.jpg")
    write_output(tmp_path / "old")
    (tmp_path / "old" / "a").rename(tmp_path / "moved")  # a result without its output folder
    monkeypatch.chdir(tmp_path)
    for argument in (pattern or ".", str(tmp_path / pattern)):
        names = {photo.path.name for photo in find_photos([argument], tmp_path / "out")[0]}
        assert names <= {"me.jpg"} and (names or pattern in ("old/../**/*.png", "*/*.jpg"))


@pytest.mark.parametrize("argument", ["", "thumbnails", "a", "a/overlay.png", "*.png", "**/*.png", "thumbnails/*",
                                      "a/*.png", "contact_sheet.png", "a/hypotheses/sheet.jpg"])  # fmt: skip
def test_outputs_that_are_named_are_refused(tmp_path, argument):
    out = write_output(tmp_path / "old")
    photos, failures = find_photos([str(out / argument)], tmp_path / "new")
    assert not photos and len(failures) == 1 and "flamejax reconstruct" in failures[0].reason


@pytest.mark.parametrize("argument", ["photos", "photos/*.png", "photos/**/*.png", "photos/b.png"])
def test_photos_inside_an_output_folder_can_be_named(tmp_path, argument):
    out = write_output(tmp_path / "old")
    assert [photo.path.name for photo in find_photos([str(out / argument)], out)[0]] == ["b.png"]


def test_globs_leave_out_the_output_folder(tmp_path):
    write_photo(tmp_path / "me.jpg")
    write_photo(tmp_path / "out" / "new.jpg")
    assert [p.path.name for p in find_photos([str(tmp_path / "**" / "*.jpg")], tmp_path / "out")[0]] == ["me.jpg"]


def test_a_folder_that_cannot_be_read_is_a_failure(tmp_path, monkeypatch):
    write_photo(tmp_path / "a.png")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    photos, failures = find_photos([str(tmp_path)], tmp_path / "out")
    assert [p.path.name for p in photos] == ["a.png"]
    assert [(Path(f.photo).name, f.reason) for f in failures] == [
        ("secret", "the folder cannot be read (Permission denied).")
    ]


@pytest.mark.parametrize("argument", ["x" * 5000, "~nobody-of-this-name/a.png", "loop.png"])
def test_odd_paths_fail_at_loading(tmp_path, monkeypatch, argument):
    (tmp_path / "loop.png").symlink_to("loop.png")
    monkeypatch.chdir(tmp_path)
    assert len(find_photos([argument], tmp_path / "out")[0]) == 1
