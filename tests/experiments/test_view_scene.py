"""The viewer's logic without a browser: sliders, hypotheses, interpolation, colours, draws, errors."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import flamejax
from experiments.results import UsageError
from experiments.view import explorer as explorer_module
from experiments.view.edits import COEFFICIENT_LIMIT, edit_params, head_angles, sliders
from experiments.view.explorer import (
    BETWEEN,
    COLOURS,
    FIT,
    DrawSettings,
    Explorer,
    HeadSelection,
    ViewError,
    colour_mesh,
    legend,
    photo_plane,
)  # fmt: skip
from flamejax.io.results import ResultError
from flamejax.types import Hypotheses
from sampling import complete
from tests.experiments.fakes import HEAD, IDENTITY, reconstruct, write_photo
from tests.experiments.results import KnownTools, one, vertices, write_networks
from tests.heads import random_params


@pytest.fixture
def explorer(made):
    return Explorer(made[0], HEAD, IDENTITY, mesh_vae=made[1][1])


@pytest.fixture
def face(explorer):
    return explorer.face("a")


def draw_without_diversifying(vae, model, fit, observation, key, *, num_samples, config):
    return complete(vae, model, fit, key, num_samples=num_samples)


@pytest.fixture
def without_diversifying(monkeypatch):
    """Draws skip the iterations of Algorithm 2."""
    monkeypatch.setattr(explorer_module, "diversify", draw_without_diversifying)


def test_explorer_starts_with_the_fit(made, explorer, face):
    fit = one(made[2].fits[0])
    assert explorer.names == ["a", "b"] and face.model.has_local
    np.testing.assert_allclose(explorer.vertices(face, HeadSelection()), fit.vertices, atol=1e-6)
    starts = {each.name: each.start for each in sliders(face.model, face.fit)}
    assert len(starts) == 3 + 2 + 3 + 3 + 2 + 2 + 2  # the global components that the fit has, and joints
    np.testing.assert_allclose(explorer.vertices(face, HeadSelection(values=starts)), fit.vertices, atol=1e-6)
    other = one(made[2].fits[0], 1)
    np.testing.assert_allclose(explorer.vertices(explorer.face("b"), HeadSelection()), other.vertices, atol=1e-6)


def test_slider_limits_include_the_fit(face):
    far = dataclasses.replace(face.fit.params, betas=face.fit.params.betas.at[1].set(-5.0))
    all_sliders = sliders(face.model, dataclasses.replace(face.fit, params=far))
    assert all(each.low <= each.start <= each.high for each in all_sliders)
    by_name = {each.name: each for each in all_sliders}
    assert by_name["identity 0"].high == COEFFICIENT_LIMIT and by_name["identity 1"].low == -5.0
    limits = np.array([[-1.0, -2.0, 0, 0, 0, 0], [0.5, 2.5, 0, 0, 0, 0]])[:, : face.model.head.num_expression]
    narrow = dataclasses.replace(face.model, head=dataclasses.replace(face.model.head, expression_range=limits))
    by_name = {each.name: each for each in sliders(narrow, face.fit)}
    assert by_name["expression 1"].low == -2.0 and by_name["expression 1"].high == 2.5


def test_sliders_change_the_named_parameters(explorer, face):
    full = edit_params(face.model, face.fit, {})
    moved = edit_params(face.model, face.fit, {"identity 2": 1.5, "expression 0": -1.0, "jaw open": 20.0})
    assert moved.betas[2] == 1.5 and moved.expression[0] == -1.0
    np.testing.assert_allclose(moved.jaw_pose, [np.deg2rad(20), *full.jaw_pose[1:]], atol=1e-6)
    np.testing.assert_array_equal(moved.betas[3:], full.betas[3:])  # the local ones
    for name in ("neck_pose", "leye_pose", "reye_pose", "transl"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(full, name))
    expected = vertices(face.model.head, moved)
    selection = HeadSelection(values={"identity 2": 1.5, "expression 0": -1.0, "jaw open": 20.0})
    np.testing.assert_allclose(explorer.vertices(face, selection), expected, atol=1e-6)
    assert np.abs(explorer.vertices(face, selection) - face.fit.vertices).max() > 1e-3


def test_the_head_turns_to_its_left_nods_down_and_tilts():
    np.testing.assert_allclose(head_angles(np.array([0, np.deg2rad(30), 0])), [30, 0, 0], atol=1e-5)
    np.testing.assert_allclose(head_angles(np.array([np.deg2rad(20), 0, 0])), [0, 20, 0], atol=1e-5)
    np.testing.assert_allclose(head_angles(np.array([0, 0, np.deg2rad(-10)])), [0, 0, -10], atol=1e-5)


def test_a_fit_without_local_models_has_a_slider_for_each_global_component(tmp_path, small_head):
    write_photo(tmp_path / "in" / "a.png")
    assert reconstruct(tmp_path / "in", tmp_path / "out", KnownTools()) == 0
    explorer = Explorer(tmp_path / "out", HEAD, IDENTITY)
    face = explorer.face("a")
    names = [each.name for each in sliders(face.model, face.fit)]
    assert f"identity {HEAD.num_betas - 1}" in names and f"expression {HEAD.num_expression - 1}" in names
    assert face.choices() == [FIT] and legend(face, "spread").startswith("There are no hypotheses")
    np.testing.assert_allclose(explorer.vertices(face, HeadSelection()), face.fit.vertices, atol=1e-6)
    with pytest.raises(ViewError, match="no hypothesis 00: draw some"):
        explorer.vertices(face, HeadSelection("00"))
    assert np.ptp(colour_mesh(face, HEAD, np.asarray(face.fit.vertices), "spread").uv[:, 0]) == 0


def test_hypotheses_are_shown_and_interpolated(made, explorer, face):
    drawn = one(made[2].drawn[0])
    assert face.choices() == [FIT, "00", "01", "02", "03", BETWEEN]
    np.testing.assert_allclose(explorer.vertices(face, HeadSelection("02")), drawn.vertices[2], atol=1e-6)
    for weight, end in ((0.0, 1), (1.0, 3)):
        interpolated = explorer.vertices(face, HeadSelection(BETWEEN, ends=(1, 3), weight=weight))
        np.testing.assert_allclose(interpolated, drawn.vertices[end], atol=1e-5)
    middle = explorer.vertices(face, HeadSelection(BETWEEN, ends=(1, 3), weight=0.5))
    apart = np.abs(drawn.vertices[1] - drawn.vertices[3]).max()
    assert 0 < np.abs(middle - drawn.vertices[1]).max() < 2 * apart
    # The same as the Mesh-VAE's own interpolation in the head frame.
    vae, first, second = made[2].vae, drawn.latents[1], drawn.latents[3]
    own = vae.interpolate(first, second, 3)[1]
    centred = lambda points: np.linalg.norm(points - np.mean(points, axis=0), axis=1)  # noqa: E731
    np.testing.assert_allclose(centred(middle), centred(np.asarray(own)), atol=1e-5)


def test_latents_of_another_mesh_vae_are_not_mixed(made, tmp_path):
    other = write_networks(tmp_path / "other")[1]
    with np.load(other) as file:
        changed = {name: value * (2 if name.startswith("frame:spread") else 1) for name, value in file.items()
                   if value.dtype.kind != "U"} | {n: v for n, v in file.items() if v.dtype.kind == "U"}  # fmt: skip
    np.savez(other, **changed)
    explorer = Explorer(made[0], HEAD, IDENTITY, mesh_vae=other)
    with pytest.raises(ViewError, match=r"another Mesh-VAE.*--mesh-vae"):
        explorer.vertices(explorer.face("a"), HeadSelection(BETWEEN))
    missing = Explorer(made[0], HEAD, IDENTITY, mesh_vae=tmp_path / "none.npz")
    with pytest.raises(ViewError, match=r"none.npz: no such Mesh-VAE"):
        missing.draw(missing.face("a"), DrawSettings())


def test_draws_replace_hypotheses_and_repeat_with_the_same_seed(made, explorer, face, without_diversifying):
    explorer.draw(face, DrawSettings(num_samples=4, seed=0))
    np.testing.assert_allclose(face.hypotheses.vertices, one(made[2].drawn[0]).vertices, atol=1e-5)
    explorer.draw(face, DrawSettings(num_samples=6, seed=5))
    assert face.count == 6 and "seed 5" in face.source and face.choices()[-2:] == ["05", BETWEEN]
    assert explorer.vertices(face, HeadSelection(BETWEEN, ends=(0, 5))).shape == face.fit.vertices.shape


def test_algorithm_2_gets_its_settings_and_the_photo(explorer, face, monkeypatch):
    calls: list = []

    def fake(vae, model, fit, observation, key, *, num_samples, config):
        calls.append((config, observation, num_samples))
        heads = np.repeat(np.asarray(fit.vertices)[None], num_samples, axis=0)
        return Hypotheses(heads, None, None, np.zeros(num_samples))

    monkeypatch.setattr(explorer_module, "diversify", fake)
    explorer.draw(face, DrawSettings(k=0.7, n_sigma=2.0, num_samples=8))
    config, observation, count = calls[0]
    assert (config.k, config.n_sigma, config.iterations, count) == (0.7, 2.0, 60, 8)
    assert observation is face.observation and observation.image.shape == (64, 64, 3)
    assert "k 0.7, n_sigma 2" in face.source and BETWEEN not in face.choices()  # it gave no latents
    gone = dataclasses.replace(face, observation=None)
    with pytest.raises(ViewError, match="needs the photo"):
        explorer.draw(gone, DrawSettings())


def test_draws_that_are_not_finite_are_refused(explorer, face, monkeypatch):
    before = face.hypotheses
    wrong = dataclasses.replace(before, score=before.score * np.nan)
    monkeypatch.setattr(explorer_module, "diversify", lambda *args, **options: wrong)
    with pytest.raises(ViewError, match="not finite"):
        explorer.draw(face, DrawSettings())
    assert face.hypotheses is before


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_show_visibility_and_spread(face, colour):
    points = np.asarray(face.fit.vertices)
    mesh = colour_mesh(face, HEAD, points, colour)
    np.testing.assert_allclose(mesh.vertices, points, atol=1e-7)
    assert mesh.uv_faces.shape == mesh.faces.shape and 0 <= mesh.texture.min() <= mesh.texture.max() <= 1
    if colour == "texture":
        np.testing.assert_allclose(mesh.texture, np.clip(HEAD.albedo(face.fit.texture), 0, 1))
        return
    position = mesh.uv[:, 0]
    if colour == "seen and hidden":
        visible = np.asarray(face.fit.vertex_visibility)
        assert 0 < visible.sum() < len(visible) and position[visible].max() < 0.01 and position[~visible].min() > 0.99
        assert f"{100 * visible.mean():.0f} %" in legend(face, colour)
    elif colour == "spread":
        heads = np.asarray(face.hypotheses.vertices, np.float64)
        spread = np.sqrt(((heads - heads.mean(axis=0)) ** 2).sum(axis=-1).mean(axis=0))
        assert position[spread.argmax()] > 0.99 and position[spread.argmin()] < position[spread.argmax()]
        assert "4 hypotheses" in legend(face, colour)
    else:
        assert np.ptp(position) == 0


def test_photo_plane_lies_under_the_face_seen_from_the_eye(face):
    eye = np.array([0.02, 0.1, 1.7])
    plane = photo_plane(face, eye)
    assert plane.image.shape == (64, 64, 3) and plane.centre[2] < np.asarray(face.fit.vertices)[:, 2].min()
    # A ray from the eye through a landmark's depth meets the plane at the landmark's pixel.
    front = np.asarray(face.fit.landmarks)[:, 2].mean()
    point = np.array([0.03, 0.12, front])
    pixel = float(face.fit.camera.scale) * point[:2] * (1, -1) + np.asarray(face.fit.camera.translation)
    met = eye + (plane.centre[2] - eye[2]) / (point[2] - eye[2]) * (point - eye)
    there = (met - plane.centre)[:2] * (1, -1) / plane.side * 64 + 32
    np.testing.assert_allclose(there, pixel, atol=1e-3)
    assert photo_plane(dataclasses.replace(face, observation=None), eye) is None


def test_folders_without_results_are_refused(made, tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: no such folder.*flamejax reconstruct PHOTOS"):
        Explorer(tmp_path / "nowhere", HEAD, IDENTITY)
    with pytest.raises(UsageError, match="no results of flamejax reconstruct in it"):
        Explorer(tmp_path, HEAD, IDENTITY)
    with pytest.raises(UsageError, match="Give the folder above it"):
        Explorer(made[0] / "a", HEAD, IDENTITY)


def test_faces_of_other_heads_are_refused(made):
    explorer = Explorer(made[0], HEAD, dataclasses.replace(IDENTITY, sha256="0" * 64))
    with pytest.raises(ResultError, match="--head FILE"):
        explorer.face("a")


def test_edits_follow_the_head_model(face):
    params = random_params(face.model.head, 3)
    fit = dataclasses.replace(face.fit, params=params)
    unchanged = flamejax.vertices(face.model.head, edit_params(face.model, fit, {}))
    np.testing.assert_allclose(unchanged, flamejax.vertices(face.model.head, params), atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), edit_params(face.model, fit, {}), params)


def test_metrics_name_what_the_viewer_needs(made):
    metrics = json.loads((made[0] / "a" / "metrics.json").read_text())
    assert {"photo_sha256", "face", "settings"} <= metrics.keys() and metrics["settings"]["mesh_vae"]
