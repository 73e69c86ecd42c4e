"""Known heads are recovered from their renders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fitting
import flamejax
from experiments.datasets.renders import exact_observation, render_scenes, sample_scenes
from tools.compare_fits.known_heads import frontal_error

# Two programs of the open head, and twenty photos: tests/fitting/test_fit.py has a small head.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recovered():
    """Twenty random heads, the default fit of their renders with exact landmarks, and one from landmarks alone."""
    head = flamejax.load_head()
    scenes = sample_scenes(head, jax.random.key(1), 20)
    images, points, alpha = render_scenes(head, scenes, jax.random.key(2))
    assert 0.2 < float(alpha.mean()) < 0.9
    observation = exact_observation(images, points)
    both = (fitting.fit(head, observation), fitting.fit(head, observation, fitting.FitConfig(photometric_steps=0)))
    truth = flamejax.vertices(head, scenes.params)
    mean_head = jnp.broadcast_to(head.v_template, truth.shape)
    errors = [frontal_error(head, found, truth) for found in (both[0].vertices, both[1].vertices, mean_head)]
    print("frontal error, mm: fit {:.2f}, landmarks alone {:.2f}, mean head {:.2f}".format(*(e.mean() for e in errors)))
    return scenes, both[0], errors


def test_known_heads_are_recovered_from_renders_with_exact_landmarks(recovered):
    """Mean error over frontal face vertices, aligned: at most half that of the mean head."""
    scenes, found, (error, _, mean_error) = recovered
    assert (np.asarray(found.code) == 0).all()
    assert error.mean() <= 0.5 * mean_error.mean()
    assert (error < mean_error).all()
    turned = np.abs(np.asarray(found.params.global_orient - scenes.params.global_orient))
    assert np.rad2deg(turned.mean()) < 1.5


def test_colours_bring_the_shape_closer_than_landmarks_alone(recovered):
    """On renders, whose colours the model can explain, colours add shape that 68 points do not hold."""
    _, _, (error, landmarks_alone, _) = recovered
    assert error.mean() < landmarks_alone.mean()
