"""`reconstruct complete`: files, metrics, keys, resuming, errors. The Mesh-VAE itself is tested in tests/sampling."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import trimesh
from PIL import Image

import flamejax
from experiments.reconstruct import UsageError, command, reconstruct_config
from experiments.reconstruct.results import hypotheses_record, hypothesis_files
from experiments.reconstruct.settings import resolve_auto
from experiments.reconstruct.tools import drawing_tools
from experiments.reconstruct.views import draw_clay_sheet
from experiments.results import face_keys
from models.mesh_vae import MeshVAEConfig
from models.pretrained import build_mesh_vae, write_mesh_vae
from tests.experiments.fakes import HEAD, IDENTITY, FakeTools, reconstruct, results, rows, stamps, write_photo
from tests.heads import random_head

EYEBALL = np.arange(HEAD.num_vertices) == np.asarray(HEAD.v_template)[:, 2].argmin()


@pytest.fixture(autouse=True)
def head_with_an_eyeball(monkeypatch):
    """The command uses a head with an eyeball of one vertex, which FakeTools calls hidden."""
    regions = HEAD.regions | {"left_eyeball": EYEBALL, "right_eyeball": EYEBALL}
    head = dataclasses.replace(HEAD, regions=regions)
    monkeypatch.setattr(command, "load_head", lambda path: (head, IDENTITY))


@pytest.fixture
def photos(tmp_path):
    for name, colour in (("a", 100), ("b", 140), ("c", 180)):
        write_photo(tmp_path / "in" / f"{name}.png", colour=colour)
    return tmp_path / "in"


def complete(photos, output, **options):
    given = {"method": "complete", "num_samples": 3, **options}
    return reconstruct(photos, output, FakeTools(seen_beyond=0.05), **given)


def test_hypotheses_are_written_with_their_metrics(photos, tmp_path):
    out = tmp_path / "out"
    assert complete(photos, out) == 0
    assert results(out) == ["a", "b", "c"]
    for name in results(out):
        assert all((out / name / file).is_file() for file in hypothesis_files(3))
        heads = [dict(np.load(out / name / "hypotheses" / f"{k:02d}" / "params.npz")) for k in range(3)]
        fit = np.load(out / name / "params.npz")
        seen = fit["vertex_visibility"].astype(bool)
        assert 0 < seen.sum() < len(seen)
        for head in heads:
            assert {"vertices", "score", "latents", "head_sha256", "format_version"} <= head.keys()
            np.testing.assert_allclose(head["vertices"][seen], fit["vertices"][seen], atol=1e-6)
            assert np.abs(head["vertices"][~seen] - fit["vertices"][~seen]).max() > 1e-5
        assert heads[0]["score"] >= heads[1]["score"] >= heads[2]["score"]
        metrics = json.loads((out / name / "metrics.json").read_text())
        assert metrics["method"] == "complete" and metrics["hypotheses"] == 3
        assert metrics["hypotheses_visible_mm"] == 0
        assert not seen[EYEBALL].any()  # but it counts as visible, and is the only visible vertex that moves
        shifts = np.array([head["vertices"][~seen][0, 0] for head in heads])
        np.testing.assert_allclose(metrics["hypotheses_hidden_spread_mm"], 1e3 * shifts.std(), rtol=1e-2)
        of_seen = 1e3 * shifts.std() / np.sqrt(seen.sum() + 1)
        np.testing.assert_allclose(metrics["hypotheses_visible_spread_mm"], of_seen, rtol=1e-2)
        mesh = trimesh.load(out / name / "hypotheses" / "02" / "mesh.glb", force="mesh", process=False)
        assert len(mesh.faces) == len(HEAD.faces)
        with Image.open(out / name / "hypotheses" / "sheet.jpg") as sheet:
            assert sheet.width > sheet.height > 200 and np.asarray(sheet.convert("L")).std() > 10
    assert "hypotheses/sheet.jpg" in (out / "index.html").read_text()
    assert {row["hypotheses"] for row in rows(out / "summary.jsonl")} == {3}


def test_draws_of_a_face_do_not_depend_on_other_photos(photos, tmp_path):
    complete(photos, tmp_path / "all")
    (photos / "a.png").unlink()
    complete(photos, tmp_path / "two", batch_size=1)
    place = ("c", "hypotheses", "01", "params.npz")
    first, second = (np.load(tmp_path.joinpath(out, *place))["vertices"] for out in ("all", "two"))
    np.testing.assert_allclose(first, second, atol=1e-7)
    complete(photos, tmp_path / "seed", seed=1)
    assert np.abs(np.load(tmp_path.joinpath("seed", *place))["vertices"] - first).max() > 1e-5


def test_keys_of_faces_differ():
    data = jax.random.key_data(face_keys([("00ff00ff0", 0), ("00ff00ff0", 1), ("00ff01ff0", 0)], 0))
    assert len({tuple(row) for row in np.asarray(data).tolist()}) == 3


def test_resume_redoes_results_with_a_missing_hypothesis(photos, tmp_path):
    out = tmp_path / "out"
    complete(photos, out)
    before = stamps(out)
    (out / "b" / "hypotheses" / "01" / "mesh.glb").unlink()
    complete(photos, out, resume=True)
    after = stamps(out)
    assert (out / "b" / "hypotheses" / "01" / "mesh.glb").is_file()
    assert after["b"] != before["b"] and after["a"] == before["a"] and after["c"] == before["c"]
    complete(photos, out, resume=True, num_samples=2)  # another number of heads: all are done again
    assert not (out / "a" / "hypotheses" / "02").exists() and stamps(out)["a"] != after["a"]


def test_resume_as_a_plain_fit_keeps_hypotheses(photos, tmp_path):
    out = tmp_path / "out"
    complete(photos, out)
    before = stamps(out)
    reconstruct(photos, out, FakeTools(), resume=True, method="fit")
    assert stamps(out) == before and (out / "a" / "hypotheses" / "00").is_dir()
    plain = tmp_path / "plain"
    reconstruct(photos, plain, FakeTools(), method="fit")
    complete(photos, plain, resume=True)  # the other way round, the hypotheses are missing
    assert all((plain / name / "hypotheses" / "02").is_dir() for name in "abc")


@pytest.mark.parametrize("way", ["raises", "not a number"])
def test_fits_are_written_where_hypotheses_fail(photos, tmp_path, way):
    fake, out = FakeTools(seen_beyond=0.05), tmp_path / "out"
    original = fake.complete

    def failing(fit, keys, count):
        if way == "raises":
            raise RuntimeError("out of memory")
        drawn = original(fit, keys, count)
        return dataclasses.replace(drawn, vertices=np.full_like(drawn.vertices, np.nan))

    fake.complete = failing
    assert reconstruct(photos, out, fake, method="complete", num_samples=3) == 0
    assert results(out) == ["a", "b", "c"]
    failures = rows(out / "failures.jsonl")
    assert len(failures) == 3 and {row["stage"] for row in failures} == {"complete"}
    assert not (out / "a" / "hypotheses").exists()
    complete(photos, out, resume=True)
    assert (out / "a" / "hypotheses" / "02").is_dir() and not rows(out / "failures.jsonl")


def test_metrics_when_all_or_no_vertices_are_visible():
    heads = np.zeros((2, 4, 3))
    heads[1, 2] = [0.002, 0, 0]
    fit = np.zeros((4, 3))
    record = hypotheses_record(heads, fit, np.ones(4, bool))
    assert record["hypotheses"] == 2 and record["hypotheses_hidden_spread_mm"] is None
    np.testing.assert_allclose(record["hypotheses_visible_spread_mm"], 0.5)
    record = hypotheses_record(heads, fit, np.zeros(4, bool))
    assert record["hypotheses_visible_mm"] is None and record["hypotheses_hidden_spread_mm"] == pytest.approx(0.5)
    record = hypotheses_record(heads, fit, np.array([False, False, True, False]))
    assert record["hypotheses_hidden_spread_mm"] == 0 and record["hypotheses_visible_spread_mm"] == pytest.approx(1)


def test_clay_sheet_shows_at_most_sixteen_heads():
    points, spread = np.asarray(HEAD.v_template), np.zeros(HEAD.num_vertices)
    many, few = (draw_clay_sheet(points, np.stack([points] * count), spread, HEAD.faces) for count in (20, 16))
    assert many.size == few.size
    assert (np.asarray(many) != np.asarray(few)).any()  # it says so


def test_plain_fits_have_no_hypotheses_and_keep_their_settings(photos, tmp_path):
    out = tmp_path / "out"
    reconstruct(photos, out, FakeTools(), method="fit")
    assert not (out / "a" / "hypotheses").exists()
    metrics = json.loads((out / "a" / "metrics.json").read_text())
    assert not any("hypotheses" in name for name in metrics)
    assert not {"num_samples", "seed", "mesh_vae"} & metrics["settings"].keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "--num-samples"),
        ({"num_samples": 101}, "--num-samples"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**32}, "--seed"),
        ({"mesh_vae": "some.npz", "method": "fit"}, "is an option of `reconstruct complete`, "),
        ({"mesh_vae": "missing.npz"}, "--mesh-vae missing.npz: no such file"),
    ],
)
def test_wrong_options_are_refused(photos, tmp_path, options, message):
    options = {k: Path(v) if k == "mesh_vae" else v for k, v in options.items()}
    with pytest.raises(UsageError, match=message):
        complete(photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_head_are_refused(tmp_path):
    config = MeshVAEConfig(strides=(2, 2), features=(6,), latent_features=4, num_bases=3, centred=True)
    write_mesh_vae(tmp_path / "other.npz", HEAD, build_mesh_vae(HEAD, config, HEAD.v_template, 0.01))
    config = reconstruct_config(("x",), tmp_path, "complete", mesh_vae=tmp_path / "other.npz")
    with pytest.raises(UsageError, match="trained for the head"):
        drawing_tools(config, flamejax.load_head(), None)


def test_the_default_is_diverse_where_there_is_a_mesh_vae(tmp_path):
    """One ships for the open head; for another head the user may give one."""
    config = reconstruct_config(("x",), tmp_path)
    assert config.method == "auto" and resolve_auto(config, flamejax.load_head()).method == "diverse"
    assert resolve_auto(config, random_head()).method == "fit"
    given = reconstruct_config(("x",), tmp_path, mesh_vae=tmp_path / "mine.npz")
    assert resolve_auto(given, random_head()).method == "diverse"
    assert resolve_auto(reconstruct_config(("x",), tmp_path, "complete"), random_head()).method == "complete"


def test_auto_runs_as_diverse(photos, tmp_path):
    (tmp_path / "vae.npz").touch()  # no such ships for this head
    assert reconstruct(photos, tmp_path / "out", method="auto", mesh_vae=tmp_path / "vae.npz", num_samples=2) == 0
    metrics = json.loads((tmp_path / "out" / "a" / "metrics.json").read_text())
    assert metrics["method"] == "diverse" and metrics["hypotheses"] == 2
    assert metrics["settings"]["diversify"]["n_sigma"] == 3.0


@pytest.mark.parametrize("preset", ["fast", "paper"])
def test_settings_of_all_presets_are_recognised_by_resume(photos, tmp_path, preset):
    out = tmp_path / "out"
    assert reconstruct(photos, out, method="diverse", num_samples=2, diversify=preset) == 0
    before = stamps(out)
    reconstruct(photos, out, method="diverse", num_samples=2, diversify=preset, resume=True)
    assert stamps(out) == before


def test_resume_redoes_results_of_other_options(photos, tmp_path):
    out = tmp_path / "out"
    reconstruct(photos, out, method="diverse", num_samples=2)
    before = stamps(out)
    reconstruct(photos, out, method="diverse", num_samples=2, resume=True)
    assert stamps(out) == before
    reconstruct(photos, out, method="diverse", num_samples=2, n_sigma=2.0, resume=True)
    assert all(stamps(out)[name] != before[name] for name in before)


@pytest.mark.parametrize("option", [{"k": 1.0}, {"n_sigma": 2.0}, {"diversify": "paper"}])
@pytest.mark.parametrize("method", ["fit", "complete"])
def test_options_of_algorithm_2_are_refused_by_other_methods(tmp_path, option, method):
    with pytest.raises(UsageError, match="is an option of `reconstruct diverse`"):
        reconstruct_config(("x",), tmp_path, method, **option)


@pytest.mark.parametrize("wrong", [{"k": -1.0}, {"n_sigma": float("nan")}, {"n_sigma": 1e6}])
def test_options_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=r"--(k|n-sigma) is between"):
        reconstruct_config(("x",), tmp_path, **wrong)
