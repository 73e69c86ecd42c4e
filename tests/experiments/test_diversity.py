"""The tables of hypotheses with fakes of fits and of Algorithm 2: rows, resuming, pictures, command."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fitting
import flamejax
from experiments import evaluate
from experiments.cache import read_tree
from experiments.evaluate import reports
from experiments.tables import charts, diverse_runs, diversity_table, moving_occlusion, pictures, realism, report
from experiments.tables.diverse_cases import VisibilityMasks, visibility_masks
from experiments.tables.diverse_runs import METHODS, OURS, DrawnHypotheses, case_key
from flamejax.head import head_frame, root_joint
from flamejax.types import Fit
from tests.experiments.diverse_fakes import COUNT, VAE, FakeConfig, Fakes, case, run_fit, runner
from tests.experiments.fakes import FakeTools
from tests.experiments.test_completion import HEAD, scans


@pytest.fixture
def fakes(monkeypatch) -> Fakes:
    return Fakes(monkeypatch)


@pytest.fixture(scope="module")
def training(tmp_path_factory) -> realism.Realism:
    return realism.learn_realism(scans(8, 0), scans(3, 1), tmp_path_factory.mktemp("pca"))


def test_hypotheses_resume_from_cached_files(tmp_path, fakes):
    cases, run = [case(k) for k in range(5)], runner(tmp_path)
    ticks = []
    first = {name: run.hypotheses(name, cases, ticks.append) for name in METHODS}
    assert len(fakes.draws) == 25 and sum(ticks) == 25
    per_method = [fakes.draws[5 * k] for k in range(5)]
    assert [(vae, config.iterations) for vae, _, config in per_method] == [
        (False, 10), (False, 10), (True, 0), (True, 10), (True, 10),
    ]  # fmt: skip
    count = fakes.fits
    assert count == 10  # one fit per case and model, not per method
    again = runner(tmp_path)
    for name in METHODS:
        for old, new in zip(first[name], again.hypotheses(name, cases), strict=True):
            np.testing.assert_array_equal(old.heads, new.heads)
            assert old.seconds == new.seconds and (old.latents is None) == (new.latents is None)
    assert len(fakes.draws) == 25 and fakes.fits == count
    path = next(tmp_path.rglob("hypotheses-*/*.npz"))
    for damaged in (b"half", path.read_bytes()[:300]):
        path.write_bytes(damaged)
        before = len(fakes.draws)
        for name in METHODS:
            again.hypotheses(name, cases)
        assert len(fakes.draws) == before + 1
    fit = next(tmp_path.rglob("fits-*/*.npz"))
    fit.write_bytes(b"half")
    for fitted in ("global", "global+local"):
        again.fits(fitted, cases)
    assert fakes.fits == count + 1 and read_tree(fit, Fit) is not None
    before = len(fakes.draws)
    again.hypotheses(OURS, cases[:1], k=2.0)
    runner(tmp_path, seed=1).hypotheses(OURS, cases[:1])
    runner(tmp_path, num_samples=4).hypotheses(OURS, cases[:1])
    assert len(fakes.draws) == before + 3


def test_fits_run_in_batches_of_one_size(tmp_path, fakes):
    run, shapes = runner(tmp_path), []
    fit = fakes.fit
    diverse_runs.fitting.fit = lambda model, observation, config: (
        shapes.append(observation.image.shape[0]),
        fit(model, observation, config),
    )[1]
    assert len(run.fits("global", [case(k) for k in range(5)])) == 5 and shapes == [4, 4]


def test_hypotheses_are_moved_to_the_head_frame_of_the_fit(tmp_path, fakes):
    """They use the fit's rotation and root joint, so a hypothesis equal to the fit stays equal to it."""
    model = fitting.prepare(HEAD)
    run, turned = runner(tmp_path), jnp.asarray([0.1, 0.4, -0.2])

    def fit(model, observation, config):
        result = FakeTools().fit(HEAD, jax.tree.map(np.asarray, observation))
        params = dataclasses.replace(result.params, global_orient=np.tile(np.asarray(turned), (4, 1)))
        params = dataclasses.replace(params, betas=np.ones_like(params.betas))
        return dataclasses.replace(result, params=params, vertices=np.asarray(flamejax.vertices(HEAD, params)))

    diverse_runs.fitting.fit = fit
    (drawn,) = run.hypotheses("global+local+vae", [case(0)])
    (one,) = run.fits("global+local", [case(0)])
    root = np.asarray(root_joint(model.head, one.params))
    still = head_frame(one.vertices, root, one.params.global_orient)
    np.testing.assert_allclose(drawn.heads[0], still, atol=1e-6)
    np.testing.assert_allclose(run.fitted_heads("global+local", [case(0)])[0], still, atol=1e-6)
    assert np.abs(drawn.heads[0] - one.vertices).max() > 0.01


