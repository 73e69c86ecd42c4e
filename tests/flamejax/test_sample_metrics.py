"""Tests of metrics of samples and of their ranking, against results computed by hand."""

import numpy as np
import pytest

from flamejax import metrics
from flamejax.metrics import samples as sm

EYE = np.eye(3)


def distribution(count: int, deviation: float = 0.001, threshold: float = 2.0) -> sm.Distribution:
    """A distribution around the origin, with a standard deviation of `deviation` metres in each direction."""
    return sm.Distribution(
        np.zeros((count, 3)), np.broadcast_to(EYE / deviation, (count, 3, 3)), np.full(count, threshold)
    )


def along_x(*millimetres: float, count: int = 4) -> np.ndarray:
    """Heads whose vertices all have the given x."""
    heads = np.zeros((len(millimetres), count, 3), np.float32)
    heads[..., 0] = 1e-3 * np.array(millimetres)[:, None]
    return heads


def test_sample_error_is_the_mean_distance_from_the_truth_without_alignment():
    heads, truth = along_x(1, 2, 6), np.zeros((4, 3))
    assert sm.sample_error(heads, truth) == pytest.approx(3.0, rel=1e-6)
    heads[0, 0, 0] = 0.1
    assert sm.sample_error(heads, truth, np.array([False, True, True, True])) == pytest.approx(3.0, rel=1e-6)
    assert sm.sample_error(heads[:1], truth, np.array([True, False, False, False])) == pytest.approx(100, rel=1e-6)
    for nothing in (sm.sample_error(heads[:0], truth), sm.sample_error(heads, truth, np.zeros(4, bool))):
        assert np.isnan(nothing)
    assert np.isnan(sm.sample_error(heads * np.nan, truth))


def test_closest_sample_error_over_masked_vertices():
    heads, truth, mask = along_x(1, 2), np.zeros((4, 3)), np.array([True, False, False, False])
    heads[0, 0, 0] = 0.005
    assert metrics.cse(heads, truth, mask) == pytest.approx(2.0, rel=1e-6)
    assert metrics.cse(heads, truth, ~mask) == pytest.approx(1.0, rel=1e-6)
    assert np.isnan(metrics.cse(heads, truth, mask & False))


def test_asd_extremes_by_hand():
    line = along_x(0, 1, 5)
    nearest, farthest = metrics.asd_extremes(line)
    assert nearest == pytest.approx((1 + 1 + 4) / 3, rel=1e-6) == metrics.asd(line)
    assert farthest == pytest.approx((5 + 4 + 5) / 3, rel=1e-6)
    pair = metrics.asd_extremes(line[:2], np.array([True, False, False, False]))
    assert pair == pytest.approx((1.0, 1.0), rel=1e-6)
    for undefined in (line[:1], line[:0], line * np.nan):
        assert np.isnan(metrics.asd_extremes(undefined)).all()
    assert np.isnan(metrics.asd_extremes(line, np.zeros(4, bool))).all()


def test_a_distribution_is_learned_per_vertex():
    rng = np.random.default_rng(0)
    spread = np.array([[0.001, 0.002, 0.004], [0.003, 0.003, 0.003]])
    heads = rng.normal(size=(4000, 2, 3)) * spread
    heads[:, 0, 1] += heads[:, 0, 0]  # correlated
    heads = np.pad(heads, [(0, 0), (0, 1), (0, 0)]) + np.array([0.1, 0.2, 0.3])
    learned = sm.learn_distribution(heads.astype(np.float32))
    np.testing.assert_allclose(learned.mean, [[0.1, 0.2, 0.3]] * 3, atol=2e-4)
    covariance = np.linalg.inv(np.swapaxes(learned.whitening, 1, 2) @ learned.whitening)
    ridge = sm.RIDGE**2 * EYE
    np.testing.assert_allclose(covariance[1], np.diag(spread[1] ** 2) + ridge, atol=1e-6)
    assert covariance[0, 0, 1] == pytest.approx(1e-6, rel=0.1)
    np.testing.assert_allclose(covariance[2], ridge, rtol=1e-3)  # a vertex that never moves
    # The 99 % quantile of a chi distribution with three degrees of freedom; at least 1.
    np.testing.assert_allclose(learned.threshold[:2], 3.368, rtol=0.04)
    assert learned.threshold[2] == 1.0
    assert np.mean(learned.distance(heads) <= learned.threshold, axis=0)[:2] == pytest.approx(0.99, abs=1e-3)
    assert learned.distance(learned.mean).max() == 0


