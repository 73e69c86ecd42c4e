"""Parts of the tables of hypotheses: CSE and ASD of known values, photos, patches, realism, cached trees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flamejax
from experiments.cache import flatten_tree, read_tree, write_tree
from experiments.datasets.open_faces import Scans
from experiments.datasets.open_faces.photos import occluder_kind
from experiments.evaluate import cases as evaluate_cases
from experiments.evaluate.config import EvaluateDiversityConfig
from experiments.tables import moving_occlusion, realism
from experiments.tables.diverse_cases import balanced_indices, visibility_masks
from flamejax import metrics
from flamejax.types import Fit, Observation
from tests.experiments.diverse_fakes import COUNT, EYES, SIDE, case
from tests.experiments.fakes import FakeTools, write_photo
from tests.experiments.test_completion import HEAD


def test_cse_of_heads_with_known_distances():
    truth = np.zeros((4, 3))
    heads = np.zeros((3, 4, 3), np.float32)
    heads[0, :, 0] = 0.003  # all vertices 3 mm away
    heads[1, 2, 1] = 0.004  # sqrt(4^2 / 4) = 2
    heads[2, :, 2] = 0.010
    assert metrics.cse(heads, truth) == pytest.approx(2.0, rel=1e-6)
    assert metrics.cse(heads[:1], truth) == pytest.approx(3.0, rel=1e-6)
    assert metrics.cse(truth[None], truth) == 0
    assert metrics.cse(heads[:1] + 1.0, truth) == pytest.approx(1e3 * np.sqrt(1.003**2 + 2), rel=1e-6)  # no alignment
    assert np.isnan(metrics.cse(heads[:0], truth)) and np.isnan(metrics.cse(heads * np.nan, truth))


def test_asd_of_heads_with_known_distances():
    line = np.zeros((3, 5, 3))
    line[:, :, 0] = np.array([0.0, 0.001, 0.005])[:, None]
    assert metrics.asd(line) == pytest.approx((1 + 1 + 4) / 3)  # to the nearest other, averaged
    hidden = np.array([True, True, False, False, False])
    line[:, ~hidden] = 0
    assert metrics.asd(line, hidden) == pytest.approx(2.0) and metrics.asd(line, ~hidden) == 0
    assert metrics.asd(line) == pytest.approx(2.0 * np.sqrt(2 / 5))
    for undefined in (metrics.asd(line[:1]), metrics.asd(line, np.zeros(5, bool)), metrics.asd(line * np.nan)):
        assert np.isnan(undefined)


def test_asd_is_exact_for_nearly_equal_heads():
    base = np.random.default_rng(0).normal(size=(1, 50, 3)).astype(np.float32)
    near = np.concatenate([base, base + np.float32(2**-20), base + np.float32(2**-18)])
    distance = np.sqrt(((near.astype(float)[:, None] - near.astype(float)[None]) ** 2).sum(-1).mean(-1))
    expected = 1e3 * (distance + np.where(np.eye(3) > 0, np.inf, 0)).min(axis=1).mean()
    assert metrics.asd(near) == pytest.approx(expected, rel=1e-12)


def test_balanced_indices_spread_photos_over_subjects_and_occluders():
    pairs = [(subject, expression) for subject in range(30) for expression in range(12)]
    kinds = [occluder_kind(*pair) for pair in pairs]
    for limit in (4, 6, 24, 60):
        indices = balanced_indices([s for s, _ in pairs], kinds, limit)
        chosen = [kinds[k] for k in indices]
        assert len(set(indices)) == limit == len(indices)
        assert len({pairs[k][0] for k in indices}) == min(limit, 30)
        assert set(chosen) == {"glasses", "face-mask", "hand", "object"}
        if limit % 6 == 0:
            assert chosen.count("glasses") == chosen.count("face-mask") == limit // 3
    assert balanced_indices([0, 0], ["hand", "hand"], None) == [0, 1] == balanced_indices([0, 0], ["hand", "hand"], 5)


def test_visibility_masks_leave_eyeballs_out_of_occluded_vertices():
    fit = jax.tree.map(
        lambda leaf: leaf[0], FakeTools().fit(HEAD, jax.tree.map(lambda a: a[None], case(0).observation))
    )
    one = case(0)
    masks = visibility_masks(one, HEAD, fit)
    assert not (masks.occluded & EYES).any() and (masks.visible == ~masks.occluded).all()
    np.testing.assert_array_equal(masks.occluded, ~one.visible & ~EYES)
    np.testing.assert_array_equal(masks.under, one.visible_unoccluded & ~one.visible & ~EYES)
    nothing_visible = dataclasses.replace(fit, vertex_visibility=np.zeros(COUNT, bool))
    from_fit = visibility_masks(case(0, truth=False), HEAD, nothing_visible)
    assert (from_fit.occluded == ~EYES).all()
    front = np.asarray(HEAD.v_template)[:, 2] > 0.08
    assert from_fit.under[front & ~EYES].any() and not from_fit.under[np.asarray(HEAD.v_template)[:, 2] < 0].any()


def test_trees_round_trip_through_files(tmp_path):
    batch = jax.tree.map(lambda a: a[None], case(0).observation)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[0], FakeTools().fit(HEAD, batch))
    write_tree(tmp_path / "deep" / "fit.npz", one)
    again = read_tree(tmp_path / "deep" / "fit.npz", Fit)
    assert jax.tree.structure(again) == jax.tree.structure(one)
    jax.tree.map(np.testing.assert_array_equal, again, one)
    write_tree(tmp_path / "seen.npz", case(1).observation)
    jax.tree.map(np.testing.assert_array_equal, read_tree(tmp_path / "seen.npz", Observation), case(1).observation)
    assert "crop.scale" in flatten_tree(case(1).observation)
    (tmp_path / "fit.npz").write_bytes((tmp_path / "seen.npz").read_bytes())  # complete, but of another type
    assert read_tree(tmp_path / "fit.npz", Fit) is None and read_tree(tmp_path / "none.npz", Observation) is None


def test_realism_of_gaussian_heads(tmp_path):
    rng = np.random.default_rng(0)
    scale = np.array([4.0, 2.0])[None] * 1e-2
    directions = np.linalg.qr(rng.normal(size=(30, 2)))[0].T

    def draw_scans(count: int) -> Scans:
        verts = ((rng.normal(size=(count, 2)) * scale) @ directions).reshape(-1, 10, 3).astype(np.float32)
        return Scans(verts, verts, verts, np.arange(count), np.zeros(count))

    train = draw_scans(600)
    result = realism.learn_realism(train, draw_scans(500), tmp_path)
    # Of two standard normal coefficients |z|^2 is chi-squared: its 99 % quantile is 9.21.
    assert result.threshold == pytest.approx(np.sqrt(9.21 / 2), rel=0.15)
    np.testing.assert_allclose(result.deviation, train.vertices.std(axis=0, ddof=1), rtol=1e-4)
    assert result.measures(draw_scans(2000).vertices)["inside"].mean() == pytest.approx(0.99, abs=0.012)
    centre = np.asarray(result.pca.mean)
    moved = np.stack([centre, centre, centre])
    moved[1, 4, 1] += 3.1 * result.deviation[4, 1]
    moved[2, 4, 1] -= 2.9 * result.deviation[4, 1]
    np.testing.assert_allclose(result.measures(moved)["vertices_inside"], [1.0, 0.9, 1.0])


def test_patch_masks_cover_their_places():
    head = flamejax.load_head()
    params = flamejax.HeadParams.zeros(head)
    rotated = dataclasses.replace(params, global_orient=jnp.asarray([0.0, 0.0, 0.5]))
    inside = {"mouth": range(48, 68), "eyes": range(36, 48), "centre": range(28, 36)}
    for pose in (params, rotated):
        points = np.asarray(flamejax.landmarks(head, pose))[:, :2] * [900.0, -900.0]
        points = points - points.mean(axis=0) + 128
        masks = {place: moving_occlusion.patch_mask(points, place, 256) for place in moving_occlusion.PLACES}
        pixel = np.floor(points).astype(int)
        for place, numbers in inside.items():
            covered = masks[place][pixel[:, 1], pixel[:, 0]]
            assert covered[list(numbers)].mean() > 0.9
            # The nose and the brows are between all places; the centre reaches the nearest points of eyes and mouth.
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
        moving_occlusion.patch_mask(points, "ear", 256)


def test_with_patch_hides_vertices_and_landmarks():
    one = case(0)
    photo = type(
        "Photo", (), {"vertices": one.truth, "camera": type("C", (), {"project": lambda self, v: 200 * v + 32})()}
    )()
    moved = moving_occlusion.with_patch(one, photo, "mouth")
    mask = np.asarray(moved.observation.occlusion_mask) > 0.5
    assert mask.any() and not (moved.visible & ~one.visible).any()
    np.testing.assert_array_equal(moved.visible_unoccluded, one.visible_unoccluded)
    points = np.floor(np.asarray(one.observation.landmarks)).astype(int).clip(0, SIDE - 1)
    under = mask[points[:, 1], points[:, 0]]
    assert under.any() and (np.asarray(moved.observation.confidence)[under] == 0).all()
    np.testing.assert_array_equal(moved.observation.confidence[~under], one.observation.confidence[~under])
    np.testing.assert_allclose(moved.observation.image[mask], np.tile(moving_occlusion.COLOUR, (mask.sum(), 1)))
    assert moved.file.startswith(f"{one.key}-mouth-") and moved.file != one.file == case(0).file
    assert moving_occlusion.with_patch(case(0, truth=False), None, "eyes").visible is None


def test_folder_cases_observes_photos_once(tmp_path, monkeypatch):
    for k in range(3):
        write_photo(tmp_path / "in" / f"p{k}.png", colour=100 + 20 * k)
    Image.new("RGB", (64, 48)).save(tmp_path / "in" / "black.png")
    (tmp_path / "in" / "broken.jpg").write_text("no image")
    tools, masked = FakeTools(), []
    monkeypatch.setattr(evaluate_cases, "observe_photo", lambda image, detector, **given: tools.observe(image, **given))

    def auto(head, batch):
        masked.append(batch.image.shape[0])
        return dataclasses.replace(batch, occlusion_mask=np.ones(batch.image.shape[:3], np.float32))

    monkeypatch.setattr(evaluate_cases, "auto_masks", auto)
    ticks = []
    for _ in range(2):
        cases, failures = evaluate_cases.folder_cases(
            HEAD, tmp_path / "in", None, lambda name, total, n: ticks.append(total), lambda: None, tmp_path / "cache"
        )
        assert [c.key for c in cases] == ["p0", "p1", "p2"] and len({c.subject for c in cases}) == 3
        assert len(failures) == 2 and "no face" in failures[0] and "broken.jpg" in failures[1]
        assert masked == [1, 1, 1] and (np.asarray(cases[0].observation.occlusion_mask) == 1).all()
    assert ticks == [5] * 10
    quiet = lambda *a: None  # noqa: E731
    some, _ = evaluate_cases.folder_cases(HEAD, tmp_path / "in", 3, quiet, lambda: None, tmp_path / "cache")
    assert [c.key for c in some] == ["p0", "p2"]  # of the first, the middle and the last name
    with pytest.raises(FileNotFoundError, match="no folder with photos"):
        evaluate_cases.folder_cases(HEAD, tmp_path / "cache" / "none", None, quiet, lambda: None, tmp_path)


def test_cases_for_returns_photos_of_the_open_scans(monkeypatch):
    from tests.experiments.test_evaluate import photo

    requested = []

    def load(split, config, indices):
        requested.append(list(indices))
        return [photo(k) for k in indices]

    monkeypatch.setattr(evaluate_cases, "load_photos", load)
    config = EvaluateDiversityConfig(limit=6)
    cases, failures = evaluate_cases.cases_for(config, HEAD, lambda *a: None)
    assert len(cases) == len(requested[0]) == 6 and not failures
    assert cases[0].truth is not None and cases[0].observation.image.shape == (16, 16, 3)
    hidden = ~cases[0].visible & cases[0].visible_unoccluded
    assert hidden.any()
