"""Fit a batch of photos by Algorithm 1: one jitted program, with the photos sharded over devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from fitting._checks import check_observation
from fitting.config import MIN_LANDMARKS, AnyFitConfig, FitConfig, GradientFitConfig
from fitting.fit_model import FitModel, prepare
from fitting.gradient_fit import fit_by_gradient_descent
from fitting.landmark_fit import INNER, GeometryParams, fit_landmarks, landmark_targets
from fitting.photometric_fit import FitIterate, FitParams, PhotoData, downsample_photo, fit_photometric, total_energy
from fitting.sharding import sharded_map, sharded_program
from flamejax.geometry import triangle_normals
from flamejax.head import HeadModel, landmarks_from_vertices, vertices
from flamejax.rendering import ambient_light, rasterize
from flamejax.types import DIVERGED, NOT_FINITE, OK, POOR_LANDMARKS, TOO_FEW_LANDMARKS, Fit, Observation

OUTER_EYES = (36, 45)
POOR_NME = 0.25
"""Landmark error, in outer-eye distances, above which a fit is reported as failed."""
DEPTH_TOLERANCE = 4e-3
"""Metres that a visible vertex may lie behind the z-buffer, since the surface curves within a pixel."""


def fit(
    head: HeadModel | FitModel,
    observation: Observation,
    config: AnyFitConfig | None = None,
    *,
    devices: tuple[jax.Device, ...] | None = None,
) -> Fit:
    """Fit the head to photos: rigid stage, global coefficients, local models (Diverse3DFace, Algorithm 1).

    Args:
      head: the head model. Pass `fitting.prepare(head, local)` to use local models, or to prepare it once for many
        calls. A head that is not prepared must be concrete: inside jit, use `fit_batch` with a prepared one.
      observation: batch axes (*b,); one compilation per batch shape and config.
      config: `FitConfig()` (`PRESETS["fast"]`) when left out.
      devices: devices over which the photos are sharded; all devices when left out.

    Returns:
      A `Fit` with batch axes (*b,). A photo that cannot be fitted has `code` != 0 and finite values; it does not affect
      the other photos of its batch.

    Raises:
      ValueError: a field of the observation does not have the shape that `Observation` states for 68 landmarks, or
        there is no photo.
      TypeError: `head` is not a head model.
    """
    config = config or FitConfig()
    model = head if isinstance(head, FitModel) else prepare(head)
    batch = check_observation(observation)
    return sharded_map(functools.partial(fit_program, config), model, observation, batch, devices)


@functools.lru_cache(maxsize=16)
def fit_program(config: AnyFitConfig, devices: tuple[jax.Device, ...]):  # noqa: ANN201
    """Return the jitted program (model, observation) -> Fit for photos along one leading axis, sharded over devices."""
    return sharded_program(lambda model, observation: fit_batch(model, observation, config), devices)


def fit_batch(model: FitModel, observation: Observation, config: AnyFitConfig) -> Fit:
    """Fit photos along one leading axis (B,): pure, traceable, no host callbacks."""
    observation, is_finite = _replace_nonfinite(observation)
    photos = jax.vmap(
        lambda photo: PhotoData(*downsample_photo(photo, config.render_size), landmark_targets(photo, config))
    )(observation)
    if isinstance(config, GradientFitConfig):
        iterate = fit_by_gradient_descent(model, photos, config)
    else:
        geometry = jax.vmap(lambda targets: fit_landmarks(model, targets, config))(photos.targets)
        iterate = fit_photometric(model, geometry, photos, config)
    weights = photos.targets.weights
    enough = jnp.sum(weights > 0, axis=-1) >= MIN_LANDMARKS
    return jax.vmap(functools.partial(_make_fit, model))(iterate, weights, observation, is_finite, enough)


def _replace_nonfinite(observation: Observation) -> tuple[Observation, Array]:
    """Replace numbers that are not finite by zero; also return which photos had finite images and masks, (B,) bool."""
    is_finite = jnp.all(jnp.isfinite(observation.image), axis=(1, 2, 3))
    is_finite &= jnp.all(jnp.isfinite(observation.face_mask + observation.occlusion_mask), axis=(1, 2))
    cleaned = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), observation)

    def confidence_if_finite(points: Array, confidence: Array) -> Array:
        return jnp.where(jnp.all(jnp.isfinite(points), axis=-1), confidence, 0.0)

    return dataclasses.replace(
        cleaned,
        confidence=confidence_if_finite(observation.landmarks, cleaned.confidence),
        dense_confidence=confidence_if_finite(observation.dense_landmarks, cleaned.dense_confidence),
    ), is_finite


def _make_fit(
    model: FitModel,
    iterate: FitIterate,
    weights: Array,
    observation: Observation,
    is_finite: Array,
    enough_landmarks: Array,
) -> Fit:
    """Return one photo's `Fit`, with a failure code if something is wrong.

    If the iterate is not finite or there were too few landmarks, it is the mean head.
    """
    head = model.head
    converged = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(iterate)]))
    side = observation.image.shape[-2]
    # The mean head in the middle of the crop: finite, and visibly not a fit.
    zeros = GeometryParams.zeros(head)
    centred = dataclasses.replace(zeros, log_scale=jnp.log(2.0), translation=jnp.asarray([0.5, 0.6]))
    fallback = FitParams(centred, jnp.zeros_like(iterate.params.texture), ambient_light())
    fitted = jax.tree.map(
        lambda leaf, mean: jnp.where(converged & enough_landmarks, leaf, mean), iterate.params, fallback
    )
    params, camera = fitted.geometry.params(), fitted.geometry.camera(side)
    verts = vertices(head, params)
    points = landmarks_from_vertices(head, verts, params)
    nme = _normalised_error(camera.project(points)[:, :2], observation.landmarks, weights)
    losses = {"total": total_energy(iterate.terms), **iterate.terms, "nme": nme}
    failures = {
        NOT_FINITE: ~is_finite,
        DIVERGED: ~converged,
        TOO_FEW_LANDMARKS: ~enough_landmarks,
        POOR_LANDMARKS: nme > POOR_NME,
    }
    code = jnp.select(list(failures.values()), list(failures), OK)  # the first that applies
    return Fit(
        params=params,
        vertices=verts,
        landmarks=points,
        camera=camera,
        texture=fitted.texture,
        light=fitted.light,
        vertex_visibility=vertex_visibility(head, camera.project(verts), verts, observation.occlusion_mask),
        losses={name: jnp.nan_to_num(value, posinf=0.0) for name, value in losses.items()},
        code=code.astype(jnp.int32),
    )


def _normalised_error(points: Array, target: Array, weights: Array) -> Array:
    """Return the NME: the mean distance of the visible inner landmarks over the outer-eye distance.

    The eye distance is the photo's, or the fit's if an eye is hidden. points, target (68, 2), weights (68,) -> ()
    """
    left, right = OUTER_EYES
    both_visible = (weights[left] > 0) & (weights[right] > 0)
    eyes = jnp.where(both_visible, target[left] - target[right], points[left] - points[right])
    distance = jnp.sqrt(jnp.sum((points - target) ** 2, axis=-1) + 1e-12)
    visible = (weights > 0)[INNER]
    mean = jnp.sum(distance[INNER] * visible) / jnp.maximum(jnp.sum(visible), 1)
    return mean / jnp.sqrt(jnp.sum(eyes**2) + 1e-12)


def vertex_visibility(head: HeadModel, screen: Array, verts: Array, occlusion_mask: Array) -> Array:
    """Return which vertices of one head are visible: facing the camera, in front, inside the image and not masked.

    Args:
      head: the head model, for its triangles.
      screen: (V, 3) vertices projected by an `OrthographicCamera`: x, y in pixels of the mask, and depth in metres.
      verts: (V, 3) vertices, world metres.
      occlusion_mask: (S, S), 1 = hidden.

    Returns:
      (V,) bool.
    """
    side = occlusion_mask.shape[-1]
    buffer = rasterize(screen, head.faces, (side, side), perspective=False, cull=True).depth
    column, row = (jnp.floor(screen[:, i]).astype(jnp.int32) for i in range(2))
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    column, row = jnp.clip(column, 0, side - 1), jnp.clip(row, 0, side - 1)
    in_front = screen[:, 2] <= buffer[row, column] + DEPTH_TOLERANCE  # an empty pixel holds infinity
    facing = jnp.zeros(len(verts)).at[head.faces].max(triangle_normals(verts, head.faces)[:, 2:])
    return inside & in_front & (facing > 0) & (occlusion_mask[row, column] < 0.5)
