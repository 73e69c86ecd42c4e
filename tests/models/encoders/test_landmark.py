"""The landmark encoder: what is hidden does not matter, nor do the photo's size, place and roll."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from models.encoders import Encoder
from models.encoders.landmark import (
    LandmarkEncoder,
    LandmarkEncoderConfig,
    reference_landmarks,
    similarity_aligned,
)
from tests.heads import random_head

HEAD = random_head()
REFERENCE = reference_landmarks(HEAD)


@pytest.fixture(scope="module")
def encoder():
    return LandmarkEncoder(LandmarkEncoderConfig(width=16, hidden=24, blocks=2), REFERENCE, rngs=nnx.Rngs(0))


def photo(batch=(), seed=0):
    """Landmarks in pixels, and which are visible."""
    rng = np.random.default_rng(seed)
    points = 1000 * np.asarray(REFERENCE) + 128 + rng.normal(size=(*batch, 68, 2))
    visible = (rng.random((*batch, 68)) < 0.7).astype(np.float32)
    return jnp.asarray(points, jnp.float32), jnp.asarray(visible)


def test_it_is_an_encoder(encoder):
    assert isinstance(encoder, Encoder)
    assert (encoder.width, encoder.needs_photo) == (16, False)


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_batch_axes_jit_and_vmap(encoder, batch):
    points, visible = photo(batch)
    eager = encoder(None, points, visible)
    chex.assert_shape(eager, (*batch, 16))
    graphdef, state = nnx.split(encoder)
    jitted = jax.jit(lambda s, p, v: nnx.merge(graphdef, s)(None, p, v))(state, points, visible)
    chex.assert_trees_all_close(eager, jitted, atol=2e-5)
    mapped = lambda p, v: encoder(None, p, v)  # noqa: E731
    for _ in batch:
        mapped = jax.vmap(mapped)
    chex.assert_trees_all_close(eager, mapped(points, visible), atol=2e-5)


def test_what_hidden_landmarks_hold_does_not_matter(encoder):
    points, visible = photo()
    other = jnp.where(visible[:, None] > 0, points, 9999.0)
    chex.assert_trees_all_close(encoder(None, points, visible), encoder(None, other, visible), atol=1e-4)
    shown = encoder(None, points, jnp.ones(68))
    assert np.abs(shown - encoder(None, points, visible)).max() > 1e-2


@pytest.mark.parametrize("turn", [0.0, 0.7, -2.5])
def test_size_place_and_roll_do_not_matter(encoder, turn):
    points, visible = photo()
    rotation = jnp.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], jnp.float32)
    moved = 3.7 * points @ rotation.T + jnp.asarray([[500.0, -40.0]])
    chex.assert_trees_all_close(encoder(None, points, visible), encoder(None, moved, visible), atol=2e-3)


def test_a_mirrored_face_is_another(encoder):
    points, visible = photo()
    mirrored = points * jnp.asarray([[-1.0, 1.0]])
    assert np.abs(encoder(None, points, visible) - encoder(None, mirrored, visible)).max() > 1e-2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_landmarks_or_none(encoder, count):
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


def test_derivatives(encoder):
    points, visible = photo()
    check_grads(
        lambda p: encoder(None, p / 0.01, visible),
        (points * 0.01,),
        order=1,
        modes=("fwd", "rev"),
        atol=2e-2,
        rtol=2e-2,
    )
