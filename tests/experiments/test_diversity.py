"""CSE and ASD with known answers; the tables of hypotheses with quick stand-ins for fits and for Algorithm 2."""

import csv
import dataclasses
import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import fitting
import flamejax
from experiments import evaluate, metrics
from experiments.data import open_faces
from experiments.data.open_faces import Scans
from experiments.data.open_faces.photos import kind_of
from experiments.evaluate import (
    diverse_runs,
    diversity_command,
    diversity_figure,
    diversity_report,
    diversity_table,
    folder_photos,
    head_realism,
    moving_occlusion,
    report,
)
from experiments.evaluate.diverse_cases import Case, Parts, balanced, folder_cases, parts_of
from experiments.evaluate.diverse_runs import METHODS, OURS, Found, Runner, Settings, case_key
from experiments.evaluate.kept_trees import flat, read_fit, read_observation, write_tree
from experiments.evaluate.observations import spread_out
from sampling.complete import eyeball_vertices
from sampling.hypotheses import Hypotheses
from tests.experiments.fakes import FakeTools, write_photo
from tests.experiments.test_completion import HEAD, heads, scans, tiny_vae

VAE = tiny_vae()
SIDE = 64
COUNT = HEAD.num_vertices
EYES = np.asarray(eyeball_vertices(HEAD))


@dataclass(frozen=True)
class FakeConfig:
    """In place of DiversifyConfig."""

    k: float = 0.5
    n_sigma: float = 3.0
    iterations: int = 10


class Fakes:
    """Fits and hypotheses at once, and how many were asked for."""

    def __init__(self, monkeypatch):
        self.fits, self.draws, self.bad = 0, [], None
        monkeypatch.setattr(diverse_runs.fitting, "fit", self.fit)
        monkeypatch.setattr(Runner, "_prepare", lambda runner, fitted: fitting.prepare(HEAD))

    def fit(self, model, observation, config):
        self.fits += 1
        return FakeTools().fit(HEAD, jax.tree.map(np.asarray, observation))

    def draw(self, vae, model, fit, observation, key, count, config):
        """Heads pushed apart by a micrometre where they are seen, by n_sigma micrometres a step where not."""
        self.draws.append((vae is not None, fit, config))
        steps = np.arange(count)[:, None, None] * np.where(fit.vertex_visibility, 1, config.n_sigma)[None, :, None]
        verts = np.asarray(fit.vertices)[None] + 1e-3 * steps * np.array([1.0, 0, 0]) * (1 + config.iterations)
        if self.bad is not None and np.asarray(observation.image).mean() < self.bad:
            verts = np.full_like(verts, np.nan)
        latents = None if vae is None else jax.random.normal(key, (count, *vae.latent_shape))
        return Hypotheses(jnp.asarray(verts, jnp.float32), None, latents, -jnp.arange(count, dtype=jnp.float32))


@pytest.fixture
def fakes(monkeypatch) -> Fakes:
    return Fakes(monkeypatch)


@pytest.fixture(scope="module")
def realism(tmp_path_factory) -> head_realism.Realism:
    return head_realism.learn(scans(8, 0), scans(3, 1), tmp_path_factory.mktemp("pca"))


def case(number: int, occluder: str = "glasses", truth: bool = True) -> Case:
    image = np.full((SIDE, SIDE, 3), 0.2 + 0.05 * number, np.float32)
    (seen,) = FakeTools().observe(image, size=SIDE, all_faces=False)
    shown = np.asarray(HEAD.v_template)[:, 2] > 0.05
    if not truth:
        return Case(f"photo{number}", number, "photo", seen)
    clean = np.asarray(HEAD.v_template)[:, 2] > 0.0
    at_root = np.asarray(HEAD.v_template) - np.asarray(HEAD.joint_template[0])
    return Case(f"subject_{number:04d}-bareteeth", number, occluder, seen, shown, clean, at_root)


def runner(fakes: Fakes, folder, **settings) -> Runner:
    return Runner(HEAD, VAE, Settings(FakeConfig(), **{"num_samples": 3, **settings}), folder, fakes.draw)


