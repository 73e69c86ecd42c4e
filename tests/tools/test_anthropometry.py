"""Heads drawn from the committed open head, compared with the published survey."""

import numpy as np
import pytest

from experiments.datasets.open_people import anthropometry as survey
from tools.open_head import anthropometry


@pytest.fixture(scope="module")
def asset():
    return anthropometry.load_asset(anthropometry.ASSET)


@pytest.fixture(scope="module")
def result(asset):
    return anthropometry.compare(asset, people=500)


def test_measurements_of_both_sexes_agree_with_the_survey(result):
    outside = [(r["measurement"], r["sex"], r["shift"], r["ratio"]) for r in result["table"] if not r["within_limits"]]
    assert len(result["table"]) == 22 and not outside


def test_men_are_larger_than_women(result):
    means = {(r["measurement"], r["sex"]): r["mean"] for r in result["table"]}
    assert all(means[n, "men"] > means[n, "women"] for n in survey.NAMES)


def test_correlations_have_the_published_sign(result):
    expected = [r for r in result["correlations"] if r["expected"] == "+"]
    assert len(expected) == 9 and min(r["ours"] for r in expected) > 0.1


def test_measurements_scale_with_the_head(asset):
    template = asset["v_template"].astype(float)
    np.testing.assert_allclose(survey.measure(1.1 * template), 1.1 * survey.measure(template))
    assert survey.measure(np.stack([template, template])).shape == (2, 11)


def test_the_vertices_of_a_measurement_are_mirror_twins(asset):
    v = asset["v_template"]
    for name in ("ZYGION", "EURYON", "ALARE", "GONION", "FRONTOTEMPORALE", "CHEILION"):
        left, right = getattr(survey, name)
        np.testing.assert_allclose(v[list(left)] * [-1, 1, 1], v[list(right)], atol=1e-5)
    for k in (*survey.OPISTHOCRANION, survey.SELLION, survey.PRONASALE, survey.MENTON):
        assert abs(v[k, 0]) < 1e-5


def test_coefficients_of_both_sexes_together_are_standard_normal(asset):
    rng = np.random.default_rng(0)
    betas = np.concatenate([anthropometry.draw_betas(asset, rng, 4000, sex) for sex in survey.SEXES])
    assert np.abs(betas.mean(0)).max() < 0.06
    np.testing.assert_allclose(betas.std(0), 1, atol=0.05)
    assert 0.5 < np.linalg.norm(asset["sex_direction"]) < 1


def test_variance_shares_are_decreasing(asset):
    share = asset["variance_share"]
    assert share.shape == (150,) and (np.diff(share) <= 0).all() and 0.99 < share.sum() < 1
