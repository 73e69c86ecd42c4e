"""Occlusion masks without the user's help: which pixels of the fitted head's face show something else.

After Egger et al. 2018, "Occlusion-aware 3D Morphable Models and an Illumination Prior for Face Image Analysis":
expectation-maximisation between a model of the face and a label, face or not, of every pixel. Here the geometry comes
from the landmarks; what alternates are labels, light, albedo, spreads and a colour histogram of what is not the face.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from fitting._checks import check_observation
from fitting.config import MIN_LANDMARKS, FitConfig
from fitting.face_pixels import FacePixels, albedo_of, fit_appearance, landmark_places, render_face_maps
from fitting.fit_model import without_local_models
from fitting.label_smoothing import box_sum, dilate, edge_weights, fill_holes, mean_field, remove_specks
from fitting.landmark_fit import Geometry, fit_landmarks, landmark_targets
from fitting.pixel_likelihood import (
    face_log_likelihood,
    histogram,
    look_up,
    robust_scale,
    soft_bins,
    t_log_density,
    tones,
    uniform_density,
)
from fitting.sharding import sharded_map, sharded_program
from flamejax.head import HeadModel
from flamejax.rendering import shade
from flamejax.types import Observation

CONFIDENCES = (0.0, 0.25, 0.5, 0.75, 1.0)
BASE_WEIGHT = 0.3
"""Of the base log odds beside the landmarks near by, in landmarks; and of a dense landmark:"""
DENSE_WEIGHT = 0.3
GRID = 32
"""Side of the grid on which landmarks speak; they say nothing finer."""
ROUGHNESS_REACH = 0.024
"""Share of the crop's side over which the local deviation is taken."""
RING_LOG_ODDS = -1.0
"""Of "hidden" beside the fitted face: what is not hidden there is mostly background."""
ROUGHER = 4.0
"""How many times more than the face what is not the face deviates locally."""
SKIN_LIKE_SPREAD = 2.0
"""Of the colours of hands about the face's, in spreads of the face's own."""


@dataclasses.dataclass(frozen=True)
class OcclusionConfig:
    """Settings of `auto_masks`. Log odds are those of "hidden" against "face"."""

    size: int = 128
    """Side of the image that is labelled, pixels."""
    rounds: int = 4
    """Of expectation and maximisation."""
    base_log_odds: float = -1.0
    """Of a face pixel that no landmark speaks of."""
    detected_log_odds: tuple[float, ...] = (2.4, 1.1, -0.8, -3.0, -4.5)
    """Of a detected landmark with the confidences `CONFIDENCES`, between them linear: what a detector is unsure of is
    often seen all the same."""
    given_log_odds: tuple[float, ...] = (4.0, 3.0, 0.5, -3.0, -5.0)
    """Of a landmark of the user's own (no dense landmark is known then): their confidence says what they see."""
    landmark_reach: float = 0.045
    """How far a landmark speaks, as a share of the crop's side."""
    skin_like: float = 0.25
    """Share of what hides a face that has its colour too, more widely spread: hands."""
    colour_weight: float = 0.5
    """Share of the colours' log likelihood ratio that counts: neighbouring pixels do not err independently."""
    tie_strength: float = 0.25
    """Log odds that a certain neighbour of the same colour is worth."""
    tie_contrast: float = 0.08
    """Colour difference across which neighbours cease to be tied."""
    tie_floor: float = 0.1
    """Share of a tie that the strongest edge leaves."""
    smoothing_steps: int = 20
    intensity_spread: tuple[float, float] = (0.12, 0.3)
    """Least and greatest standard deviation of a face's log intensity about the model."""
    colour_spread: tuple[float, float] = (0.04, 0.1)
    """The same of its colour (log red over green, blue over both)."""
    colour_for_face: float = 1.0
    """Most that a colour may speak for the face: much that hides faces has their colour."""
    roughness_weight: float = 0.4
    """The same as `colour_weight` for the roughness of the difference."""
    roughness_spread: tuple[float, float] = (0.03, 0.12)
    """Bounds of the spread of the local deviation of log intensity from the model."""
    colour_scale: float = 0.15
    """Colour difference at which a pixel begins to lose its say on light and albedo."""
    hole_radius: float = 0.1
    """Holes of the mask are filled unless a square of twice this side, as a share of the crop's, fits in: lenses."""
    speck_radius: float = 0.012
    """Parts of the mask are dropped unless a square of twice this side fits in."""
    ring: float = 0.06
    """The mask may reach this far beyond the fitted face, whose outline may be off where it is hidden."""

    def __post_init__(self) -> None:
        if self.size < 32 or self.rounds < 1:
            raise ValueError(f"size must be at least 32 and rounds at least 1, got {self.size} and {self.rounds}.")