def test_a_distribution_does_not_depend_on_chunks():
    heads = np.random.default_rng(0).normal(size=(20, 300, 3)).astype(np.float32)  # several chunks
    learned, few = sm.learn_distribution(heads), sm.learn_distribution(heads[:, 200:210])
    np.testing.assert_allclose(learned.whitening[200:210], few.whitening, rtol=1e-9)
    np.testing.assert_allclose(learned.threshold[200:210], few.threshold)
    assert (sm.learn_distribution(heads, 1.0).threshold >= learned.threshold).all()


def test_unusable_training_heads_raise():
    heads = np.zeros((3, 4, 3))
    for refused in (heads[:1], heads[0], np.where(np.arange(3)[:, None, None] == 1, np.nan, heads)):
        with pytest.raises(ValueError, match=r"at least two|not finite"):
            sm.learn_distribution(refused)
    with pytest.raises(ValueError, match="quantile"):
        sm.learn_distribution(heads, 0.0)


def test_out_of_distribution_error_is_the_excess():
    known, heads = distribution(4), along_x(1, 5)  # distances 1 and 5, threshold 2
    assert sm.out_of_distribution(known, heads) == pytest.approx((0 + 3) / 2, rel=1e-6)
    assert sm.out_of_distribution(known, heads[:1]) == 0
    heads[1, 0, 0] = 0.001
    assert sm.out_of_distribution(known, heads) == pytest.approx(3 * 3 / 8, rel=1e-6)
    mask = np.array([True, True, False, False])
    assert sm.out_of_distribution(known, heads, mask) == pytest.approx(3 / 4, rel=1e-6)
    assert np.isnan(sm.out_of_distribution(known, heads, mask & False))
    assert np.isnan(sm.out_of_distribution(known, heads[:0]))
    assert np.isnan(sm.out_of_distribution(known, np.full_like(heads, np.inf)))


def test_shape_deviation_ignores_samples_outside():
    known, heads = distribution(4), along_x(-1, 1, 50)
    assert sm.shape_deviation(known, heads) == pytest.approx(np.sqrt(2), rel=1e-6)  # of -1 and 1; 50 is outside
    heads[:, 0] = 0
    assert sm.shape_deviation(known, heads) == pytest.approx(np.sqrt(3 * 2 / 4), rel=1e-6)
    assert sm.shape_deviation(known, heads, np.array([True, False, False, False])) == 0
    one_inside = along_x(0, 50, 60)
    one_inside[0, 0, 1] = 0.001
    assert np.isnan(sm.shape_deviation(known, one_inside))
    one_inside[1, 0, 0] = 0  # two are inside, only at this vertex
    assert sm.shape_deviation(known, one_inside) == pytest.approx(np.sqrt(0.5), rel=1e-5)
    assert np.isnan(sm.shape_deviation(known, heads[:1])) and np.isnan(sm.shape_deviation(known, heads * np.nan))


def test_harmonic_diversity_by_hand():
    known, truth = distribution(4), np.zeros((4, 3))
    hidden = np.array([False, False, True, True])
    heads = along_x(0, 1, 4)
    heads[:, ~hidden] = 0
    heads[1, ~hidden, 1] = 0.001  # half the threshold away from the truth
    # Nearest over the hidden vertices: 0 -> 1, 1 -> 0, 2 -> 1; lengths 1, 1, 3 over a threshold of 2, cut at 1.
    expected = [2 * 1 * 0.5 / 1.5, 2 * 0.5 * 0.5 / 1.0, 1.0]
    diversity = sm.harmonic_diversity(known, heads, truth, ~hidden, hidden)
    assert diversity == pytest.approx(np.mean(expected), rel=1e-6)
    assert sm.harmonic_diversity(known, np.zeros((3, 4, 3)), truth, ~hidden, hidden) == 0  # all alike
    far = along_x(100, 100)  # far from the truth, and alike: both terms are 0
    assert sm.harmonic_diversity(known, far, truth, ~hidden, hidden) == 0
    assert sm.harmonic_diversity(known, along_x(0, 9), truth, hidden, hidden) == pytest.approx(0.5)


def test_undefined_harmonic_diversity_is_nan():
    known, truth, hidden = distribution(4), np.zeros((4, 3)), np.array([False, False, True, True])
    heads = along_x(0, 1)
    for args in (
        (heads[:1], truth, ~hidden, hidden), (heads, truth, ~hidden, hidden & False),
        (heads, truth, hidden & False, hidden), (heads, truth * np.nan, ~hidden, hidden),
        (heads * np.nan, truth, ~hidden, hidden),
    ):  # fmt: skip
        assert np.isnan(sm.harmonic_diversity(known, *args))


def turned(points: np.ndarray, scale: float) -> np.ndarray:
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return scale * points @ turn.T + [0.3, -0.2, 0.1]


