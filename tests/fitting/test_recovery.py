"""Known heads are recovered from their renders."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import fitting
import flamejax
from experiments.data.renders import exact_observation, render_scenes, sample_scenes
from flamejax.geometry import apply_similarity, similarity_transform


def aligned_error(found, truth, vertices):
    """(B,) mean distance in mm of some vertices after a similarity."""
    found, truth = found[:, vertices], truth[:, vertices]
    moved = apply_similarity(found, *similarity_transform(found, truth))
    return 1e3 * np.linalg.norm(np.asarray(moved - truth), axis=-1).mean(-1)


def test_twenty_random_heads_are_recovered_from_renders_with_exact_landmarks():
    """Mean error over frontal face vertices, aligned: at most half that of the mean head."""
    head = flamejax.load_head()
    scenes = sample_scenes(head, jax.random.key(1), 20)
    images, points, alpha = render_scenes(head, scenes, jax.random.key(2))
    assert 0.2 < float(alpha.mean()) < 0.9
    found = fitting.fit(head, exact_observation(images, points))
    truth = flamejax.vertices(head, scenes.params)
    mean_head = jnp.broadcast_to(head.v_template, truth.shape)
    frontal = np.asarray(head.regions["face"]) & (np.asarray(head.v_template)[:, 2] > 0)
    error, mean_error = (aligned_error(v, truth, frontal) for v in (found.vertices, mean_head))
    print(f"frontal error {error.mean():.2f} mm, mean head {mean_error.mean():.2f} mm")
    assert (np.asarray(found.code) == 0).all()
    assert error.mean() <= 0.5 * mean_error.mean()
    assert (error < mean_error).all()
    turned = np.abs(np.asarray(found.params.global_orient - scenes.params.global_orient))
    assert np.rad2deg(turned.mean()) < 1.5


def test_the_photometric_term_brings_identity_closer():
    """On renders, whose colours the model can explain, colours add shape that 68 points do not hold."""
    head = flamejax.load_head()
    scenes = sample_scenes(head, jax.random.key(3), 20)
    images, points, _ = render_scenes(head, scenes, jax.random.key(4))
    observation = exact_observation(images, points)
    truth = flamejax.vertices(head, scenes.params)
    frontal = np.asarray(head.regions["face"]) & (np.asarray(head.v_template)[:, 2] > 0)
    with_colours = fitting.fit(head, observation)
    without = fitting.fit(head, observation, dataclasses.replace(fitting.FitConfig(), photometric_steps=0))
    errors = [aligned_error(f.vertices, truth, frontal).mean() for f in (with_colours, without)]
    assert errors[0] < errors[1]
