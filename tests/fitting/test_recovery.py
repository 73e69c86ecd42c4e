"""Known open heads are recovered from their renders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitting
import flamejax
from experiments.datasets.renders import exact_observation, render_scenes, sample_scenes
from tools.compare_fits.known_heads import frontal_error

# Compiles two programs for the open head and fits twenty photos; tests/fitting/test_fit.py has a small head.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recovered():
    """Twenty random heads, the default fit of their renders with exact landmarks, and the errors of this fit, of one to
    landmarks only, and of the mean head."""
    head = flamejax.load_head()
    scenes = sample_scenes(head, jax.random.key(1), 20)
    images, points, alpha = render_scenes(head, scenes, jax.random.key(2))
    assert 0.2 < float(alpha.mean()) < 0.9
    observation = exact_observation(images, points)
    fit = fitting.fit(head, observation)
    landmark_fit = fitting.fit(head, observation, fitting.FitConfig(photometric_steps=0))
    truth = flamejax.vertices(head, scenes.params)
    mean_head = jnp.broadcast_to(head.v_template, truth.shape)
    errors = [frontal_error(head, verts, truth) for verts in (fit.vertices, landmark_fit.vertices, mean_head)]
    print("frontal error, mm: fit {:.2f}, landmarks only {:.2f}, mean head {:.2f}".format(*(e.mean() for e in errors)))
    return scenes, fit, errors


def test_known_heads_are_recovered_from_renders_with_exact_landmarks(recovered):
    """The mean error over aligned frontal face vertices is at most half that of the mean head."""
    scenes, fit, (error, _, mean_error) = recovered
    assert (np.asarray(fit.code) == 0).all()
    assert error.mean() <= 0.5 * mean_error.mean()
    assert (error < mean_error).all()
    rotation_error = np.abs(np.asarray(fit.params.global_orient - scenes.params.global_orient))
    assert np.rad2deg(rotation_error.mean()) < 1.5


def test_colours_lower_the_shape_error_of_landmarks_only(recovered):
    """On renders, whose colours the model can explain, colours add shape information to the 68 points."""
    _, _, (error, landmark_error, _) = recovered
    assert error.mean() < landmark_error.mean()
