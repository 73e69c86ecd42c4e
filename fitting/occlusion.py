"""Estimate occlusion masks from photos: label the pixels of the fitted head's face that show something else.

After Egger et al. 2018, "Occlusion-aware 3D Morphable Models and an Illumination Prior for Face Image Analysis":
expectation-maximisation alternates between a model of the face and a label, face or hidden, for every pixel. Here the
geometry is fixed by the landmarks. Each round updates light and albedo, the spreads of the face's colours, a colour
histogram of occluders, and then the labels.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from fitting._checks import check_observation
from fitting.config import MIN_LANDMARKS, FitConfig
from fitting.face_pixels import FacePixels, albedo_of, fit_appearance, project_all_landmarks, render_face_maps
from fitting.fit_model import without_local_models
from fitting.label_smoothing import box_sum, dilate, edge_weights, fill_holes, mean_field, remove_specks
from fitting.landmark_fit import GeometryParams, fit_landmarks, landmark_targets
from fitting.pixel_likelihood import (
    face_log_likelihood,
    histogram,
    log_opponent,
    look_up,
    robust_scale,
    soft_bins,
    t_log_density,
    uniform_density,
)
from fitting.sharding import sharded_map, sharded_program
from flamejax.head import HeadModel
from flamejax.rendering import shade
from flamejax.types import Observation

CONFIDENCES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Landmark confidences at which `OcclusionConfig` tabulates log odds."""
BASE_WEIGHT = 0.3
"""Weight of the base log odds relative to one nearby landmark."""
DENSE_WEIGHT = 0.3
"""Weight of a dense landmark relative to one of the 68."""
GRID = 32
"""Side of the grid on which the landmarks' prior is computed; it has no finer detail."""
ROUGHNESS_REACH = 0.024
"""Radius of the local deviation's window, as a share of the crop's side."""
RING_LOG_ODDS = -1.0
"""Prior log odds of "hidden" in the ring outside the fitted face, which is mostly background."""
OCCLUDER_ROUGHNESS = 4.0
"""Local deviation of occluders relative to that of the face."""
SKIN_LIKE_SPREAD = 2.0
"""Spread of skin-coloured occluders (hands) about the face's colour, relative to the face's own spread."""


