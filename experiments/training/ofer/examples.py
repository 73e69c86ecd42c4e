"""Training examples drawn online: heads, their landmarks as a detector would give them, and which are hidden."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.datasets.renders import within_range
from experiments.training.ofer.coefficients import ScanCoefficients
from fitting.landmark_fit import OUTER_EYE_DISTANCE
from flamejax.head import HeadModel, HeadParams, landmark_head, landmarks_from_vertices, vertices
from models.encoders.conditioned import Conditioned
from models.encoders.landmark import reference_landmarks

Kind = Literal["identity", "expression"]
MAX_DEVIATIONS = 3.0
"""Coefficients are drawn from a normal distribution truncated at this many standard deviations."""
ORIENT_STD = (0.15, 0.3, 0.12)
"""Standard deviations of pitch, yaw and roll, radians; truncated at 2.5 of them."""
NECK_STD = (0.026, 0.035, 0.017)
GAZE_STD = (0.1, 0.2)
JAW_STD = 0.12
"""Standard deviation of the jaw's opening in expressions drawn from the head model, radians."""
MIN_DISTANCE = 0.8
"""Smallest distance from the camera to the head, metres. The inverse is uniform down to 0, which is orthographic."""
INNER_NOISE, CONTOUR_NOISE = 0.025, 0.08
"""Standard deviations of landmarks in outer-eye distances: inner ones for a head without measurements of a detector,
and the contour, which detectors define differently."""
MODEL_SHARE, BLEND_SHARE = 0.15, 0.35
"""Shares of expressions that are drawn from the head's normal distribution, and that are blended from two scans."""
UNOCCLUDED_SHARE, MISSING_SHARE = 0.25, 0.02
"""Share of examples without an occluder; share of landmarks that are missing at random."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ExampleSource:
    """A distribution of training examples."""

    head: HeadModel
    """Reduced to the landmarks' vertices (`landmark_head`)."""
    expression: Array
    """(N, E) expressions of scans; N may be 0."""
    jaw: Array
    """(N, 3)"""
    noise: Array
    """(68,) standard deviation of a detected landmark, metres."""
    reference: Array
    """(68, 2) landmarks of the mean face from the front, metres, y down."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """Landmarks and features of photos, and the coefficients of the heads in them; batch axes *b."""

    betas: Array
    """(*b, S)"""
    motion: Array
    """(*b, E + 3) expression and jaw."""
    points: Array
    """(*b, 68, 2) landmarks with detector noise, y down; metres in the image plane if drawn, pixels for photos."""
    visible: Array
    """(*b, 68), 1 = visible, 0 = hidden or missing."""
    features: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    """Encoder -> (*b, F) features of photos from its frozen layers; drawn examples have none."""

    def target(self, kind: Kind) -> Array:
        """Returns the coefficients that a generator of that kind draws."""
        return self.betas if kind == "identity" else self.motion

    def context(self, model: Conditioned) -> Array:
        """Returns a network's condition, (*b, D)."""
        return model.context_of_features(self.features, self.points, self.visible)


def make_example_source(head: HeadModel, scans: ScanCoefficients | None) -> ExampleSource:
    """Returns a source that blends the expressions and jaws of `scans`; None: it draws all from the head model."""
    small = dataclasses.replace(landmark_head(head), dense=None)
    inner = np.full(51, INNER_NOISE) if head.dense is None else np.asarray(head.dense.landmark_spread)
    noise = OUTER_EYE_DISTANCE * np.concatenate([np.full(17, CONTOUR_NOISE), inner])
    expression, jaw = np.zeros((0, head.num_expression)), np.zeros((0, 3))
    if scans is not None:
        expression, jaw = scans.expression, scans.jaw
    arrays = [jnp.asarray(a, jnp.float32) for a in (expression, jaw, noise)]
    return ExampleSource(small, arrays[0], arrays[1], arrays[2], reference_landmarks(head))


def draw_examples(source: ExampleSource, key: Array, count: int) -> Examples:
    """Draw `count` examples."""
    return draw_keyed_examples(source, jax.random.split(key, count))


def draw_keyed_examples(source: ExampleSource, keys: Array) -> Examples:
    """Draw one example for each key (B,). Each depends only on its key, so a batch may be divided among devices."""
    params = jax.vmap(lambda key: draw_params(source, jax.random.fold_in(key, 0)))(keys)
    return simulate_photos(source, params, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))


def draw_params(source: ExampleSource, key: Array) -> HeadParams:
    """Draw one head's identity, expression and pose."""
    identity, motion, orient, neck, eyes = jax.random.split(key, 5)
    head = source.head
    expression, jaw = draw_motion(source, motion)
    gaze = jnp.asarray(GAZE_STD) * jax.random.truncated_normal(eyes, -2.0, 2.0, (2,))
    gaze = jnp.concatenate([gaze, jnp.zeros(1)])
    return dataclasses.replace(
        HeadParams.zeros(head),
        betas=jax.random.truncated_normal(identity, -MAX_DEVIATIONS, MAX_DEVIATIONS, (head.num_betas,)),
        expression=expression,
        global_orient=jnp.asarray(ORIENT_STD) * jax.random.truncated_normal(orient, -2.5, 2.5, (3,)),
        neck_pose=jnp.asarray(NECK_STD) * jax.random.truncated_normal(neck, -2.0, 2.0, (3,)),
        jaw_pose=jaw,
        leye_pose=gaze,
        reye_pose=gaze,
    )


