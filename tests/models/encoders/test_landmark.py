"""The landmark encoder: what is hidden does not matter, nor do the photo's size, place and roll."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from models.encoders import Encoder, LandmarkEncoder, LandmarkEncoderConfig, reference_landmarks
from models.encoders.landmark import similarity_aligned


@pytest.fixture(scope="module")
def reference(head):
    return reference_landmarks(head)


@pytest.fixture(scope="module")
def network(reference):
    return LandmarkEncoder(LandmarkEncoderConfig(width=16, hidden=24, blocks=2), reference, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def encoder(network):
    """Compiled."""
    return jax.jit(network)


@pytest.fixture(scope="module")
def photo(reference):
    return functools.partial(points_of, reference)


def points_of(reference, batch=(), seed=0):
    """Landmarks in pixels, and which are visible."""
    rng = np.random.default_rng(seed)
    points = 1000 * np.asarray(reference) + 128 + rng.normal(size=(*batch, 68, 2))
    visible = (rng.random((*batch, 68)) < 0.7).astype(np.float32)
    return jnp.asarray(points, jnp.float32), jnp.asarray(visible)


def test_it_is_an_encoder(network):
    assert isinstance(network, Encoder)
    assert (network.width, network.needs_photo) == (16, False)


@pytest.mark.parametrize("batch", [(1,), (3,)])
def test_batch_axes_jit_and_vmap(network, encoder, photo, batch):
    points, visible = photo(batch)
    found = encoder(None, points, visible)
    chex.assert_shape(found, (*batch, 16))
    each = [encoder(None, *one) for one in zip(points, visible, strict=True)]
    chex.assert_trees_all_close(found, jnp.stack(each), atol=2e-5)
    mapped = jax.jit(jax.vmap(lambda p, v: network(None, p, v)))
    chex.assert_trees_all_close(found, mapped(points, visible), atol=2e-5)
    chex.assert_trees_all_close(each[0], network(None, points[0], visible[0]), atol=2e-5)


def test_what_hidden_landmarks_hold_does_not_matter(encoder, photo):
    points, visible = photo()
    other = jnp.where(visible[:, None] > 0, points, 9999.0)
    chex.assert_trees_all_close(encoder(None, points, visible), encoder(None, other, visible), atol=1e-4)
    shown = encoder(None, points, jnp.ones(68))
    assert np.abs(shown - encoder(None, points, visible)).max() > 1e-2


@pytest.mark.parametrize("turn", [0.0, 0.7, -2.5])
def test_size_place_and_roll_do_not_matter(encoder, photo, turn):
    points, visible = photo()
    rotation = jnp.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], jnp.float32)
    moved = 3.7 * points @ rotation.T + jnp.asarray([[500.0, -40.0]])
    chex.assert_trees_all_close(encoder(None, points, visible), encoder(None, moved, visible), atol=2e-3)


def test_a_mirrored_face_is_another(encoder, photo):
    points, visible = photo()
    mirrored = points * jnp.asarray([[-1.0, 1.0]])
    assert np.abs(encoder(None, points, visible) - encoder(None, mirrored, visible)).max() > 1e-2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_landmarks_or_none(encoder, photo, count):
    points, _ = photo()
    context = encoder(None, points, (jnp.arange(68) < count).astype(jnp.float32))
    assert np.isfinite(context).all()


def test_alignment_recovers_a_known_similarity():
    rng = np.random.default_rng(1)
    target = jnp.asarray(rng.normal(size=(3, 10, 2)), jnp.float32)
    turn = np.array([0.3, -1.2, 3.0])
    rotation = np.stack([np.stack([np.cos(turn), -np.sin(turn)], -1), np.stack([np.sin(turn), np.cos(turn)], -1)], -2)
    points = 40 * np.einsum("bij,blj->bli", rotation, np.asarray(target)) + [[[7.0, -3.0]]]
    weights = rng.random((3, 10)).astype(np.float32)
    weights[:, 4] = 0
    points[:, 4] = 1e6
    found = similarity_aligned(jnp.asarray(points, jnp.float32), target, jnp.asarray(weights))
    kept = np.arange(10) != 4
    np.testing.assert_allclose(found[:, kept], target[:, kept], atol=1e-4)


def test_derivatives(encoder, photo):
    points, visible = photo()
    check_grads(
        lambda p: encoder(None, p / 0.01, visible),
        (points * 0.01,),
        order=1,
        modes=("fwd", "rev"),
        atol=2e-2,
        rtol=2e-2,
    )
