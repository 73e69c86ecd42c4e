"""`tools.compare_fits`: held-out landmarks, and real skin on known heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitting
import flamejax
from experiments.datasets.renders import Scenes, SceneSpread, exact_observation, render_scenes, sample_scenes
from fitting.global_fit import vertex_visibility
from flamejax.geometry import apply_similarity
from flamejax.head._dense_landmarks import dense_landmarks
from flamejax.rendering import rasterize
from tools.compare_fits.command import main, reprojection_rows
from tools.compare_fits.held_out import PARTS, hide_part, part_error
from tools.compare_fits.known_heads import frontal_error
from tools.compare_fits.picture import CAPTION, SIDE, comparison_sheet
from tools.compare_fits.real_skin import skin_textures

COUNT = 2


@pytest.fixture(scope="module")
def known():
    """Two heads, their observations (black images), and the truth as a `Fit` in which every vertex is visible."""
    head = flamejax.load_head()
    scenes = sample_scenes(head, jax.random.key(5), COUNT, spread=SceneSpread(yaw=0.1, pitch=0.1, roll=0.05))
    points = scenes.camera.project(flamejax.landmarks(head, scenes.params))[..., :2]
    observation = exact_observation(jnp.zeros((COUNT, 256, 256, 3)), points)
    verts = flamejax.vertices(head, scenes.params)
    fit = fitting.Fit(
        params=scenes.params,
        vertices=verts,
        landmarks=flamejax.landmarks(head, scenes.params),
        camera=scenes.camera,
        texture=scenes.texture,
        light=scenes.light,
        vertex_visibility=jnp.ones(verts.shape[:2]),
        losses={"nme": jnp.asarray([0.01, 0.03])},
        code=jnp.zeros(COUNT, jnp.int32),
    )
    return head, observation, fit


@pytest.fixture(scope="module")
def rendered(known):
    """As `known`, with rendered images and the vertices' visibility in them."""
    head, observation, fit = known
    images, _, _ = render_scenes(head, Scenes(fit.params, fit.camera, fit.texture, fit.light), jax.random.key(6))
    visible = jax.vmap(lambda s, v, m: vertex_visibility(head, s, v, m))(
        fit.camera.project(fit.vertices), fit.vertices, observation.occlusion_mask
    )
    observation = dataclasses.replace(observation, image=images)
    return head, observation, dataclasses.replace(fit, vertex_visibility=visible)


@pytest.mark.parametrize("part", PARTS)
def test_hide_part_hides_its_landmarks_and_the_dense_ones_nearby(known, part):
    head, observation, _ = known
    observation = dataclasses.replace(observation, dense_confidence=jnp.ones((COUNT, 468)))
    changed = hide_part(head, observation, part)
    hidden = np.asarray(changed.confidence) == 0
    expected = np.zeros(68, bool)
    expected[PARTS[part]] = True
    assert (hidden == expected).all()
    dense_hidden = np.asarray(changed.dense_confidence)[0] == 0
    assert 20 < dense_hidden.sum() < 300
    rest = flamejax.HeadParams.zeros(head)
    dense = np.asarray(dense_landmarks(head, head.dense, rest))
    sparse = np.asarray(flamejax.landmarks(head, rest))[expected]
    distance = np.linalg.norm(dense[:, None] - sparse, axis=-1).min(axis=1)
    assert distance[dense_hidden].max() < 0.015 <= distance[~dense_hidden].min()


def test_part_error_is_the_distance_over_the_outer_eye_distance(known):
    _, observation, fit = known
    assert part_error(fit, observation, "lips").max() < 1e-4
    points = np.asarray(observation.landmarks)
    span = np.linalg.norm(points[:, 36] - points[:, 45], axis=-1)
    moved = dataclasses.replace(observation, landmarks=observation.landmarks.at[:, 48:].add(jnp.asarray([3.0, 4.0])))
    np.testing.assert_allclose(part_error(fit, moved, "lips"), 5.0 / span, rtol=1e-3)
    assert part_error(fit, moved, "nose").max() < 1e-4
    unsure = dataclasses.replace(moved, confidence=observation.confidence.at[0, 50:].set(0.1))
    assert np.isnan(part_error(fit, unsure, "lips")).tolist() == [True, False]


@pytest.mark.slow
def test_skin_textures_recover_the_albedo_of_a_render(rendered):
    """A render's colours divided by its light are the texture that it was rendered with."""
    head, observation, fit = rendered
    textures = np.asarray(skin_textures(head, fit, observation))
    truth = np.clip(np.asarray(head.albedo(fit.texture)), 0, 1)
    assert textures.shape == truth.shape
    flat = np.concatenate([np.asarray(head.uv) * 256, np.ones((len(head.uv), 1))], axis=-1)
    flat[:, 1] = 256 - flat[:, 1]
    face = np.asarray(rasterize(jnp.asarray(flat, jnp.float32), head.uv_faces, (256, 256)).face_index)
    nose = np.asarray(head.regions["nose"])[np.asarray(head.faces)].all(axis=-1)
    visible = (face >= 0) & nose[face]
    assert visible.sum() > 300
    assert np.abs(textures - truth)[:, visible].mean() < 0.02
    white = dataclasses.replace(observation, image=jnp.ones_like(observation.image))
    assert np.abs(np.asarray(skin_textures(head, fit, white)) - truth)[:, visible].mean() > 0.1
    hidden = dataclasses.replace(white, occlusion_mask=jnp.ones_like(white.occlusion_mask))
    np.testing.assert_allclose(np.asarray(skin_textures(head, fit, hidden)), truth, atol=1e-5)


def test_frontal_error_is_in_millimetres_and_ignores_pose_and_size(known):
    head, _, fit = known
    turned = jnp.asarray([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    moved = apply_similarity(fit.vertices, jnp.full((COUNT,), 1.3), jnp.stack([turned] * COUNT), jnp.ones((COUNT, 3)))
    assert frontal_error(head, moved, fit.vertices).max() < 0.01
    noise = 1e-3 * jax.random.normal(jax.random.key(0), fit.vertices.shape)
    np.testing.assert_allclose(frontal_error(head, fit.vertices + noise, fit.vertices), 1.6, rtol=0.1)


@pytest.mark.slow
def test_the_sheet_shows_photos_and_fits(rendered):
    head, observation, fit = rendered
    fits = {"one": fit, "other": fit}
    picture = np.asarray(comparison_sheet(head, ["first", "second"], observation, fits))
    assert picture.shape == (CAPTION + COUNT * (CAPTION + 2 * SIDE), 3 * SIDE, 3)
    columns = [picture[2 * CAPTION : 2 * CAPTION + SIDE, i * SIDE : (i + 1) * SIDE].astype(int) for i in range(3)]
    assert np.abs(columns[0] - columns[1]).mean() > 5
    assert (columns[1] == columns[2]).all()


def test_the_last_reprojection_row_is_the_median(known):
    _, _, fit = known
    rows = reprojection_rows(["first", "second"], {"one": fit, "other": fit})
    assert [row["photo"] for row in rows] == ["first", "second", "median"]
    assert rows[-1]["one"] == pytest.approx(0.02)


def test_a_missing_head_file_is_reported(tmp_path, capsys):
    assert main(["--head", str(tmp_path / "none.npz"), "--output", str(tmp_path / "out")]) == 2
    assert "no such head model file" in capsys.readouterr().err