def test_closest_sample_error_of_hand_made_heads():
    truth = np.zeros((4, 3))
    found = np.zeros((3, 4, 3), np.float32)
    found[0, :, 0] = 0.003  # 3 mm everywhere
    found[1, 2, 1] = 0.004  # sqrt(4^2 / 4) = 2
    found[2, :, 2] = 0.010
    assert metrics.cse(found, truth) == pytest.approx(2.0, rel=1e-6)
    assert metrics.cse(found[:1], truth) == pytest.approx(3.0, rel=1e-6)
    assert metrics.cse(truth[None], truth) == 0
    assert metrics.cse(found[:1] + 1.0, truth) == pytest.approx(1e3 * np.sqrt(1.003**2 + 2), rel=1e-6)  # no alignment
    assert np.isnan(metrics.cse(found[:0], truth)) and np.isnan(metrics.cse(found * np.nan, truth))


def test_average_self_distance_of_hand_made_heads():
    line = np.zeros((3, 5, 3))
    line[:, :, 0] = np.array([0.0, 0.001, 0.005])[:, None]
    assert metrics.asd(line) == pytest.approx((1 + 1 + 4) / 3)  # to the nearest other, averaged
    hidden = np.array([True, True, False, False, False])
    line[:, ~hidden] = 0
    assert metrics.asd(line, hidden) == pytest.approx(2.0) and metrics.asd(line, ~hidden) == 0
    assert metrics.asd(line) == pytest.approx(2.0 * np.sqrt(2 / 5))
    for undefined in (metrics.asd(line[:1]), metrics.asd(line, np.zeros(5, bool)), metrics.asd(line * np.nan)):
        assert np.isnan(undefined)


def test_average_self_distance_is_exact_for_heads_that_nearly_agree():
    base = np.random.default_rng(0).normal(size=(1, 50, 3)).astype(np.float32)
    near = np.concatenate([base, base + np.float32(2**-20), base + np.float32(2**-18)])
    away = np.sqrt(((near.astype(float)[:, None] - near.astype(float)[None]) ** 2).sum(-1).mean(-1))
    expected = 1e3 * (away + np.where(np.eye(3) > 0, np.inf, 0)).min(axis=1).mean()
    assert metrics.asd(near) == pytest.approx(expected, rel=1e-12)


def test_photos_are_spread_over_subjects_and_occluders():
    pairs = [(subject, expression) for subject in range(30) for expression in range(12)]
    kinds = [kind_of(*pair) for pair in pairs]
    for limit in (4, 6, 24, 60):
        places = balanced([s for s, _ in pairs], kinds, limit)
        chosen = [kinds[k] for k in places]
        assert len(set(places)) == limit == len(places)
        assert len({pairs[k][0] for k in places}) == min(limit, 30)
        assert set(chosen) == {"glasses", "face-mask", "hand", "object"}
        if limit % 6 == 0:
            assert chosen.count("glasses") == chosen.count("face-mask") == limit // 3
    assert balanced([0, 0], ["hand", "hand"], None) == [0, 1] == balanced([0, 0], ["hand", "hand"], 5)


def test_parts_leave_eyeballs_out_of_what_is_occluded():
    fit = jax.tree.map(
        lambda leaf: leaf[0], FakeTools().fit(HEAD, jax.tree.map(lambda a: a[None], case(0).observation))
    )
    one = case(0)
    parts = parts_of(one, HEAD, fit)
    assert not (parts.occluded & EYES).any() and (parts.visible == ~parts.occluded).all()
    np.testing.assert_array_equal(parts.occluded, ~one.shown & ~EYES)
    np.testing.assert_array_equal(parts.under, one.shown_clean & ~one.shown & ~EYES)
    seen = np.zeros(COUNT, bool)
    found = parts_of(case(0, truth=False), HEAD, dataclasses.replace(fit, vertex_visibility=seen))
    assert (found.occluded == ~EYES).all()
    front = np.asarray(HEAD.v_template)[:, 2] > 0.08
    assert found.under[front & ~EYES].any() and not found.under[np.asarray(HEAD.v_template)[:, 2] < 0].any()


def test_trees_are_kept_whole(tmp_path):
    batch = jax.tree.map(lambda a: a[None], case(0).observation)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[0], FakeTools().fit(HEAD, batch))
    for fit in (one, dataclasses.replace(one, local=np.ones(3, np.float32))):
        write_tree(tmp_path / "deep" / "fit.npz", fit)
        again = read_fit(tmp_path / "deep" / "fit.npz")
        assert jax.tree.structure(again) == jax.tree.structure(fit)
        jax.tree.map(np.testing.assert_array_equal, again, fit)
    write_tree(tmp_path / "seen.npz", case(1).observation)
    jax.tree.map(np.testing.assert_array_equal, read_observation(tmp_path / "seen.npz"), case(1).observation)
    assert "crop.scale" in flat(case(1).observation)
    (tmp_path / "fit.npz").write_bytes((tmp_path / "seen.npz").read_bytes())  # whole, but something else
    assert read_fit(tmp_path / "fit.npz") is None and read_observation(tmp_path / "none.npz") is None