def draw_motion(source: ExampleSource, key: Array) -> tuple[Array, Array]:
    """Draw an expression (E,) and jaw (3,): a scan's, scaled, a blend of two scans', or from the head model."""
    head, count = source.head, len(source.expression)
    kind, pick, strength, share, free, opening = jax.random.split(key, 6)
    strong = jax.random.uniform(strength, (2,))
    coefficients = jax.random.truncated_normal(free, -2.5, 2.5, (head.num_expression,))
    model_expression = within_range(head, strong[0] * coefficients)
    model_jaw = jnp.asarray([JAW_STD, 0.15 * JAW_STD, 0.0]) * jax.random.truncated_normal(opening, -2.5, 2.5, (3,))
    model_jaw = model_jaw.at[0].set(jnp.abs(model_jaw[0]))
    if not count:
        return model_expression, model_jaw
    first, second = jax.random.randint(pick, (2,), 0, count)
    # Half of the scans' expressions are unchanged, the others are weaker or a little stronger.
    factor = jnp.where(strong[1] < 0.5, 1.0, 2.3 * (strong[1] - 0.5))
    chance, blend = jax.random.uniform(kind, ()), jax.random.uniform(share, ())
    blend = jnp.where(chance < MODEL_SHARE + BLEND_SHARE, blend, 0.0)
    expression, jaw = (factor * ((1 - blend) * a[first] + blend * a[second]) for a in (source.expression, source.jaw))
    from_model = chance < MODEL_SHARE
    return jnp.where(from_model, model_expression, expression), jnp.where(from_model, model_jaw, jaw)


def simulate_photos(source: ExampleSource, params: HeadParams, keys: Array) -> Examples:
    """Returns examples of heads (B,), with projection, detector noise and occluders drawn from keys (B,)."""
    head = source.head
    points = landmarks_from_vertices(head, vertices(head, params), params)
    points, visible = simulate_landmarks(source, points, keys)
    return Examples(params.betas, jnp.concatenate([params.expression, params.jaw_pose], axis=-1), points, visible)


def simulate_landmarks(source: ExampleSource, points: Array, keys: Array) -> tuple[Array, Array]:
    """Returns `Examples.points` and `Examples.visible` for 3D landmarks (B, 68, 3) of any heads; keys (B,)."""

    def simulate(points: Array, key: Array) -> tuple[Array, Array]:
        nearness, noise, occluder = jax.random.split(key, 3)
        projected = project(points, jax.random.uniform(nearness, ()) / MIN_DISTANCE)
        projected = projected + source.noise[:, None] * jax.random.normal(noise, projected.shape)
        return projected, draw_visible(source.reference, occluder)

    return jax.vmap(simulate)(points, keys)


def project(points: Array, nearness: Array) -> Array:
    """Project landmarks (68, 3) to the image plane, (68, 2) metres at the depth of their mean, y down.

    Args:
      nearness: the inverse distance of the camera, 1/m; 0 is orthographic.
    """
    depth = points[:, 2] - points[:, 2].mean()
    return points[:, :2] * jnp.asarray([[1.0, -1.0]]) / (1 - nearness * depth)[:, None]


def draw_visible(reference: Array, key: Array) -> Array:
    """Draw an occluder and return which landmarks stay visible, (68,) of 0 and 1.

    Occluders are a hand or object (ellipse), a mask or scarf (all on one side of a line), glasses (a band), or none;
    they are placed on the mean face, `reference` (68, 2).
    """
    kind, where, size, turn, dropout = jax.random.split(key, 5)
    unit = jnp.sqrt(jnp.mean(jnp.sum((reference - reference.mean(axis=0, keepdims=True)) ** 2, axis=-1)))
    centre = reference[jax.random.randint(where, (), 0, len(reference))]
    angle = jax.random.uniform(turn, (), minval=0.0, maxval=2 * jnp.pi)
    extent = jax.random.uniform(size, (2,), minval=0.25, maxval=1.3)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    offset = (reference - centre[None]) / unit
    rotated = offset @ jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])
    ellipse = jnp.sum((rotated / extent[None]) ** 2, axis=-1) < 1
    # A line near a landmark: everything beyond it, in a direction that is mostly down.
    down = 0.35 * (angle - jnp.pi)
    beyond = offset @ jnp.stack([jnp.sin(down), jnp.cos(down)]) > 0.1 * extent[0]
    band = jnp.abs(reference[:, 1] - reference[36:48, 1].mean()) < (0.1 + 0.2 * extent[0]) * unit
    chance = (jax.random.uniform(kind, ()) - UNOCCLUDED_SHARE) / (1 - UNOCCLUDED_SHARE)
    hidden = jnp.where(chance < 0.45, ellipse, jnp.where(chance < 0.8, beyond, band)) & (chance >= 0)
    missing = jax.random.uniform(dropout, hidden.shape) < MISSING_SHARE
    return 1.0 - (hidden | missing).astype(jnp.float32)