def test_identity_errors_after_the_similarity_over_frontal_vertices():
    truth = 0.1 * np.random.default_rng(0).normal(size=(40, 3))
    errors = sm.identity_errors_mm(turned(truth, 1.7)[None], truth)
    assert max(errors.median[0], errors.mean[0], errors.std[0]) < 1e-9
    # Corners alternately up and down: no similarity can compensate that.
    square = np.array([[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0]]) * 0.1
    bent = square + np.array([1, -1, 1, -1])[:, None] * [0, 0, 1e-5]
    errors = sm.identity_errors_mm(bent[None], square)
    assert (errors.median[0], errors.mean[0]) == pytest.approx((0.01, 0.01), rel=1e-3) and errors.std[0] < 1e-5
    with pytest.raises(ValueError, match="three vertices"):
        sm.identity_errors_mm(truth[None, :2], truth[:2])


def test_many_candidates_have_the_same_errors_as_each():
    rng = np.random.default_rng(1)
    truth = 0.1 * rng.normal(size=(60, 3))
    candidates = np.stack([turned(truth + 0.003 * rng.normal(size=truth.shape), s) for s in (0.5, 1.0, 3.0)])
    candidates[2] *= [-1, 1, 1]  # a mirror image is no similarity
    batch = sm.identity_errors_mm(candidates.astype(np.float32), truth)
    for k, candidate in enumerate(candidates):
        errors = 1e3 * np.linalg.norm(metrics.aligned(candidate, truth) - truth, axis=-1)
        each = batch.median[k], batch.mean[k], batch.std[k]
        assert each == pytest.approx((np.median(errors), errors.mean(), errors.std()), rel=1e-4)
    assert batch.mean[2] > 10 * batch.mean[1]
    candidates[1, 3] = np.nan
    damaged = sm.identity_errors_mm(candidates, truth)
    assert np.isnan(damaged.median[1]) and damaged.median[0] == pytest.approx(batch.median[0], rel=1e-4)
    assert sm.identity_errors_mm(candidates[:0], truth).median.shape == (0,)


def test_ranking_by_hand():
    errors = np.arange(10.0)  # the first is the best
    scores = -errors[[1, 0, 9, 3, 4, 5, 6, 7, 8, 2]]  # first and second swapped, third last
    assert sm.precision_at(scores, errors, 0.01) == 0 and sm.precision_at(scores, errors, 0.2) == 1  # k = 1 and 2
    assert sm.precision_at(scores, errors, 0.3) == pytest.approx(2 / 3) and sm.precision_at(scores, errors, 1.0) == 1
    assert sm.iou_at(scores, errors, 0.3) == pytest.approx(2 / 4) and sm.iou_at(-errors, errors, 0.3) == 1
    assert sm.iou_at(errors, errors, 0.3) == 0
    assert sm.error_ratio(scores, errors, 1) == 0 and sm.error_ratio(scores, errors + 1, 1) == pytest.approx(1 / 2)
    assert sm.error_ratio(scores, errors + 1, 3) == pytest.approx((1 + 2 + 3) / (1 + 2 + 10))
    assert sm.error_ratio(scores, errors, 99) == 1 and sm.error_ratio(scores, 0 * errors, 2) == 1


def test_ranking_edge_cases():
    assert sm.precision_at([0.3], [1.0], 0.01) == 1 == sm.iou_at([0.3], [1.0], 0.5)
    assert sm.precision_at([np.nan, 1.0], [np.nan, 2.0], 0.5) == 1  # NaN comes last
    assert np.isnan(sm.error_ratio([1.0, 0.0], [np.nan, 2.0], 1))
    assert sm.precision_at([1.0, 1.0], [5.0, 5.0], 0.5) == 1  # ties go to the first
    for scores, errors, share in (([], [], 0.5), ([1.0], [1.0, 2.0], 0.5), ([1.0], [1.0], 0.0), ([1.0], [1.0], 1.5)):
        with pytest.raises(ValueError, match=r"share|scores"):
            sm.precision_at(scores, errors, share)
    with pytest.raises(ValueError, match="one candidate"):
        sm.error_ratio([1.0], [1.0], 0)


def test_random_ranking_has_chance_level():
    rng, errors = np.random.default_rng(0), np.arange(1.0, 101.0)
    drawn = [rng.permutation(100) for _ in range(400)]
    assert np.mean([sm.precision_at(s, errors, 0.2) for s in drawn]) == pytest.approx(0.2, abs=0.02)
    assert np.mean([sm.iou_at(s, errors, 0.2) for s in drawn]) == pytest.approx(20 / 180, abs=0.02)
    assert np.mean([sm.error_ratio(s, errors, 10) for s in drawn]) == pytest.approx(5.5 / 50.5, abs=0.02)
