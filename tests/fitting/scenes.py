"""Data that the tests of fits share, so that their programs compile once: a small head with local models, one size and
number of photos, and configs with few steps."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

import fitting
import flamejax
from experiments.datasets.renders import exact_observation
from fitting.landmark_fit import GeometryParams, LandmarkTargets
from fitting.local_model import LocalRegion
from flamejax.camera import OrthographicCamera
from flamejax.head import HeadModel, HeadParams, geometry_hash
from tests.heads import random_head, random_params

SIDE = 64
"""Side of the photos, pixels."""
PHOTOS = 5
SMALL = fitting.FitConfig(render_size=32, photometric_steps=8, landmark_steps=8, rigid_steps=10)
QUICK = {
    name: dataclasses.replace(
        fitting.PRESETS[name], iterations=60, rigid_iterations=20, global_iterations=20, render_size=32
    )
    for name in ("paper", "code")
}
"""The gradient presets with few iterations."""
GLOBAL = (3, 2)
"""Global identity and expression components of the model with local ones."""


@functools.cache
def small_head() -> HeadModel:
    """Return a random head of 42 vertices."""
    return random_head(subdivisions=1)


def small_local_model(head: HeadModel) -> fitting.LocalModel:
    """Return local models of two overlapping regions (one without expression) and of an eyeball."""
    rng = np.random.default_rng(0)
    y = np.asarray(head.v_template)[:, 1]
    regions = []
    for name, index, counts in (
        ("face", np.flatnonzero(y > 0.08), (2, 0)),
        ("neck", np.flatnonzero(y < 0.12), (1, 2)),
        ("left_eyeball", np.arange(5), (1, 0)),
    ):
        shape, expression = (rng.normal(size=(count, 3, len(index))) * 1e-3 for count in counts)
        regions.append(LocalRegion(name, index.astype(np.int32), shape, expression, (1.0, 1.0)))
    digest = geometry_hash(head)
    return fitting.LocalModel(head.name, head.version, digest, head.num_vertices, *GLOBAL, tuple(regions), {})


@functools.cache
def small_model() -> fitting.FitModel:
    """Return the `FitModel` of the small head with its local models."""
    return fitting.prepare(small_head(), small_local_model(small_head()))


def camera(count: int) -> OrthographicCamera:
    """Return the camera of all photos."""
    return OrthographicCamera(
        jnp.full(count, 3.4 * SIDE), jnp.tile(jnp.asarray([[0.5 * SIDE, 0.8 * SIDE]]), (count, 1))
    )


def people(seed: int = 0, count: int = PHOTOS) -> HeadParams:
    """Return random heads of the small model, rotated a little."""
    params, zero = random_params(small_model().head, seed, (count,), scale=1.0), jnp.zeros((count, 3))
    rest = HeadParams(params.betas, params.expression, 0.15 * params.global_orient, zero, zero, zero, zero, zero)
    return dataclasses.replace(rest, jaw_pose=jnp.abs(0.1 * params.jaw_pose) * jnp.asarray([[1.0, 0.0, 0.0]]))


def photos(seed: int = 0, count: int = PHOTOS) -> fitting.Observation:
    """Return renders of `people` with exact landmarks, without the contour, whose vertices change with the yaw."""
    head, params = small_model().head, people(seed, count)
    image = flamejax.render(head, flamejax.vertices(head, params), camera(count), size=(SIDE, SIDE), antialias=False)[
        ..., :3
    ]
    observation = exact_observation(image, camera(count).project(flamejax.landmarks(head, params))[..., :2])
    return dataclasses.replace(observation, confidence=observation.confidence.at[:, :17].set(0.0))


def random_targets(seed: int, weight: float) -> LandmarkTargets:
    """Return landmarks at random positions, all of one weight."""
    rng = np.random.default_rng(seed)
    points = (jnp.asarray(rng.uniform(0.2, 0.8, (count, 2)), jnp.float32) for count in (68, 468))
    return LandmarkTargets(next(points), jnp.full(68, weight), next(points), jnp.full(468, weight))


def random_geometry(head: HeadModel, seed: int = 0) -> GeometryParams:
    """Return a head in the middle of the photo whose parameters deviate slightly from the mean head's."""
    rng = np.random.default_rng(seed)
    geometry = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(rng.normal(size=leaf.shape) * 0.1, jnp.float32), GeometryParams.zeros(head)
    )
    return dataclasses.replace(geometry, log_scale=jnp.asarray(1.2), translation=jnp.asarray([0.5, 0.8]))
