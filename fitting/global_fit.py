"""Algorithm 1 on a batch of photos: one jitted program, photos sharded over devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from fitting._checks import check_observation
from fitting.config import MIN_LANDMARKS, AnyFitConfig, FitConfig, GradientFitConfig
from fitting.fit_model import FitModel, prepare
from fitting.gradient_fit import descend
from fitting.landmark_fit import INNER, Geometry, fit_landmarks, landmark_targets
from fitting.photometric_fit import Best, Evidence, Unknowns, reduced, refine, total
from fitting.sharding import sharded_map, sharded_program
from flamejax.geometry import triangle_normals
from flamejax.head import HeadModel, landmarks_from_vertices, vertices
from flamejax.rendering import ambient_light, rasterize
from flamejax.types import DIVERGED, NOT_FINITE, OK, POOR_LANDMARKS, TOO_FEW_LANDMARKS, Fit, Observation

OUTER_EYES = (36, 45)
POOR_NME = 0.25
"""Landmark error, in outer-eye distances, at which a fit no longer shows the face."""
DEPTH_TOLERANCE = 4e-3
"""Metres a vertex may lie behind the z-buffer and still be seen: pixels are larger than the surface's curvature."""


def fit(
    head: HeadModel | FitModel,
    observation: Observation,
    config: AnyFitConfig | None = None,
    *,
    devices: tuple[jax.Device, ...] | None = None,
) -> Fit:
    """Fit the head to photos: rigid stage, global coefficients, local models (Diverse3DFace, Algorithm 1).

    Args:
      head: the model; `fitting.prepare(head, local)` for one with local models, or to prepare it once for many calls.
        A head that is not prepared must be concrete: inside jit, use `fit_batch` with a prepared one.
      observation: batch axes (*b,); one compilation per batch shape and config.
      config: `FitConfig()` (`PRESETS["fast"]`) when left out.
      devices: the photos are shared out over these; all devices when left out.

    Returns:
      A `Fit` with batch axes (*b,). A photo that cannot be fitted has `code` != 0 and finite values; the others of
      its batch are not touched.

    Raises:
      ValueError: a part of the observation has another shape than an `Observation` of 68 landmarks, or there is no
        photo.
      TypeError: `head` is no head model.
    """
    config = config or FitConfig()
    model = head if isinstance(head, FitModel) else prepare(head)
    batch = check_observation(observation)
    return sharded_map(functools.partial(fit_program, config), model, observation, batch, devices)


@functools.lru_cache(maxsize=16)
def fit_program(config: AnyFitConfig, devices: tuple[jax.Device, ...]):  # noqa: ANN201
    """The jitted (model, observation) -> Fit for photos along one leading axis, shared out over `devices`."""
    return sharded_program(lambda model, observation: fit_batch(model, observation, config), devices)


def fit_batch(model: FitModel, observation: Observation, config: AnyFitConfig) -> Fit:
    """The fit of photos along one leading axis (B,): pure, traceable, no host callbacks."""
    observation, sound = _replace_unsound(observation)
    evidence = jax.vmap(lambda one: Evidence(*reduced(one, config.render_size), landmark_targets(one, config)))(
        observation
    )
    if isinstance(config, GradientFitConfig):
        best = descend(model, evidence, config)
    else:
        geometry = jax.vmap(lambda targets: fit_landmarks(model, targets, config))(evidence.targets)
        best = refine(model, geometry, evidence, config)
    weights = evidence.targets.weights
    enough = jnp.sum(weights > 0, axis=-1) >= MIN_LANDMARKS
    return jax.vmap(functools.partial(_result, model))(best, weights, observation, sound, enough)


