"""Tests that antialiased silhouettes look like a supersampled image and have its gradient."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

import flamejax
from flamejax.rendering import antialias, composite, interpolate, opposite_vertices, rasterize
from flamejax.rendering._neighbours import equal_positions, welded_opposite
from tests.gradients import check_gradients

SIZE, SUPERSAMPLING = 48, 16


def sphere(level=3):
    mesh = trimesh.creation.icosphere(level)
    return jnp.asarray(mesh.vertices, jnp.float32), jnp.asarray(mesh.faces, jnp.int32)


def smooth_colours(verts):
    waves = [0.5 + 0.4 * jnp.sin(3 * verts[:, 0] + k) * jnp.cos(2 * verts[:, 1] - k) for k in range(3)]
    return jnp.stack(waves, axis=-1)


def project(verts, pose, factor=1):
    """Project orthographically. pose: x, y, scale, roll."""
    x = SIZE / 2 + pose[0] + pose[2] * (jnp.cos(pose[3]) * verts[:, 0] - jnp.sin(pose[3]) * verts[:, 1])
    y = SIZE / 2 + pose[1] - pose[2] * (jnp.sin(pose[3]) * verts[:, 0] + jnp.cos(pose[3]) * verts[:, 1])
    return jnp.stack([x * factor, y * factor, 5 - verts[:, 2]], -1)


def picture(verts, faces, pose, method, near=1e-3):
    factor = {"supersampled": SUPERSAMPLING, "half supersampled": SUPERSAMPLING // 2}.get(method, 1)
    screen, size = project(verts, pose, factor), (SIZE * factor, SIZE * factor)
    fragments = rasterize(screen, faces, size, perspective=False, cull=True)
    image = interpolate(smooth_colours(verts), faces, fragments)
    if method == "antialiased":
        return antialias(image, fragments, screen, faces, perspective=False, cull=True, near=near)
    return image.reshape(SIZE, factor, SIZE, factor, 3).mean((1, 3))


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def gradients(verts, faces, pose, target_pose):
    """Gradients of an image loss in the pose: supersampled finite differences, antialiased, plain."""
    target = picture(verts, faces, target_pose, "supersampled")

    def loss(pose, method):
        return jnp.mean((picture(verts, faces, pose, method) - target) ** 2)

    value, slope = jax.jit(loss, static_argnames="method"), jax.jit(jax.grad(loss), static_argnames="method")
    steps = np.diag([0.25, 0.25, 0.25, 0.02]).astype(np.float32)
    reference = [(value(pose + s, "supersampled") - value(pose - s, "supersampled")) / (2 * s.sum()) for s in steps]
    return np.array(reference), np.asarray(slope(pose, "antialiased")), np.asarray(slope(pose, "plain"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["sphere", "head"])
def test_gradients_equal_those_of_a_supersampled_image(mesh):
    if mesh == "sphere":
        (verts, faces), pose = sphere(), jnp.asarray([0.3, 0.2, 16.0, 0.1])
    else:
        head = flamejax.load_head()
        verts = (head.v_template - head.v_template.mean(0, keepdims=True)) * 8
        faces, pose = head.faces, jnp.asarray([0.3, 0.2, 16.0, 0.1])
    scale = np.array([1, 1, 1, 16])  # the roll in pixels at the rim
    reference, antialiased, plain = gradients(verts, faces, pose, pose + jnp.asarray([1.5, -1.2, -0.7, 0.05]))
    assert cosine(reference / scale, antialiased / scale) >= 0.95
    assert cosine(reference / scale, antialiased / scale) > cosine(reference / scale, plain / scale)
    ratio = np.linalg.norm(antialiased / scale) / np.linalg.norm(reference / scale)
    assert 0.8 < ratio < 1.25


def test_antialiased_images_are_closer_to_supersampled_ones():
    (verts, faces), pose = sphere(), jnp.asarray([0.3, 0.2, 16.0, 0.1])
    draw = jax.jit(picture, static_argnums=3)
    fine, smooth, plain = (draw(verts, faces, pose, method) for method in ("half supersampled", "antialiased", "plain"))
    assert np.abs(smooth - fine).mean() < 0.25 * np.abs(plain - fine).mean()


def test_silhouette_area_has_its_gradient_only_if_antialiased():
    """A white square that moves and grows: without antialiasing the image's sum has no derivative."""
    faces = jnp.asarray([[0, 1, 2], [2, 1, 3]])
    corners = jnp.asarray([[8.3, 9.1, 1.0], [30.2, 9.1, 1.0], [8.3, 35.7, 1.0], [30.2, 35.7, 1.0]])

    def totals(wider, right, smooth):
        screen = corners.at[:, 0].add(right).at[jnp.asarray([1, 3]), 0].add(wider)
        fragments = rasterize(screen, faces, (SIZE, SIZE))
        image = interpolate(jnp.ones((4, 1)), faces, fragments)
        image = antialias(image, fragments, screen, faces) if smooth else image
        # Growth changes the area, a translation the mean column.
        return jnp.stack([jnp.sum(image), jnp.sum(image * jnp.arange(SIZE)[None, :, None])])

    slopes = jax.jit(jax.jacrev(totals, (0, 1)), static_argnums=2)
    (area, _), (_, column) = slopes(0.0, 0.0, False)
    assert abs(area) < 1e-3 and abs(column) < 1e-2
    rows = 27  # pixel centres between 9.1 and 35.7
    (area, _), (_, column) = slopes(0.0, 0.0, True)
    np.testing.assert_allclose(area, rows, rtol=1e-3)
    np.testing.assert_allclose(column, rows * 22, rtol=0.05)


