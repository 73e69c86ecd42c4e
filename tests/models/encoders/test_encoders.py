"""The image encoders' interface: batch axes, transformations, trained and frozen layers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models.encoders import Encoder, ImageEncoder, concatenate_encoders
from models.encoders.layers import Frozen

run = nnx.jit(lambda encoder, *args: encoder(*args))
compute_features = nnx.jit(lambda encoder, *args: encoder.features(*args))


@pytest.fixture(params=["arcface", "farl"])
def encoder(request, arcface, farl):
    return {"arcface": arcface, "farl": farl}[request.param]


def test_encoder_implements_the_interface(encoder):
    assert isinstance(encoder, Encoder) and isinstance(encoder, ImageEncoder) and encoder.needs_photo


@pytest.mark.parametrize("batch", [(), (2,)])
def test_batch_axes(encoder, inputs, batch):
    args = inputs(*batch)
    features, context = compute_features(encoder, *args), run(encoder, *args)
    assert features.shape == (*batch, encoder.feature_width) and context.shape == (*batch, encoder.width)
    np.testing.assert_allclose(encoder.head(features), context, atol=1e-6)
    if batch:
        singles = jnp.stack([run(encoder, *(value[k] for value in args)) for k in range(2)])
        np.testing.assert_allclose(context, singles, atol=2e-5)
        assert np.abs(context[0] - context[1]).max() > 1e-3, "each photo has its own context"


def test_jit_and_vmap_change_nothing(encoder, inputs):
    args = inputs(2)
    contexts = run(encoder, *args)
    np.testing.assert_allclose(jax.jit(jax.vmap(encoder))(*args), contexts, atol=2e-5)
    np.testing.assert_allclose(encoder(*(value[0] for value in args)), contexts[0], atol=2e-5)


def test_arcface_has_unit_length_and_farl_has_not(arcface, farl, inputs):
    np.testing.assert_allclose(jnp.linalg.norm(run(arcface, *inputs(2)), axis=-1), 1, atol=1e-5)
    assert np.abs(np.linalg.norm(run(farl, *inputs(2)), axis=-1) - 1).min() > 1e-2


def test_only_the_last_layer_is_trained(encoder, inputs):
    args = inputs(2)

    def loss(encoder):
        return jnp.sum(encoder(*args) ** 3)

    gradients = nnx.jit(nnx.grad(loss, argnums=nnx.DiffState(0, nnx.Param)))(encoder)
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(gradients)}
    assert {name.split("/")[-2] for name in names} <= {"fc", "fc_bn", "projection"}
    for leaf in jax.tree.leaves(gradients):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0
    frozen = nnx.jit(nnx.grad(loss, argnums=nnx.DiffState(0, Frozen)))(encoder)
    assert all(not leaf.any() for leaf in jax.tree.leaves(frozen)), "no gradient passes the features"


def test_weight_decay_spares_the_frozen_layers(encoder, inputs):
    before = jax.tree.map(jnp.copy, nnx.state(encoder, (Frozen, nnx.BatchStat)))
    optimizer = nnx.Optimizer(encoder, optax.adamw(0.1, weight_decay=0.1), wrt=nnx.Param)
    features = compute_features(encoder, *inputs(2))
    gradient = nnx.grad(lambda e: jnp.sum(e.head(features) ** 3), argnums=nnx.DiffState(0, nnx.Param))
    gradients = nnx.jit(gradient)(encoder)
    first = encoder.head(features)
    optimizer.update(encoder, gradients)
    assert np.abs(encoder.head(features) - first).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, nnx.state(encoder, (Frozen, nnx.BatchStat)), before)


def test_contexts_without_visible_landmarks_are_finite(encoder, inputs):
    photo, landmarks, visibility = inputs(2)
    for points in (landmarks, jnp.full_like(landmarks, jnp.nan)):
        assert jnp.isfinite(run(encoder, photo, points, jnp.zeros_like(visibility))).all()


def test_hidden_landmarks_have_no_effect(encoder, inputs):
    photo, landmarks, visibility = inputs(2)
    other = jnp.where(visibility[..., None] > 0, landmarks, jnp.nan)
    np.testing.assert_array_equal(run(encoder, photo, landmarks, visibility), run(encoder, photo, other, visibility))


class ZeroEncoder(nnx.Module):
    width, needs_photo = 2, False

    def __call__(self, photo, landmarks, visibility):
        return jnp.zeros((*visibility.shape[:-1], 2))


def test_concatenated_encoders_concatenate_contexts_and_features(arcface, farl, inputs):
    args = inputs(2)
    combined = concatenate_encoders([arcface, farl])
    assert combined.width == arcface.width + farl.width
    expected = jnp.concatenate([run(arcface, *args), run(farl, *args)], -1)
    np.testing.assert_allclose(run(combined, *args), expected, atol=1e-5)
    features = compute_features(combined, *args)
    assert isinstance(combined, ImageEncoder) and features.shape == (2, combined.feature_width)
    np.testing.assert_allclose(combined.head(features), expected, atol=1e-5)
    mixed = concatenate_encoders([ZeroEncoder(), arcface])
    assert mixed.width == 26 and mixed.needs_photo and not isinstance(mixed, ImageEncoder)
    assert run(mixed, *args).shape == (2, 26) and not concatenate_encoders([ZeroEncoder()]).needs_photo
    with pytest.raises(ValueError, match="one encoder"):
        concatenate_encoders([])
