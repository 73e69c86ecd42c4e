"""Random scenes have anatomically possible faces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import flamejax
from experiments.calibrate_landmarks.views import BATCH
from experiments.datasets.renders import SceneSpread, sample_scenes, within_range


def test_sample_scenes_keeps_expressions_in_the_range_of_the_head():
    head = flamejax.load_head()
    batches = [sample_scenes(head, jax.random.key(k), BATCH, spread=SceneSpread(expression=1.5)) for k in range(8)]
    expression = np.concatenate([batch.params.expression for batch in batches])
    low, high = np.asarray(head.expression_range)
    assert (expression >= low).all() and (expression <= high).all()
    parting = np.flatnonzero(low == 0)
    assert len(parting) >= 3 and (expression[:, parting].mean(0) > 0.5).all()  # reflected, not clipped to zero


def test_within_range_does_not_change_expressions_without_a_range():
    head = dataclasses.replace(flamejax.load_head(), expression_range=None)
    drawn = jnp.asarray([[-3.0, 3.0]])
    assert within_range(head, drawn) is drawn
