"""Automatic occlusion masks: known occluders and clean faces; helper functions against results computed by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitting
import flamejax
from experiments.datasets.renders import SceneSpread, exact_observation, render_scenes, sample_scenes
from fitting.face_pixels import FacePixels, face_triangles, fit_appearance, render_face_maps
from fitting.label_smoothing import (
    box_sum,
    dilate,
    edge_weights,
    erode,
    fill_holes,
    mean_field,
    reachable,
    remove_specks,
)
from fitting.landmark_fit import GeometryParams
from fitting.occlusion import (
    OcclusionConfig,
    auto_masks,
    combine_masks,
    local_deviation,
    masks_program,
    roughness_log_ratio,
)
from fitting.pixel_likelihood import (
    HIGH,
    LOW,
    face_log_likelihood,
    histogram,
    log_opponent,
    look_up,
    robust_scale,
    soft_bins,
    t_log_density,
    uniform_density,
)
from flamejax.rendering import ambient_light, shade
from tests.fitting.scenes import PHOTOS, SIDE, camera, people

FIT = fitting.FitConfig(landmark_steps=6, rigid_steps=6)
SMALL = OcclusionConfig(size=32, rounds=2, smoothing_steps=4)
KINDS = ("clean", "sunglasses", "face mask", "box")


def noisy_photos(seed=0):
    """Return images of noise, with random landmarks of about the small head's size."""
    rng = np.random.default_rng(seed)
    return exact_observation(
        jnp.asarray(rng.uniform(size=(PHOTOS, SIDE, SIDE, 3)), jnp.float32),
        jnp.asarray(rng.uniform(0.25 * SIDE, 0.75 * SIDE, (PHOTOS, 68, 2)), jnp.float32),
    )


@pytest.fixture(scope="module")
def noise():
    return noisy_photos()


@pytest.fixture(scope="module")
def masked_noise(head, noise):
    return auto_masks(head, noise, FIT, SMALL)


def occlude(image, points, kind, size):
    """Paint one occluder over an image (S, S, 3). Returns the image and the mask (S, S) bool."""
    down, right = np.mgrid[:size, :size] + 0.5
    mask = np.zeros((size, size), bool)
    colour = np.zeros(3)
    if kind == "sunglasses":
        span = np.linalg.norm(points[36] - points[45])
        for eye in (points[36:42].mean(0), points[42:48].mean(0)):
            mask |= ((right - eye[0]) / (0.24 * span)) ** 2 + ((down - eye[1]) / (0.17 * span)) ** 2 < 1
        colour = np.array([0.04, 0.04, 0.06])
    elif kind == "face mask":
        mask = (down > points[30, 1]) & (right > points[2, 0]) & (right < points[14, 0]) & (down < points[8, 1] + 6)
        colour = np.array([0.45, 0.65, 0.8])
    elif kind == "box":
        mask = (np.abs(right - points[48, 0]) < 0.13 * size) & (np.abs(down - points[48, 1]) < 0.15 * size)
        colour = np.array([0.2, 0.6, 0.25])
    return np.where(mask[..., None], colour * (0.9 + 0.2 * (down / size))[..., None], image), mask


@pytest.fixture(scope="module")
def known():
    """The open head, one photo per kind: the observation, the occluders' masks, and the estimated masks."""
    head, size = flamejax.load_head(), 128
    scenes = sample_scenes(head, jax.random.key(3), len(KINDS), size, SceneSpread(yaw=0.3, pitch=0.1, expression=0.3))
    images, points, _ = (np.array(a) for a in render_scenes(head, scenes, jax.random.key(4), size))
    masks, confidence = np.zeros((len(KINDS), size, size), bool), np.ones((len(KINDS), 68), np.float32)
    for k, kind in enumerate(KINDS):
        images[k], masks[k] = occlude(images[k], points[k], kind, size)
        column, row = np.clip(points[k].astype(int), 0, size - 1).T
        confidence[k, masks[k][row, column]] = 0.3
    observation = dataclasses.replace(
        exact_observation(jnp.asarray(images), jnp.asarray(points)), confidence=jnp.asarray(confidence)
    )
    return observation, masks, auto_masks(head, observation)


@pytest.mark.slow  # the open head
def test_known_occluders_are_masked_and_a_clean_face_is_not(known):
    given, truth, estimated = known
    hidden, face = np.asarray(estimated.occlusion_mask) > 0.5, np.asarray(estimated.face_mask) > 0.5
    assert (hidden & face)[0].sum() <= 0.05 * face[0].sum()
    for k, kind in enumerate(KINDS[1:], start=1):
        both, either = (hidden & truth & face)[k].sum(), ((hidden | truth) & face)[k].sum()
        assert both >= 0.5 * either, (kind, both / either)
    assert estimated.occlusion_mask.shape == estimated.face_mask.shape == given.occlusion_mask.shape
    share = np.asarray(estimated.face_mask).mean(axis=(1, 2))
    assert (share > 0.1).all() and (share < 0.6).all()


