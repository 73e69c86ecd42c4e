"""Tests that visibility is exact for any mesh, gradients equal finite differences, and batches equal singles."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

import flamejax
from flamejax import rasterize
from flamejax.rendering import interpolate
from flamejax.rendering.visibility import is_drawn
from tests.gradients import check_gradients

MAX_TRIANGLES, MAX_SIZE = 2000, (60, 75)


def draw(screen, faces, size, **options):
    """Rasterize a padded mesh and crop a larger image, so that all meshes share one compiled program."""
    padded = np.zeros((3 * MAX_TRIANGLES, 3), np.float32)
    padded[: len(screen)] = screen
    padded_faces = np.pad(faces, ((0, MAX_TRIANGLES - len(faces)), (0, 0)), mode="constant")
    fragments = rasterize(padded, padded_faces, MAX_SIZE, **options)
    return jax.tree.map(lambda leaf: leaf[: size[0], : size[1]], fragments)


def brute_force(screen, faces, size, perspective):
    """Test every triangle against every pixel in float64: face index, depth, and pixels close to an edge line."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    depth, index = np.full(size, np.inf), np.full(size, -1)
    near_edge = np.zeros(size, bool)
    for number, triangle in enumerate(np.asarray(faces)):
        p = np.asarray(screen, np.float64)[triangle]
        if (p[:, 2] <= 1e-3).any():
            continue
        edges = [(p[(k + 1) % 3], p[(k + 2) % 3]) for k in range(3)]
        area = [(b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) for a, b in edges]
        total = sum(area)
        if np.abs(total).max() == 0:
            continue
        lengths = [max(np.hypot(*(b - a)[:2]), 1e-12) for a, b in edges]
        weights = np.stack([w / total for w in area], -1)
        inside = (weights >= 0).all(-1)
        near_edge |= np.min([np.abs(w) / s for w, s in zip(area, lengths, strict=True)], axis=0) < 1e-4
        z = 1 / (weights @ (1 / p[:, 2])) if perspective else weights @ p[:, 2]
        nearest = inside & (z < depth)
        depth[nearest], index[nearest] = z[nearest], number
    return index, depth, near_edge


def random_triangles(count, spread, seed=0, size=(60, 75)):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-15, max(size) + 15, (count, 1, 2))
    # Without a spread: all sizes at once, from 0.03 to 300 pixels.
    spread = 10 ** rng.uniform(-1.5, 2.5, (count, 1, 1)) if spread is None else spread
    xy = centre + rng.normal(size=(count, 3, 2)) * spread
    z = rng.uniform(0.5, 3, (count, 3, 1))
    return np.concatenate([xy, z], -1).reshape(-1, 3).astype(np.float32), np.arange(3 * count).reshape(count, 3)


@pytest.mark.parametrize("perspective", [True, False])
@pytest.mark.parametrize(
    ("count", "spread"), [(1, 500.0), (2, 3.0), (40, 60.0), (300, 8.0), (300, 0.7), (1500, 15.0), (MAX_TRIANGLES, None)]
)
def test_random_triangles_equal_brute_force(count, spread, perspective):
    size = (60, 75)
    screen, faces = random_triangles(count, spread)
    fragments = draw(screen, faces, size, perspective=perspective)
    index, depth, near_edge = brute_force(screen, faces, size, perspective)
    assert (index >= 0).any() or spread == 500.0
    same = np.asarray(fragments.face_index) == index
    assert (same | near_edge).all()
    compared = same & (index >= 0)
    np.testing.assert_allclose(np.asarray(fragments.depth)[compared], depth[compared], rtol=2e-4)
    np.testing.assert_allclose(np.asarray(fragments.barycentric)[compared].sum(-1), 1, atol=1e-4)


def assert_equals_brute_force(face_index, screen, faces, size, perspective, share=0.0):
    index, _, near_edge = brute_force(screen, faces, size, perspective)
    assert ((np.asarray(face_index) == index) | near_edge).all()
    assert (((np.asarray(face_index) >= 0) == (index >= 0)) | near_edge).all()
    assert (index >= 0).mean() >= share


@pytest.mark.parametrize("subdivisions", [1, 3])
def test_spheres_equal_brute_force(subdivisions):
    sphere = trimesh.creation.icosphere(subdivisions)
    verts = np.asarray(sphere.vertices)
    screen = np.stack([30.3 + 25 * verts[:, 0], 28.7 - 25 * verts[:, 1], 3 - verts[:, 2]], -1).astype(np.float32)
    faces = np.asarray(sphere.faces)
    for perspective in (True, False):
        face_index = draw(screen, faces, (56, 61), perspective=perspective).face_index
        assert_equals_brute_force(face_index, screen, faces, (56, 61), perspective, 0.4)
        culled = draw(screen, faces, (56, 61), perspective=perspective, cull=True).face_index
        assert_equals_brute_force(culled, screen, faces, (56, 61), perspective, 0.4)


