"""IdRank: its scores, its loss, and its input, the frontal face."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from flamejax import HeadParams, load_head, vertices
from models import FrontalFace, IdRank, IdRankConfig, build_rank, frontal_face, frontal_vertices, rank_errors, rank_loss
from models.encoders import LandmarkEncoderConfig, reference_landmarks

CONFIG = IdRankConfig((16, 8), context=12, landmark=LandmarkEncoderConfig(width=12, hidden=16, blocks=1), quadratic=5)


@pytest.fixture(scope="module")
def face(head):
    return frontal_face(head)


@pytest.fixture(scope="module")
def ranker(head):
    return build_rank(head, CONFIG)


def random_inputs(batch=(), count=7):
    """Return random coefficients (6 betas) and a context."""
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (*batch, count, 6)), jax.random.normal(keys[1], (*batch, 12))


score = nnx.jit(lambda ranker, face, betas, context: ranker.score_betas(face, betas, context))


@pytest.mark.parametrize("batch", [(), (3,)])
def test_coefficients_and_vertices_give_the_same_scores(ranker, face, batch):
    betas, context = random_inputs(batch)
    offsets = face.offsets(betas)
    mean = offsets.mean(axis=-3)
    call = nnx.jit(lambda ranker, *inputs: ranker(*inputs))
    by_vertices = call(ranker, mean, offsets - mean[..., None, :, :], context)
    chex.assert_shape(by_vertices, (*batch, 7))
    chex.assert_trees_all_close(score(ranker, face, betas, context), by_vertices, atol=1e-4)
    if not batch:
        chex.assert_trees_all_close(ranker.score_betas(face, betas, context), by_vertices, atol=1e-4)


def test_scores_are_equivariant_to_the_order_of_candidates(ranker, face):
    betas, context = random_inputs()
    scores = score(ranker, face, betas, context)
    chex.assert_trees_all_close(score(ranker, face, betas[::-1], context), scores[::-1], atol=1e-5)


def test_rank_loss_prefers_small_errors():
    errors = jnp.asarray([0.5, 1.0, 3.0])
    right, wrong = rank_loss(-errors, errors), rank_loss(errors, errors)
    assert right < wrong
    entropy = -jnp.sum(jax.nn.softmax(-errors) * jax.nn.log_softmax(-errors))
    np.testing.assert_allclose(right, entropy, rtol=1e-6)  # the lower bound of the cross-entropy
    np.testing.assert_allclose(rank_loss(-4 * errors, errors, 4.0), rank_loss(-errors * 4, 4 * errors), rtol=1e-6)


def test_rank_errors_equal_those_of_neutral_meshes(head, face):
    """Eq. 3: mean absolute distance per coordinate, mm, here without alignment."""
    unaligned = frontal_face(head, aligned=False)
    betas, _ = random_inputs()
    neutral = HeadParams.zeros(head, (7,))
    meshes = 1e3 * np.asarray(vertices(head, HeadParams(betas, *(getattr(neutral, n) for n in NAMES))))
    front = frontal_vertices(head)
    expected = np.abs(meshes[:6, front] - meshes[6:, front]).mean(axis=(1, 2))
    np.testing.assert_allclose(rank_errors(unaligned, betas[:6], betas[6]), expected, rtol=1e-4)
    assert (np.asarray(rank_errors(face, betas[:6], betas[6])) < expected).all()


NAMES = ("expression", "global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose", "transl")


def test_aligned_face_basis_is_orthogonal_to_similarities(head, face):
    front = np.asarray(head.v_template)[frontal_vertices(head)].astype(np.float64)
    flat = np.asarray(face.basis, np.float64).reshape(len(face.basis), -1)
    for motion in (np.broadcast_to([1.0, 0, 0], front.shape), front - front.mean(0), np.cross([0, 1.0, 0], front)):
        unit = motion.reshape(-1) / np.linalg.norm(motion)
        assert np.abs(flat @ unit).max() < 1e-4 * np.linalg.norm(flat, axis=1).max()


def test_frontal_vertices_leave_out_other_regions_of_the_open_head():
    head = load_head()
    front, regions = frontal_vertices(head), head.regions
    assert 1000 < front.sum() < 2000  # 1,785 of FLAME's
    for name in ("left_eyeball", "right_eyeball", "left_ear", "right_ear", "neck", "scalp"):
        assert not (front & np.asarray(regions[name])).any()
    assert np.asarray(head.v_template)[front][:, 2].min() > 0


def test_a_head_whose_regions_leave_no_face_is_refused(head):
    regions = {**head.regions, "neck": np.ones(head.num_vertices, bool)}
    with pytest.raises(ValueError, match="leave 0 vertices for the front"):
        frontal_vertices(dataclasses.replace(head, regions=regions))


def test_training_ranks_the_nearest_candidates_first(head):
    """With the truth as its context, a small network learns to rank the nearest candidates first."""
    size = head.num_betas
    config = IdRankConfig((32, 16), context=size, landmark=LandmarkEncoderConfig(width=size, hidden=8, blocks=1))
    face = FrontalFace(frontal_face(head).basis)
    model = IdRank(config, face.basis.shape[1], reference_landmarks(head), rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    optimizer = optax.adam(3e-3)

    def batch(key):
        keys = jax.random.split(key, 2)
        truth = jax.random.normal(keys[0], (32, size))
        return truth, jax.random.normal(keys[1], (32, 20, size))

    @jax.jit
    def step(carry, key):
        params, state = carry
        truth, candidates = batch(key)

        def loss(p):
            scores = nnx.merge(graphdef, p, rest).score_betas(face, candidates, truth)
            return jnp.mean(rank_loss(scores, rank_errors(face, candidates, truth), 2.0))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(jax.random.key(0), 600))
    truth, candidates = batch(jax.random.key(99))
    errors = rank_errors(face, candidates, truth)
    scores = nnx.merge(graphdef, params, rest).score_betas(face, candidates, truth)
    best_ranked = np.take_along_axis(np.asarray(errors), np.argmax(scores, axis=1)[:, None], axis=1).mean()
    assert best_ranked < errors.mean() - 0.5 * (errors.mean() - errors.min(axis=1).mean())


def test_invalid_widths_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        IdRankConfig((12,))