@pytest.fixture(scope="module")
def boxed(head, model, photos):
    """Photos of the small head in one colour, the second and the last with a green box over the mouth: the head, the
    observation, and the boxes."""
    plain = dataclasses.replace(head, albedo_mean=jnp.full_like(head.albedo_mean, 0.55))
    verts = flamejax.vertices(model.head, people())
    image = np.array(flamejax.render(plain, verts, camera(PHOTOS), size=(SIDE, SIDE), antialias=False)[..., :3])
    truth, confidence = np.zeros((PHOTOS, SIDE, SIDE), bool), np.array(photos.confidence)
    for i in (1, 4):
        points = np.asarray(photos.landmarks[i])
        image[i], truth[i] = occlude(image[i], points, "box", SIDE)
        column, row = np.clip(points.astype(int), 0, SIDE - 1).T
        confidence[i, truth[i][row, column]] = 0.0
    observation = dataclasses.replace(photos, image=jnp.asarray(image), confidence=jnp.asarray(confidence))
    return plain, observation, truth


def test_a_box_is_masked_and_clean_faces_are_not(boxed):
    plain, observation, truth = boxed
    estimated = auto_masks(plain, observation, FIT, SMALL)
    hidden, face = np.asarray(estimated.occlusion_mask) > 0.5, np.asarray(estimated.face_mask) > 0.5
    for i in range(PHOTOS):
        both, either = (hidden & truth & face)[i].sum(), ((hidden | truth) & face)[i].sum()
        if truth[i].any():
            assert both >= 0.5 * either, (i, both / either)
        else:
            assert either <= 0.05 * face[i].sum()


def test_masks_are_binary_and_other_fields_of_the_observation_unchanged(masked_noise, noise):
    assert masked_noise.occlusion_mask.shape == masked_noise.face_mask.shape == noise.occlusion_mask.shape
    assert set(np.unique(masked_noise.occlusion_mask)) | set(np.unique(masked_noise.face_mask)) <= {0.0, 1.0}
    for name in ("image", "landmarks", "confidence", "crop"):
        assert getattr(masked_noise, name) is getattr(noise, name)


def test_masks_do_not_depend_on_the_order_of_the_batch(head, noise, masked_noise):
    order = np.asarray([3, 0, 4, 1, 2])
    reordered = auto_masks(head, jax.tree.map(lambda leaf: leaf[order], noise), FIT, SMALL)
    assert (np.asarray(reordered.occlusion_mask) != np.asarray(masked_noise.occlusion_mask)[order]).mean() < 0.01


@pytest.mark.slow  # compiles twice more; tests/fitting/test_sharding.py tests batch axes on a small program
def test_jit_vmap_and_batches_give_the_same_masks(head, noise, masked_noise):
    single = auto_masks(head, jax.tree.map(lambda leaf: leaf[0], noise), FIT, SMALL)
    assert single.face_mask.shape == (SIDE, SIDE)
    assert (np.asarray(single.occlusion_mask) != np.asarray(masked_noise.occlusion_mask)[0]).mean() < 0.01
    one = jax.jit(lambda o: auto_masks(head, o, FIT, SMALL).occlusion_mask)
    assert (np.asarray(jax.vmap(one)(noise)) != np.asarray(masked_noise.occlusion_mask)).mean() < 0.01


