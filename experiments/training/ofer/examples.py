"""Training examples drawn without end: heads, how a photo would show their landmarks, and which of these are hidden."""

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
from models.encoders.landmark import reference_landmarks
from models.encoders.parts import Conditioned

Kind = Literal["identity", "expression"]
LIKELY = 3.0
"""Coefficients are drawn from a normal distribution within so many deviations."""
ORIENT = (0.15, 0.3, 0.12)
"""Standard deviations of pitch, yaw and roll, radians; cut at 2.5 of them."""
NECK = (0.026, 0.035, 0.017)
GAZE = (0.1, 0.2)
JAW = 0.12
"""Of made-up expressions: standard deviation of the opening, radians."""
NEAREST = 0.8
"""Metres from the camera to the head at least; the inverse is drawn evenly down to 0, which is orthographic."""
INNER_NOISE, CONTOUR_NOISE = 0.025, 0.08
"""Standard deviations of landmarks in outer-eye distances: inner ones of a head on which no detector was measured, and
the contour, which every detector draws its own way."""
MADE_UP, BLENDED = 0.15, 0.35
"""Shares of expressions drawn from the head's normal distribution, and blended of two scans'."""
BARE, LONE = 0.25, 0.02
"""Share of examples without an occluder; share of landmarks that are missing for no reason."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Source:
    """What examples are drawn from."""

    head: HeadModel
    """Of its landmarks' vertices only (`landmark_head`)."""
    expression: Array
    """(N, E) of scans; N = 0: none."""
    jaw: Array
    """(N, 3)"""
    noise: Array
    """(68,) standard deviation of a detected landmark, metres."""
    reference: Array
    """(68, 2) of the mean face from the front, metres, y down."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Examples:
    """What a photo shows and what it was made of, batch axes *b."""

    betas: Array
    """(*b, S)"""
    motion: Array
    """(*b, E + 3) expression and jaw."""
    points: Array
    """(*b, 68, 2) y down; drawn ones in metres in the image plane, detector noise and all; of photos, pixels."""
    visible: Array
    """(*b, 68) 1 = visible, 0 = hidden or missing."""
    features: Mapping[str, Array] = dataclasses.field(default_factory=dict)
    """What image encoders' frozen layers give of photos, by name (*b, F); drawn examples have none."""

    def target(self, kind: Kind) -> Array:
        """What a generator of that kind is to draw."""
        return self.betas if kind == "identity" else self.motion

    def context(self, model: Conditioned) -> Array:
        """A network's condition, (*b, D)."""
        return model.context_of_features(self.features, self.points, self.visible)


def make_source(head: HeadModel, scans: ScanCoefficients | None) -> Source:
    """Prepare. scans: training scans, whose expressions and jaws are blended; None: all are made up."""
    small = dataclasses.replace(landmark_head(head), dense=None)
    inner = np.full(51, INNER_NOISE) if head.dense is None else np.asarray(head.dense.landmark_spread)
    noise = OUTER_EYE_DISTANCE * np.concatenate([np.full(17, CONTOUR_NOISE), inner])
    expression, jaw = np.zeros((0, head.num_expression)), np.zeros((0, 3))
    if scans is not None:
        expression, jaw = scans.expression, scans.jaw
    rows = [jnp.asarray(a, jnp.float32) for a in (expression, jaw, noise)]
    return Source(small, rows[0], rows[1], rows[2], reference_landmarks(head))


def draw_examples(source: Source, key: Array, count: int) -> Examples:
    """`count` examples. Each depends on its key alone, so a batch may be shared out."""
    return draw_each(source, jax.random.split(key, count))


def draw_each(source: Source, keys: Array) -> Examples:
    """An example of each key (B,)."""
    params = jax.vmap(lambda key: draw_params(source, jax.random.fold_in(key, 0)))(keys)
    return photographed(source, params, jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys))


def draw_params(source: Source, key: Array) -> HeadParams:
    """One head's identity, expression and pose."""
    who, what, turn, neck, eyes = jax.random.split(key, 5)
    head = source.head
    expression, jaw = draw_motion(source, what)
    gaze = jnp.asarray(GAZE) * jax.random.truncated_normal(eyes, -2.0, 2.0, (2,))
    gaze = jnp.concatenate([gaze, jnp.zeros(1)])
    return dataclasses.replace(
        HeadParams.zeros(head),
        betas=jax.random.truncated_normal(who, -LIKELY, LIKELY, (head.num_betas,)),
        expression=expression,
        global_orient=jnp.asarray(ORIENT) * jax.random.truncated_normal(turn, -2.5, 2.5, (3,)),
        neck_pose=jnp.asarray(NECK) * jax.random.truncated_normal(neck, -2.0, 2.0, (3,)),
        jaw_pose=jaw,
        leye_pose=gaze,
        reye_pose=gaze,
    )


