"""Crop photos by their landmarks as face networks expect."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ARCFACE_SIZE = 112
ARCFACE_TEMPLATE = (
    np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
    )
    + 0.5
)
"""Target positions of the left eye (in the image), the right eye, the nose's tip and the mouth's corners in a crop of
112 pixels. They were published as pixel indices; + 0.5, because our pixel centres are at + 0.5."""
FARL_SIZE, FARL_MARGIN = 224, 1.6
LEFT_EYE, RIGHT_EYE, NOSE_TIP, MOUTH_CORNERS = slice(36, 42), slice(42, 48), 30, (48, 54)
"""Landmarks of iBUG-68; left and right as in the image."""
MIN_SPREAD = 1e-3
"""Pixels: points that are closer together than this do not determine scale and angle."""
MAX_SAMPLES = 4
"""Largest number of samples of a crop's pixel in each direction."""


def five_points(landmarks: Array, visibility: Array) -> tuple[Array, Array]:
    """Return eye centres, tip of the nose and corners of the mouth from iBUG-68 landmarks.

    Args:
      landmarks: (*b, 68, 2) pixels; the positions of hidden ones have no effect.
      visibility: (*b, 68) in [0, 1].

    Returns:
      Points (*b, 5, 2) and their weights (*b, 5). An eye's point is the mean of its landmarks, weighted by visibility;
      its weight is the mean of their visibility.
    """
    weights = _weights(landmarks, visibility)
    landmarks = _finite(landmarks)
    points, point_weights = [], []
    for eye in (LEFT_EYE, RIGHT_EYE):
        points.append(_weighted_mean(landmarks[..., eye, :], weights[..., eye])[0])
        point_weights.append(jnp.mean(weights[..., eye], axis=-1))
    for index in (NOSE_TIP, *MOUTH_CORNERS):
        points.append(landmarks[..., index, :])
        point_weights.append(weights[..., index])
    return jnp.stack(points, axis=-2), jnp.stack(point_weights, axis=-1)


def similarity_2d(source: Array, target: Array, weights: Array) -> tuple[Array, Array]:
    """Fit a weighted least-squares similarity without reflection between points of the plane (Umeyama 1991, with the
    rotation in closed form).

    Args:
      source, target: (*b, N, 2).
      weights: (*b, N), non-negative.

    Returns:
      A (*b, 2, 3) with target ~ A @ (x, y, 1), and whether it is determined (*b,) bool: at least two points have
      weight, and they are apart. If not, A is arbitrary but finite.
    """
    source_mean, total = _weighted_mean(source, weights)
    target_mean, _ = _weighted_mean(target, weights)
    fractions = weights / jnp.maximum(total, MIN_SPREAD)[..., None]
    p, q = source - source_mean[..., None, :], target - target_mean[..., None, :]
    spread = jnp.sum(fractions * jnp.sum(p * p, axis=-1), axis=-1)
    determined = (jnp.sum(weights > 0, axis=-1) >= 2) & (spread > MIN_SPREAD**2)
    spread = jnp.where(determined, spread, 1.0)
    a = jnp.sum(fractions * jnp.sum(p * q, axis=-1), axis=-1) / spread
    b = jnp.sum(fractions * (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]), axis=-1) / spread
    linear = jnp.stack([jnp.stack([a, -b], axis=-1), jnp.stack([b, a], axis=-1)], axis=-2)
    offset = target_mean - jnp.sum(linear * source_mean[..., None, :], axis=-1)
    return jnp.concatenate([linear, offset[..., None]], axis=-1), determined