def test_given_masks_remain_part_of_the_result(head, noise):
    mask = jnp.zeros((PHOTOS, SIDE, SIDE)).at[:, 20:40, 20:30].set(1.0)
    face = jnp.ones((PHOTOS, SIDE, SIDE)).at[:, :, SIDE // 2 :].set(0.0)
    result = auto_masks(head, dataclasses.replace(noise, occlusion_mask=mask, face_mask=face), FIT, SMALL)
    assert (np.asarray(result.occlusion_mask) >= np.asarray(mask)).all()
    assert (np.asarray(result.face_mask) <= np.asarray(face)).all()


@pytest.mark.parametrize("edge", range(9, 15))  # all positions of the edge between the coarser labels
def test_a_given_mask_does_not_spread_into_visible_pixels(noise, edge):
    photo = jax.tree.map(lambda leaf: leaf[0], noise)
    beyond = jnp.zeros((SIDE, SIDE)).at[:, :edge].set(1.0).at[-edge:].set(1.0)
    photo = dataclasses.replace(photo, occlusion_mask=beyond)
    labels = (jax.image.resize(beyond, (SIDE // 2, SIDE // 2), "linear", antialias=True) >= 0.5).astype(jnp.float32)
    face = jnp.ones_like(labels)
    np.testing.assert_array_equal(combine_masks(photo, photo, face, labels)[1], beyond)
    # A label that touches the edge still does so when enlarged.
    hidden = combine_masks(photo, photo, face, labels.at[8:12].set(1.0))[1]
    np.testing.assert_array_equal(hidden, beyond.at[16:24].set(1.0))


def test_photos_that_are_not_finite_keep_their_masks_and_do_not_affect_the_others(head, noise, masked_noise):
    damaged = dataclasses.replace(
        noise,
        image=noise.image.at[0, 3].set(jnp.nan),
        landmarks=noise.landmarks.at[1].set(jnp.inf),
        confidence=noise.confidence.at[1].set(jnp.nan),
        occlusion_mask=noise.occlusion_mask.at[1, 0].set(jnp.nan),
    )
    masked = auto_masks(head, damaged, FIT, SMALL)
    assert np.isfinite(masked.occlusion_mask).all() and np.isfinite(masked.face_mask).all()
    assert (masked.occlusion_mask[0] == 0).all() and (masked.face_mask[0] == 1).all()
    np.testing.assert_array_equal(masked.occlusion_mask[2:], masked_noise.occlusion_mask[2:])
    assert not np.isfinite(masked.image).all()  # so that the fit that follows reports it


def test_further_batches_do_not_compile_again(head):
    program = masks_program(FIT, SMALL, tuple(jax.devices())[:PHOTOS])
    auto_masks(head, noisy_photos(), FIT, SMALL)
    before = program._cache_size()
    auto_masks(head, noisy_photos(seed=1), FIT, SMALL)
    assert program._cache_size() == before


def test_wrong_shapes_and_configs_are_refused(head, noise):
    with pytest.raises(ValueError, match=r"observation\.landmarks should be \(\*b, 68, 2\), not \(5, 51, 2\)"):
        auto_masks(head, dataclasses.replace(noise, landmarks=noise.landmarks[:, :51]), FIT, SMALL)
    with pytest.raises(ValueError, match="at least 32"):
        OcclusionConfig(size=8)


def test_mean_field_spreads_labels_and_stops_at_image_edges():
    colours = jnp.zeros((8, 8, 3)).at[:, 4:].set(1.0)
    edges = edge_weights(colours, jnp.ones((8, 8)), 0.1, 0.0)
    odds = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8)), jnp.float32)
    np.testing.assert_allclose(mean_field(odds, edges, 0.0, 3), jax.nn.sigmoid(odds), rtol=1e-5)
    odds = jnp.zeros((8, 8)).at[2:6, 1].set(4.0).at[2:6, 6].set(-4.0)
    belief = np.asarray(mean_field(odds, edges, 0.5, 30))
    assert (belief[:, :4] > 0.9).all() and (belief[:, 4:] < 0.1).all()


def test_mean_field_of_two_pixels_is_a_fixed_point():
    edges = [(0, 1, jnp.asarray([[1.0, 0.0]]))]
    belief = np.asarray(mean_field(jnp.asarray([[1.0, 0.0]]), edges, 2.0, 200))[0]
    expected = [1 / (1 + math.exp(-(1.0 + 2.0 * (2 * belief[1] - 1)))), 1 / (1 + math.exp(-2.0 * (2 * belief[0] - 1)))]
    np.testing.assert_allclose(belief, expected, atol=1e-5)
    assert 0.8 < belief[1] < belief[0]


def test_holes_are_filled_and_specks_removed():
    ring = jnp.zeros((24, 24)).at[2:9, 2:9].set(1.0).at[3:8, 3:8].set(0.0)
    large = jnp.zeros((24, 24)).at[1:23, 1:23].set(1.0).at[2:22, 2:22].set(0.0)
    filled = np.asarray(fill_holes(ring, 3))
    assert filled.sum() == 49 and filled[2:9, 2:9].all()
    np.testing.assert_array_equal(fill_holes(large, 3), large)
    spots = jnp.zeros((24, 24)).at[5, 5].set(1.0).at[10:14, 10:14].set(1.0).at[12, 14:20].set(1.0)
    cleaned = np.asarray(remove_specks(spots, 1, jnp.ones((24, 24))))
    assert cleaned[5, 5] == 0 and cleaned.sum() == 16 + 6
    assert (remove_specks(spots, 1, jnp.zeros((24, 24))) == 0).all()
    seeds = jnp.zeros((24, 24)).at[12, 19].set(1.0)
    np.testing.assert_array_equal(reachable(seeds, spots), cleaned)
    point = jnp.zeros((9, 9)).at[4, 4].set(1.0)
    assert dilate(point, 2).sum() == 25 and erode(dilate(point, 2), 2).sum() == 1
    np.testing.assert_allclose(box_sum(jnp.ones((9, 9)), 1)[[0, 4, 0], [0, 4, 4]], [4, 9, 6])


def test_a_shadow_changes_only_the_log_intensity():
    image = jnp.asarray([[0.6, 0.4, 0.3]])
    shadow = 0.5 * (image + 0.05) - 0.05
    np.testing.assert_allclose(log_opponent(shadow) - log_opponent(image), [[math.log(0.5), 0.0, 0.0]], atol=1e-5)


def test_densities_integrate_to_one():
    step = 0.02
    line = jnp.arange(-60.0, 60.0, step)
    assert float(jnp.exp(t_log_density((line / 0.7) ** 2, jnp.asarray(0.7), 1)).sum() * step) == pytest.approx(1, 2e-3)
    at_zero = face_log_likelihood(jnp.zeros(3), jnp.asarray([1.0, 1.0]))
    # 3 / 8 in one dimension, 1 / (2 pi) in two.
    np.testing.assert_allclose(at_zero, math.log(3 / 8 / (2 * math.pi)), rtol=1e-5)
    rng = np.random.default_rng(0)
    inside = jnp.asarray(rng.uniform(LOW, HIGH, (20000, 3)), jnp.float32)
    bins = soft_bins(inside)
    np.testing.assert_allclose(bins[1].sum(axis=0), 1.0, rtol=1e-5)
    density = look_up(histogram(bins, jnp.ones(20000)), bins)
    np.testing.assert_allclose(density.mean(), uniform_density(), rtol=0.1)
    assert (histogram(bins, jnp.zeros(20000)) == 0).all()


def test_robust_scale_recovers_the_scale_of_t_samples():
    samples = jnp.asarray(0.3 * np.random.default_rng(0).standard_t(4, 50000), jnp.float32)
    scale = jnp.asarray(1.0)
    for _ in range(30):
        scale = robust_scale(samples**2, jnp.ones(50000), scale, 1)
    assert float(scale) == pytest.approx(0.3, rel=0.03)


def test_light_and_albedo_explain_a_render_with_a_white_light(head):
    zeros = GeometryParams.zeros(head)
    geometry = dataclasses.replace(zeros, log_scale=jnp.log(3.4), translation=jnp.asarray([0.5, 0.8]))
    pixels = jax.jit(lambda g: dataclasses.asdict(render_face_maps(head, g, 32)))(geometry)
    pixels = FacePixels(**pixels)
    assert 0 < pixels.face.sum() <= pixels.head.sum() and face_triangles(head).shape == (head.faces.shape[0],)
    light = 0.8 * ambient_light() + jnp.zeros((9, 3)).at[2].set(0.3)
    image = pixels.albedo_mean * shade(pixels.normals, light)
    step = jax.jit(lambda texture: fit_appearance(pixels, image, pixels.face, texture, 0.15))
    texture, _ = step(jnp.zeros(3))
    texture, light = step(texture)
    albedo = pixels.albedo_mean + jnp.einsum("c,hwck->hwk", texture, pixels.albedo_basis)
    rendered = albedo * shade(pixels.normals, light)
    assert float((jnp.abs(rendered - image) * pixels.face[..., None]).max()) < 0.06


def test_roughness_is_measured_relative_to_factors_and_spread():
    """Scaling roughness and its factor or spread alike changes nothing; higher roughness favours "hidden"."""
    rough, factors = jnp.asarray([[0.01, 0.05], [0.1, 0.4]]), jnp.full((2, 2), 0.1)
    ratio = roughness_log_ratio(rough, factors, jnp.asarray(0.5))
    np.testing.assert_allclose(roughness_log_ratio(2 * rough, 2 * factors, jnp.asarray(0.5)), ratio, atol=1e-5)
    np.testing.assert_allclose(roughness_log_ratio(2 * rough, factors, jnp.asarray(1.0)), ratio, atol=1e-5)
    assert (np.diff(np.asarray(ratio).ravel()) >= 0).all() and ratio[0, 1] < 0 < ratio[1, 0] < ratio[1, 1]


def test_local_deviation_ignores_pixels_outside():
    """Stripes of 0.2 and 0.6 deviate by 0.2 from their mean; pixels outside do not count."""
    stripes = jnp.where(jnp.arange(12)[None, :] % 2 == 0, 0.2, 0.6) * jnp.ones((12, 1))
    inside = jnp.ones((12, 12)).at[:, 8:].set(0.0)
    deviation = local_deviation(stripes.at[:, 8:].set(9.0), inside, 2)
    even = jnp.asarray([3, 2, 3, 2, 3, 2])[None] / 5  # share of the five columns that are even
    np.testing.assert_allclose(deviation[4, 2:6], 0.4 * jnp.sqrt(even * (1 - even))[0, :4], atol=1e-3)
