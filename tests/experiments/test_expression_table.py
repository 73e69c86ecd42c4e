"""The table `expression` with fakes: rows, resuming, the growing cover, the command's sheets."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.datasets.open_faces import Scans
from experiments.tables import expression_table
from experiments.tables.diverse_cases import VisibilityMasks
from experiments.tables.diverse_runs import DrawnHypotheses
from experiments.tables.diversity_table import summary, values_of
from experiments.tables.expression_table import (
    MEASURES,
    METHODS,
    ExpressionRunner,
    ExpressionTable,
    expression,
    measure,
    sheets,
)
from experiments.tables.moving_occlusion import SHARES, covered_case, vertices_behind
from flamejax.metrics import learn_distribution
from flamejax.types import Hypotheses
from models.rank import frontal_vertices
from sampling._ofer import OferNetworks
from tests.experiments.diverse_fakes import COUNT, Fakes, case, run_fit, runner
from tests.experiments.test_completion import HEAD

FRONT = frontal_vertices(HEAD)


def scans(count, seed):
    rng = np.random.default_rng(seed)
    at_root = np.asarray(HEAD.v_template) - np.asarray(HEAD.joint_template[0])
    heads = (at_root + 2e-3 * rng.normal(size=(count, COUNT, 3))).astype(np.float32)
    zero = np.zeros(count, np.int32)
    return Scans(heads, heads, np.zeros((count, 5, 3), np.float32), np.arange(count, dtype=np.int32), zero)


class NoNetwork:
    """Replaces a network."""


@pytest.fixture
def fake_runner(tmp_path, monkeypatch):
    """Returns a function that makes a runner with fake samplers, and a list of their calls."""
    calls = []

    def draw(name):
        def drawn(networks, head, fit, observation, key, *, num_samples, config):
            calls.append(name)
            steps = jnp.arange(num_samples)[:, None, None] * jnp.asarray([[[1e-3, 0.0, 0.0]]])
            shown = HEAD.v_template[:, 2] > 0.05  # as in `case`
            heads = fit.vertices[None] + jnp.where(shown[None, :, None], 0.1, 1.0) * steps
            return Hypotheses(heads, None, None, -jnp.arange(num_samples, dtype=jnp.float32))

        return drawn

    monkeypatch.setattr(expression_table, "ofer", draw("ofer"))
    monkeypatch.setattr(expression_table, "ofer_dpp", draw("ofer+dpp"))
    monkeypatch.setattr(expression_table, "digest_of_weights", lambda network: "none")
    networks = OferNetworks(NoNetwork(), NoNetwork(), NoNetwork(), None)

    def make(**settings):
        Fakes(monkeypatch)
        return ExpressionRunner(runner(tmp_path, **settings), networks)

    return make, calls


def test_expression_table_has_its_rows_and_resumes(fake_runner):
    make, calls = fake_runner
    cases = [case(0), case(1, "face-mask"), case(2, "hand")]
    ticks = []
    table = expression(
        make(), cases, cases[:2], scans(30, 0), scans(5, 1), lambda name, total, count: ticks.append((name, count))
    )
    assert {row["method"] for row in table.rows} == set(METHODS)
    overall = {row["method"]: row for row in table.rows if row["occluder"] == "overall"}
    for row in overall.values():
        assert row["photos"] == 3 and row["failed"] == 0
        assert row["asd_v_min"] <= row["asd_v_max"] and 0 <= row["asd_o"] <= 1
    # Neighbours differ by 0.1 mm at visible vertices and by 1 mm at hidden ones.
    assert overall["ofer"]["asd_v_min"] < 0.3 < overall["ofer"]["asd_o_rms"]
    assert [(row["method"], row["share"]) for row in table.covered] == [(m, s) for s in SHARES for m in METHODS]
    assert table.reference[0]["ode"] >= 0
    assert sum(count for name, count in ticks if name == "ofer") == 3
    count = len(calls)
    assert count == 2 * (3 + 2 * len(SHARES))
    again = expression(make(), cases, cases[:2], scans(30, 0), scans(5, 1), lambda *a: None)
    assert len(calls) == count and again.rows == table.rows
    expression(make(seed=1), cases, [], scans(30, 0), scans(5, 1), lambda *a: None)
    assert len(calls) == count + 6
    titles = [title for title, _, _ in sheets(table)]
    assert len(titles) == 4 and "faithful" in titles[0] and "ODE" in titles[-1]


def test_growing_cover_leaves_out_photos_with_a_failed_fit(fake_runner, monkeypatch):
    make, _ = fake_runner
    cases, fit = [case(0), case(1, "face-mask")], Fakes.fit

    def failing(self, model, observation, config):
        result = fit(self, model, observation, config)
        mask = np.asarray(observation.occlusion_mask)
        bad = (np.asarray(observation.image)[:, 0, 0, 0] > 0.22) & (mask.mean(axis=(1, 2)) > 0)
        return dataclasses.replace(result, code=np.where(bad, 1, result.code))

    monkeypatch.setattr(Fakes, "fit", failing)
    table = expression(make(), cases, cases[:2], scans(30, 0), scans(5, 1), lambda *a: None)
    assert all((row["photos"], row["failed"]) == (2, 1) for row in table.covered)
    monkeypatch.setattr(Fakes, "fit", fit)
    first_only = expression(make(), cases[:1], cases[:1], scans(30, 0), scans(5, 1), lambda *a: None)
    assert [row["std_s"] for row in table.covered] == [row["std_s"] for row in first_only.covered]
    assert "2 (1 failed)" in sheets(table)[2][2][0]


def test_vertices_behind_returns_those_in_the_covers_pixels():
    one = case(0)
    fit = run_fit(one)
    cover = np.zeros((64, 64), bool)
    cover[32:] = True
    screen = np.asarray(fit.camera.project(jnp.asarray(fit.vertices)))
    inside = (screen > 0).all(axis=1) & (screen < 64).all(axis=1)
    assert inside.sum() > 10
    np.testing.assert_array_equal(vertices_behind(cover, fit)[inside], screen[inside, 1] >= 32)


def test_measure_of_heads_with_known_distances():
    truth = np.asarray(HEAD.v_template)
    training = learn_distribution(scans(50, 3).vertices + np.asarray(HEAD.joint_template[0], np.float32))
    visible = np.arange(COUNT) % 2 == 0
    masks = VisibilityMasks(visible, ~visible, ~visible)
    heads = np.stack([truth, truth + np.where(visible[:, None], 0, [0.003, 0, 0])]).astype(np.float32)
    drawn, with_truth = DrawnHypotheses(heads, None, np.zeros(2), 1.5), dataclasses.replace(case(0), truth=truth)
    row = measure(drawn, with_truth, masks, FRONT, training)
    assert row["cse"] == row["visible_se"] == row["asd_v_min"] == row["asd_v_max"] == 0
    assert row["asd_o_rms"] == pytest.approx(3.0, rel=1e-3)
    assert row["seconds"] == 1.5 and row["ode"] >= 0
    bad = measure(DrawnHypotheses(heads * np.nan, None, np.zeros(2), 1.0), case(0), masks, FRONT, training)
    assert bad["failed"] == 1 and all(np.isnan(value) for name, value in bad.items() if name != "failed")
    half = summary(values_of([row, bad]), MEASURES, [case(0), case(1)])
    assert half["photos"] == 2 and half["failed"] == 1 and half["cse"] == 0
    none = summary(values_of([bad, bad]), MEASURES, [case(0), case(1)])
    table = ExpressionTable([{"method": "ofer", "occluder": "overall"} | one for one in (half, none)], [], [])
    cells = sheets(table)[0][2]
    assert cells[0][2] == "2 (1 failed)" and cells[1][2] == "2 (2 failed)"
    assert cells[1][3] == cells[1][-1] == "-"


def test_the_cover_grows_from_the_chin_to_the_brows():
    one = case(0)
    points = np.full((68, 2), 32.0, np.float32)
    points[:, 1] = np.linspace(14, 56, 68)
    points[36:42], points[42:48], points[17:27, 1], points[8] = (20, 22), (44, 22), 14, (32, 56)
    observation = dataclasses.replace(one.observation, landmarks=points, confidence=np.ones(68, np.float32))
    one = dataclasses.replace(one, observation=observation)
    hidden = [np.asarray(covered_case(one, share).observation.occlusion_mask).sum() for share in SHARES]
    assert hidden[0] == np.asarray(one.observation.occlusion_mask).sum()
    assert all(np.diff(hidden) > 0)
    visible = [(np.asarray(covered_case(one, share).observation.confidence) > 0).sum() for share in SHARES]
    assert visible[0] > visible[2] > visible[-1]
    assert (np.asarray(covered_case(one, 1.0).observation.confidence)[17:27] > 0).all(), "the brows stay visible"
