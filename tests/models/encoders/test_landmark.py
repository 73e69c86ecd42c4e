"""The landmark encoder: hidden landmarks, and scale, position and roll in the photo, have no effect."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from models.encoders import Encoder, LandmarkEncoder, LandmarkEncoderConfig, reference_landmarks
from models.encoders.landmark import align_by_similarity


@pytest.fixture(scope="module")
def reference(head):
    return reference_landmarks(head)


@pytest.fixture(scope="module")
def network(reference):
    return LandmarkEncoder(LandmarkEncoderConfig(width=16, hidden=24, blocks=2), reference, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def encoder(network):
    """The compiled encoder."""
    return jax.jit(network)


@pytest.fixture(scope="module")
def make_landmarks(reference):
    return functools.partial(random_landmarks, reference)


def random_landmarks(reference, batch=(), seed=0):
    """Return landmarks in pixels and their visibility."""
    rng = np.random.default_rng(seed)
    points = 1000 * np.asarray(reference) + 128 + rng.normal(size=(*batch, 68, 2))
    visible = (rng.random((*batch, 68)) < 0.7).astype(np.float32)
    return jnp.asarray(points, jnp.float32), jnp.asarray(visible)


def test_landmark_encoder_implements_the_interface(network):
    assert isinstance(network, Encoder)
    assert (network.width, network.needs_photo) == (16, False)


@pytest.mark.parametrize("batch", [(1,), (3,)])
def test_batches_jit_and_vmap_agree(network, encoder, make_landmarks, batch):
    points, visible = make_landmarks(batch)
    context = encoder(None, points, visible)
    chex.assert_shape(context, (*batch, 16))
    singles = [encoder(None, *example) for example in zip(points, visible, strict=True)]
    chex.assert_trees_all_close(context, jnp.stack(singles), atol=2e-5)
    mapped = jax.jit(jax.vmap(lambda p, v: network(None, p, v)))
    chex.assert_trees_all_close(context, mapped(points, visible), atol=2e-5)
    chex.assert_trees_all_close(singles[0], network(None, points[0], visible[0]), atol=2e-5)


def test_positions_of_hidden_landmarks_have_no_effect(encoder, make_landmarks):
    points, visible = make_landmarks()
    other = jnp.where(visible[:, None] > 0, points, 9999.0)
    chex.assert_trees_all_close(encoder(None, points, visible), encoder(None, other, visible), atol=1e-4)
    all_visible = encoder(None, points, jnp.ones(68))
    assert np.abs(all_visible - encoder(None, points, visible)).max() > 1e-2


@pytest.mark.parametrize("turn", [0.0, 0.7, -2.5])
def test_scale_position_and_roll_have_no_effect(encoder, make_landmarks, turn):
    points, visible = make_landmarks()
    rotation = jnp.asarray([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], jnp.float32)
    moved = 3.7 * points @ rotation.T + jnp.asarray([[500.0, -40.0]])
    chex.assert_trees_all_close(encoder(None, points, visible), encoder(None, moved, visible), atol=2e-3)


def test_a_mirrored_face_has_another_context(encoder, make_landmarks):
    points, visible = make_landmarks()
    mirrored = points * jnp.asarray([[-1.0, 1.0]])
    assert np.abs(encoder(None, points, visible) - encoder(None, mirrored, visible)).max() > 1e-2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_contexts_of_few_or_no_landmarks_are_finite(encoder, make_landmarks, count):
    points, _ = make_landmarks()
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
    aligned = align_by_similarity(jnp.asarray(points, jnp.float32), target, jnp.asarray(weights))
    weighted = np.arange(10) != 4
    np.testing.assert_allclose(aligned[:, weighted], target[:, weighted], atol=1e-4)


def test_derivatives_agree_with_finite_differences(encoder, make_landmarks):
    points, visible = make_landmarks()
    check_grads(
        lambda p: encoder(None, p / 0.01, visible),
        (points * 0.01,),
        order=1,
        modes=("fwd", "rev"),
        atol=2e-2,
        rtol=2e-2,
    )