def test_runs_go_on_where_they_were(tmp_path, fakes):
    cases, run = [case(k) for k in range(5)], runner(fakes, tmp_path)
    ticks = []
    first = {name: run.hypotheses(name, cases, ticks.append) for name in METHODS}
    assert len(fakes.draws) == 25 and sum(ticks) == 25
    per_method = [fakes.draws[5 * k] for k in range(5)]
    assert [(vae, config.iterations) for vae, _, config in per_method] == [
        (False, 10), (False, 10), (True, 0), (True, 10), (True, 10),
    ]  # fmt: skip
    count = fakes.fits
    assert count == 10  # one by one as they are needed, by two models, not by five methods
    again = runner(fakes, tmp_path)
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
    assert fakes.fits == count + 1 and read_fit(fit) is not None
    before = len(fakes.draws)
    again.hypotheses(OURS, cases[:1], k=2.0)
    runner(fakes, tmp_path, seed=1).hypotheses(OURS, cases[:1])
    runner(fakes, tmp_path, num_samples=4).hypotheses(OURS, cases[:1])
    assert len(fakes.draws) == before + 3


def test_fits_are_made_in_batches_of_one_size(tmp_path, fakes):
    run, shapes = runner(fakes, tmp_path), []
    made = fakes.fit
    diverse_runs.fitting.fit = lambda model, seen, config: (
        shapes.append(seen.image.shape[0]),
        made(model, seen, config),
    )[1]
    assert len(run.fits("global", [case(k) for k in range(5)])) == 5 and shapes == [4, 4]


def test_hypotheses_come_into_the_head_frame_of_the_fit(tmp_path, fakes):
    """By the fit's own rotation and root joint: a hypothesis that is the fit lies where the fit lies."""
    model = fitting.prepare(HEAD)
    run, turned = runner(fakes, tmp_path), jnp.asarray([0.1, 0.4, -0.2])

    def fit(model, observation, config):
        made = FakeTools().fit(HEAD, jax.tree.map(np.asarray, observation))
        params = dataclasses.replace(made.params, global_orient=np.tile(np.asarray(turned), (4, 1)))
        params = dataclasses.replace(params, betas=np.ones_like(params.betas))
        return dataclasses.replace(made, params=params, vertices=np.asarray(flamejax.vertices(HEAD, params)))

    diverse_runs.fitting.fit = fit
    (found,) = run.hypotheses("global+local+vae", [case(0)])
    (one,) = run.fits("global+local", [case(0)])
    root = np.asarray(model.root_joint(jnp.asarray(one.params.betas), jnp.asarray(one.params.expression), None))
    still = metrics.head_frame(one.vertices, root, one.params.global_orient)
    np.testing.assert_allclose(found.heads[0], still, atol=1e-6)
    np.testing.assert_allclose(run.fitted_heads("global+local", [case(0)])[0], still, atol=1e-6)
    assert np.abs(found.heads[0] - one.vertices).max() > 0.01


def test_the_table_has_the_rows_and_numbers_it_should(tmp_path, fakes, realism):
    cases = [case(k, ("glasses", "face-mask", "hand", "object")[k % 4]) for k in range(8)]
    done: dict[str, int] = {}

    def tick(name, total, count):
        done[name] = done.get(name, 0) + count
        assert done[name] <= total

    table = diversity_table.diversity(runner(fakes, tmp_path), cases, realism, scans(2, 5), tick)
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
    # The stand-in's steps: 11 mm where the fit sees, three times as much where not, at the vertices of each part.
    seen = np.asarray(HEAD.v_template)[:, 2] > -1.0
    part = parts_of(cases[0], HEAD, run_fit(cases[0]))
    for name, chosen in (("asd_v", part.visible), ("asd_o", part.occluded), ("asd_o_under", part.under)):
        step = np.where(seen, 11.0, 33.0)[chosen]
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
    sheets = diversity_report.sheets("diversity", table)
    text = report.as_markdown("Heads.", sheets)
    assert "| global+local+vae+dpp | overall | 8 |" in text and text.count("\n\n**") == 3
    assert len(report.tables(sheets)) == 3