def auto_masks(
    head: HeadModel,
    observation: Observation,
    config: FitConfig | None = None,
    occlusion: OcclusionConfig | None = None,
) -> Observation:
    """Fill in the masks of photos from the photos themselves.

    Args:
      head: the model.
      observation: batch axes (*b,); one compilation per batch shape and settings.
      config: noise levels and steps of the landmark fit, `FitConfig()` when left out.
      occlusion: `OcclusionConfig()` when left out.

    Returns:
      The observation with `occlusion_mask` (0 or 1, together with the one given) and `face_mask` (the fitted head's
      face, inside the one given). Both are finite whatever the photo holds; a photo with numbers that are not finite,
      with fewer than 8 landmarks to see, or whose mask would leave fewer, keeps the masks it came with.

    Raises:
      ValueError: a part of the observation has another shape than an `Observation` of 68 landmarks, or there is no
        photo.
    """
    batch = check_observation(observation)
    program = functools.partial(masks_program, config or FitConfig(), occlusion or OcclusionConfig())
    face, hidden = sharded_map(program, head, observation, batch)
    return dataclasses.replace(observation, face_mask=face, occlusion_mask=hidden)


@functools.lru_cache(maxsize=16)
def masks_program(config: FitConfig, occlusion: OcclusionConfig, devices: tuple[jax.Device, ...]):  # noqa: ANN201
    """The jitted (head, observation) -> (face_mask, occlusion_mask), each (B, S, S), for photos along one axis, shared
    out over `devices`."""
    return sharded_program(lambda head, observation: masks_batch(head, observation, config, occlusion), devices)


def masks_batch(
    head: HeadModel, observation: Observation, config: FitConfig, occlusion: OcclusionConfig
) -> tuple[Array, Array]:
    """Face and occlusion masks (B, S, S) of photos along one leading axis: pure, traceable, no host callbacks."""

    def one(photo: Observation) -> tuple[Array, Array]:
        clean = jax.tree.map(lambda leaf: jnp.nan_to_num(leaf, posinf=0.0, neginf=0.0), photo)
        # Landmarks that are not finite take no part.
        sure = dataclasses.replace(clean, landmarks=photo.landmarks, dense_landmarks=photo.dense_landmarks)
        targets = landmark_targets(sure, config)
        geometry = fit_landmarks(without_local_models(head), targets, config)
        face, hidden = combine(photo, clean, *segment(head, geometry, clean, occlusion))
        left = landmark_targets(dataclasses.replace(sure, occlusion_mask=hidden), config)
        # A mask that leaves the fit too few landmarks is worse than none, and without landmarks there is no face.
        useful = (jnp.sum(targets.weights > 0) >= MIN_LANDMARKS) & (jnp.sum(left.weights > 0) >= MIN_LANDMARKS)
        return jnp.where(useful, face, clean.face_mask), jnp.where(useful, hidden, clean.occlusion_mask)

    return jax.vmap(one)(observation)