def test_a_full_screen_quad_equals_brute_force():
    corners = [[-3.3, -2.1, 1], [80.7, -5.2, 2], [-1.9, 64.8, 1.5], [79.1, 70.3, 3]]
    screen, faces = np.array(corners, np.float32), np.array([[0, 1, 2], [2, 1, 3]])
    face_index = draw(screen, faces, (60, 75)).face_index
    assert_equals_brute_force(face_index, screen, faces, (60, 75), True, 1.0)


@pytest.mark.slow
def test_the_open_head_equals_brute_force_at_24_poses():
    head, size = flamejax.load_head(), (48, 48)
    drawn = jax.jit(lambda s: rasterize(s, head.faces, size, perspective=False).face_index)
    verts = np.asarray(head.v_template, np.float64)
    verts = (verts - verts.mean(0)) / np.abs(verts - verts.mean(0)).max()
    for turn in Rotation.random(24, random_state=0):
        x, y, z = (verts @ turn.as_matrix().T).T
        screen = np.stack([24.2 + 22 * x, 23.9 - 22 * y, 4 - z], -1).astype(np.float32)
        assert_equals_brute_force(drawn(screen), screen, head.faces, size, False, 0.2)


def test_a_centre_on_a_shared_edge_belongs_to_one_triangle():
    """Drawn one at a time, the triangles of a grid through pixel centres cover every pixel exactly once."""
    grid = np.mgrid[0:4, 0:4].reshape(2, -1).T * 4.0 + 0.5
    for mirror in (1, -1):
        screen = np.concatenate([grid[:, ::mirror], np.ones((16, 1))], 1).astype(np.float32)
        corner = np.arange(16).reshape(4, 4)
        a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]))
        faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
        owners = sum(np.asarray(draw(screen, face[None], (16, 16)).face_index >= 0).astype(int) for face in faces)
        assert (owners[:12, :12] == 1).all() and owners.max() == 1


def test_higher_index_wins_at_equal_depth():
    screen = np.array([[1, 1, 1], [14, 1, 1], [1, 14, 1]], np.float32)
    face_index = draw(screen, np.array([[0, 1, 2]] * 3), (16, 16)).face_index
    assert set(np.unique(face_index)) == {-1, 2}


def test_no_triangles_give_an_empty_image():
    assert (rasterize(jnp.zeros((2, 3, 3)), jnp.zeros((0, 3), jnp.int32), (4, 5)).face_index == -1).all()


def test_shared_edges_leave_no_holes():
    """A regular grid whose edges pass exactly through pixel centres covers every pixel."""
    grid = np.mgrid[0:9, 0:9].reshape(2, -1).T * 4.0 + 0.5
    screen = np.concatenate([grid[:, ::-1], np.ones((81, 1))], 1).astype(np.float32)
    corner = np.arange(81).reshape(9, 9)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:]))
    faces = np.concatenate([np.stack([a, b, d], 1), np.stack([a, d, c], 1)])
    assert (draw(screen, faces, (32, 32)).face_index >= 0).all()
    warped = screen + np.random.default_rng(0).normal(size=screen.shape).astype(np.float32) * [[0.3, 0.3, 0]]
    inner = draw(warped.astype(np.float32), faces, (32, 32)).face_index[3:29, 3:29]
    assert (inner >= 0).all()


def test_degenerate_triangles_are_not_drawn():
    size = (16, 16)
    screen = np.array(
        [
            [[2, 2, 1], [2, 2, 1], [2, 2, 1]],  # a point
            [[1, 1, 1], [14, 14, 1], [7.5, 7.5, 1]],  # a line
            [[-1e30, -1e30, 1], [1e30, -1e30, 1], [0, 1e30, 1]],  # too large for float32 areas
            [[np.nan, 0, 1], [5, 0, 1], [0, 5, 1]],
            [[0, 0, -1], [16, 0, 1], [0, 16, 1]],  # crosses the near plane
            [[50, 50, 1], [60, 50, 1], [50, 60, 1]],  # off the screen
        ],
        np.float32,
    ).reshape(18, 3)
    fragments = draw(screen, np.arange(18).reshape(6, 3), size)
    assert set(np.unique(fragments.face_index)) <= {-1, 2}
    assert np.isfinite(fragments.barycentric).all()
    empty = draw(screen[:3], np.array([[0, 1, 2]]), size)
    assert (empty.face_index == -1).all() and (empty.depth == np.inf).all() and (empty.barycentric == 0).all()


