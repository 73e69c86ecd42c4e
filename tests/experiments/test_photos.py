"""Finding photos and naming their results."""

from pathlib import Path

import pytest

from experiments.photos import Photo, face_name, find_photos, name_photos, safe_name
from tests.experiments.fakes import write_photo


def named(tmp_path: Path, *files: str, arguments: list[str] | None = None, taken=()) -> dict[str, str]:
    for file in files:
        write_photo(tmp_path / file)
    photos, _ = find_photos(arguments or [str(tmp_path)], exclude=tmp_path / "out")
    return {p.path.relative_to(tmp_path).as_posix(): p.name for p in name_photos(photos, taken)}


def test_stems_where_they_are_unique(tmp_path):
    assert named(tmp_path, "a.jpg", "b.png", "deep/er/c.webp") == {"a.jpg": "a", "b.png": "b", "deep/er/c.webp": "c"}


def test_suffix_where_stems_collide(tmp_path):
    assert named(tmp_path, "a.jpg", "a.png", "b.png") == {"a.jpg": "a_jpg", "a.png": "a_png", "b.png": "b"}


def test_folder_where_suffixes_collide_too(tmp_path):
    assert named(tmp_path, "x/a.png", "y/z/a.png", "y/a.jpg") == {
        "x/a.png": "x_a_png",
        "y/z/a.png": "y_z_a_png",
        "y/a.jpg": "a_jpg",
    }


def test_stems_that_differ_in_case_only_collide(tmp_path):
    names = named(tmp_path, "x/Face.png", "y/face.png").values()
    assert len({name.casefold() for name in names}) == 2


def test_made_names_never_meet_other_stems(tmp_path):
    names = named(tmp_path, "a.jpg", "a.png", "a_png.png", "a_jpg.bmp")
    assert len({name.casefold() for name in names.values()}) == 4


def test_files_from_several_folders_take_the_folder_name(tmp_path):
    files = ["x/a.png", "y/a.png"]
    arguments = [str(tmp_path / f) for f in files]
    assert named(tmp_path, *files, arguments=arguments) == {"x/a.png": "x_a_png", "y/a.png": "y_a_png"}


def test_names_do_not_depend_on_what_the_disk_lists_first(tmp_path):
    files = ["b/a.png", "c.jpg", "a.png", "a/a.png", "a.jpg"]
    assert list(named(tmp_path, *files)) == [str(path) for path in sorted(map(Path, files))]


def test_taken_names_get_a_number(tmp_path):
    assert named(tmp_path, "a.png", taken={"A", "a_2"}) == {"a.png": "a_3"}


def test_further_faces(tmp_path):
    photo = Photo(Path("a.png"), name="a")
    assert [face_name(photo, i, {"a_face2"}) for i in range(3)] == ["a", "a_face1", "a_face2_2"]


def test_globs_files_and_repeats(tmp_path):
    for file in ("a.png", "b.jpg", "sub/c.png", "notes.txt", ".hidden.png", ".cache/d.png"):
        write_photo(tmp_path / file) if not file.endswith("txt") else (tmp_path / file).write_text("x")
    star = str(tmp_path / "**" / "*.png")
    arguments = [str(tmp_path / "b.jpg"), star, str(tmp_path), str(tmp_path / "notes.txt")]
    photos, failures = find_photos(arguments, tmp_path)
    assert [p.path.name for p in photos] == ["b.jpg", "a.png", "c.png", "notes.txt"]  # a named file is always tried
    assert not failures


def test_arguments_without_photos_are_failures(tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / name) for name in ("empty", "*.png", "gone.png")]
    photos, failures = find_photos(arguments, tmp_path)
    assert [p.path.name for p in photos] == ["gone.png"]  # fails when loaded, with a reason
    assert [(Path(f.photo).name, f.stage) for f in failures] == [("empty", "find"), ("*.png", "find")]


def test_a_file_name_with_brackets_is_a_file(tmp_path):
    photos, _ = find_photos([str(write_photo(tmp_path / "me[1].png"))], tmp_path)
    assert [p.path.name for p in photos] == ["me[1].png"]


def test_the_output_folder_is_not_searched_but_photos_in_it_may_be(tmp_path):
    write_photo(tmp_path / "a.png")
    write_photo(tmp_path / "out" / "photos" / "b.png")
    out = tmp_path / "out"
    assert [p.path.name for p in find_photos([str(tmp_path)], out)[0]] == ["a.png"]
    assert [p.path.name for p in find_photos([str(out / "photos")], out)[0]] == ["b.png"]


@pytest.mark.parametrize("text", ["a/b", "..", ".hid", "con:1", "tail. ", "x" * 400, "é" * 200, "\udcff", "\n", ""])
def test_safe_names(text):
    name = safe_name(text)
    assert name and name == Path(name).name and not name.startswith(".") and len(name.encode()) <= 160