def draw_motion(source: Source, key: Array) -> tuple[Array, Array]:
    """One expression (E,) and jaw (3,): a scan's at some strength, two scans' blended, or made up."""
    head, count = source.head, len(source.expression)
    kind, pick, strength, share, free, opening = jax.random.split(key, 6)
    strong = jax.random.uniform(strength, (2,))
    made = within_range(head, strong[0] * jax.random.truncated_normal(free, -2.5, 2.5, (head.num_expression,)))
    jaw = jnp.asarray([JAW, 0.15 * JAW, 0.0]) * jax.random.truncated_normal(opening, -2.5, 2.5, (3,))
    jaw = jaw.at[0].set(jnp.abs(jaw[0]))
    if not count:
        return made, jaw
    one, two = jax.random.randint(pick, (2,), 0, count)
    # Half of the scans' expressions as they are, the others weaker or a little stronger.
    factor = jnp.where(strong[1] < 0.5, 1.0, 2.3 * (strong[1] - 0.5))
    chance, blend = jax.random.uniform(kind, ()), jax.random.uniform(share, ())
    blend = jnp.where(chance < MADE_UP + BLENDED, blend, 0.0)
    mixed, turned = (factor * ((1 - blend) * a[one] + blend * a[two]) for a in (source.expression, source.jaw))
    return jnp.where(chance < MADE_UP, made, mixed), jnp.where(chance < MADE_UP, jaw, turned)


def photographed(source: Source, params: HeadParams, keys: Array) -> Examples:
    """How photos show heads (B,): projection, detector noise, occluders; keys (B,)."""
    head = source.head
    points = landmarks_from_vertices(head, vertices(head, params), params)
    seen, visible = photographed_points(source, points, keys)
    return Examples(params.betas, jnp.concatenate([params.expression, params.jaw_pose], axis=-1), seen, visible)


def photographed_points(source: Source, points: Array, keys: Array) -> tuple[Array, Array]:
    """The same of landmarks (B, 68, 3) of any heads: `Examples.points` and `Examples.visible`."""

    def photograph(points: Array, key: Array) -> tuple[Array, Array]:
        near, noise, cover = jax.random.split(key, 3)
        flat = project(points, jax.random.uniform(near, ()) / NEAREST)
        flat = flat + source.noise[:, None] * jax.random.normal(noise, flat.shape)
        return flat, draw_visible(source.reference, cover)

    return jax.vmap(photograph)(points, keys)


def project(points: Array, nearness: Array) -> Array:
    """Landmarks (68, 3) in the image plane, in metres at the depth of their mean: (68, 2), y down. nearness: the
    inverse distance of the camera, 1/m; 0 is orthographic."""
    depth = points[:, 2] - points[:, 2].mean()
    return points[:, :2] * jnp.asarray([[1.0, -1.0]]) / (1 - nearness * depth)[:, None]


def draw_visible(reference: Array, key: Array) -> Array:
    """Which landmarks an occluder leaves, (68,) of 0 and 1: a hand or object (ellipse), a mask or scarf (all on one
    side of a line), glasses (a band), or none. On the mean face, reference (68, 2)."""
    kind, where, size, turn, lone = jax.random.split(key, 5)
    unit = jnp.sqrt(jnp.mean(jnp.sum((reference - reference.mean(axis=0, keepdims=True)) ** 2, axis=-1)))
    centre = reference[jax.random.randint(where, (), 0, len(reference))]
    angle = jax.random.uniform(turn, (), minval=0.0, maxval=2 * jnp.pi)
    large = jax.random.uniform(size, (2,), minval=0.25, maxval=1.3)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    away = (reference - centre[None]) / unit
    turned = away @ jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])
    ellipse = jnp.sum((turned / large[None]) ** 2, axis=-1) < 1
    # A line through a landmark: what is beyond it in a direction that is mostly down.
    down = 0.35 * (angle - jnp.pi)
    beyond = away @ jnp.stack([jnp.sin(down), jnp.cos(down)]) > 0.1 * large[0]
    band = jnp.abs(reference[:, 1] - reference[36:48, 1].mean()) < (0.1 + 0.2 * large[0]) * unit
    chance = (jax.random.uniform(kind, ()) - BARE) / (1 - BARE)
    hidden = jnp.where(chance < 0.45, ellipse, jnp.where(chance < 0.8, beyond, band)) & (chance >= 0)
    missing = jax.random.uniform(lone, hidden.shape) < LONE
    return 1.0 - (hidden | missing).astype(jnp.float32)
