"""Evaluation: metrics and intervals with known results, observations, cached fits, and the table of fits."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitting
import flamejax
from experiments import evaluate
from experiments.datasets.observations import ObservationOptions, evenly_spaced_indices, observe
from experiments.datasets.open_faces import ScanPhoto
from experiments.evaluate import reports
from experiments.tables import charts, fits, fitting_table, report
from experiments.tables.fits import FitJob, Fitter, PhotoFit
from experiments.tables.runs import code_version
from experiments.tables.statistics import OCCLUDERS, bootstrap, mean_of, ratio_of
from flamejax import metrics
from flamejax.camera import PerspectiveCamera
from flamejax.head import head_frame, root_joint
from tests.heads import random_head, random_params

HEAD = random_head(subdivisions=1)
SIDE = 16


def photo(subject: int, occluder: str = "glasses", shift: float = 0.001) -> ScanPhoto:
    """Returns a photo of the random head, moved by `shift` metres; its upper half is hidden."""
    rng = np.random.default_rng(subject)
    verts = np.asarray(HEAD.v_template) - np.asarray(HEAD.joint_template[0]) + shift
    upper = np.zeros((SIDE, SIDE), np.float32)
    upper[: SIDE // 2] = 1
    points = rng.uniform(0, SIDE, (68, 2)).astype(np.float32)
    clean = np.ones(68, bool)
    clean[:3] = False
    visible = np.ones(len(verts), bool)
    fields = {field.name: None for field in dataclasses.fields(ScanPhoto)}
    fields |= {
        "key": f"subject_{subject:04d}-mouth_open",
        "subject": subject,
        "expression": 0,
        "occluder": occluder,
        "image": rng.uniform(size=(SIDE, SIDE, 3)).astype(np.float32),
        "occluded": np.zeros((SIDE, SIDE, 3), np.float32),
        "occlusion_mask": upper,
        "face_mask": np.ones((SIDE, SIDE), np.float32),
        "landmarks": points,
        "landmarks_visible": clean,
        "landmarks_visible_occluded": clean & (points[:, 1] >= SIDE / 2),
        "vertices": verts.astype(np.float32),
        "vertices_visible": visible,
        "vertices_visible_occluded": visible & (verts[:, 1] < 0.1),
        "camera": PerspectiveCamera(jnp.asarray(1.0), jnp.zeros(2), jnp.eye(4)),
    }
    return ScanPhoto(**fields)


def test_rms_is_the_root_of_the_mean_squared_distance_in_thousandths():
    truth = np.zeros((4, 3))
    predicted = np.array([[0.003, 0, 0], [0, 0.004, 0], [0, 0, 0], [0, 0, 0]])
    assert metrics.rms(predicted, truth) == pytest.approx(2.5)
    assert metrics.rms(predicted, truth, np.array([True, False, False, False])) == pytest.approx(3.0)
    assert np.isnan(metrics.rms(predicted, truth, np.zeros(4, bool)))


def test_aligned_undoes_a_similarity():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 3))
    rotation = np.asarray(flamejax.head.rotation_matrix(jnp.asarray([0.3, -0.2, 0.9])))
    moved = 1.7 * truth @ rotation.T + [1.0, 2.0, 3.0]
    np.testing.assert_allclose(metrics.aligned(moved, truth), truth, atol=1e-5)
    half = np.arange(50) < 25
    moved[~half] += 5.0  # vertices outside the mask do not count
    np.testing.assert_allclose(metrics.aligned(moved, truth, half)[half], truth[half], atol=1e-5)
    mirrored = truth * [-1, 1, 1]
    assert metrics.rms(metrics.aligned(mirrored, truth), truth) > 100


def test_head_frame_undoes_the_global_rotation():
    model = fitting.prepare(HEAD)
    params = random_params(HEAD, 3, (2,))
    params = dataclasses.replace(params, transl=jnp.zeros((2, 3)))
    root = np.asarray(root_joint(model.head, params))
    verts = head_frame(np.asarray(flamejax.vertices(HEAD, params)), root, np.asarray(params.global_orient))
    unrotated = flamejax.vertices(HEAD, dataclasses.replace(params, global_orient=jnp.zeros((2, 3))))
    np.testing.assert_allclose(verts, np.asarray(unrotated) - root[:, None], atol=1e-5)


def test_mask_counts_ignores_pixels_outside_the_area():
    predicted, truth, area = np.zeros((3, 4, 4))
    predicted[0], truth[:2], area[:, :3] = 1, 1, 1
    assert metrics.mask_counts(predicted, truth, area) == (3, 6)


def test_intervals_come_from_subjects_not_photos():
    subjects = np.repeat(np.arange(20), 5)
    values = np.repeat(np.random.default_rng(0).normal(3.0, 1.0, 20), 5)
    value, low, high = mean_of(values, subjects)
    assert value == pytest.approx(values.mean()) and low < value < high
    assert (high - low) / (2 * 1.96) == pytest.approx(values.std() / np.sqrt(20), rel=0.15)
    ratio, low, high = ratio_of(0.8 * values, values, subjects)
    assert (ratio, low, high) == pytest.approx((0.8, 0.8, 0.8))
    with_gap = values.copy()
    with_gap[3] = np.nan
    assert mean_of(with_gap, subjects)[0] == pytest.approx(np.nanmean(with_gap))
    assert np.isnan(bootstrap(np.full((2, 1), np.nan), np.arange(2), lambda m: m[..., 0])[0])


def test_observation_options_select_image_mask_and_landmarks():
    one = photo(3)
    hidden = one.landmarks_visible & ~one.landmarks_visible_occluded
    given = observe(one, ObservationOptions())
    auto = observe(one, ObservationOptions(masks="auto"))
    clean = observe(one, ObservationOptions(occluded=False, masks="none"))
    assert (np.asarray(given.confidence)[hidden] == 0).all() and np.asarray(given.occlusion_mask).sum() > 0
    assert np.asarray(auto.occlusion_mask).sum() == 0
    unsure = np.asarray(auto.confidence)[hidden]
    assert (unsure > 0).all() and (unsure <= 0.5).all()
    assert np.abs(np.asarray(auto.landmarks) - one.landmarks)[hidden].min() > 0
    np.testing.assert_array_equal(np.asarray(auto.landmarks)[~hidden], one.landmarks[~hidden])
    np.testing.assert_array_equal(clean.image, one.image)
    for observation in (given, auto, clean):
        assert (np.asarray(observation.confidence)[:3] == 0).all()  # the head itself hides them
    again = observe(one, ObservationOptions(masks="auto"))
    np.testing.assert_array_equal(again.landmarks, auto.landmarks)
    other = observe(one, ObservationOptions(masks="auto"), seed=1)
    assert np.abs(np.asarray(other.landmarks) - auto.landmarks).max() > 0


def test_evenly_spaced_indices_cover_all_photos():
    assert list(evenly_spaced_indices(360, None)) == list(range(360))
    chosen = evenly_spaced_indices(360, 96)
    assert len(chosen) == 96 and chosen[0] == 0 and chosen[-1] == 359


class StubFitter(Fitter):
    """Returns the truth with an error of 1 mm per coordinate for global, and of 0.5 mm for global+local."""

    def __init__(self, folder):
        super().__init__(HEAD, lambda: None, folder)
        self.calls = 0

    def _fit_batch(self, photos, job):
        self.calls += 1
        step = 0.001 if job.method == "global" else 0.0005
        return [PhotoFit(one.vertices + np.float32(step), one.occlusion_mask > 0.5, 0.01, 0) for one in photos]


def test_fits_are_cached_and_damaged_files_are_recomputed(tmp_path):
    fitter, photos = StubFitter(tmp_path), [photo(k) for k in range(6)]
    job = FitJob("global", ObservationOptions())
    first = fitter.fit(photos, job)
    assert fitter.calls == 2
    again = fitter.fit(photos, job)
    assert fitter.calls == 2
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a.vertices, b.vertices)
        np.testing.assert_array_equal(a.occlusion_mask, b.occlusion_mask)
    path = next(tmp_path.rglob("*.npz"))
    for damaged in (b"half", path.read_bytes()[:200]):
        path.write_bytes(damaged)
        calls = fitter.calls
        fitter.fit(photos, job)
        assert fitter.calls == calls + 1
    calls = fitter.calls
    fitter.fit(photos, dataclasses.replace(job, seed=1))
    assert fitter.calls == calls + 2
    assert len(code_version(fits.CODE_PATHS)) == 12
    with pytest.raises(FileNotFoundError):
        code_version(("flamejax", "no/such/file.py"))


def test_fitting_table_has_its_rows_and_values(tmp_path, monkeypatch):
    kinds = ("glasses", "face-mask", "hand", "object")
    photos = [photo(k, kinds[k % 4]) for k in range(8)]
    monkeypatch.setattr(
        fitting_table, "floor_vertices",
        lambda head, photos, progress: {m: [p.vertices + 1e-4 for p in photos] for m in ("global", "global+local")},
    )  # fmt: skip
    done = []
    jobs = fitting_table.fit_jobs("fast", "exact", 0)
    table = fitting_table.compute_table(HEAD, StubFitter(tmp_path), photos, jobs, lambda *tick: done.append(tick))
    assert sum(n for name, total, n in done if name == "auto") == 8
    by = {(row["method"], row["occluder"]): row for row in table.rows}
    assert set(by) == {(m, o) for m in ("mean", "global", "global+local") for o in OCCLUDERS}
    step = np.sqrt(3.0)
    assert by["global", "overall"]["rms_all"] == pytest.approx(step, rel=1e-4)
    assert by["global+local", "random"]["rms_visible"] == pytest.approx(step / 2, rel=1e-4)
    assert by["mean", "glasses"]["rms_all"] == pytest.approx(step, rel=1e-3)
    assert by["global", "overall"]["rms_all_aligned"] == pytest.approx(0, abs=1e-3)
    assert all(row["failed"] == 0 for row in table.rows)
    assert by["global", "random"]["photos"] == 4 and by["mean", "overall"]["floor_rms_all"] is None
    assert {r["occluder"]: round(r["rms_all"], 3) for r in table.ratios}["overall"] == 0.5
    assert all(row["rms_visible"] == pytest.approx(1.0) for row in table.robustness)
    assert {row["occluder"]: row["iou"] for row in table.masks} == dict.fromkeys((*kinds, "overall"), 1.0)
    assert all(row["false_on_clean"] == pytest.approx(0.5) for row in table.masks)
    json.dumps(table.rows, allow_nan=False)
    text = report.as_markdown("", fitting_table.sheets(table))
    assert "global+local" in text and text.count("**") == 8
    charts.histogram(table.histogram, tmp_path / "h.png")
    assert (tmp_path / "h.png").stat().st_size > 1000
    jobs = fitting_table.fit_jobs("fast", "exact", 0, robustness=False)
    short = fitting_table.compute_table(HEAD, StubFitter(tmp_path), photos, jobs, lambda *a: None)
    assert not short.robustness and not short.masks and len(report.as_rich_tables(fitting_table.sheets(short))) == 2


def test_fitter_pads_batches_and_returns_heads_in_the_head_frame(tmp_path, monkeypatch):
    """The fit itself is replaced."""
    fitter = Fitter(HEAD, lambda: None, tmp_path)
    shapes = []

    def fake_fit(model, observation, config):
        shapes.append(observation.image.shape)
        batch = observation.image.shape[0]
        params = dataclasses.replace(flamejax.HeadParams.zeros(HEAD, (batch,)), global_orient=jnp.full((batch, 3), 0.2))
        return fits.fitting.Fit(
            params, flamejax.vertices(HEAD, params), None, None, None, None, None,
            {"nme": np.zeros(batch)}, np.zeros(batch, int),
        )  # fmt: skip

    monkeypatch.setattr(fits.fitting, "fit", fake_fit)
    results = fitter.fit([photo(k) for k in range(3)], FitJob("global", ObservationOptions()))
    assert shapes == [(4, SIDE, SIDE, 3)] and len(results) == 3
    assert results[0].vertices.shape == (HEAD.num_vertices, 3) and results[0].code == 0
    assert jax.tree.all(jax.tree.map(lambda r: bool(np.isfinite(r.vertices).all()), results))


def test_the_command_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    photos = [photo(k, "hand") for k in range(3)]
    monkeypatch.setattr(flamejax, "load_head", lambda: HEAD)
    monkeypatch.setattr(reports, "data_source", lambda split, config: photos)
    monkeypatch.setattr(reports, "load_photos", lambda split, config, indices: [photos[k] for k in indices])
    monkeypatch.setattr(reports, "Fitter", lambda head, detector: StubFitter(tmp_path / "cache"))
    monkeypatch.setattr(
        fitting_table, "floor_vertices",
        lambda head, photos, progress: {m: [p.vertices + 1e-4 for p in photos] for m in ("global", "global+local")},
    )  # fmt: skip
    files = {name: tmp_path / f"table.{name}" for name in ("json", "md", "png")}
    options = ["--json", str(files["json"]), "--markdown", str(files["md"]), "--figure", str(files["png"])]
    assert evaluate.main(["--table", "fitting", "--limit", "2", *options]) == 0
    rows = json.loads(files["json"].read_text())
    assert {(row["method"], row["occluder"]) for row in rows} == {
        (m, o) for m in fitting_table.METHODS for o in ("random", "overall")
    }
    assert rows[0]["photos"] == 2 and files["png"].exists() and "| global |" in files["md"].read_text()
    more = json.loads((tmp_path / "table.more.json").read_text())
    assert {"ratios", "robustness", "masks", "histogram"} == set(more)
    assert "global+local" in capsys.readouterr().out
    monkeypatch.setattr(reports, "data_source", lambda split, config: (_ for _ in ()).throw(RuntimeError("no data")))
    assert evaluate.main(["--table", "fitting"]) == 2
    assert "no data" in capsys.readouterr().err
