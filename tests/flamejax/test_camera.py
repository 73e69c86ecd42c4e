"""Cameras: known projections, crops, gradients."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from flamejax import CropTransform, OrthographicCamera, PerspectiveCamera
from flamejax.head import rotation_matrix


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


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
@pytest.mark.parametrize("make", [orthographic, perspective])
def test_gradients_and_batches(make, batch):
    project = lambda camera, p: camera.project(p)  # noqa: E731
    arguments = (make(batch), points(batch))
    check_grads(jax.jit(project), arguments, 1, ("fwd", "rev"), eps=1e-3, rtol=0.03, atol=0.3)
    whole = project(make(batch), points(batch))
    chex.assert_trees_all_close(jax.jit(project)(make(batch), points(batch)), whole, rtol=1e-5)
    if batch:
        chex.assert_trees_all_close(jax.vmap(project)(make(batch), points(batch)), whole, rtol=1e-5)
