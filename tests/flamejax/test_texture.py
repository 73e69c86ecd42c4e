"""Tests of texture lookup outside the image and in mip levels, and of the directional light."""

import jax.numpy as jnp
import numpy as np
import pytest

from flamejax.rendering import mip_level, mip_levels, rasterize, sample_texture, shade_directional
from tests.gradients import check_gradients

TEXTURE = jnp.asarray(np.random.default_rng(0).uniform(size=(6, 5, 3)), jnp.float32)


def at(row, column, shape=(6, 5)):
    """Texture coordinates of a texel's centre."""
    return jnp.asarray([(column + 0.5) / shape[1], 1.0 - (row + 0.5) / shape[0]])


@pytest.mark.parametrize(("wrap", "mode"), [("clamp", "edge"), ("repeat", "wrap"), ("mirror", "symmetric")])
def test_lookup_outside_the_texture_wraps(wrap, mode):
    padded = np.pad(np.asarray(TEXTURE), ((6, 6), (5, 5), (0, 0)), mode=mode)
    for row, column in ((-1, 0), (-4, 7), (6, 2), (9, -3), (3, 5), (2, 2)):
        actual = sample_texture(TEXTURE, at(row, column), wrap=wrap)
        np.testing.assert_allclose(actual, padded[row + 6, column + 5], atol=1e-5)
    between = sample_texture(TEXTURE, 0.5 * (at(5, 1) + at(6, 1)), wrap=wrap)
    np.testing.assert_allclose(between, 0.5 * (padded[11, 6] + padded[12, 6]), atol=1e-5)


def test_unknown_wrap_raises():
    with pytest.raises(ValueError, match="clamp, repeat or mirror"):
        sample_texture(TEXTURE, at(0, 0), wrap="border")


def test_mip_levels_halve_to_one_texel_and_keep_the_mean():
    even = jnp.asarray(np.random.default_rng(1).uniform(size=(8, 4, 2)), jnp.float32)
    levels = mip_levels(even)
    assert [level.shape for level in levels] == [(8, 4, 2), (4, 2, 2), (2, 1, 2), (1, 1, 2)]
    np.testing.assert_allclose(levels[1][0, 0], even[:2, :2].mean((0, 1)), rtol=1e-6)
    np.testing.assert_allclose(levels[-1][0, 0], even.mean((0, 1)), rtol=1e-5)
    assert [level.shape[:2] for level in mip_levels(TEXTURE)] == [(6, 5), (3, 3), (2, 2), (1, 1)]


def test_lookup_in_a_level_equals_lookup_in_the_halved_texture():
    uv = jnp.asarray(np.random.default_rng(2).uniform(size=(7, 2)), jnp.float32)
    levels = mip_levels(TEXTURE)
    for number, level in enumerate(levels):
        actual = sample_texture(TEXTURE, uv, level=jnp.full((7,), float(number)))
        np.testing.assert_allclose(actual, sample_texture(level, uv), atol=1e-6)
    blended = sample_texture(TEXTURE, uv, level=jnp.full((7,), 1.25))
    expected = 0.75 * sample_texture(levels[1], uv) + 0.25 * sample_texture(levels[2], uv)
    np.testing.assert_allclose(blended, expected, atol=1e-6)
    beyond = sample_texture(TEXTURE, uv, level=jnp.full((7,), 99.0))
    np.testing.assert_allclose(beyond, jnp.broadcast_to(levels[-1][0], (7, 3)), atol=1e-6)


def test_gradients_with_levels_equal_finite_differences():
    uv = jnp.asarray([[0.31, 0.47], [0.72, 0.66]])
    level = jnp.asarray([0.4, 1.3])
    check_gradients(lambda t, u, m: sample_texture(t, u, level=m, wrap="mirror"), (TEXTURE, uv, level), eps=1e-3)


@pytest.mark.parametrize(("pixels", "expected"), [(64, 2.0), (128, 1.0), (256, 0.0), (512, 0.0)])
def test_mip_level_follows_the_size_on_the_screen(pixels, expected):
    """A square with a texture of 256 x 256 texels that fills an image."""
    corners = jnp.asarray([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    screen = corners * jnp.asarray([[pixels, pixels, 1.0]])  # one corner of it is in the image
    faces = jnp.asarray([[0, 1, 2], [0, 2, 3]])
    fragments = rasterize(screen, faces, (64, 64), perspective=False)
    level = mip_level(corners[:, :2], faces, screen, faces, fragments, (256, 256))
    np.testing.assert_allclose(level, np.full((64, 64), expected), atol=1e-4)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_directional_light_is_the_clamped_cosine(batch):
    rng = np.random.default_rng(3)
    normals = rng.normal(size=(*batch, 4, 5, 3))
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    direction, colour = rng.normal(size=(*batch, 3)) * 4, rng.uniform(size=(*batch, 3))
    unit = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    cosine = np.maximum(np.einsum("...hwc,...c->...hw", normals, unit), 0)
    expected = cosine[..., None] * colour[..., None, None, :]
    arrays = [jnp.asarray(a, jnp.float32) for a in (normals, direction, colour)]
    actual = shade_directional(*arrays)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    assert (np.asarray(actual) == 0).any()


def test_directional_light_gradients_equal_finite_differences():
    normals = jnp.asarray([[0.0, 0.6, 0.8], [0.6, 0.0, 0.8]])
    check_gradients(shade_directional, (normals, jnp.asarray([0.1, 0.3, 2.0]), jnp.asarray([0.9, 0.5, 0.2])), eps=1e-3)