def test_diversity_table_has_its_rows_and_values(tmp_path, fakes, training):
    cases = [case(k, ("glasses", "face-mask", "hand", "object")[k % 4]) for k in range(8)]
    done: dict[str, int] = {}

    def tick(name, total, count):
        done[name] = done.get(name, 0) + count
        assert done[name] <= total

    table = diversity_table.diversity(runner(tmp_path), cases, training, scans(2, 5), tick)
    assert done == {"fits: global+local": 8, "fits: global": 8, **dict.fromkeys(METHODS, 8)}
    by = {(row["method"], row["occluder"]): row for row in table.rows}
    assert set(by) == {(m, o) for m in METHODS for o in ("glasses", "face-mask", "random", "overall")}
    ranged = (*diversity_table.MEASURES, "ratio")
    keys = {
        "method",
        "occluder",
        "photos",
        "failed",
        "seconds",
        *(f"{n}{e}" for n in ranged for e in ("", "_low", "_high")),
    }
    assert all(set(row) == keys for row in table.rows)
    row = by[OURS, "overall"]
    # The fake's steps: 11 mm at vertices visible in the fit, three times as much at hidden ones.
    visible = np.asarray(HEAD.v_template)[:, 2] > -1.0
    masks = visibility_masks(cases[0], HEAD, run_fit(cases[0]))
    for name, mask in (("asd_v", masks.visible), ("asd_o", masks.occluded), ("asd_o_under", masks.under)):
        step = np.where(visible, 11.0, 33.0)[mask]
        assert row[name] == pytest.approx(np.sqrt((step**2).mean()), rel=1e-4)
        assert row[f"{name}_low"] <= row[name] * (1 + 1e-6) and row[f"{name}_high"] >= row[name] * (1 - 1e-6)
    assert row["ratio"] == pytest.approx(row["asd_o"] / row["asd_v"]) and row["cse"] == pytest.approx(0, abs=1e-4)
    assert by["global+local+vae", "overall"]["asd_v"] == pytest.approx(1.0, rel=1e-4)  # no iterations
    assert by[OURS, "random"]["photos"] == 4 and row["photos"] == 8 and row["failed"] == 0
    assert [r["heads"] for r in table.reference] == [
        "test scans", "true heads of the photos", "fits: global", "fits: global+local",
    ]  # fmt: skip
    assert len(table.each) == 40 and table.each[0]["photo"] == "subject_0000-bareteeth"
    json.dumps(dataclasses.asdict(table), allow_nan=False)
    sheets = diversity_table.sheets("diversity", table)
    text = report.as_markdown("Heads.", sheets)
    assert "| global+local+vae+dpp | overall | 8 |" in text and text.count("\n\n**") == 3
    assert len(report.as_rich_tables(sheets)) == 3


def test_values_that_cannot_be_measured_are_none(tmp_path, fakes, training):
    """Photos without true heads, a single hypothesis, and values that are not finite."""
    fakes.bad = 0.21
    cases = [case(k, truth=False) for k in range(2)]  # the first is too dark
    table = diversity_table.diversity(runner(tmp_path), cases, training, None, lambda *a: None)
    assert {row["occluder"] for row in table.rows} == {"overall"}
    row = table.rows[-1]
    assert row["failed"] == 1 and row["photos"] == 2 and row["cse"] is None and row["cse_low"] is None
    assert row["asd_v"] == pytest.approx(11.0, rel=1e-3)  # of the other photo
    assert [one["asd_v"] is None for one in table.each[:2]] == [True, False]
    assert [r["heads"] for r in table.reference] == ["fits: global", "fits: global+local"]
    json.dumps(dataclasses.asdict(table), allow_nan=False)
    assert "| - |" in report.as_markdown("", diversity_table.sheets("diversity", table))
    single = diversity_table.diversity(
        runner(tmp_path, num_samples=1), cases[1:], training, None, lambda *a: None
    )  # fmt: skip
    assert single.rows[0]["asd_v"] is None and single.rows[0]["ratio"] is None
    assert single.rows[0]["inside"] is not None and single.rows[0]["inside_low"] is None  # one subject: no interval


def test_hyperparameters_and_moving_occlusion_have_their_rows(tmp_path, fakes, training):
    cases, run = [case(k) for k in range(2)], runner(tmp_path)
    table = diversity_table.hyperparameters(run, cases, training, lambda *a: None, (0.1, 0.5), (1.0, 2.0, 3.0))
    assert [(r["k"], r["n_sigma"]) for r in table.rows] == [(k, n) for k in (0.1, 0.5) for n in (1.0, 2.0, 3.0)]
    assert {"asd_v", "asd_o", "ratio", "inside"} <= set(table.rows[0])
    assert len(table.each) == 12 and len(fakes.draws) == 12
    charts.heat_maps(table.rows, tmp_path / "heat.png")
    assert np.asarray(Image.open(tmp_path / "heat.png").convert("L")).std() > 5
    assert len(report.as_rich_tables(diversity_table.sheets("hyperparameters", table))) == 2
    moved = {place: [moving_occlusion.with_patch(one, None, place) for one in cases] for place in ("mouth", "eyes")}
    table = diversity_table.moving_occlusion(run, moved, training, lambda *a: None)
    assert [r["place"] for r in table.rows] == ["mouth", "eyes"] and table.rows[0]["photos"] == 2
    assert "| mouth |" in report.as_markdown("", diversity_table.sheets("moving-occlusion", table))