def run_fit(one: Case):
    return jax.tree.map(lambda leaf: leaf[0], FakeTools().fit(HEAD, jax.tree.map(lambda a: a[None], one.observation)))


def test_what_cannot_be_measured_is_left_empty(tmp_path, fakes, realism):
    """One photo without a true head, one hypothesis, and numbers that are none."""
    fakes.bad = 0.21
    cases = [case(k, truth=False) for k in range(2)]  # the first is too dark
    table = diversity_table.diversity(runner(fakes, tmp_path), cases, realism, None, lambda *a: None)
    assert {row["occluder"] for row in table.rows} == {"overall"}
    row = table.rows[-1]
    assert row["failed"] == 1 and row["photos"] == 2 and row["cse"] is None and row["cse_low"] is None
    assert row["asd_v"] == pytest.approx(11.0, rel=1e-3)  # of the other photo
    assert [one["asd_v"] is None for one in table.each[:2]] == [True, False]
    assert [r["heads"] for r in table.reference] == ["fits: global", "fits: global+local"]
    json.dumps(dataclasses.asdict(table), allow_nan=False)
    assert "| - |" in report.as_markdown("", diversity_report.sheets("diversity", table))
    single = diversity_table.diversity(
        runner(fakes, tmp_path, num_samples=1), cases[1:], realism, None, lambda *a: None
    )  # fmt: skip
    assert single.rows[0]["asd_v"] is None and single.rows[0]["ratio"] is None
    assert single.rows[0]["inside"] is not None and single.rows[0]["inside_low"] is None  # one subject: no interval


def test_hyperparameters_and_places_have_their_rows(tmp_path, fakes, realism):
    cases, run = [case(k) for k in range(2)], runner(fakes, tmp_path)
    table = diversity_table.hyperparameters(run, cases, realism, lambda *a: None, (0.1, 0.5), (1.0, 2.0, 3.0))
    assert [(r["k"], r["n_sigma"]) for r in table.rows] == [(k, n) for k in (0.1, 0.5) for n in (1.0, 2.0, 3.0)]
    assert {"asd_v", "asd_o", "ratio", "inside"} <= set(table.rows[0])
    assert len(table.each) == 12 and len(fakes.draws) == 12
    diversity_figure.heat_maps(table.rows, tmp_path / "heat.png")
    assert np.asarray(Image.open(tmp_path / "heat.png").convert("L")).std() > 5
    assert len(diversity_report.sheets("hyperparameters", table)) == 2
    moved = {place: [moving_occlusion.with_patch(one, None, place) for one in cases] for place in ("mouth", "eyes")}
    table = diversity_table.moving_occlusion(run, moved, realism, lambda *a: None)
    assert [r["place"] for r in table.rows] == ["mouth", "eyes"] and table.rows[0]["photos"] == 2
    assert "| mouth |" in report.as_markdown("", diversity_report.sheets("moving-occlusion", table))


def test_realism_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    scale = np.array([4.0, 2.0])[None] * 1e-2
    directions = np.linalg.qr(rng.normal(size=(30, 2)))[0].T

    def world(count: int) -> Scans:
        verts = ((rng.normal(size=(count, 2)) * scale) @ directions).reshape(-1, 10, 3).astype(np.float32)
        return Scans(verts, verts, verts, np.arange(count), np.zeros(count))

    train = world(600)
    found = head_realism.learn(train, world(500), tmp_path)
    # Of two standard normal coefficients |z|^2 is chi-squared: its 99 % quantile is 9.21.
    assert found.threshold == pytest.approx(np.sqrt(9.21 / 2), rel=0.15)
    np.testing.assert_allclose(found.deviation, train.vertices.std(axis=0, ddof=1), rtol=1e-4)
    assert found.inside(world(2000).vertices).mean() == pytest.approx(0.99, abs=0.012)
    centre = np.asarray(found.pca.mean)
    moved = np.stack([centre, centre, centre])
    moved[1, 4, 1] += 3.1 * found.deviation[4, 1]
    moved[2, 4, 1] -= 2.9 * found.deviation[4, 1]
    np.testing.assert_allclose(found.vertices_inside(moved), [1.0, 0.9, 1.0])