def test_culling_keeps_front_facing_triangles():
    front = np.array([[2, 2, 1], [2, 14, 1], [14, 2, 1]], np.float32)  # counter-clockwise with y up
    for triangle, covered in (([0, 1, 2], True), ([0, 2, 1], False)):
        fragments = draw(front, np.array([triangle]), (16, 16), cull=True)
        assert bool((fragments.face_index >= 0).any()) is covered
        assert (draw(front, np.array([triangle]), (16, 16)).face_index >= 0).any()


def sphere_screen(batch, size=40):
    sphere = trimesh.creation.icosphere(2)
    verts = np.asarray(sphere.vertices, np.float32)
    offsets = np.linspace(-3, 3, int(np.prod(batch))).reshape(*batch, 1)
    x, y = size / 2 + offsets + 15 * verts[:, 0], size / 2 - 15 * verts[:, 1] + 0 * offsets
    return jnp.asarray(np.stack([x, y, 5 - verts[:, 2] + 0 * offsets], -1), jnp.float32), jnp.asarray(sphere.faces)


def test_batches_equal_singles_under_jit_and_vmap():
    batch = (2, 2)
    screen, faces = sphere_screen(batch)
    drawn = lambda s: rasterize(s, faces, (40, 40), cull=True)  # noqa: E731
    batched = drawn(screen)
    assert batched.face_index.shape == (*batch, 40, 40)
    for index in np.ndindex(*batch):
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=index: a[i], batched), drawn(screen[index]), atol=1e-4)
    mapped = drawn
    for _ in batch:
        mapped = jax.vmap(mapped)
    chex.assert_trees_all_close(mapped(screen), batched, atol=1e-4)


def test_vmap_over_different_topologies():
    screen, faces = sphere_screen((2,))
    both = jnp.stack([faces, faces[:, ::-1]])
    mapped = jax.vmap(lambda s, f: rasterize(s, f, (40, 40), cull=True).face_index)(screen, both)
    for i in range(2):
        np.testing.assert_array_equal(mapped[i], rasterize(screen[i], both[i], (40, 40), cull=True).face_index)


@pytest.mark.parametrize("perspective", [True, False])
def test_interpolation_gradients_equal_finite_differences(perspective):
    screen = jnp.asarray([[3.1, 2.2, 1.0], [28.3, 5.1, 2.0], [10.2, 27.4, 1.5]])
    attributes = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)
    faces = jnp.asarray([[0, 1, 2]])
    inside = rasterize(screen, faces, (32, 32)).face_index == 0
    # Pixels near the silhouette appear and vanish: only the inside is differentiable.
    shrunk = screen + jnp.asarray([[0.6, 0.6, 0], [-0.6, 0.2, 0], [0, -0.6, 0]])
    inside &= rasterize(shrunk, faces, (32, 32)).face_index == 0

    def image(screen, attributes):
        fragments = rasterize(screen, faces, (32, 32), perspective=perspective)
        pixels = interpolate(attributes, faces, fragments)
        return jnp.sum(jnp.where(inside[..., None], pixels, 0) ** 2, axis=(0, 1)) / 50

    check_gradients(image, (screen, attributes), eps=1e-2, rtol=0.03, atol=0.03)


def test_visibility_has_no_gradient():
    """A flat white triangle that moves: without antialiasing the image's sum has no derivative."""
    screen = jnp.asarray([[3.1, 2.2, 1.0], [28.3, 5.1, 1.0], [10.2, 27.4, 1.0]])

    @jax.jit
    def total(shift):
        moved = screen.at[:, 0].add(shift)
        fragments = rasterize(moved, jnp.asarray([[0, 1, 2]]), (32, 32))
        return jnp.sum(interpolate(jnp.ones((3, 1)), jnp.asarray([[0, 1, 2]]), fragments))

    assert abs(jax.grad(total)(0.0)) < 1e-3


def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match="screen should be"):
        rasterize(jnp.zeros((5, 2)), jnp.zeros((1, 3), jnp.int32), (8, 8))
    with pytest.raises(ValueError, match="positive"):
        rasterize(jnp.zeros((5, 3)), jnp.zeros((1, 3), jnp.int32), (0, 8))


def test_is_drawn_by_signed_area():
    """With x right and y down, a negative area is front-facing; triangles without area are not drawn."""
    corner = np.array([[0.0, 0.0, 1.0], [0.5, 0.0, 1.0], [0.0, 0.5, 1.0]])
    triangles = np.stack([corner, corner[[0, 2, 1]], corner[[0, 1, 1]], corner - [0, 0, 1]])
    drawn = (is_drawn(jnp.asarray(triangles.transpose(2, 1, 0), jnp.float32), cull, 0.0) for cull in (False, True))
    np.testing.assert_array_equal(next(drawn), [True, True, False, False])
    np.testing.assert_array_equal(next(drawn), [False, True, False, False])