@dataclasses.dataclass(frozen=True)
class OcclusionConfig:
    """Configuration of `auto_masks`. Log odds are those of "hidden" against "face"."""

    size: int = 128
    """Side of the labelled image, pixels."""
    rounds: int = 4
    """Rounds of expectation and maximisation."""
    base_log_odds: float = -1.0
    """Prior log odds of a face pixel without landmarks nearby."""
    detected_log_odds: tuple[float, ...] = (2.4, 1.1, -0.8, -3.0, -4.5)
    """Log odds near a detected landmark with the confidences `CONFIDENCES`, interpolated linearly: a landmark of low
    confidence is often visible."""
    given_log_odds: tuple[float, ...] = (4.0, 3.0, 0.5, -3.0, -5.0)
    """Log odds near a landmark that the user gave (without dense landmarks): its confidence means visibility."""
    landmark_reach: float = 0.045
    """Standard deviation of a landmark's influence, as a share of the crop's side."""
    skin_like: float = 0.25
    """Share of occluders with skin colour (hands), whose colour is more widely spread than the face's."""
    colour_weight: float = 0.5
    """Weight of the colours' log likelihood ratio, below 1 since errors of neighbouring pixels are correlated."""
    tie_strength: float = 0.25
    """Log odds from a neighbour of the same colour whose label is certain."""
    tie_contrast: float = 0.08
    """Colour difference at which the coupling of neighbours has mostly vanished."""
    tie_floor: float = 0.1
    """Share of the coupling that remains across the strongest image edge."""
    smoothing_steps: int = 20
    """Mean-field steps in each round."""
    intensity_spread: tuple[float, float] = (0.12, 0.3)
    """Minimum and maximum standard deviation of a face's log intensity about the model."""
    colour_spread: tuple[float, float] = (0.04, 0.1)
    """The same for its colour (log red over green, blue over both)."""
    colour_for_face: float = 1.0
    """Maximum log likelihood ratio of a colour in favour of "face": many occluders have a similar colour."""
    roughness_weight: float = 0.4
    """The same as `colour_weight` for the roughness of the difference."""
    roughness_spread: tuple[float, float] = (0.03, 0.12)
    """Bounds of the spread of the local deviation of log intensity from the model."""
    colour_scale: float = 0.15
    """Colour difference from which a pixel is downweighted in the fit of light and albedo."""
    hole_radius: float = 0.1
    """Share of the crop's side. Holes of the mask, such as lenses, are filled unless a square of twice this side fits
    in."""
    speck_radius: float = 0.012
    """Share of the crop's side. Connected parts of the mask are removed unless a square of twice this side fits in."""
    ring: float = 0.06
    """Share of the crop's side by which the mask may extend beyond the fitted face, whose outline may be wrong where it
    is hidden."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.rounds < 1:
            raise ValueError(f"size must be at least 32 and rounds at least 1, got {self.size} and {self.rounds}.")


def auto_masks(
    head: HeadModel,
    observation: Observation,
    config: FitConfig | None = None,
    occlusion: OcclusionConfig | None = None,
) -> Observation:
    """Estimate the face and occlusion masks of photos.

    Args:
      head: the head model.
      observation: batch axes (*b,); one compilation per batch shape and settings.
      config: noise levels and steps of the landmark fit, `FitConfig()` when left out.
      occlusion: `OcclusionConfig()` when left out.

    Returns:
      The observation with `occlusion_mask` (0 or 1, united with the given one) and `face_mask` (the fitted head's face,
      intersected with the given one). Both are always finite. A photo keeps its given masks if its image holds numbers
      that are not finite, if fewer than 8 landmarks are visible, or if the estimated mask would leave fewer.

    Raises:
      ValueError: a field of the observation does not have the shape that `Observation` states for 68 landmarks, or
        there is no photo.
    """
    batch = check_observation(observation)
    program = functools.partial(masks_program, config or FitConfig(), occlusion or OcclusionConfig())
    face, hidden = sharded_map(program, head, observation, batch)
    return dataclasses.replace(observation, face_mask=face, occlusion_mask=hidden)


@functools.lru_cache(maxsize=16)
def masks_program(config: FitConfig, occlusion: OcclusionConfig, devices: tuple[jax.Device, ...]):  # noqa: ANN201
    """Return the jitted program (head, observation) -> (face_mask, occlusion_mask), each (B, S, S), for photos along
    one axis, sharded over devices."""
    return sharded_program(lambda head, observation: masks_batch(head, observation, config, occlusion), devices)


def masks_batch(
    head: HeadModel, observation: Observation, config: FitConfig, occlusion: OcclusionConfig
) -> tuple[Array, Array]:
    """Return the face and occlusion masks (B, S, S) of photos (B,): pure, traceable, no host callbacks."""

    def estimate_masks(photo: Observation) -> tuple[Array, Array]:
        clean = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), photo)
        # Positions that are not finite are kept here: `landmark_targets` gives these landmarks weight 0.
        with_nan = dataclasses.replace(clean, landmarks=photo.landmarks, dense_landmarks=photo.dense_landmarks)
        targets = landmark_targets(with_nan, config)
        geometry = fit_landmarks(without_local_models(head), targets, config)
        face, hidden = combine_masks(photo, clean, *segment(head, geometry, clean, occlusion))
        masked_targets = landmark_targets(dataclasses.replace(with_nan, occlusion_mask=hidden), config)
        # A mask that leaves the fit too few landmarks is worse than none, and without landmarks there is no face.
        usable = jnp.sum(targets.weights > 0) >= MIN_LANDMARKS
        usable &= jnp.sum(masked_targets.weights > 0) >= MIN_LANDMARKS
        return jnp.where(usable, face, clean.face_mask), jnp.where(usable, hidden, clean.occlusion_mask)

    return jax.vmap(estimate_masks)(observation)


def segment(
    head: HeadModel, geometry: GeometryParams, photo: Observation, config: OcclusionConfig
) -> tuple[Array, Array]:
    """Segment one photo: return the face's area and its hidden part, each (R, R) of 0 and 1."""
    size = config.size
    image = jax.image.resize(photo.image, (size, size, 3), "linear", antialias=True)
    given = jax.image.resize(photo.occlusion_mask, (size, size), "linear", antialias=True)
    pixels = render_face_maps(head, geometry, size)
    prior = landmark_prior(head, geometry, photo, config)
    hidden = hidden_posterior(pixels, image, given, prior, config)
    mask = (hidden > 0.5).astype(jnp.float32)
    mask = fill_holes(mask, max(1, round(config.hole_radius * size)))
    return pixels.face, remove_specks(mask, max(1, round(config.speck_radius * size)), pixels.face)


