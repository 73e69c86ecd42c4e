"""Masks of vertices: shares, shapes, and vertices that are never hidden."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from experiments.datasets.vertex_masks import EYEBALLS, KINDS, hidden_vertices, mask_maker, mesh_masks, turned_away
from tests.heads import random_head

HEAD = random_head(subdivisions=3)
EYES = np.zeros(HEAD.num_vertices, bool)
EYES[np.asarray(HEAD.v_template)[:, 2].argsort()[-8:]] = True
# A sphere is so even that many vertices lie as far out as one another, and a mask takes all or none of those.
UNEVEN = HEAD.v_template + 3e-4 * jax.random.normal(jax.random.key(0), HEAD.v_template.shape)
HEAD = dataclasses.replace(HEAD, v_template=UNEVEN, regions=HEAD.regions | dict.fromkeys(EYEBALLS, jnp.asarray(EYES)))
MAKER = mask_maker(HEAD, count=24)
RECTANGLE, PATCH = range(2)


KEYS = 16
COMPILED = jax.jit(hidden_vertices)
MASKS = jax.jit(jax.vmap(hidden_vertices, in_axes=(None, 0, None, None)))


def masks(kind: int, share: float, count: int = KEYS) -> np.ndarray:
    keys = jax.random.split(jax.random.key(1), KEYS)
    return np.asarray(MASKS(MAKER, keys, jnp.asarray(share), jnp.asarray(kind)))[:count]


@pytest.mark.parametrize("kind", [RECTANGLE, PATCH])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.4])
def test_masks_hide_the_share_to_one_vertex_and_never_eyeballs(kind, share):
    hidden = masks(kind, share)
    assert np.abs(hidden.sum(axis=1) - share * HEAD.num_vertices).max() <= 1
    assert not hidden[:, EYES].any()


def test_masks_of_everything_hide_all_but_the_eyeballs():
    for kind in (RECTANGLE, PATCH):
        hidden = masks(kind, 1.0, 2)
        np.testing.assert_array_equal(hidden, np.broadcast_to(~EYES, hidden.shape))


def test_patches_are_connected():
    faces = np.asarray(HEAD.faces)
    ends = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    for hidden in masks(PATCH, 0.3, 12):
        # Eyeballs are cut out of a patch, but connect it.
        inside = ends[(hidden | EYES)[ends].all(axis=1)]
        graph = coo_matrix((np.ones(len(inside)), inside.T), (HEAD.num_vertices,) * 2)
        label = connected_components(graph, directed=False)[1]
        assert len(np.unique(label[hidden])) == 1


def test_rectangles_are_rectangles_seen_from_the_front():
    outline = np.asarray(HEAD.v_template)[:, :2]
    for hidden in masks(RECTANGLE, 0.3):
        low, high = outline[hidden].min(axis=0), outline[hidden].max(axis=0)
        inside = ((outline > low) & (outline < high)).all(axis=1)
        np.testing.assert_array_equal(inside & ~EYES & ~hidden, False)
    shapes = [np.ptp(outline[hidden], axis=0) for hidden in masks(RECTANGLE, 0.1)]
    assert len({tuple(np.round(shape, 4)) for shape in shapes}) > 1


@pytest.mark.parametrize("kind", [RECTANGLE, PATCH])
def test_masks_are_reproducible_batched_and_compiled(kind):
    batched = masks(kind, 0.3, 4)
    again = mask_maker(HEAD, count=24)
    for key, expected in zip(jax.random.split(jax.random.key(1), KEYS)[:4], batched, strict=True):
        for make, maker in ((hidden_vertices, again), (COMPILED, MAKER)):
            np.testing.assert_array_equal(make(maker, key, jnp.asarray(0.3), jnp.asarray(kind)), expected)
    assert len(np.unique(batched, axis=0)) > 1
    assert KINDS[kind] == ("rectangle", "patch")[kind]


def test_another_seed_gives_other_patches():
    other = mask_maker(HEAD, seed=1, count=24)
    assert np.abs(np.asarray(other.fields) - np.asarray(MAKER.fields)).max() > 0.01


def test_turned_away_vertices_are_at_the_back():
    turn = jax.jit(jax.vmap(turned_away, in_axes=(None, 0)))
    turned = np.asarray(turn(MAKER, jax.random.split(jax.random.key(0), 8)))
    front, back = np.asarray(MAKER.normals)[:, 2] > 0.95, np.asarray(MAKER.normals)[:, 2] < -0.95
    assert not turned[:, front].any() and turned[:, back].all() and not turned[:, EYES].any()


def test_mesh_masks_without_regions_can_hide_everything():
    maker = mesh_masks(np.asarray(HEAD.v_template), np.asarray(HEAD.faces), {}, count=24)
    assert maker.hideable.all()
    keys = jax.random.split(jax.random.key(1), KEYS)
    for kind in (RECTANGLE, PATCH):
        hidden = np.asarray(MASKS(maker, keys, jnp.asarray(0.25), jnp.asarray(kind)))
        assert np.abs(hidden.sum(axis=1) - 0.25 * HEAD.num_vertices).max() <= 1 and hidden[:, EYES].any()
