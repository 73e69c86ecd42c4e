"""The viewer's page, served by a real viser server: HTTP, widgets and what they show; and the command."""

import io
import json
import socket
import threading
import urllib.request

import numpy as np
import pytest
import trimesh
from rich.console import Console

from experiments import cli
from experiments.results import UsageError
from experiments.view import command as view
from experiments.view.explorer import BETWEEN, COLOURS, FIT, DrawSettings, Explorer, HeadSelection, ViewError
from tests.experiments.fakes import HEAD, IDENTITY
from tests.experiments.test_view_scene import draw_without_diversifying

needs_viser = pytest.mark.skipif(
    view.importlib.util.find_spec("viser") is None, reason="viser is not installed: pip install 'flamejax[view]'"
)


@pytest.fixture
def app(made):
    from experiments.view.app import App

    app = App(Explorer(made[0], HEAD, IDENTITY, mesh_vae=made[1][1]))
    yield app
    app.stop()


def positions(app) -> np.ndarray:
    """Return the vertices of the clay head."""
    return np.asarray(app.mesh.vertices)


@needs_viser
def test_the_page_is_served_and_stopped(app):
    with urllib.request.urlopen(app.url, timeout=10) as answer:
        text = answer.read()
        assert answer.status == 200 and b"<html" in text.lower()
    port = app.server.get_port()
    app.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=2).close()


@needs_viser
def test_sliders_move_the_head_and_reset_brings_it_back(app):
    fit = np.asarray(app.face.fit.vertices)
    np.testing.assert_allclose(positions(app), fit, atol=1e-6)
    assert app.mesh.visible and not app.coloured.visible and app.choice.value == FIT
    app.choice.value = "01"
    np.testing.assert_allclose(positions(app), app.face.hypotheses.vertices[1], atol=1e-7)
    app.edits["identity 0"].value = 2.0  # shows the fit, as it is the fit's
    assert app.choice.value == FIT
    expected = app.explorer.vertices(app.face, HeadSelection(values={"identity 0": 2.0}))
    np.testing.assert_allclose(positions(app), expected, atol=1e-6)
    assert np.abs(expected - fit).max() > 1e-4
    app.edits["jaw open"].value = 25.0
    app.edits["head turn"].value = -40.0
    both = {"identity 0": 2.0, "jaw open": 25.0, "head turn": -40.0}
    np.testing.assert_allclose(positions(app), app.explorer.vertices(app.face, HeadSelection(values=both)), atol=1e-6)
    app.reset.value = True
    np.testing.assert_allclose(positions(app), fit, atol=1e-6)
    assert app.edits["head turn"].value == pytest.approx(app._sliders[5].start)


@needs_viser
def test_hypotheses_are_interpolated(app):
    heads = np.asarray(app.face.hypotheses.vertices)
    app.weight.value = 0.0
    assert app.choice.value == BETWEEN and (app.first.value, app.second.value) == ("00", "01")
    np.testing.assert_allclose(positions(app), heads[0], atol=1e-5)
    app.second.value = "03"
    app.weight.value = 1.0
    np.testing.assert_allclose(positions(app), heads[3], atol=1e-5)


@needs_viser
def test_colours_apply_to_the_shown_head(app):
    for colour in COLOURS[1:]:
        app.colour.value = colour
        assert app.coloured.visible and not app.mesh.visible
        app.choice.value = "02"
        glb = trimesh.load(io.BytesIO(app.coloured.glb_data), file_type="glb", force="mesh", process=False)
        away = np.linalg.norm(np.asarray(app.face.hypotheses.vertices[2])[:, None] - glb.vertices[None], axis=-1)
        assert away.min(axis=1).max() < 1e-6
        app.choice.value = FIT
    assert "Violet" in app.note.content
    app.colour.value = COLOURS[0]
    assert app.mesh.visible and app.note.content == ""


@needs_viser
def test_another_photo_shows_its_fit(app):
    app.edits["identity 1"].value = -1.0
    app.photo.value = "b"
    other = np.asarray(app.explorer.face("b").fit.vertices)
    np.testing.assert_allclose(positions(app), other, atol=1e-6)
    assert app.edits["identity 1"].value == pytest.approx(float(app.face.fit.params.betas[1]))
    assert app.image.visible and app._plane is not None and not app._plane.visible
    app.photo_behind.value = True
    assert app._plane.visible


@needs_viser
def test_a_damaged_face_keeps_the_previous_one_shown(made, tmp_path):
    from experiments.view.app import App

    folder = tmp_path / "out"
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for file in (made[0] / name).rglob("*"):
            target = folder / name / file.relative_to(made[0] / name)
            target.mkdir(parents=True, exist_ok=True) if file.is_dir() else target.write_bytes(file.read_bytes())
    (folder / "b" / "params.npz").write_bytes(b"")
    app = App(Explorer(folder, HEAD, IDENTITY, mesh_vae=made[1][1]))
    try:
        app.photo.value = "b"
        assert "params.npz: damaged" in app.note.content
        np.testing.assert_allclose(positions(app), app.explorer.face("a").fit.vertices, atol=1e-6)
    finally:
        app.stop()