def landmark_prior(head: HeadModel, geometry: GeometryParams, photo: Observation, config: OcclusionConfig) -> Array:
    """Return log odds (R, R) of "hidden" from the landmarks' confidences: a mean weighted by proximity."""
    points = project_all_landmarks(head, geometry)
    confidence, weights = photo.confidence, jnp.ones(68).at[:17].set(0.5)
    detected = jnp.any(photo.dense_confidence > 0)
    if head.dense is not None:
        confidence = jnp.concatenate([confidence, photo.dense_confidence])
        dense_weight = jnp.where(detected, DENSE_WEIGHT, 0.0)
        weights = jnp.concatenate([weights, jnp.where(head.dense.sliding, 0.0, dense_weight)])
    table = jnp.where(detected, jnp.asarray(config.detected_log_odds), jnp.asarray(config.given_log_odds))
    landmark_log_odds = jnp.interp(confidence, jnp.asarray(CONFIDENCES), table)
    centres = (jnp.arange(GRID) + 0.5) / GRID
    kernel_x, kernel_y = (
        jnp.exp(-0.5 * ((centres[:, None] - p[None]) / config.landmark_reach) ** 2) for p in points.T
    )
    total_weight = jnp.einsum("yl,xl,l->yx", kernel_y, kernel_x, weights)
    total = jnp.einsum("yl,xl,l->yx", kernel_y, kernel_x, weights * landmark_log_odds)
    log_odds = (total + BASE_WEIGHT * config.base_log_odds) / (total_weight + BASE_WEIGHT)
    return jax.image.resize(log_odds, (config.size, config.size), "linear")