def segment(head: HeadModel, geometry: Geometry, photo: Observation, config: OcclusionConfig) -> tuple[Array, Array]:
    """Face area and hidden part of it at (R, R), each 0 or 1, of one photo."""
    size = config.size
    image = jax.image.resize(photo.image, (size, size, 3), "linear", antialias=True)
    given = jax.image.resize(photo.occlusion_mask, (size, size), "linear", antialias=True)
    pixels = render_face_maps(head, geometry, size)
    prior = landmark_prior(head, geometry, photo, config)
    hidden = expect_maximise(pixels, image, given, prior, config)
    mask = (hidden > 0.5).astype(jnp.float32)
    mask = fill_holes(mask, max(1, round(config.hole_radius * size)))
    return pixels.face, remove_specks(mask, max(1, round(config.speck_radius * size)), pixels.face)


def landmark_prior(head: HeadModel, geometry: Geometry, photo: Observation, config: OcclusionConfig) -> Array:
    """(R, R) log odds of "hidden" from the landmarks' confidences: a mean weighted by nearness."""
    places = landmark_places(head, geometry)
    confidence, weights = photo.confidence, jnp.ones(68).at[:17].set(0.5)
    detected = jnp.any(photo.dense_confidence > 0)
    if head.dense is not None:
        confidence = jnp.concatenate([confidence, photo.dense_confidence])
        dense_weight = jnp.where(detected, DENSE_WEIGHT, 0.0)
        weights = jnp.concatenate([weights, jnp.where(head.dense.sliding, 0.0, dense_weight)])
    table = jnp.where(detected, jnp.asarray(config.detected_log_odds), jnp.asarray(config.given_log_odds))
    says = jnp.interp(confidence, jnp.asarray(CONFIDENCES), table)
    centres = (jnp.arange(GRID) + 0.5) / GRID
    across, down = (jnp.exp(-0.5 * ((centres[:, None] - p[None]) / config.landmark_reach) ** 2) for p in places.T)
    mass = jnp.einsum("yl,xl,l->yx", down, across, weights)
    total = jnp.einsum("yl,xl,l->yx", down, across, weights * says)
    log_odds = (total + BASE_WEIGHT * config.base_log_odds) / (mass + BASE_WEIGHT)
    return jax.image.resize(log_odds, (config.size, config.size), "linear")