@needs_viser
def test_draws_replace_the_shown_hypotheses(app, monkeypatch):
    began, go_on = threading.Event(), threading.Event()
    real = app.explorer.draw

    def slow(face, settings: DrawSettings):
        began.set()
        assert go_on.wait(20)
        assert settings == DrawSettings(0.5, 3.0, 8, 2)
        monkeypatch.setattr("experiments.view.explorer.diversify", draw_without_diversifying)
        real(face, settings)

    monkeypatch.setattr(app.explorer, "draw", slow)
    app.samples.value, app.seed.value = 8, 2
    clicks = [threading.Thread(target=lambda: setattr(app.draw, "value", True)) for _ in range(2)]
    clicks[0].start()
    assert began.wait(20)
    clicks[1].start()  # a second click meanwhile does nothing
    clicks[1].join(20)
    assert app.drawing and app.draw.disabled and app.progress.visible and "Drawing 8 heads" in app.draw_note.content
    app.edits["identity 0"].value = 1.0  # the page stays usable
    go_on.set()
    clicks[0].join(60)
    assert not app.drawing and not app.draw.disabled and not app.progress.visible
    assert app.face.count == 8 and app.choice.value == "00" and "07" in app.choice.options
    assert "8 hypotheses, drawn now by Algorithm 2, seed 2" in app.draw_note.content
    np.testing.assert_allclose(positions(app), app.face.hypotheses.vertices[0], atol=1e-6)


@needs_viser
@pytest.mark.parametrize("error", [ViewError("no photo."), MemoryError("too large")])
def test_a_failed_draw_shows_the_reason(app, monkeypatch, error):
    def failing(face, settings):
        raise error

    monkeypatch.setattr(app.explorer, "draw", failing)
    app.draw.value = True
    assert "Nothing was drawn" in app.draw_note.content and str(error) in app.draw_note.content
    assert not app.draw.disabled and app.face.count == 4


@needs_viser
def test_the_command_serves_until_interrupted(made, small_head, monkeypatch):
    config = view.ViewConfig(made[0], port=0, mesh_vae=made[1][1])
    app = view.start(config, Console(quiet=True))
    assert app.url.startswith("http://localhost:") and urllib.request.urlopen(app.url, timeout=10).status == 200

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    assert view.serve(app, Console(quiet=True), interrupt) == 0
    with pytest.raises(OSError):
        urllib.request.urlopen(app.url, timeout=2)


def test_a_port_in_use_is_reported(made, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        pytest.importorskip("viser")
        assert cli.main(["view", str(made[0]), "--port", str(port)]) == 2
    assert f"--port {port}: in use by another program" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"--host 203.0.113.7 --port 0: the page cannot be served there"):
        view.free_address("203.0.113.7", 0)
    with pytest.raises(UsageError, match="no such host"):
        view.free_address("no.such.host.invalid", 0)
    with pytest.raises(UsageError, match="between 0 and 65535"):
        view.free_address("localhost", 70000)
    assert view.free_address("localhost", 0) == ("127.0.0.1", 0)


def test_missing_viser_is_reported_with_what_to_install(made, monkeypatch, capsys):
    monkeypatch.setattr(view.importlib.util, "find_spec", lambda name: None)
    assert view.main([str(made[0])]) == 2
    assert 'pip install "flamejax[view]"' in " ".join(capsys.readouterr().err.split())


@needs_viser
def test_wrong_folders_and_files_are_refused_before_serving(made, small_head, tmp_path, capsys):
    assert view.main([str(tmp_path / "none"), "--port", "0"]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert view.main([str(tmp_path), "--port", "0"]) == 2
    assert "flamejax reconstruct PHOTOS... --output" in capsys.readouterr().err
    assert view.main([str(made[0]), "--port", "0", "--head", "gone.npz"]) == 2
    assert "--head gone.npz: no such file" in capsys.readouterr().err
    assert view.main([str(made[0]), "--port", "0", "--local", "gone.npz"]) == 2
    assert "gone.npz: no such local model" in capsys.readouterr().err
    metrics = json.loads((made[0] / "a" / "metrics.json").read_text())
    other = tmp_path / "other" / "a"
    other.mkdir(parents=True)
    (other / "metrics.json").write_text(json.dumps(metrics | {"head": metrics["head"] | {"sha256": "0" * 64}}))
    assert view.main([str(other.parent), "--port", "0"]) == 2
    assert "Give that head as --head FILE" in capsys.readouterr().err