def hidden_posterior(pixels: FacePixels, image: Array, given: Array, prior: Array, config: OcclusionConfig) -> Array:
    """Return the posterior (R, R) of "hidden" in the face's area and the ring around it, 1 under the given mask.

    Args:
      image: (R, R, 3); given: (R, R) the given occlusion mask; prior: (R, R) log odds of "hidden".
    """
    log_colours = log_opponent(image)
    bins = soft_bins(log_colours.reshape(-1, 3))
    outside = ((1.0 - pixels.head) * (1.0 - given)).reshape(-1)
    background = look_up(histogram(bins, outside), bins).reshape(given.shape)
    active = pixels.face * (given < 0.5)
    ring = dilate(pixels.face, max(1, round(config.ring * config.size))) * (1.0 - pixels.face)
    edges = edge_weights(image, (active + ring) * (given < 0.5), config.tie_contrast, config.tie_floor)

    def em_round(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        hidden, texture, spreads = state
        weights = active * (1.0 - hidden) ** 2
        texture, light = fit_appearance(pixels, image, weights, texture, config.colour_scale)
        difference = log_colours - log_opponent(albedo_of(pixels, texture) * shade(pixels.normals, light))
        roughness = local_deviation(difference[..., 0], pixels.head, round(ROUGHNESS_REACH * config.size))
        spreads = _estimate_spreads(difference, roughness, pixels.spread_factors, weights, spreads, config)
        occluder = look_up(histogram(bins, (active * hidden).reshape(-1)), bins).reshape(given.shape)
        not_face = 0.4 * uniform_density() + 0.2 * background + 0.4 * occluder
        colour_ratio = colour_log_ratio(difference, pixels.spread_factors, spreads, not_face, config)
        roughness_ratio = roughness_log_ratio(roughness, pixels.spread_factors[..., 0], spreads[2])
        log_odds = config.colour_weight * colour_ratio + config.roughness_weight * roughness_ratio + prior
        ring_ratio = jnp.log((occluder + uniform_density()) / (background + uniform_density()))
        log_odds = jnp.where(ring > 0, config.colour_weight * ring_ratio + RING_LOG_ODDS, log_odds)
        hidden = mean_field(log_odds, edges, config.tie_strength, config.smoothing_steps)
        return (hidden, texture, spreads), None

    start = (
        jax.nn.sigmoid(prior) * active,
        jnp.zeros(pixels.albedo_basis.shape[-2]),
        jnp.asarray([config.intensity_spread[1], config.colour_spread[1], config.roughness_spread[1]]),
    )
    (hidden, _, _), _ = jax.lax.scan(em_round, start, length=config.rounds)
    return jnp.where(given < 0.5, hidden * (pixels.face + ring), 1.0)


def colour_log_ratio(
    difference: Array, factors: Array, spreads: Array, not_face: Array, config: OcclusionConfig
) -> Array:
    """Return the log likelihood ratio (R, R) of "hidden" from log-opponent colours.

    difference (R, R, 3) from the face's colours, factors (R, R, 2) on the spreads, not_face (R, R) density of the
    photo's colours under everything but the face.
    """
    scales = factors * spreads[None, None, :2]
    face = face_log_likelihood(difference, scales)
    hand = jnp.exp(face_log_likelihood(difference, SKIN_LIKE_SPREAD * scales))
    ratio = jnp.log(config.skin_like * hand + (1.0 - config.skin_like) * not_face + 1e-6) - face
    return jnp.clip(ratio, -config.colour_for_face, 12.0)


def roughness_log_ratio(roughness: Array, factors: Array, spread: Array) -> Array:
    """Return the log likelihood ratio (R, R) of "hidden" from `local_deviation`, which is larger for occluders."""
    scale = factors * spread
    face = t_log_density((roughness / scale) ** 2, scale, 1)
    rougher = OCCLUDER_ROUGHNESS * scale
    return jnp.clip(t_log_density((roughness / rougher) ** 2, rougher, 1) - face, -0.5, 6.0)


def local_deviation(difference: Array, inside: Array, reach: int) -> Array:
    """Return the standard deviation of (R, R) differences in squares of side 2 reach + 1, over pixels `inside` only."""
    count = box_sum(inside, reach) + 1e-6
    mean = box_sum(inside * difference, reach) / count
    square = box_sum(inside * difference**2, reach) / count
    return jnp.sqrt(jnp.maximum(square - mean**2, 0.0) + 1e-8)


def _estimate_spreads(
    difference: Array, roughness: Array, factors: Array, weights: Array, previous: Array, config: OcclusionConfig
) -> Array:
    """Return robust spreads (3,) of intensity, colour and roughness over weighted pixels, clipped to their bounds."""
    flat, weights = (difference / factors[..., jnp.asarray([0, 1, 1])]).reshape(-1, 3), weights.reshape(-1)
    estimates = (
        robust_scale(flat[:, 0] ** 2, weights, previous[0], 1),
        robust_scale(flat[:, 1] ** 2 + flat[:, 2] ** 2, weights, previous[1], 2),
        robust_scale((roughness / factors[..., 0]).reshape(-1) ** 2, weights, previous[2], 1),
    )
    bounds = (config.intensity_spread, config.colour_spread, config.roughness_spread)
    return jnp.stack([jnp.clip(value, *bound) for value, bound in zip(estimates, bounds, strict=True)])


def combine_masks(photo: Observation, clean: Observation, face: Array, hidden: Array) -> tuple[Array, Array]:
    """Enlarge the estimated face and occlusion masks to the crop's size and combine them with the given ones."""
    side = photo.image.shape[-2]

    def enlarge(mask: Array) -> Array:
        return jax.image.resize(mask, (side, side), "linear")

    # The given mask has a higher resolution than the labels. Enlarged with them it would spread into visible pixels,
    # so the labels are interpolated only between pixels outside it.
    given = jax.image.resize(clean.occlusion_mask, hidden.shape, "linear", antialias=True)
    labelled = (given < 0.5).astype(jnp.float32)
    hidden = (enlarge(hidden * labelled) > 0.5 * enlarge(labelled)).astype(jnp.float32)
    face = (enlarge(face) > 0.5).astype(jnp.float32)
    usable = jnp.all(jnp.isfinite(photo.image)) & (jnp.sum(face) > 0)
    face_mask = jnp.where(usable, face, 1.0) * clean.face_mask
    return face_mask, jnp.maximum(jnp.where(usable, hidden, 0.0), clean.occlusion_mask)
