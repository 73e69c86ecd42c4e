"""Tests of the head model on a random head: against a plain loop, gradients, batching and compilation."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flamejax
import flamejax.head.blend_skin as blend_skin
from flamejax.head import (
    HeadModel,
    HeadParams,
    contour_bin,
    pose_shaped,
    rotation_matrix,
    select_vertices,
    shape_identity,
)
from tests.gradients import check_gradients
from tests.heads import random_head, random_params

BATCHES = [(1,), (3,)]


@pytest.fixture(scope="module")
def head():
    return random_head()


def reference_vertices(head, params):
    """FLAME's equations one vertex and one joint at a time, in float64."""
    rodrigues = lambda w: np.asarray(rotation_matrix(jnp.asarray(w)), np.float64)  # noqa: E731
    as64 = lambda a: np.asarray(a, np.float64)  # noqa: E731
    coefficients = np.concatenate([as64(params.betas), as64(params.expression)])
    shaped = as64(head.v_template) + as64(head.shapedirs) @ coefficients
    joints = as64(head.J_regressor) @ shaped
    rotations = [rodrigues(w) for w in np.asarray(params.joint_rotations())]
    feature = np.concatenate([(r - np.eye(3)).ravel() for r in rotations[1:]])
    posed = shaped + (feature @ as64(head.posedirs)).reshape(-1, 3)
    world = []
    for k, parent in enumerate(head.parents):
        local = np.eye(4)
        local[:3, :3] = rotations[k]
        local[:3, 3] = joints[k] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    out = np.zeros_like(posed)
    for v in range(len(posed)):
        for k in range(len(joints)):
            moved = world[k][:3, :3] @ (posed[v] - joints[k]) + world[k][:3, 3]
            out[v] += float(head.lbs_weights[v, k]) * moved
    return out + as64(params.transl)


def test_vertices_equal_a_plain_loop(head):
    params = random_params(head, scale=1.0)
    np.testing.assert_allclose(flamejax.vertices(head, params), reference_vertices(head, params), atol=2e-6)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("function", [flamejax.vertices, flamejax.landmarks])
def test_batches_equal_singles_under_jit_and_vmap(head, function, batch):
    params = random_params(head, seed=1, batch=batch)
    eager = function(head, params)
    assert eager.shape[:-2] == batch
    for index in np.ndindex(*batch):
        single = function(head, jax.tree.map(lambda leaf, index=index: leaf[index], params))
        chex.assert_trees_all_close(eager[index], single, atol=1e-6)
    if batch:
        mapped = jax.vmap(lambda one: function(head, one))(params)
        chex.assert_trees_all_close(mapped, eager, atol=1e-6)


@pytest.mark.parametrize("function", [flamejax.vertices, flamejax.landmarks])
def test_gradients_agree_forward_reverse_and_finite_differences(head, function):
    # The contour table is constant here: its lookup jumps between bins and has no gradient.
    embedding = head.landmark_embedding
    constant = dataclasses.replace(
        embedding,
        contour_face=jnp.tile(embedding.contour_face[:1], (79, 1)),
        contour_barycentric=jnp.tile(embedding.contour_barycentric[:1], (79, 1, 1)),
    )
    smooth = dataclasses.replace(head, landmark_embedding=constant)
    params = random_params(head, seed=2, batch=(3,))
    # In millimetres: for metres, rounding would exceed the finite differences.
    scaled = lambda p: 1e3 * function(smooth, p)  # noqa: E731
    check_gradients(scaled, (params,), eps=1e-2, rtol=0.03)


def test_gradient_at_the_rest_pose_is_finite_and_exact(head):
    params = HeadParams.zeros(head)
    scaled = lambda p: 1e3 * flamejax.vertices(head, p)  # noqa: E731
    check_gradients(scaled, (params,), eps=1e-2, rtol=0.03)
    total = lambda jaw: flamejax.vertices(head, dataclasses.replace(params, jaw_pose=jaw)).sum()  # noqa: E731
    hessian = jax.jit(jax.hessian(total))(jnp.zeros(3))
    assert np.isfinite(hessian).all()


@pytest.mark.parametrize(
    "axis_angle", [(0.0, 0.0, 0.0), (1e-5, 0.0, 0.0), (1e-3, -1e-3, 0.0), (0.3, -2.0, 1.0), (3.1, 0.0, 0.0)]
)
def test_rotation_matrices_are_rotations(axis_angle):
    from scipy.spatial.transform import Rotation

    expected = Rotation.from_rotvec(axis_angle).as_matrix()
    np.testing.assert_allclose(rotation_matrix(jnp.asarray(axis_angle)), expected, atol=2e-6)


def test_shaped_identity_can_be_reused_over_poses(head):
    params = random_params(head, seed=3, batch=(3,))
    one_identity = dataclasses.replace(params, betas=jnp.broadcast_to(params.betas[0], params.betas.shape))
    shaped = jax.jit(shape_identity)(head, params.betas[0])
    chex.assert_trees_all_close(
        jax.jit(pose_shaped)(head, shaped, one_identity), flamejax.vertices(head, one_identity), atol=1e-6
    )


