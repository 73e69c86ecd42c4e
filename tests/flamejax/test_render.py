"""Tests of light, textures and renders."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flamejax
from flamejax.geometry import normalize
from flamejax.rendering import ambient_light, sample_texture, sh_basis, shade
from tests.gradients import check_gradients
from tests.heads import random_head, random_params

GOLDEN = "tests/golden/open_head.png"
GOLDEN_TOLERANCE = 0.004
"""Mean absolute colour difference: platforms round silhouette pixels differently."""


def unit_normals(*shape):
    return normalize(jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 3)), jnp.float32))


def test_harmonics_are_orthonormal():
    """Monte Carlo over the sphere with antipodal and axis-permuted points: second moments to 1 %."""
    points = np.random.default_rng(0).normal(size=(200_000, 3))
    basis = np.asarray(sh_basis(jnp.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), jnp.float32)))
    np.testing.assert_allclose(4 * np.pi * basis.T @ basis / len(points), np.eye(9), atol=0.02)


def test_ambient_light_is_one_for_all_normals():
    np.testing.assert_allclose(shade(unit_normals(50), ambient_light()), 1.0, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_shading_has_exact_gradients_and_batches(batch):
    normals = unit_normals(*batch, 4, 5)
    light = jnp.asarray(np.random.default_rng(1).normal(size=(*batch, 9, 3)), jnp.float32)
    check_gradients(shade, (normals, light), eps=1e-2, rtol=0.03)
    eager = shade(normals, light)
    chex.assert_trees_all_close(jax.jit(shade)(normals, light), eager, atol=1e-5)
    if batch:
        chex.assert_trees_all_close(jax.vmap(shade)(normals, light), eager, atol=1e-5)


def test_texture_lookup_is_exact_at_texels_and_blends_between():
    texture = jnp.arange(12.0).reshape(3, 4, 1)
    # Texel (row 0, column 1): v = 1 - 0.5 / 3, u = 1.5 / 4.
    np.testing.assert_allclose(sample_texture(texture, jnp.asarray([1.5 / 4, 1 - 0.5 / 3])), [1.0], atol=1e-5)
    np.testing.assert_allclose(sample_texture(texture, jnp.asarray([2.0 / 4, 1 - 1.0 / 3])), [3.5], atol=1e-5)
    np.testing.assert_allclose(sample_texture(texture, jnp.asarray([[-5.0, 9.0], [9.0, -5.0]])), [[0], [11]], atol=1e-5)
    assert sample_texture(jnp.ones((1, 1, 3)), jnp.asarray([0.3, 0.8])).shape == (3,)


def test_texture_gradients_equal_finite_differences():
    texture = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5, 3)), jnp.float32)
    uv = jnp.asarray([[0.33, 0.41], [0.71, 0.62]])
    check_gradients(sample_texture, (texture, uv), eps=1e-3, rtol=0.03, atol=0.03)


@pytest.fixture(scope="module")
def head():
    return random_head()


def camera(batch=(), size=48):
    middle = jnp.asarray([size / 2, size * 0.9])
    return flamejax.OrthographicCamera(jnp.full(batch, size * 3.5), jnp.broadcast_to(middle, (*batch, 2)))


def test_renders_of_batches_equal_singles(head):
    batch = (3,)
    params = random_params(head, batch=batch, scale=0.1)
    verts = flamejax.vertices(head, params)
    image = flamejax.render(head, verts, camera(batch), size=(48, 40), antialias=False)
    assert image.shape == (*batch, 48, 40, 4)
    alpha = np.asarray(image[..., 3])
    assert set(np.unique(alpha)) == {0.0, 1.0} and 0.1 < alpha.mean() < 0.9
    for index in np.ndindex(*batch):
        single = flamejax.render(head, verts[index], camera(), size=(48, 40), antialias=False)
        chex.assert_trees_all_close(image[index], single, atol=1e-4)


def test_a_nearer_camera_sees_a_larger_head(head):
    verts = flamejax.vertices(head, flamejax.HeadParams.zeros(head))
    look = jnp.diag(jnp.asarray([1.0, -1.0, -1.0, 1.0]))
    shares = []
    for distance in (0.8, 1.2):
        pinhole = flamejax.PerspectiveCamera(jnp.asarray(100.0), jnp.asarray([32.0, 42.0]), look.at[2, 3].set(distance))
        shares.append(float(flamejax.render(head, verts, pinhole, size=(64, 64), antialias=False)[..., 3].mean()))
    assert shares[0] > 1.5 * shares[1] > 0


def test_render_gradients_in_texture_and_light_equal_finite_differences(head):
    verts = flamejax.vertices(head, flamejax.HeadParams.zeros(head))

    def image(coefficients, light):
        texture = head.albedo(coefficients)
        options = {"texture": texture, "light": light, "size": (24, 24)}
        return flamejax.render(head, verts, camera(), **options, antialias=False)[..., :3]

    check_gradients(image, (jnp.ones(3) * 0.3, ambient_light()), eps=1e-2, rtol=0.03, atol=0.03)


def test_render_mesh_interpolates_any_vertex_attributes():
    """A coloured square of two triangles, over a background; its outline has a gradient."""
    square = jnp.asarray([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    faces, view = jnp.asarray([[0, 1, 2], [0, 2, 3]]), flamejax.OrthographicCamera(8.0, [16.0, 12.0])
    colours = jnp.asarray([[0.0, 0], [1, 0], [1, 1], [0, 1]])

    def picture(shift, **options):
        moved = square.at[:, 0].add(shift)
        return flamejax.render_mesh(moved, faces, colours, view, (24, 32), **options)

    def covered_on_the_right(shift):
        image = picture(shift)
        return image[:, 16:, 2].sum(), image

    slope, image = jax.jit(jax.grad(covered_on_the_right, has_aux=True))(0.0)
    np.testing.assert_allclose(slope, 8 * 16, rtol=1e-4)
    assert image.shape == (24, 32, 3) and image[..., 2].sum() == 256
    np.testing.assert_allclose(image[4:20, 8:24, 2], 1)
    np.testing.assert_allclose(image[12, 8:24, 0], (np.arange(16) + 0.5) / 16, atol=1e-6)  # x
    np.testing.assert_allclose(image[4:20, 12, 1], 1 - (np.arange(16) + 0.5) / 16, atol=1e-6)  # y is up

    @jax.jit
    def others():
        shader = lambda values, normals: values[..., :1] * normals[..., 2:]  # noqa: E731
        own = jnp.asarray([[1, 2, 3], [1, 3, 0]])  # attributes with triangles of their own
        return (
            picture(0.0, shade=shader, background=jnp.ones(1), antialias=False),
            picture(0.0, attribute_faces=own, antialias=False),
        )

    shaded, turned = others()
    assert shaded.shape == (24, 32, 1)
    np.testing.assert_allclose(shaded[12, :, 0], np.where(image[12, :, 2] > 0, image[12, :, 0], 1), atol=1e-6)
    np.testing.assert_allclose(turned[12, 8:24, 1], image[12, 8:24, 0], atol=1e-6)


def test_a_mesh_without_attributes_is_clay(head):
    verts = flamejax.vertices(head, flamejax.HeadParams.zeros(head, (2,)))
    view = flamejax.framing(verts, (40, 40))
    options = {"cull": True, "background": jnp.ones(3), "antialias": False}
    image = jax.jit(lambda verts: flamejax.render_mesh(verts, head.faces, None, view, (40, 40), **options))(verts)
    assert image.shape == (2, 40, 40, 3)
    assert image.min() >= 0 and image[0, 20, 20, 0] < 0.9 and np.ptp(image[0, 10:30, 20]) > 0.05
    with pytest.raises(ValueError, match="vertices should be"):
        flamejax.render_mesh(verts[..., :2], head.faces, None, view, (40, 40))
    with pytest.raises(ValueError, match="texture should be"):
        flamejax.render(head, verts, view, texture=jnp.zeros((4, 4)), size=(40, 40))
    with pytest.raises(ValueError, match="verts should be"):
        flamejax.render(head, verts[:, :-1], view, size=(40, 40))


def test_open_head_equals_the_golden_image(tmp_path):
    """The mean open head, turned by 25 degrees. Made by tests/golden/make_open_head.py."""
    from tests.golden.make_open_head import golden_render

    image, golden = golden_render(), np.asarray(Image.open(GOLDEN), np.float32) / 255
    difference = np.abs(image - golden).mean()
    if difference > GOLDEN_TOLERANCE:
        Image.fromarray((255 * np.abs(image - golden)).astype(np.uint8)).save(tmp_path / "difference.png")
    assert difference <= GOLDEN_TOLERANCE, f"see {tmp_path / 'difference.png'}"