def expect_maximise(pixels: FacePixels, image: Array, given: Array, prior: Array, config: OcclusionConfig) -> Array:
    """Posterior (R, R) of "hidden" in the face's area.

    Args:
      image: (R, R, 3); given: (R, R) mask that came with the photo; prior: (R, R) log odds of "hidden".
    """
    seen = tones(image)
    bins = soft_bins(seen.reshape(-1, 3))
    outside = ((1.0 - pixels.head) * (1.0 - given)).reshape(-1)
    background = look_up(histogram(bins, outside), bins).reshape(given.shape)
    active = pixels.face * (given < 0.5)
    ring = dilate(pixels.face, max(1, round(config.ring * config.size))) * (1.0 - pixels.face)
    ties = edge_weights(image, (active + ring) * (given < 0.5), config.tie_contrast, config.tie_floor)

    def round_of(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        hidden, texture, spreads = state
        weights = active * (1.0 - hidden) ** 2
        texture, light = fit_appearance(pixels, image, weights, texture, config.colour_scale)
        difference = seen - tones(albedo_of(pixels, texture) * shade(pixels.normals, light))
        roughness = local_deviation(difference[..., 0], pixels.head, round(ROUGHNESS_REACH * config.size))
        spreads = _spreads(difference, roughness, pixels.widths, weights, spreads, config)
        inside = look_up(histogram(bins, (active * hidden).reshape(-1)), bins).reshape(given.shape)
        others = 0.4 * uniform_density() + 0.2 * background + 0.4 * inside
        colour = colour_evidence(difference, pixels.widths, spreads, others, config)
        rough = roughness_evidence(roughness, pixels.widths[..., 0], spreads[2])
        log_odds = config.colour_weight * colour + config.roughness_weight * rough + prior
        beside = config.colour_weight * jnp.log((inside + uniform_density()) / (background + uniform_density()))
        log_odds = jnp.where(ring > 0, beside + RING_LOG_ODDS, log_odds)
        hidden = mean_field(log_odds, ties, config.tie_strength, config.smoothing_steps)
        return (hidden, texture, spreads), None

    start = (
        jax.nn.sigmoid(prior) * active,
        jnp.zeros(pixels.albedo_basis.shape[-2]),
        jnp.asarray([config.intensity_spread[1], config.colour_spread[1], config.roughness_spread[1]]),
    )
    (hidden, _, _), _ = jax.lax.scan(round_of, start, length=config.rounds)
    return jnp.where(given < 0.5, hidden * (pixels.face + ring), 1.0)


def colour_evidence(difference: Array, widths: Array, spreads: Array, others: Array, config: OcclusionConfig) -> Array:
    """(R, R) log likelihood ratio of "hidden" from tones: difference (R, R, 3), widths (R, R, 2), others (R, R) density
    of the tones of what is not the face."""
    scales = widths * spreads[None, None, :2]
    face = face_log_likelihood(difference, scales)
    hand = jnp.exp(face_log_likelihood(difference, SKIN_LIKE_SPREAD * scales))
    ratio = jnp.log(config.skin_like * hand + (1.0 - config.skin_like) * others + 1e-6) - face
    return jnp.clip(ratio, -config.colour_for_face, 12.0)


def roughness_evidence(roughness: Array, widths: Array, spread: Array) -> Array:
    """(R, R) log likelihood ratio of "hidden" from `local_deviation`: what is not the face deviates more."""
    scale = widths * spread
    face = t_log_density((roughness / scale) ** 2, scale, 1)
    return jnp.clip(t_log_density((roughness / (ROUGHER * scale)) ** 2, ROUGHER * scale, 1) - face, -0.5, 6.0)


def local_deviation(difference: Array, inside: Array, reach: int) -> Array:
    """Standard deviation of (R, R) differences in squares of side 2 reach + 1, as far as they lie inside (R, R)."""
    count = box_sum(inside, reach) + 1e-6
    mean = box_sum(inside * difference, reach) / count
    square = box_sum(inside * difference**2, reach) / count
    return jnp.sqrt(jnp.maximum(square - mean**2, 0.0) + 1e-8)


def _spreads(
    difference: Array, roughness: Array, widths: Array, weights: Array, previous: Array, config: OcclusionConfig
) -> Array:
    """(3,) robust spreads of intensity, colour and roughness over what is taken for face, within their bounds."""
    flat, weights = (difference / widths[..., jnp.asarray([0, 1, 1])]).reshape(-1, 3), weights.reshape(-1)
    found = (
        robust_scale(flat[:, 0] ** 2, weights, previous[0], 1),
        robust_scale(flat[:, 1] ** 2 + flat[:, 2] ** 2, weights, previous[1], 2),
        robust_scale((roughness / widths[..., 0]).reshape(-1) ** 2, weights, previous[2], 1),
    )
    bounds = (config.intensity_spread, config.colour_spread, config.roughness_spread)
    return jnp.stack([jnp.clip(value, *bound) for value, bound in zip(found, bounds, strict=True)])


def combine(photo: Observation, clean: Observation, face: Array, hidden: Array) -> tuple[Array, Array]:
    """Face and occlusion masks at the crop's size, together with those given."""
    side = photo.image.shape[-2]

    def enlarged(mask: Array) -> Array:
        return jax.image.resize(mask, (side, side), "linear")

    # What was given, such as the area beyond the photo, is known more finely than it was labelled. Enlarged with the
    # rest it would spread into what is seen: only labelled pixels have a say beside it.
    given = jax.image.resize(clean.occlusion_mask, hidden.shape, "linear", antialias=True)
    labelled = (given < 0.5).astype(jnp.float32)
    hidden = (enlarged(hidden * labelled) > 0.5 * enlarged(labelled)).astype(jnp.float32)
    face = (enlarged(face) > 0.5).astype(jnp.float32)
    usable = jnp.all(jnp.isfinite(photo.image)) & (jnp.sum(face) > 0)
    face_mask = jnp.where(usable, face, 1.0) * clean.face_mask
    return face_mask, jnp.maximum(jnp.where(usable, hidden, 0.0), clean.occlusion_mask)