def test_gradients_equal_finite_differences():
    (verts, faces), pose = sphere(1), jnp.asarray([0.3, 0.2, 16.0, 0.1])
    screen = project(verts, pose)
    fragments = rasterize(screen, faces, (SIZE, SIZE), perspective=False)
    image = interpolate(smooth_colours(verts), faces, fragments)

    def blended(image, moved):
        # The moves are too small to change which edge lies between which pixels.
        return antialias(image, fragments, screen.at[:, :2].add(moved), faces, perspective=False) / 30

    moved = jnp.zeros((verts.shape[0], 2))
    check_gradients(blended, (image, moved), eps=1e-3, rtol=0.05, atol=0.05)


def test_batches_equal_singles_under_jit_and_vmap():
    batch = (2, 2)
    verts, faces = sphere(2)
    x = jnp.linspace(-3, 3, int(np.prod(batch))).reshape(*batch, 1, 1)
    screen = project(verts, jnp.asarray([0.1, 0.2, 14.0, 0.0]))
    screen = jnp.broadcast_to(screen, (*batch, *screen.shape)) + jnp.concatenate([x, x / 2, 0 * x], -1)

    def draw(screen):
        fragments = rasterize(screen, faces, (SIZE, SIZE), cull=True)
        return antialias(interpolate(smooth_colours(verts), faces, fragments), fragments, screen, faces, cull=True)

    draw = jax.jit(draw)
    batched = draw(screen)
    for index in np.ndindex(*batch):
        chex.assert_trees_all_close(batched[index], draw(screen[index]), atol=1e-4)
    mapped = draw
    for _ in batch:
        mapped = jax.vmap(mapped)
    chex.assert_trees_all_close(mapped(screen), batched, atol=1e-4)


def test_silhouettes_beyond_the_list_are_blended(monkeypatch):
    module = importlib.import_module("flamejax.rendering._antialias")
    (verts, faces), pose = sphere(2), jnp.asarray([0.3, 0.2, 16.0, 0.1])
    expected = picture(verts, faces, pose, "antialiased")
    monkeypatch.setattr(module, "LISTED_PER_SIDE", 0.05)
    overflowing = picture(verts, faces, pose, "antialiased", near=1.01e-3)  # another setting bypasses the cache
    chex.assert_trees_all_close(overflowing, expected, atol=1e-5)


def test_opposite_vertices_of_open_and_closed_meshes():
    faces = jnp.asarray([[0, 1, 2], [2, 1, 3], [4, 5, 6], [4, 5, 7], [5, 4, 8]])
    expected = [[3, -1, -1], [-1, -1, 0], [-1, -1, -1], [-1, -1, -1], [-1, -1, -1]]
    for vertices in (9, 70_000):  # one key, two keys
        np.testing.assert_array_equal(opposite_vertices(faces, vertices), expected)
    _, closed = sphere(1)
    assert (opposite_vertices(closed, 42) >= 0).all()


def split_vertices(verts, faces, keep=0):
    """Give each triangle its own vertices, except the first ones."""
    corners = np.arange(3 * (len(faces) - keep)).reshape(-1, 3) + len(verts)
    return jnp.concatenate([verts, verts[faces[keep:]].reshape(-1, 3)]), np.concatenate([faces[:keep], corners])


def disc(verts, faces, radius, finer=1):
    """Render the alpha of a sphere on 64 x 64 pixels, antialiased, or without that but finer."""
    camera = flamejax.OrthographicCamera(radius * finer, jnp.asarray([32.3, 32.2]) * finer)
    size = (64 * finer, 64 * finer)
    return flamejax.render_mesh(verts, faces, None, camera, size, antialias=finer == 1)[..., 3]


def disc_of_screen(verts, faces, radius):
    """Render as `disc`, without `render_mesh`."""
    screen = flamejax.OrthographicCamera(radius, jnp.asarray([32.3, 32.2])).project(verts)
    fragments = rasterize(screen, faces, (64, 64), perspective=False)
    image = interpolate(jnp.ones((len(verts), 1)), faces, fragments)
    return antialias(image, fragments, screen, faces, perspective=False)[..., 0]