def arcface_transform(
    landmarks: Array, visibility: Array, photo_shape: tuple[int, ...], size: int = ARCFACE_SIZE
) -> Array:
    """Return the transform from the photo to ArcFace's crop (Deng et al. 2019), which fits the visible ones of
    `five_points` to the template.

    If fewer than two are visible, all five have equal weight, because detectors and fits estimate hidden landmarks too.
    If these are degenerate as well, the crop is the entire photo.

    Args:
      landmarks: (*b, 68, 2) pixels.
      visibility: (*b, 68).
      photo_shape: (*b, H, W, C).
      size: side of the crop, pixels; the template scales with it.

    Returns:
      A (*b, 2, 3): crop pixels = A @ (x, y, 1) of photo pixels.
    """
    template = jnp.asarray(ARCFACE_TEMPLATE * (size / ARCFACE_SIZE))
    points, weights = five_points(landmarks, visibility)
    from_visible = similarity_2d(points, jnp.broadcast_to(template, points.shape), weights)
    points, weights = five_points(landmarks, jnp.ones(landmarks.shape[:-1]))
    from_all = similarity_2d(points, jnp.broadcast_to(template, points.shape), weights)
    return _first_determined(from_visible, from_all, photo_shape, size)


def square_transform(
    landmarks: Array,
    visibility: Array,
    photo_shape: tuple[int, ...],
    size: int = FARL_SIZE,
    margin: float = FARL_MARGIN,
) -> Array:
    """Return the transform from the photo to an upright square around the face, whose side is `margin` times the longer
    side of its visible landmarks' box (FaRL, as OFER uses it: 1.6 times, at 224 pixels).

    If fewer than two landmarks are visible (visibility 0.5 or more), it is the box of all landmarks. If these are
    degenerate as well, it is the entire photo. Arguments and result as `arcface_transform`.
    """
    from_visible = _box_transform(landmarks, _weights(landmarks, visibility) >= 0.5, size, margin)
    from_all = _box_transform(landmarks, jnp.isfinite(landmarks).all(axis=-1), size, margin)
    return _first_determined(from_visible, from_all, photo_shape, size)


def _first_determined(
    from_visible: tuple[Array, Array], from_all: tuple[Array, Array], photo_shape: tuple[int, ...], size: int
) -> Array:
    """Return the first of two transforms, each given with whether it is determined, or else the entire photo's."""
    photo = _photo_transform(from_all[0].shape[:-2], photo_shape, size)
    fallback = jnp.where(from_all[1][..., None, None], from_all[0], photo)
    return jnp.where(from_visible[1][..., None, None], from_visible[0], fallback)


def warp(photo: Array, crop_from_photo: Array, size: int, samples: int | None = None) -> Array:
    """Crop a photo by bilinear interpolation, with zeros outside of the photo.

    Each pixel of the crop is the mean of samples**2 bilinear samples spread over its area in the photo. They all
    coincide if the crop does not shrink the photo.

    Args:
      photo: (*b, H, W, C).
      crop_from_photo: (*b, 2, 3), invertible.
      size: side of the crop, pixels.
      samples: by default as many as shrinking the entire photo to the crop needs, up to 4. That is enough for faces
        that shrink to a quarter; below that the finest patterns alias.

    Returns:
      (*b, size, size, C).
    """
    if samples is None:
        samples = min(max(math.ceil(max(photo.shape[-3:-1]) / size), 1), MAX_SAMPLES)
    batch = photo.shape[:-3]
    crops = jax.vmap(lambda image, transform: _warp_one(image, transform, size, samples))(
        photo.reshape(-1, *photo.shape[-3:]), crop_from_photo.reshape(-1, 2, 3)
    )
    return crops.reshape(*batch, *crops.shape[1:])


