"""Random scenes show faces that people can make."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import flamejax
from experiments.calibrate_landmarks.views import BATCH
from experiments.datasets.renders import SceneSpread, sample_scenes, within_range


def test_random_expressions_stay_in_the_heads_range():
    head = flamejax.load_head()
    batches = [sample_scenes(head, jax.random.key(k), BATCH, spread=SceneSpread(expression=1.5)) for k in range(8)]
    found = np.concatenate([batch.params.expression for batch in batches])
    low, high = np.asarray(head.expression_range)
    assert (found >= low).all() and (found <= high).all()
    parting = np.flatnonzero(low == 0)
    assert len(parting) >= 3 and (found[:, parting].mean(0) > 0.5).all()  # reflected, not cut to nothing


def test_heads_without_a_range_are_drawn_as_before():
    head = dataclasses.replace(flamejax.load_head(), expression_range=None)
    drawn = jnp.asarray([[-3.0, 3.0]])
    assert within_range(head, drawn) is drawn
