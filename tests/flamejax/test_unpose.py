"""Tests that unposing is the inverse of posing."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
from flamejax.head import (
    HeadParams,
    axis_angle,
    joints,
    rest_joints,
    rotation_matrix,
    unpose,
    unposed_jacobian,
    unposed_planes,
)
from tests.gradients import check_gradients
from tests.heads import random_head, random_params

BATCHES = [(1,), (3,)]


@pytest.fixture(scope="module")
def head():
    return random_head()


def shaped(head, params):
    """Template + blend shapes, (*b, V, 3)."""
    still = HeadParams.zeros(head, params.betas.shape[:-1])
    return flamejax.vertices(head, dataclasses.replace(still, betas=params.betas, expression=params.expression))


@pytest.mark.parametrize("batch", BATCHES)
def test_unposing_a_posed_head_gives_its_shape(head, batch):
    params = random_params(head, seed=1, batch=batch, scale=0.4)
    posed = flamejax.vertices(head, params)
    unposed = unpose(head, posed, params)
    assert unposed.shape == (*batch, head.num_vertices, 3)
    np.testing.assert_allclose(unposed, shaped(head, params), atol=1e-6)
    assert np.abs(np.asarray(posed - unposed)).max() > 0.02


def test_detail_outside_of_the_model_is_preserved(head):
    params = random_params(head, seed=2, scale=0.4)
    detail = 0.002 * np.random.default_rng(0).normal(size=head.v_template.shape).astype(np.float32)
    richer = dataclasses.replace(head, v_template=head.v_template + detail)
    np.testing.assert_allclose(
        unpose(head, flamejax.vertices(richer, params), params), shaped(head, params) + detail, atol=1e-6
    )


def test_joints_may_be_given(head):
    params = random_params(head, seed=3, batch=(2,))
    posed = flamejax.vertices(head, params)
    rest = rest_joints(head, params)
    still = dataclasses.replace(
        HeadParams.zeros(head, (2,)), betas=params.betas, expression=params.expression, transl=jnp.zeros((2, 3))
    )
    chex.assert_trees_all_close(rest, joints(head, still), atol=1e-6)
    unknown = dataclasses.replace(params, betas=jnp.zeros_like(params.betas))
    chex.assert_trees_all_close(unpose(head, posed, unknown, rest), unpose(head, posed, params), atol=1e-6)


@pytest.mark.parametrize("batch", BATCHES)
def test_batches_equal_singles_under_jit_and_vmap(head, batch):
    params = random_params(head, seed=4, batch=batch)
    posed = flamejax.vertices(head, params)
    eager = unpose(head, posed, params)
    for index in np.ndindex(*batch):
        single = jax.tree.map(lambda leaf, index=index: leaf[index], params)
        chex.assert_trees_all_close(eager[index], unpose(head, posed[index], single), atol=1e-6)
    if batch:
        mapped = jax.vmap(lambda points, one: unpose(head, points, one))(posed, params)
        chex.assert_trees_all_close(mapped, eager, atol=1e-6)


def test_gradients_agree_forward_reverse_and_finite_differences(head):
    params = random_params(head, seed=5, batch=(3,))
    posed = flamejax.vertices(head, params)
    scaled = lambda points, p: 1e3 * unpose(head, 1e-3 * points, p)  # noqa: E731
    check_gradients(scaled, (1e3 * posed, params), eps=1e-2, rtol=0.03)


def test_gradient_at_the_rest_pose_is_finite(head):
    params = HeadParams.zeros(head)
    jacobian = jax.jit(jax.jacfwd(lambda p: unpose(head, flamejax.vertices(head, p), p)))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jacobian))


def test_vertices_of_another_head_raise(head):
    with pytest.raises(ValueError, match="162 vertices"):
        unpose(head, jnp.zeros((7, 3)), HeadParams.zeros(head))


def test_closed_form_derivative_equals_autodiff(head):
    params = random_params(head, seed=6, scale=0.5)
    planes, rest = flamejax.vertices(head, params).T, rest_joints(head, params)
    rotations = rotation_matrix(params.joint_rotations())

    def moved(move):
        turned = jnp.matmul(rotations, rotation_matrix(move[:15].reshape(5, 3)))
        return unposed_planes(head, planes, turned, rest, params.transl + move[15:])

    value, by_pose, by_joint = jax.jit(unposed_jacobian)(head, planes, rotations, rest, params.transl)
    chex.assert_trees_all_close(value, jax.jit(moved)(jnp.zeros(18)), atol=1e-6)
    expected = jnp.moveaxis(jax.jit(jax.jacfwd(moved))(jnp.zeros(18)), -1, 0)
    chex.assert_trees_all_close(by_pose, expected, atol=1e-5)
    at = lambda points: unposed_planes(head, planes, rotations, points, params.transl)  # noqa: E731
    jacobian = jax.jit(jax.jacfwd(at))(rest)
    chex.assert_trees_all_close(
        by_joint, jnp.moveaxis(jacobian[..., 1:, :].reshape(*planes.shape, 12), -1, 0), atol=1e-5
    )


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-3, 1.0, 3.0, 3.1415])
def test_axis_angle_is_the_inverse_of_rotation_matrix(angle):
    axes = np.random.default_rng(7).normal(size=(20, 3))
    axes = np.concatenate([axes / np.linalg.norm(axes, axis=1, keepdims=True), np.eye(3)])
    vectors = jnp.asarray(angle * axes, jnp.float32)
    np.testing.assert_allclose(axis_angle(rotation_matrix(vectors)), vectors, atol=2e-6 + 3e-4 * (angle > 3))