def test_pictures_are_not_blank(tmp_path, fakes):
    run, cases = runner(tmp_path, num_samples=8), [case(0), case(1, "hand"), case(2, truth=False)]
    shown = diversity_table.hypotheses_pictures(run, cases)
    pictures.hypotheses_figure(HEAD, shown, tmp_path / "h.jpg")
    pictures.interpolation_figure(HEAD, VAE, shown, tmp_path / "i.png")
    for name, columns in (("h.jpg", 10), ("i.png", 9)):
        image = np.asarray(Image.open(tmp_path / name).convert("L")).astype(float)
        assert image.shape == (3 * 176 + 24, 110 + columns * 176)
        cells = image[: 3 * 176, 110:].reshape(3, 176, columns, 176)
        filled = cells.std(axis=(1, 3))[:, 1:]
        assert (filled[:2] > 5).all() and (filled[2, : columns - 2] > 5).all()
    assert pictures.first_of_each_occluder(["hand", "glasses", "glasses", "object"]) == [1, 0, 3]
    assert pictures.first_of_each_occluder(["photo"] * 9) == list(range(6))
    no_masks = VisibilityMasks(np.ones(COUNT, bool), np.zeros(COUNT, bool), np.zeros(COUNT, bool))
    without_latents = DrawnHypotheses(shown[0].drawn.heads, None, np.zeros(8), 0.0)
    photo = dataclasses.replace(shown[0], masks=no_masks, drawn=without_latents)
    pictures.interpolation_figure(HEAD, VAE, [photo], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_case_key_depends_on_the_photo_and_the_seed():
    keys = [jax.random.key_data(case_key(one, seed)) for one, seed in ((case(0), 0), (case(1), 0), (case(0), 1))]
    assert len({tuple(np.asarray(key)) for key in keys}) == 3
    np.testing.assert_array_equal(keys[0], jax.random.key_data(case_key(case(0, "hand"), 0)))


@pytest.mark.parametrize("table", ["diversity", "hyperparameters", "moving-occlusion"])
def test_the_command_writes_what_it_prints(table, tmp_path, monkeypatch, capsys, fakes):
    monkeypatch.setattr(flamejax, "load_head", lambda: HEAD)
    monkeypatch.setattr(reports, "load_mesh_vae", lambda head, path: VAE)
    monkeypatch.setattr(reports, "load_scans", lambda split: scans(8, 0) if split == "train" else scans(2, 1))
    monkeypatch.setitem(reports.DIVERSIFY_PRESETS, "fast", FakeConfig())
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    limits = []

    def cases_for(config, head, progress):
        limits.append(config.max_cases)
        cases = [case(k, ("glasses", "hand")[k % 2]) for k in range(2)]
        if table == "moving-occlusion":
            places = moving_occlusion.PLACES
            cases = [moving_occlusion.with_patch(one, None, place) for place in places for one in cases]
        return cases, ["other.png: no face"]

    monkeypatch.setattr(reports, "cases_for", cases_for)
    files = {name: tmp_path / f"table.{name}" for name in ("json", "md", "png", "csv")}
    options = ["--json", str(files["json"]), "--markdown", str(files["md"]), "--figure", str(files["png"])]
    options += ["--csv", str(files["csv"]), "--num-samples", "3"]
    assert evaluate.main(["--table", table, *options]) == 0
    assert limits == [24 if table == "diversity" else 4]
    rows = json.loads(files["json"].read_text())
    assert len(rows) == {"diversity": 15, "hyperparameters": 25, "moving-occlusion": 5}[table]
    read = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [list(row) for row in read] == [list(row) for row in rows]
    assert [float(row["asd_v"]) for row in read] == [row["asd_v"] for row in rows]
    assert set(json.loads((tmp_path / "table.more.json").read_text())) == {"reference", "each"}
    assert f"Table `{table}`: 2 photos of the open scans' test split" in files["md"].read_text()
    assert files["png"].stat().st_size > 1000
    assert (tmp_path / "table-interpolation.png").exists() == (table == "diversity")
    out = capsys.readouterr().out
    assert "left out: other.png: no face" in out and "asd_o" in out


def test_bad_options_are_refused(capsys, tmp_path, monkeypatch):
    for options, message in (
        (["fitting", "--photos", str(tmp_path)], "--photos is an option of `evaluate diversity`"),
        (["diversity", "--num-samples", "0"], "--num-samples is between"),
    ):
        assert evaluate.main(["--table", *options]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(reports.DIVERSIFY_PRESETS, "fast", FakeConfig())
    assert evaluate.main(["--table", "diversity", "--photos", str(tmp_path)]) == 2
    assert "no folder with photos" in capsys.readouterr().err
