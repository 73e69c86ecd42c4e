"""Tests of cameras: known projections, crops, gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flamejax import CropTransform, OrthographicCamera, PerspectiveCamera, framing
from flamejax.head import rotation_matrix
from tests.gradients import check_gradients


def orthographic(batch=()):
    return OrthographicCamera(jnp.full(batch, 800.0), jnp.broadcast_to(jnp.asarray([130.0, 120.0]), (*batch, 2)))


def perspective(batch=()):
    transform = jnp.eye(4).at[:3, :3].set(rotation_matrix(jnp.asarray([np.pi, 0.1, 0.0]))).at[2, 3].set(0.7)
    return PerspectiveCamera(
        jnp.full(batch, 500.0),
        jnp.broadcast_to(jnp.asarray([128.0, 140.0]), (*batch, 2)),
        jnp.broadcast_to(transform, (*batch, 4, 4)),
    )


def points(batch=()):
    return jnp.asarray(np.random.default_rng(0).normal(size=(*batch, 7, 3)) * 0.1, jnp.float32)


def test_orthographic_axes():
    camera = OrthographicCamera(jnp.asarray(100.0), jnp.asarray([10.0, 20.0]))
    screen = camera.project(jnp.asarray([[0.0, 0, 0], [0.1, 0, 0], [0, 0.1, 0], [0, 0, 0.1]]))
    np.testing.assert_allclose(screen[:, :2], [[10, 20], [20, 20], [10, 10], [10, 20]], atol=1e-5)
    assert screen[3, 2] < screen[0, 2] and (screen[:, 2] > 0).all()  # towards the viewer is nearer


def test_perspective_pinhole():
    camera = PerspectiveCamera(jnp.asarray(500.0), jnp.asarray([64.0, 48.0]), jnp.eye(4))
    screen = camera.project(jnp.asarray([[0.1, 0.2, 2.0], [0, 0, 1.0], [0.5, 0.5, -1.0]]))
    np.testing.assert_allclose(screen[:2], [[64 + 25, 48 + 50, 2], [64, 48, 1]], atol=1e-4)
    assert np.isfinite(screen).all()


@pytest.mark.parametrize("make", [orthographic, perspective])
def test_crop_and_full_photo_agree(make):
    crop = CropTransform(jnp.asarray(0.4), jnp.asarray([-30.0, 12.0]))
    in_crop, in_full = make().project(points()), make().to_full(crop).project(points())
    np.testing.assert_allclose(crop.to_crop(in_full[..., :2]), in_crop[..., :2], atol=1e-3)
    np.testing.assert_allclose(crop.to_full(in_crop[..., :2]), in_full[..., :2], atol=1e-3)
    chex.assert_trees_all_close(make().to_full(crop).to_crop(crop), make(), rtol=1e-5)


def test_plain_numbers_equal_arrays():
    plain, exact = (
        OrthographicCamera(400.0, [128.0, 150.0]),
        OrthographicCamera(jnp.float32(400), jnp.asarray([128, 150.0])),
    )
    crop, exact_crop = CropTransform(0.5, [3, -4]), CropTransform(jnp.float32(0.5), jnp.asarray([3.0, -4]))
    project = jax.jit(lambda camera, crop, p: camera.to_full(crop).to_crop(crop).project(p))
    chex.assert_trees_all_close(project(plain, crop, points()), project(exact, exact_crop, points()), rtol=1e-6)
    chex.assert_trees_all_close(plain.project(points()), exact.project(points()))
    several = OrthographicCamera([400.0, 300.0], [[128.0, 150.0], [1, 2]])
    screens = jax.vmap(lambda scale, shift, p: OrthographicCamera(scale, shift).project(p), (0, 0, None))(
        jnp.asarray(several.scale), jnp.asarray(several.translation), points()
    )
    chex.assert_trees_all_close(screens[0], plain.project(points()), rtol=1e-6)
    pinhole = PerspectiveCamera(500, (64, 48), np.eye(4))
    np.testing.assert_allclose(pinhole.project(jnp.asarray([[0.1, 0.2, 2.0]]))[0], [89, 98, 2], atol=1e-4)
    assert jax.tree.map(lambda leaf: 0, exact).scale == 0  # other leaves are not converted
    with pytest.raises(ValueError, match="points should be"):
        plain.project(jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match="translation should be"):
        OrthographicCamera(1.0, [1.0, 2.0, 3.0]).project(points())


def test_look_at_centres_the_target_and_points_up_upwards():
    eye, target = np.asarray([0.3, 0.5, 0.9]), np.asarray([0.1, 0.2, 0.0])
    camera = PerspectiveCamera.look_at(eye, target, focal=200.0, size=(100, 140))
    distance = np.linalg.norm(eye - target)
    screen = camera.project(jnp.asarray(target + 0.01 * np.asarray([[0, 0, 0], [0, 1, 0], [1, 0, 0]]), jnp.float32))
    np.testing.assert_allclose(screen[0], [70, 50, distance], atol=1e-3)
    assert abs(screen[1, 0] - 70) < 1e-3 and screen[1, 1] < 50 and screen[2, 0] > 70
    np.testing.assert_allclose(camera.project(jnp.asarray(eye[None], jnp.float32))[0, 2], 0, atol=1e-6)
    rotation = camera.T_camera_world[:3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-6)
    both = PerspectiveCamera.look_at(np.stack([eye, -eye]), target, focal=[200.0, 90.0], size=(100, 140))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], both), camera, atol=1e-6)
    with pytest.raises(ValueError, match="eye should be"):
        PerspectiveCamera.look_at([0.0, 1.0], target, focal=1.0, size=(8, 8))


def test_framing_centres_all_vertices():
    several = points((2,)) * jnp.asarray([[[1.0, 3.0, 1.0]]])
    screen = framing(several, (60, 80), margin=0.1).project(several)
    np.testing.assert_allclose(screen[..., 1].min(-1), 6, atol=1e-3)
    np.testing.assert_allclose(screen[..., 1].max(-1), 54, atol=1e-3)
    np.testing.assert_allclose(screen[..., 0].min(-1) + screen[..., 0].max(-1), 80, atol=1e-3)
    limited = framing(several[0], (60, 80), max_scale=10.0)
    assert limited.scale == 10
    screen = limited.project(several[0])
    np.testing.assert_allclose((screen.min(0) + screen.max(0))[:2], [80, 60], atol=1e-3)


@pytest.mark.parametrize("make", [orthographic, perspective])
def test_gradients_and_batches_of_projections(make):
    batch = (3,)
    project = lambda camera, p: camera.project(p)  # noqa: E731
    arguments = (make(batch), points(batch))
    check_gradients(project, arguments, eps=1e-3, rtol=0.03, atol=0.3)
    eager = project(make(batch), points(batch))
    chex.assert_trees_all_close(jax.jit(project)(make(batch), points(batch)), eager, rtol=1e-5)
    chex.assert_trees_all_close(jax.vmap(project)(make(batch), points(batch)), eager, rtol=1e-5)