def _replace_unsound(observation: Observation) -> tuple[Observation, Array]:
    """Numbers that are not finite become zero, so that they cannot spoil anything; (B,) bool: photos without any."""
    sound = jnp.all(jnp.isfinite(observation.image), axis=(1, 2, 3))
    sound &= jnp.all(jnp.isfinite(observation.face_mask + observation.occlusion_mask), axis=(1, 2))
    cleaned = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), observation)

    def surely(points: Array, confidence: Array) -> Array:
        return jnp.where(jnp.all(jnp.isfinite(points), axis=-1), confidence, 0.0)

    return dataclasses.replace(
        cleaned,
        confidence=surely(observation.landmarks, cleaned.confidence),
        dense_confidence=surely(observation.dense_landmarks, cleaned.dense_confidence),
    ), sound


def _result(model: FitModel, best: Best, weights: Array, observation: Observation, sound: Array, enough: Array) -> Fit:
    """One photo's `Fit`; where anything is not finite, the mean head and a code instead."""
    head = model.head
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(best)]))
    side = observation.image.shape[-2]
    # The mean head in the middle of the crop: finite, and visibly not a fit.
    centred = dataclasses.replace(Geometry.start(head), log_scale=jnp.log(2.0), translation=jnp.asarray([0.5, 0.6]))
    fallback = Unknowns(centred, jnp.zeros_like(best.unknowns.texture), ambient_light())
    unknowns = jax.tree.map(lambda good, bad: jnp.where(finite & enough, good, bad), best.unknowns, fallback)
    params, camera = unknowns.geometry.params(), unknowns.geometry.camera(side)
    verts = vertices(head, params)
    points = landmarks_from_vertices(head, verts, params)
    nme = _normalised_error(camera.project(points)[:, :2], observation.landmarks, weights)
    losses = {"total": total(best.terms), **best.terms, "nme": nme}
    faults = {NOT_FINITE: ~sound, DIVERGED: ~finite, TOO_FEW_LANDMARKS: ~enough, POOR_LANDMARKS: nme > POOR_NME}
    code = jnp.select(list(faults.values()), list(faults), OK)  # the first that holds
    return Fit(
        params=params,
        vertices=verts,
        landmarks=points,
        camera=camera,
        texture=unknowns.texture,
        light=unknowns.light,
        vertex_visibility=vertex_visibility(head, camera.project(verts), verts, observation.occlusion_mask),
        losses={name: jnp.nan_to_num(value, posinf=0.0) for name, value in losses.items()},
        code=code.astype(jnp.int32),
    )


def _normalised_error(points: Array, target: Array, weights: Array) -> Array:
    """NME: mean distance of the visible inner landmarks over the photo's outer-eye distance (the fit's, if an eye is
    hidden). points, target (68, 2), weights (68,) -> ()"""
    left, right = OUTER_EYES
    both_seen = (weights[left] > 0) & (weights[right] > 0)
    span = jnp.where(both_seen, target[left] - target[right], points[left] - points[right])
    distance = jnp.sqrt(jnp.sum((points - target) ** 2, axis=-1) + 1e-12)
    visible = (weights > 0)[INNER]
    mean = jnp.sum(distance[INNER] * visible) / jnp.maximum(jnp.sum(visible), 1)
    return mean / jnp.sqrt(jnp.sum(span**2) + 1e-12)


def vertex_visibility(head: HeadModel, screen: Array, verts: Array, occlusion_mask: Array) -> Array:
    """Which vertices the photo shows: facing the camera, first in the z-buffer, inside the image, not masked.

    Args:
      screen: (V, 3) projected vertices; verts: (V, 3) world; occlusion_mask: (S, S), 1 = hidden.

    Returns:
      (V,) bool.
    """
    side = occlusion_mask.shape[-1]
    buffer = rasterize(screen, head.faces, (side, side), perspective=False, cull=True).depth
    column, row = (jnp.floor(screen[:, i]).astype(jnp.int32) for i in range(2))
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    column, row = jnp.clip(column, 0, side - 1), jnp.clip(row, 0, side - 1)
    first = screen[:, 2] <= buffer[row, column] + DEPTH_TOLERANCE  # an empty pixel holds infinity
    towards = jnp.zeros(len(verts)).at[head.faces].max(triangle_normals(verts, head.faces)[:, 2:])
    return inside & first & (towards > 0) & (occlusion_mask[row, column] < 0.5)
