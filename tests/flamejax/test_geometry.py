"""Tests of normals and similarity alignment: known answers and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from flamejax.geometry import apply_similarity, normalize, similarity_transform, triangle_normals, vertex_normals
from flamejax.head import rotation_matrix
from tests.gradients import check_gradients


def test_normals_of_a_sphere_point_outwards():
    sphere = trimesh.creation.icosphere(3)
    normals = vertex_normals(jnp.asarray(sphere.vertices, jnp.float32), jnp.asarray(sphere.faces))
    assert (np.sum(np.asarray(normals) * sphere.vertices, axis=1) > 0.999).all()


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_normal_gradients_equal_finite_differences(batch):
    sphere = trimesh.creation.icosphere(1)
    verts = jnp.asarray(np.random.default_rng(0).normal(size=(*batch, 42, 3)) * 0.05 + sphere.vertices, jnp.float32)
    normals = jax.jit(lambda v: vertex_normals(v, jnp.asarray(sphere.faces)))
    check_gradients(normals, (verts,), eps=3e-3, rtol=0.03, atol=0.05)


def test_normalized_zero_is_zero_with_a_finite_gradient():
    assert np.isfinite(jax.grad(lambda v: normalize(v).sum())(jnp.zeros(3))).all()
    assert (normalize(jnp.zeros(3)) == 0).all()


@pytest.mark.parametrize("with_scale", [True, False])
@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_a_known_similarity_is_recovered(batch, with_scale):
    source = jnp.asarray(np.random.default_rng(1).normal(size=(*batch, 30, 3)), jnp.float32)
    scale = jnp.full(batch, 1.7 if with_scale else 1.0)
    rotation = jnp.broadcast_to(rotation_matrix(jnp.asarray([0.4, -2.0, 0.3])), (*batch, 3, 3))
    target = apply_similarity(source, scale, rotation, jnp.broadcast_to(jnp.asarray([1.0, 2, 3]), (*batch, 3)))
    similarity = similarity_transform(source, target, with_scale=with_scale)
    np.testing.assert_allclose(apply_similarity(source, *similarity), target, atol=2e-5)


def test_a_reflection_is_not_used_and_weights_count():
    source = jnp.asarray(np.random.default_rng(2).normal(size=(20, 3)), jnp.float32)
    _, rotation, _ = similarity_transform(source, source * jnp.asarray([[-1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(jnp.linalg.det(rotation), 1.0, atol=1e-5)
    spoiled = source.at[0].add(100.0)
    similarity = similarity_transform(source, spoiled, jnp.ones(20).at[0].set(0.0))
    np.testing.assert_allclose(apply_similarity(source, *similarity)[1:], source[1:], atol=1e-5)


def test_wrong_shapes_of_faces_and_vertices_raise():
    points, faces = jnp.zeros((4, 3)), jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(ValueError, match=r"faces should be \(F, 3\), not \(2, 4\)"):
        triangle_normals(points, jnp.zeros((2, 4), jnp.int32))
    with pytest.raises(ValueError, match=r"verts should be \(\*b, V, 3\), not \(4, 2\)"):
        triangle_normals(points[:, :2], faces)