def test_selected_vertices_equal_those_of_the_full_head(head):
    params, index = random_params(head, seed=4, batch=(2,)), jnp.asarray([5, 0, 77, 5])
    few = flamejax.vertices(select_vertices(head, index), params)
    chex.assert_trees_all_close(few, flamejax.vertices(head, params)[:, index], atol=1e-6)


def test_shapedirs_and_posedirs_are_parts_of_the_basis(head):
    shapedirs, posedirs = np.asarray(head.shapedirs), np.asarray(head.posedirs)
    assert shapedirs.shape == (head.num_vertices, 3, 10) and posedirs.shape == (36, 3 * head.num_vertices)
    again = HeadModel.from_arrays(head.v_template, head.faces, shapedirs, posedirs=posedirs, num_betas=6)
    np.testing.assert_array_equal(again.basis, head.basis)
    index = jnp.asarray([5, 0, 77, 5])
    few = select_vertices(head, index)
    assert (few.num_vertices, few.num_expression) == (4, head.num_expression)
    np.testing.assert_array_equal(few.shapedirs, shapedirs[index])
    np.testing.assert_array_equal(few.posedirs.reshape(36, -1, 3), posedirs.reshape(36, -1, 3)[:, index])


@pytest.mark.parametrize("few_vertices", [0, 10_000])
def test_gradients_in_the_models_arrays_equal_finite_differences(head, few_vertices, monkeypatch):
    monkeypatch.setattr(blend_skin, "FEW_VERTICES", few_vertices)
    params = random_params(head, seed=6, batch=(3,))
    names = ("v_template", "basis", "lbs_weights", "joint_template", "joint_dirs")

    def moved(arrays):
        return 1e3 * flamejax.vertices.__wrapped__(dataclasses.replace(head, **arrays), params)

    arrays = {name: getattr(head, name) for name in names}
    check_gradients(moved, (arrays,), eps=1e-3, rtol=0.03)


def test_skinning_of_many_vertices_equals_that_of_few_with_gradients(head, monkeypatch):
    params = random_params(head, seed=8, batch=(3,))
    few = flamejax.vertices(head, params)
    monkeypatch.setattr(blend_skin, "FEW_VERTICES", 0)
    many = jax.jit(lambda p: 1e3 * flamejax.vertices.__wrapped__(head, p))  # bypasses the cached program of `vertices`
    chex.assert_trees_all_close(many(params), 1e3 * few, atol=1e-3)
    chex.assert_trees_all_close(jax.vmap(many)(params), 1e3 * few, atol=1e-3)
    check_gradients(many, (params,), eps=1e-2, rtol=0.03)


def test_gradients_through_a_shared_identity_equal_those_of_vertices(head):
    params = random_params(head, seed=7, batch=(3,))
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(3, head.num_vertices, 3)), jnp.float32)

    def shared(betas, params):
        return jnp.sum(weights * pose_shaped(head, shape_identity(head, betas), params))

    def direct(betas, params):
        return jnp.sum(weights * flamejax.vertices(head, dataclasses.replace(params, betas=betas)))

    with jax.numpy_rank_promotion("raise"):
        actual = jax.jit(jax.grad(shared, (0, 1)))(params.betas[0], params)
        expected = jax.jit(jax.grad(direct, (0, 1)))(params.betas[0], dataclasses.replace(params, betas=params.betas))
    actual = actual[0], dataclasses.replace(actual[1], betas=expected[1].betas)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("degrees", "row"), [(0, 0), (-1, 1), (-39, 39), (-80, 39), (1, 40), (20, 59), (39, 78), (75, 78)]
)
def test_contour_bins_follow_the_table_of_flame(head, degrees, row):
    yaw = jnp.zeros(3).at[1].set(jnp.deg2rad(degrees))
    base = HeadParams.zeros(head)
    assert int(contour_bin(dataclasses.replace(base, global_orient=yaw))) == row
    assert int(contour_bin(dataclasses.replace(base, neck_pose=yaw))) == row
    halves = dataclasses.replace(base, neck_pose=yaw / 2, global_orient=yaw / 2)
    assert int(contour_bin(halves)) == row


def test_a_pose_that_is_not_finite_stays_inside_the_table(head):
    broken = dataclasses.replace(HeadParams.zeros(head), global_orient=jnp.full(3, jnp.nan))
    assert 0 <= int(contour_bin(broken)) < 79


def test_too_many_coefficients_raise(head):
    params = dataclasses.replace(HeadParams.zeros(head), betas=jnp.zeros(7))
    with pytest.raises(ValueError, match="betas has 7 coefficients"):
        flamejax.vertices(head, params)


def test_fewer_coefficients_are_the_leading_ones(head):
    full = random_params(head, seed=5)
    short = dataclasses.replace(full, betas=full.betas[:2], expression=full.expression[:1])
    padded = dataclasses.replace(full, betas=full.betas.at[2:].set(0), expression=full.expression.at[1:].set(0))
    chex.assert_trees_all_close(flamejax.vertices(head, short), flamejax.vertices(head, padded), atol=1e-7)


def test_a_second_batch_of_the_same_shape_compiles_nothing(head):
    traced = jax.jit(chex.assert_max_traces(lambda head, params: flamejax.vertices(head, params), n=1))
    chex.clear_trace_counter()
    for seed in range(3):
        traced(head, random_params(head, seed, (3,)))
