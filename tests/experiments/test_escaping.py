"""Text of files and names is escaped in every page and printed as it is, and a missing home folder is explained."""

import html
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import jax
import pytest
from rich.console import Console

from experiments import cli, doctor, runtime, view
from experiments.command_line import message_console, print_error
from experiments.escaping import html_paragraphs, html_text, relative_url, script_json
from experiments.photos import Failure, expand_user, find_photos
from experiments.progress import progress_bar
from experiments.reconstruct import sheet
from flamejax.files import data_folder
from tests.viewer.payloads import FOLDER_NAMES, PAYLOADS

METRICS = {"photo": "a.jpg", "visible_landmarks": 60, "landmark_nme": 0.031, "hypotheses": 3}


class Elements(HTMLParser):
    """The elements of a page as (tag, attributes' names), and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, *(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", PAYLOADS)
def test_paragraphs_hold_no_other_elements(text):
    page = Elements(html_paragraphs("", text, "", "more", title=text, style="color: red"))
    assert page.elements == [("p", "style"), ("b",), ("p", "style")]
    assert page.text == f"{text} {text}more"
    assert html_paragraphs("", "") == ""


@pytest.mark.parametrize("text", PAYLOADS)
def test_attributes_and_scripts_cannot_be_ended(text):
    assert Elements(f'<p title="{html_text(text)}">').elements == [("p", "title")]
    encoded = script_json({"title": text})
    assert not re.search("[<>&\u2028\u2029]", encoded) and json.loads(encoded) == {"title": text}


def test_undecodable_names_are_written_as_escapes():
    assert html_text("a\udcff<") == r"a\udcff&lt;"
    assert relative_url("a\udcff b#?%'\"", "x.png") == "a%FF%20b%23%3F%25%27%22/x.png"
    assert relative_url("javascript:alert(1)").startswith("javascript%3A")


def index(folder: Path, results: dict, failures=(), note: str = "") -> str:
    sheet.write_index(folder, results, failures, note)
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", PAYLOADS)
def test_the_index_has_the_same_elements_for_any_text(tmp_path, text):
    plain = Elements(index(tmp_path, {"a": METRICS}, [Failure("a", "a", "a")], "a"))
    name = text.replace("/", "")
    hostile = METRICS | {"photo": text, "visible_landmarks": text}
    page = Elements(index(tmp_path, {name: hostile}, [Failure(text, text, text)], text))
    assert page.elements == plain.elements
    assert page.text.count(text) >= 5


@pytest.mark.parametrize("value", ["<script>", [], {}, None, True, float("nan"), float("inf"), 10**400])
def test_damaged_numbers_are_shown_or_left_out(tmp_path, value):
    numbers = dict.fromkeys(("visible_landmarks", "landmark_nme", "hypotheses"), value)
    page = index(tmp_path, {"a": {"photo": value} | numbers, "b": {}})
    assert "<script" not in page and "landmark error" not in page and "in 3D" not in page
    assert f"{html.escape(str(value))} of 68 landmarks" in page


def test_the_index_forbids_scripts_and_shows_numbers(tmp_path):
    page = index(tmp_path, {"a": METRICS})
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src" in page
    assert "60 of 68 landmarks visible; landmark error 3.1 % of" in page and "3 hypotheses" in page


def test_the_contact_sheet_shows_any_name(tmp_path):
    from PIL import Image

    (tmp_path / "thumbnails").mkdir()
    names = [*FOLDER_NAMES, "a\udcff", "line\nbreak"]
    for name in names:
        sheet.write_thumbnail(tmp_path, name, Image.new("RGB", (20, 10)))
    sheet.write_contact_sheet(tmp_path, names)
    assert (tmp_path / "contact_sheet.png").is_file()


def test_notes_of_the_view_page_are_set_at_one_place():
    source = (Path(view.__file__).parent / "app.py").read_text()
    assert source.count(".content = ") == 1 and "add_markdown" not in source


LITERAL = "nope/[/x]*.jpg IMG[a-z]* [red]x[/red] a:smile:b C:\\[bold]"


def test_messages_are_printed_as_they_are(capsys):
    print_error(LITERAL)
    assert capsys.readouterr().err == f"error: {LITERAL}\n"
    for console in (message_console(file=io.StringIO()), Console(file=io.StringIO(), width=200)):
        print_error(LITERAL, console)
        assert console.file.getvalue() == f"error: {LITERAL}\n"
    message_console().print(LITERAL)
    assert capsys.readouterr().err == f"{LITERAL}\n"


def test_progress_bars_show_texts_as_they_are():
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with progress_bar(console, "rate") as bar:
        bar.add_task("[/x] a:smile:b", rate="IMG[a-z]")
    assert "[/x] a:smile:b" in console.file.getvalue() and "IMG[a-z]" in console.file.getvalue()


def test_all_commands_use_the_console_that_prints_text_as_it_is():
    package = Path(cli.__file__).parent
    makers = {path.name for path in package.rglob("*.py") if re.search(r"\bConsole\((?!\))", path.read_text())}
    assert makers == {"command_line.py"}


@pytest.mark.parametrize("command", ["reconstruct", "view"])
def test_arguments_like_markup_are_reported_as_they_are(command, tmp_path, capsys):
    pytest.importorskip("viser")
    argument = "nope/[/x]*[a-z]:smile:"
    options = ["--output", str(tmp_path / "[/out]")] if command == "reconstruct" else ["--port", "0"]
    assert cli.main([command, argument, *options]) == 2
    assert argument in capsys.readouterr().err


@pytest.fixture
def no_home(monkeypatch):
    """A process without HOME, of a user without an entry in the password file."""
    pwd = pytest.importorskip("pwd")

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "USERPROFILE", "FLAMEJAX_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_home_is_explained(no_home, monkeypatch, capsys):
    with pytest.raises(OSError, match="Set FLAMEJAX_DATA"):
        data_folder()
    chosen = jax.config.values["jax_compilation_cache_dir"]
    try:
        jax.config.update("jax_compilation_cache_dir", None)
        assert runtime.use_compilation_cache() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", chosen)
    monkeypatch.setattr(doctor, "check_devices", list)
    results = doctor.examine(doctor.DoctorConfig())
    assert "Set FLAMEJAX_DATA" in results[-1].detail and results[-1].state == "broken"
    assert cli.main(["convert", "gone.onnx", "--to", "arcface"]) == 2
    assert "Set FLAMEJAX_DATA" in capsys.readouterr().err
    monkeypatch.setenv("FLAMEJAX_DATA", "/data")
    assert data_folder() == Path("/data")


def test_photos_below_an_unknown_home_are_missing_files(no_home, tmp_path):
    for argument in ("~/a.jpg", "~no.such.user/a.jpg", "~no.such.user/*.jpg"):
        assert expand_user(argument) == Path(argument)
        photos, failures = find_photos([argument], tmp_path)
        assert [str(photo.path) for photo in photos] + [failure.photo for failure in failures] == [argument]
    assert os.environ.get("HOME") is None
