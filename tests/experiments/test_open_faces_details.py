"""The detail field: how large, where, how nonlinear, and what linear models make of it."""

import numpy as np
import pytest

from experiments.datasets.open_faces import details, expressions
from flamejax.head import load_head
from tests.experiments.test_open_faces import mean_skin

LEARNERS, OTHERS = range(100), range(100, 130)


@pytest.fixture(scope="module")
def head():
    return load_head()


@pytest.fixture(scope="module")
def skin(head):
    return mean_skin()


@pytest.fixture(scope="module")
def fields(skin):
    """(130, V) heights in mm of the neutral faces."""
    return np.stack([details.heights(skin, details.draw_latents(s), details.STILL)[0] for s in range(OTHERS.stop)])


@pytest.fixture(scope="module")
def acting(head, skin):
    return np.asarray(head.regions["face"]) & (skin.weight > 0.5)


def test_size(fields, acting):
    """0.5 to 1 mm RMS over the face skin where it acts, for nearly everybody."""
    rms = np.sqrt((fields[:, acting] ** 2).mean(1))
    assert 0.6 < rms.mean() < 0.9 and np.percentile(rms, 2) > 0.5 and np.percentile(rms, 98) < 1.05
    assert np.abs(fields).max() < 6.0


def test_nothing_moves_at_the_border_the_lids_and_the_seam(head, fields):
    still = np.zeros(head.num_vertices, bool)
    for name in ("boundary", "left_eyeball", "right_eyeball"):
        still |= np.asarray(head.regions[name])
    assert np.abs(fields[:, still]).max() < 1e-5
    seam = np.asarray(head.faces)[np.asarray(head.landmark_embedding.face)[[61 - 17, 62 - 17, 63 - 17]]]
    assert np.sqrt((fields[:, seam] ** 2).mean()) < 0.1


def test_sides_are_alike_but_not_the_same(head, skin, fields, acting):
    x = np.asarray(head.v_template)
    left = np.flatnonzero(acting & (x[:, 0] > 0.01))
    twin = np.array([np.linalg.norm(x - x[i] * [-1, 1, 1], axis=1).argmin() for i in left[::7]])
    agreement = np.corrcoef(fields[:, left[::7]].ravel(), fields[:, twin].ravel())[0, 1]
    assert 0.6 < agreement < 0.97


def test_wrinkles_deepen_faster_than_the_expression(skin):
    latents = details.draw_latents(0)
    for name in ("smile", "brow", "squint", "frown", "down"):
        grown = [
            details.heights(skin, latents, details.STILL | {name: np.full(2, a)})[0]
            - details.heights(skin, latents, details.STILL)[0]
            for a in (0.5, 1.0)
        ]
        half, full = (np.sqrt((g**2).sum()) for g in grown)
        assert full / half == pytest.approx(2**1.5, rel=0.01), name
        assert np.abs(grown[1]).max() > 0.3, name


def test_the_head_lacks_it_and_a_regional_model_learns_it(head, skin, fields, acting):
    """Share of the detail's variance left by the head's 150 components fitted to it; by a PCA of one region."""
    normals = details.normals(np.asarray(head.v_template, np.float64), skin.faces)
    moved = (fields[OTHERS.start :, acting, None] * normals[acting]).reshape(len(OTHERS), -1)
    basis = np.asarray(head.basis[: head.num_betas], np.float64).transpose(0, 2, 1)[:, acting].reshape(150, -1)
    found = np.linalg.lstsq(basis.T, moved.T, rcond=None)[0]  # all 150, as large as they like
    left = moved - (basis.T @ found).T
    assert (left**2).sum() / (moved**2).sum() > 0.22
    assert np.sqrt((left.reshape(len(OTHERS), -1, 3) ** 2).sum(-1).mean()) > 0.33  # mm
    nose = acting & np.asarray(head.regions["nose"])
    known, asked = fields[LEARNERS][:, nose], fields[OTHERS.start :, nose]
    mean = known.mean(0)
    directions = np.linalg.svd(known - mean, full_matrices=False)[2][:40]
    rest = asked - mean - (asked - mean) @ directions.T @ directions
    assert (rest**2).sum() / ((asked - mean) ** 2).sum() < 0.03


def test_expressions_are_one_sided_and_lean_to_one_side():
    from tools.open_head.activations import WHOLE

    assert len(expressions.EXPRESSIONS) == 12 and expressions.EXPRESSIONS == tuple(sorted(expressions.EXPRESSIONS))
    units = {p for _, parts in expressions.KINDS.values() for p in parts} | {
        p for _, parts in WHOLE.values() for p in parts
    }
    names = tuple(
        sorted({n for p in units - {expressions.HOLLOW} for left in (True, False) for n in expressions._sides(p, left)})
    )
    for expression, name in enumerate(expressions.EXPRESSIONS):
        drawn = [
            expressions.draw(np.random.default_rng(k), expression, names, np.full(len(names), 5e-3)) for k in range(40)
        ]
        assert min(a.min() for a, _, _ in drawn) >= 0 and max(a.max() for a, _, _ in drawn) <= 1
        opened = np.rad2deg([jaw[0] for _, _, jaw in drawn])
        assert (opened.mean() > 9) == (name in ("mouth_open", "mouth_extreme"))
        if name == "mouth_side":
            sideways = [a[names.index("mouthLeft")] > a[names.index("mouthRight")] for a, _, _ in drawn]
            assert 8 < sum(sideways) < 32
