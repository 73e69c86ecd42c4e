"""Light, textures and whole renders."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from PIL import Image

import flamejax
from flamejax.geometry import normalize
from flamejax.rendering import ambient_light, sample_texture, sh_basis, shade
from tests.heads import random_head, random_params

GOLDEN = "tests/golden/open_head.png"
GOLDEN_TOLERANCE = 0.004
"""Mean absolute colour difference of the golden image: other platforms round silhouettes' pixels differently."""


def unit_normals(*shape):
    return normalize(jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 3)), jnp.float32))


def test_harmonics_are_orthonormal():
    """Monte Carlo over the sphere with antipodal and axis-permuted points: second moments to 1 %."""
    points = np.random.default_rng(0).normal(size=(200_000, 3))
    basis = np.asarray(sh_basis(jnp.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), jnp.float32)))
    np.testing.assert_allclose(4 * np.pi * basis.T @ basis / len(points), np.eye(9), atol=0.02)


def test_ambient_light_is_one_everywhere():
    np.testing.assert_allclose(shade(unit_normals(50), ambient_light()), 1.0, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_shading_gradients_and_batches(batch):
    normals = unit_normals(*batch, 4, 5)
    light = jnp.asarray(np.random.default_rng(1).normal(size=(*batch, 9, 3)), jnp.float32)
    check_grads(jax.jit(shade), (normals, light), 1, ("fwd", "rev"), eps=1e-2, rtol=0.03)
    whole = shade(normals, light)
    chex.assert_trees_all_close(jax.jit(shade)(normals, light), whole, atol=1e-5)
    if batch:
        chex.assert_trees_all_close(jax.vmap(shade)(normals, light), whole, atol=1e-5)


def test_texture_lookup_hits_texels_and_blends_between():
    texture = jnp.arange(12.0).reshape(3, 4, 1)
    # Texel (row 0, column 1): v = 1 - 0.5 / 3, u = 1.5 / 4.
    np.testing.assert_allclose(sample_texture(texture, jnp.asarray([1.5 / 4, 1 - 0.5 / 3])), [1.0], atol=1e-5)
    np.testing.assert_allclose(sample_texture(texture, jnp.asarray([2.0 / 4, 1 - 1.0 / 3])), [3.5], atol=1e-5)
    np.testing.assert_allclose(sample_texture(texture, jnp.asarray([[-5.0, 9.0], [9.0, -5.0]])), [[0], [11]], atol=1e-5)
    assert sample_texture(jnp.ones((1, 1, 3)), jnp.asarray([0.3, 0.8])).shape == (3,)


def test_texture_gradients():
    texture = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 3)), jnp.float32)
    uv = jnp.asarray([[0.33, 0.41], [0.71, 0.62]])
    check_grads(jax.jit(sample_texture), (texture, uv), 1, ("fwd", "rev"), eps=1e-3, rtol=0.03, atol=0.03)


@pytest.fixture(scope="module")
def head():
    return random_head()


def camera(batch=(), size=48):
    middle = jnp.asarray([size / 2, size * 0.9])
    return flamejax.OrthographicCamera(jnp.full(batch, size * 3.5), jnp.broadcast_to(middle, (*batch, 2)))


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_renders_of_batches_equal_singles(head, batch):
    params = random_params(head, batch=batch, scale=0.1)
    verts = flamejax.vertices(head, params)
    image = flamejax.render(head, verts, camera(batch), size=(48, 40))
    assert image.shape == (*batch, 48, 40, 4)
    alpha = np.asarray(image[..., 3])
    assert set(np.unique(alpha)) == {0.0, 1.0} and 0.1 < alpha.mean() < 0.9
    for index in np.ndindex(*batch):
        single = flamejax.render(head, verts[index], camera(), size=(48, 40))
        chex.assert_trees_all_close(image[index], single, atol=1e-4)


def test_a_nearer_camera_sees_a_larger_head(head):
    verts = flamejax.vertices(head, flamejax.HeadParams.zeros(head))
    look = jnp.diag(jnp.asarray([1.0, -1.0, -1.0, 1.0]))
    shares = []
    for distance in (0.8, 1.2):
        pinhole = flamejax.PerspectiveCamera(jnp.asarray(100.0), jnp.asarray([32.0, 42.0]), look.at[2, 3].set(distance))
        shares.append(float(flamejax.render(head, verts, pinhole, size=(64, 64))[..., 3].mean()))
    assert shares[0] > 1.5 * shares[1] > 0


def test_render_gradients_in_texture_and_light(head):
    verts = flamejax.vertices(head, flamejax.HeadParams.zeros(head))

    def image(coefficients, light):
        texture = head.albedo(coefficients)
        return flamejax.render(head, verts, camera(), texture=texture, light=light, size=(24, 24))[..., :3]

    check_grads(jax.jit(image), (jnp.ones(3) * 0.3, ambient_light()), 1, ("fwd", "rev"), eps=1e-2, rtol=0.03, atol=0.03)


def test_golden_image_of_the_open_head(tmp_path):
    """The mean open head, turned by 25 degrees. Made by tests/golden/make_open_head.py; looked at when committed."""
    from tests.golden.make_open_head import golden_render

    found, golden = golden_render(), np.asarray(Image.open(GOLDEN), np.float32) / 255
    difference = np.abs(found - golden).mean()
    if difference > GOLDEN_TOLERANCE:
        Image.fromarray((255 * np.abs(found - golden)).astype(np.uint8)).save(tmp_path / "difference.png")
    assert difference <= GOLDEN_TOLERANCE, f"see {tmp_path / 'difference.png'}"