def test_patches_cover_what_they_are_called():
    head = flamejax.load_head()
    params = flamejax.HeadParams.zeros(head)
    turned = dataclasses.replace(params, global_orient=jnp.asarray([0.0, 0.0, 0.5]))
    inside = {"mouth": range(48, 68), "eyes": range(36, 48), "centre": range(28, 36)}
    for pose in (params, turned):
        points = np.asarray(flamejax.landmarks(head, pose))[:, :2] * [900.0, -900.0]
        points = points - points.mean(axis=0) + 128
        masks = {place: moving_occlusion.patch(points, place, 256) for place in moving_occlusion.PLACES}
        pixel = np.floor(points).astype(int)
        for place, numbers in inside.items():
            covered = masks[place][pixel[:, 1], pixel[:, 0]]
            assert covered[list(numbers)].mean() > 0.9
            # The nose and the brows lie between all; the middle one reaches the eyes' and the mouth's nearest points.
            others = sorted(set(range(68)) - set(numbers) - set(range(17, 36)))
            assert covered[others].mean() < (0.25 if place == "centre" else 1e-9)
        middles = {place: np.argwhere(mask).mean(axis=0)[::-1] for place, mask in masks.items()}
        right = points[45] - points[36]
        assert (
            (middles["left cheek"] - middles["centre"]) @ right
            > 0
            > (middles["right cheek"] - middles["centre"]) @ right
        )
        assert all(0.01 < mask.mean() < 0.2 for mask in masks.values())
    with pytest.raises(KeyError):
        moving_occlusion.patch(points, "ear", 256)


def test_a_patch_hides_vertices_and_landmarks():
    one = case(0)
    photo = type(
        "Photo", (), {"vertices": one.truth, "camera": type("C", (), {"project": lambda self, v: 200 * v + 32})()}
    )()
    moved = moving_occlusion.with_patch(one, photo, "mouth")
    mask = np.asarray(moved.observation.occlusion_mask) > 0.5
    assert mask.any() and not (moved.shown & ~one.shown).any()
    np.testing.assert_array_equal(moved.shown_clean, one.shown_clean)
    points = np.floor(np.asarray(one.observation.landmarks)).astype(int).clip(0, SIDE - 1)
    under = mask[points[:, 1], points[:, 0]]
    assert under.any() and (np.asarray(moved.observation.confidence)[under] == 0).all()
    np.testing.assert_array_equal(moved.observation.confidence[~under], one.observation.confidence[~under])
    np.testing.assert_allclose(moved.observation.image[mask], np.tile(moving_occlusion.COLOUR, (mask.sum(), 1)))
    assert moved.key.endswith("-mouth") and moved.digest != one.digest == case(0).digest
    assert moving_occlusion.with_patch(case(0, truth=False), None, "eyes").shown is None


def test_a_folder_of_photos_is_observed_once(tmp_path, monkeypatch, fakes):
    for k in range(3):
        write_photo(tmp_path / "in" / f"p{k}.png", colour=100 + 20 * k)
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "black.png")
    (tmp_path / "in" / "broken.jpg").write_text("no image")
    tools, masked = FakeTools(), []
    monkeypatch.setattr(folder_photos, "observe_photo", lambda image, detector, **given: tools.observe(image, **given))

    def auto(head, batch):
        masked.append(batch.image.shape[0])
        return dataclasses.replace(batch, occlusion_mask=np.ones(batch.image.shape[:3], np.float32))

    monkeypatch.setattr(folder_photos, "auto_masks", auto)
    ticks = []
    for _ in range(2):
        cases, failures = folder_cases(
            HEAD, tmp_path / "in", None, tmp_path / "kept", lambda total, n: ticks.append(total), lambda: None
        )
        assert [c.key for c in cases] == ["p0", "p1", "p2"] and len({c.subject for c in cases}) == 3
        assert len(failures) == 2 and "no face" in failures[0] and "broken.jpg" in failures[1]
        assert masked == [1, 1, 1] and (np.asarray(cases[0].observation.occlusion_mask) == 1).all()
    assert ticks == [5] * 10
    some, _ = folder_cases(HEAD, tmp_path / "in", 3, tmp_path / "kept", lambda *a: None, lambda: None)
    assert [c.key for c in some] == ["p0", "p2"]  # of the first, the middle and the last name
    with pytest.raises(FileNotFoundError, match="no folder with photos"):
        folder_cases(HEAD, tmp_path / "kept" / "none", None, tmp_path, lambda *a: None, lambda: None)


