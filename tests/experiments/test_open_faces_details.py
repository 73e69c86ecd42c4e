"""The detail field: its size, location and nonlinearity, and how well linear models represent it."""

import numpy as np
import pytest

from experiments.datasets.open_faces import details, expressions
from flamejax.head import load_head
from tests.experiments.test_open_faces import mean_detail_field

TRAINING, TEST = range(100), range(100, 130)


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def detail_field(head):
    return mean_detail_field()


@pytest.fixture(scope="module")
def fields(detail_field):
    """(130, V) heights in mm of neutral faces."""
    latents = [details.draw_latents(subject) for subject in range(TEST.stop)]
    return np.stack([details.detail_heights(detail_field, z, details.NEUTRAL)[0] for z in latents])


@pytest.fixture(scope="module")
def active(head, detail_field):
    return np.asarray(head.regions["face"]) & (detail_field.weight > 0.5)


def test_details_have_the_intended_size(fields, active):
    """The RMS over the active skin of the face is 0.5 to 1 mm for nearly all subjects."""
    rms = np.sqrt((fields[:, active] ** 2).mean(1))
    assert 0.6 < rms.mean() < 0.9 and np.percentile(rms, 2) > 0.5 and np.percentile(rms, 98) < 1.05
    assert np.abs(fields).max() < 6.0


def test_details_are_zero_at_the_border_the_eyeballs_and_the_seam(head, fields):
    fixed = np.zeros(head.num_vertices, bool)
    for name in ("boundary", "left_eyeball", "right_eyeball"):
        fixed |= np.asarray(head.regions[name])
    assert np.abs(fields[:, fixed]).max() < 1e-5
    seam = np.asarray(head.faces)[np.asarray(head.landmark_embedding.face)[[61 - 17, 62 - 17, 63 - 17]]]
    assert np.sqrt((fields[:, seam] ** 2).mean()) < 0.1


def test_sides_are_similar_but_not_equal(head, detail_field, fields, active):
    x = np.asarray(head.v_template)
    left = np.flatnonzero(active & (x[:, 0] > 0.01))
    mirror = np.array([np.linalg.norm(x - x[i] * [-1, 1, 1], axis=1).argmin() for i in left[::7]])
    agreement = np.corrcoef(fields[:, left[::7]].ravel(), fields[:, mirror].ravel())[0, 1]
    assert 0.6 < agreement < 0.97


def test_wrinkles_deepen_faster_than_the_expression(detail_field):
    latents = details.draw_latents(0)
    for name in ("smile", "brow", "squint", "frown", "down"):
        grown = [
            details.detail_heights(detail_field, latents, details.NEUTRAL | {name: np.full(2, a)})[0]
            - details.detail_heights(detail_field, latents, details.NEUTRAL)[0]
            for a in (0.5, 1.0)
        ]
        half, full = (np.sqrt((g**2).sum()) for g in grown)
        assert full / half == pytest.approx(2**1.5, rel=0.01), name
        assert np.abs(grown[1]).max() > 0.3, name


def test_details_are_not_in_the_head_model_but_in_a_regional_pca(head, detail_field, fields, active):
    """Checks the fraction of variance that is unexplained by the head's 150 components and by the PCA of a region."""
    normals = details.normals(np.asarray(head.v_template, np.float64), detail_field.faces)
    moved = (fields[TEST.start :, active, None] * normals[active]).reshape(len(TEST), -1)
    basis = np.asarray(head.basis[: head.num_betas], np.float64).transpose(0, 2, 1)[:, active].reshape(150, -1)
    coefficients = np.linalg.lstsq(basis.T, moved.T, rcond=None)[0]  # all 150, without regularization
    residual = moved - (basis.T @ coefficients).T
    assert (residual**2).sum() / (moved**2).sum() > 0.22
    assert np.sqrt((residual.reshape(len(TEST), -1, 3) ** 2).sum(-1).mean()) > 0.33  # mm
    nose = active & np.asarray(head.regions["nose"])
    training, test = fields[TRAINING][:, nose], fields[TEST.start :, nose]
    mean = training.mean(0)
    directions = np.linalg.svd(training - mean, full_matrices=False)[2][:40]
    residual = test - mean - (test - mean) @ directions.T @ directions
    assert (residual**2).sum() / ((test - mean) ** 2).sum() < 0.03


def test_expressions_are_non_negative_and_may_be_asymmetric():
    from tools.open_head.activations import EXPRESSIONS

    assert len(expressions.EXPRESSIONS) == 12 and expressions.EXPRESSIONS == tuple(sorted(expressions.EXPRESSIONS))
    units = {p for _, parts in expressions.KINDS.values() for p in parts} | {
        p for _, parts in EXPRESSIONS.values() for p in parts
    }
    names = tuple(
        sorted({n for p in units - {expressions.HOLLOW} for left in (True, False) for n in expressions._sides(p, left)})
    )
    for expression, name in enumerate(expressions.EXPRESSIONS):
        drawn = [
            expressions.draw_activation(np.random.default_rng(k), expression, names, np.full(len(names), 5e-3))
            for k in range(40)
        ]
        assert min(a.min() for a, _, _ in drawn) >= 0 and max(a.max() for a, _, _ in drawn) <= 1
        opened = np.rad2deg([jaw[0] for _, _, jaw in drawn])
        assert (opened.mean() > 9) == (name in ("mouth_open", "mouth_extreme"))
        if name == "mouth_side":
            sideways = [a[names.index("mouthLeft")] > a[names.index("mouthRight")] for a, _, _ in drawn]
            assert 8 < sum(sideways) < 32