def _warp_one(photo: Array, crop_from_photo: Array, size: int, samples: int) -> Array:
    inverse, shrinking = _inverse(crop_from_photo)
    steps = (jnp.arange(samples) + 0.5) / samples - 0.5
    # A bilinear sample covers one pixel of the photo by itself.
    steps = steps * jnp.maximum(shrinking - 1, 0) / shrinking
    columns, rows = jnp.meshgrid(jnp.arange(size) + 0.5, jnp.arange(size) + 0.5)

    def add(total: Array, step: Array) -> tuple[Array, None]:
        x, y = columns + step[0], rows + step[1]
        photo_x, photo_y = (inverse[row, 0] * x + inverse[row, 1] * y + inverse[row, 2] for row in range(2))
        return total + bilinear(photo, photo_x, photo_y), None

    grid = jnp.stack(jnp.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    total, _ = jax.lax.scan(add, jnp.zeros((size, size, photo.shape[-1]), photo.dtype), grid)
    return total / samples**2


def _inverse(transform: Array) -> tuple[Array, Array]:
    """Return the inverse (2, 3) of a transform, and the side of a crop pixel in photo pixels."""
    (a, b, x), (c, d, y) = transform
    determinant = a * d - b * c
    determinant = jnp.where(jnp.abs(determinant) > 1e-12, determinant, 1e-12)
    rows = [jnp.stack([d, -b, b * y - d * x]), jnp.stack([-c, a, c * x - a * y])]
    return jnp.stack(rows) / determinant, jax.lax.rsqrt(jnp.abs(determinant))


def bilinear(photo: Array, x: Array, y: Array) -> Array:
    """Sample a photo (H, W, C) at pixels x, y (...), with zeros outside: (..., C)."""
    height, width = photo.shape[:2]
    # Clip coordinates far outside, so that integers do not overflow.
    x, y = jnp.clip(x - 0.5, -2.0, width + 1.0), jnp.clip(y - 0.5, -2.0, height + 1.0)
    left, top = jnp.floor(x), jnp.floor(y)
    right_weight, bottom_weight = x - left, y - top
    samples = jnp.zeros((*x.shape, photo.shape[-1]), photo.dtype)
    for down in range(2):
        for across in range(2):
            column, row = left.astype(jnp.int32) + across, top.astype(jnp.int32) + down
            weight = (right_weight if across else 1 - right_weight) * (bottom_weight if down else 1 - bottom_weight)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            pixels = photo[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
            samples = samples + jnp.where(inside, weight, 0)[..., None] * pixels
    return samples


def _box_transform(landmarks: Array, used: Array, size: int, margin: float) -> tuple[Array, Array]:
    """Return the transform to the square around the `used` landmarks (*b, 68) bool, and whether it is determined."""
    far = jnp.finfo(jnp.float32).max
    low = jnp.min(jnp.where(used[..., None], landmarks, far), axis=-2)
    high = jnp.max(jnp.where(used[..., None], landmarks, -far), axis=-2)
    side = margin * jnp.max(high - low, axis=-1)
    determined = (jnp.sum(used, axis=-1) >= 2) & (side > MIN_SPREAD)
    scale = size / jnp.where(determined, side, 1.0)
    centre = jnp.where(determined[..., None], 0.5 * (low + high), 0.0)
    return _scale_transform(scale, centre, size), determined


def _photo_transform(batch: tuple[int, ...], photo_shape: tuple[int, ...], size: int) -> Array:
    """Return the transform to the smallest square around the photo."""
    height, width = photo_shape[-3:-1]
    centre = jnp.broadcast_to(jnp.asarray([0.5 * width, 0.5 * height], jnp.float32), (*batch, 2))
    return _scale_transform(jnp.full(batch, size / max(height, width), jnp.float32), centre, size)


def _scale_transform(scale: Array, centre: Array, size: int) -> Array:
    """Return the transform (*b, 2, 3) that scales by (*b,) and maps `centre` (*b, 2) to the crop's centre."""
    linear = scale[..., None, None] * jnp.broadcast_to(jnp.eye(2), (*scale.shape, 2, 2))
    offset = 0.5 * size - scale[..., None] * centre
    return jnp.concatenate([linear, offset[..., None]], axis=-1)


def _weights(landmarks: Array, visibility: Array) -> Array:
    """Return visibility as non-negative floats, zero for landmarks that are not finite."""
    return jnp.where(jnp.isfinite(landmarks).all(axis=-1), jnp.maximum(visibility.astype(jnp.float32), 0), 0)


def _finite(landmarks: Array) -> Array:
    return jnp.where(jnp.isfinite(landmarks), landmarks, 0)


def _weighted_mean(points: Array, weights: Array) -> tuple[Array, Array]:
    """Return the weighted mean (*b, 2), or the mean if all weights are zero, and the sum of the weights (*b,)."""
    total = jnp.sum(weights, axis=-1)
    weights = jnp.where((total > 0)[..., None], weights, jnp.ones_like(weights))
    fractions = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.sum(fractions[..., None] * points, axis=-2), total