def test_pictures_show_something(tmp_path, fakes):
    run, cases = runner(fakes, tmp_path, num_samples=8), [case(0), case(1, "hand"), case(2, truth=False)]
    shown = diversity_table.pictured(run, cases)
    diversity_figure.hypotheses_figure(HEAD, shown, tmp_path / "h.jpg")
    diversity_figure.interpolation_figure(HEAD, VAE, shown, tmp_path / "i.png")
    for name, columns in (("h.jpg", 10), ("i.png", 9)):
        image = np.asarray(Image.open(tmp_path / name).convert("L")).astype(float)
        assert image.shape == (3 * 176 + 24, 110 + columns * 176)
        cells = image[: 3 * 176, 110:].reshape(3, 176, columns, 176)
        filled = cells.std(axis=(1, 3))[:, 1:]
        assert (filled[:2] > 5).all() and (filled[2, : columns - 2] > 5).all()
    assert diversity_figure.one_of_each(["hand", "glasses", "glasses", "object"]) == [1, 0, 3]
    assert diversity_figure.one_of_each(["photo"] * 9) == list(range(6))
    nothing = Parts(np.ones(COUNT, bool), np.zeros(COUNT, bool), np.zeros(COUNT, bool))
    bare = dataclasses.replace(shown[0], parts=nothing, found=Found(shown[0].found.heads, None, np.zeros(8), 0.0))
    diversity_figure.interpolation_figure(HEAD, VAE, [bare], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_the_key_is_of_the_photo_and_the_seed():
    keys = [jax.random.key_data(case_key(one, seed)) for one, seed in ((case(0), 0), (case(1), 0), (case(0), 1))]
    assert len({tuple(np.asarray(key)) for key in keys}) == 3
    np.testing.assert_array_equal(keys[0], jax.random.key_data(case_key(case(0, "hand"), 0)))


@pytest.mark.parametrize("table", ["diversity", "hyperparameters", "moving-occlusion"])
def test_the_command_writes_what_it_prints(table, tmp_path, monkeypatch, capsys, fakes):
    monkeypatch.setattr(flamejax, "load_head", lambda: HEAD)
    monkeypatch.setattr("models.pretrained.load_mesh_vae", lambda head, path: VAE)
    monkeypatch.setattr(open_faces, "load_scans", lambda split: scans(8, 0) if split == "train" else scans(2, 1))
    monkeypatch.setattr(diversity_command, "diversify_config", lambda preset: FakeConfig())
    monkeypatch.setattr(diverse_runs, "draw", fakes.draw)
    monkeypatch.setenv("FLAMEJAX_DATA", str(tmp_path))
    limits = []

    def cases_for(config, head, progress):
        limits.append(diversity_command.limit_of(config))
        cases = [case(k, ("glasses", "hand")[k % 2]) for k in range(2)]
        if table == "moving-occlusion":
            places = moving_occlusion.PLACES
            cases = [moving_occlusion.with_patch(one, None, place) for place in places for one in cases]
        return cases, ["other.png: no face"]

    monkeypatch.setattr(diversity_command, "cases_for", cases_for)
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


def test_the_photos_of_the_open_scans_become_cases(monkeypatch):
    from tests.experiments.test_evaluate import photo

    monkeypatch.setattr(open_faces, "data_source", lambda split, config: range(24))
    asked = []

    def load(split, config, indices):
        asked.append(list(indices))
        return [photo(k) for k in indices]

    monkeypatch.setattr(open_faces, "load_photos", load)
    config = evaluate.command.EvaluateConfig("diversity", limit=6)
    cases, failures = diversity_command.cases_for(config, HEAD, lambda *a: None)
    assert len(cases) == len(asked[0]) == 6 and not failures
    assert cases[0].truth is not None and cases[0].observation.image.shape == (16, 16, 3)
    hidden = ~cases[0].shown & cases[0].shown_clean
    assert hidden.any()


def test_bad_options_are_refused(capsys, tmp_path, monkeypatch):
    for options, message in (
        (["fitting", "--photos", str(tmp_path)], "--photos goes with"),
        (["diversity", "--num-samples", "0"], "--num-samples is between"),
    ):
        with pytest.raises(SystemExit, match="2"):
            evaluate.main(["--table", *options])
        assert message in capsys.readouterr().err
    monkeypatch.setattr(diversity_command, "diversify_config", lambda preset: FakeConfig())
    assert evaluate.main(["--table", "diversity", "--photos", str(tmp_path)]) == 2
    assert "no folder with photos" in capsys.readouterr().err


def test_heads_are_of_the_head(realism):
    assert heads(2, 0).shape == (2, COUNT, 3) and list(spread_out(3, None)) == [0, 1, 2]
    assert realism.inside(scans(8, 0).vertices).mean() > 0.9