@pytest.fixture(scope="module")
def supersampled_disc():
    verts, faces = sphere()
    return disc(verts, faces, jnp.asarray(25.0), 16).reshape(64, 16, 64, 16).mean((1, 3))


WAYS = {
    "eager": disc,
    "faces traced": jax.jit(disc),
    "faces fixed": lambda verts, faces, radius: jax.jit(lambda r: disc(verts, faces, r))(radius),
    "batched": lambda verts, faces, radius: jax.vmap(lambda v: disc(v, faces, radius))(jnp.stack([verts, -verts]))[0],
    "only screen": jax.jit(disc_of_screen),
}


@pytest.mark.parametrize(("way", "shared"), [*((way, 0) for way in WAYS), ("faces fixed", 600), ("faces fixed", 1280)])
def test_triangles_with_their_own_vertices_have_the_silhouettes_of_shared_ones(way, shared, supersampled_disc):
    verts, faces = split_vertices(*map(np.asarray, sphere()), keep=shared)

    def draw(radius):
        image = WAYS[way](verts, faces, radius)
        return jnp.sum(image), image

    (_, image), slope = jax.value_and_grad(draw, has_aux=True)(25.0)
    # 1.5 times the error of the triangles that share vertices, and the derivative of the disc's area.
    assert float(jnp.sqrt(jnp.mean((image - supersampled_disc) ** 2))) < 0.0072
    assert abs(float(slope) / (2 * np.pi * 25) - 1) < 0.02


def test_only_vertices_that_coincide_in_the_whole_batch_are_joined():
    positions = jnp.asarray([[[0, 0, 0], [1, 0, 0], [-0.0, 0, 0], [1, 0, 0], [np.nan, 0, 0], [np.nan, 0, 0]]])
    np.testing.assert_array_equal(equal_positions(positions), [0, 1, 0, 1, 4, 5])
    both = jnp.concatenate([positions, positions.at[0, 3].add(1e-6)])
    np.testing.assert_array_equal(equal_positions(both), [0, 1, 0, 3, 4, 5])
    batched = jax.vmap(equal_positions, out_axes=None)(both[:, None])
    np.testing.assert_array_equal(batched, [0, 1, 0, 3, 4, 5])
    grid = np.stack(np.meshgrid(*[np.arange(30.0)] * 3), -1).reshape(1, -1, 3)  # few different bits
    labels = np.asarray(equal_positions(jnp.asarray(np.concatenate([grid, grid], 1), jnp.float32)))
    half = grid.shape[1]
    np.testing.assert_array_equal(labels[:half], np.arange(half))
    assert (labels[half:] == np.arange(half)).mean() > 0.999


@pytest.mark.parametrize("traced", [False, True])
def test_neighbours_of_welded_meshes(traced):
    def neighbours(verts, faces):
        function = jax.jit(welded_opposite) if traced else welded_opposite
        return np.asarray(function(jnp.asarray(verts, jnp.float32), jnp.asarray(faces)))

    verts, faces = (np.asarray(a) for a in sphere(1))
    own, own_faces = (np.asarray(a) for a in split_vertices(verts, faces))
    expected = np.asarray(opposite_vertices(jnp.asarray(faces), len(verts)))
    np.testing.assert_array_equal(own[neighbours(own, own_faces)], verts[expected])
    np.testing.assert_array_equal(neighbours(verts, faces), expected)
    # An open border stays open, and an edge of three triangles has no neighbour.
    np.testing.assert_array_equal(neighbours([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]), [[-1] * 3])
    fan = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0], [0, -1, 0]]
    np.testing.assert_array_equal(neighbours(fan, np.arange(9).reshape(3, 3)), np.full((3, 3), -1))


def test_render_with_antialiasing_has_partly_covered_pixels():
    head = flamejax.load_head()
    verts = flamejax.vertices(head, flamejax.HeadParams.zeros(head))
    camera = flamejax.OrthographicCamera(jnp.asarray(150.0), jnp.asarray([24.0, 40.0]))
    image = flamejax.render(head, verts, camera, size=(SIZE, SIZE), antialias=True)
    alpha = np.asarray(image[..., 3])
    assert ((alpha > 0.1) & (alpha < 0.9)).sum() > 20 and alpha.min() > -0.3 and alpha.max() < 1.3
    on_red = composite(image, jnp.asarray([1.0, 0.0, 0.0]))
    np.testing.assert_allclose(on_red[0, 0], [1, 0, 0], atol=1e-6)


def test_wrong_shapes_raise():
    fragments = rasterize(jnp.zeros((3, 3)), jnp.asarray([[0, 1, 2]]), (8, 8))
    with pytest.raises(ValueError, match="image should be"):
        antialias(jnp.zeros((9, 8, 3)), fragments, jnp.zeros((3, 3)), jnp.asarray([[0, 1, 2]]))
