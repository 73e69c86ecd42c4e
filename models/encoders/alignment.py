"""From a photo and its landmarks to the crops that face networks expect."""

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
"""Where the left eye (of the image), the right one, the nose's tip and the mouth's corners come to lie, pixels of a
crop of 112. Published as pixel indices; half a pixel more where pixel centres lie at +0.5."""
FARL_SIZE, FARL_MARGIN = 224, 1.6
LEFT_EYE, RIGHT_EYE, NOSE_TIP, MOUTH_CORNERS = slice(36, 42), slice(42, 48), 30, (48, 54)
"""Of iBUG-68."""
SMALLEST = 1e-3
"""Pixels: points that lie closer together than this say nothing about size and angle."""
MAX_SAMPLES = 4


def five_points(landmarks: Array, visibility: Array) -> tuple[Array, Array]:
    """Eye centres, tip of the nose and corners of the mouth from iBUG-68.

    Args:
      landmarks: (*b, 68, 2) pixels; hidden ones may hold anything.
      visibility: (*b, 68) in [0, 1].

    Returns:
      Points (*b, 5, 2), an eye's centre being the mean of its visible landmarks, and their weights (*b, 5), an eye's
      being the mean of its landmarks' visibility.
    """
    weights = _weights(landmarks, visibility)
    landmarks = _finite(landmarks)
    places, seen = [], []
    for eye in (LEFT_EYE, RIGHT_EYE):
        places.append(_weighted_mean(landmarks[..., eye, :], weights[..., eye])[0])
        seen.append(jnp.mean(weights[..., eye], axis=-1))
    for index in (NOSE_TIP, *MOUTH_CORNERS):
        places.append(landmarks[..., index, :])
        seen.append(weights[..., index])
    return jnp.stack(places, axis=-2), jnp.stack(seen, axis=-1)


def similarity_2d(source: Array, target: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted least-squares similarity without reflection between points of the plane (Umeyama 1991, whose rotation is
    in the plane a closed form).

    Args:
      source, target: (*b, N, 2).
      weights: (*b, N), non-negative.

    Returns:
      (*b, 2, 3) A with target ~ A @ (x, y, 1), and whether there is one (*b,) bool: two points or more count, and lie
      apart. Where there is none, A is finite.
    """
    source_mean, total = _weighted_mean(source, weights)
    target_mean, _ = _weighted_mean(target, weights)
    share = weights / jnp.maximum(total, SMALLEST)[..., None]
    p, q = source - source_mean[..., None, :], target - target_mean[..., None, :]
    spread = jnp.sum(share * jnp.sum(p * p, axis=-1), axis=-1)
    exists = (jnp.sum(weights > 0, axis=-1) >= 2) & (spread > SMALLEST**2)
    spread = jnp.where(exists, spread, 1.0)
    a = jnp.sum(share * jnp.sum(p * q, axis=-1), axis=-1) / spread
    b = jnp.sum(share * (p[..., 0] * q[..., 1] - p[..., 1] * q[..., 0]), axis=-1) / spread
    linear = jnp.stack([jnp.stack([a, -b], axis=-1), jnp.stack([b, a], axis=-1)], axis=-2)
    offset = target_mean - jnp.sum(linear * source_mean[..., None, :], axis=-1)
    return jnp.concatenate([linear, offset[..., None]], axis=-1), exists


def arcface_transform(
    landmarks: Array, visibility: Array, photo_shape: tuple[int, ...], size: int = ARCFACE_SIZE
) -> Array:
    """From photo to ArcFace's crop (Deng et al. 2019): the visible ones of five points onto the template.

    Where fewer than two are visible, all five count alike: detectors and fitted heads place hidden landmarks as well.
    Where these do not span anything either, the whole photo becomes the crop.

    Args:
      landmarks: (*b, 68, 2) pixels.
      visibility: (*b, 68).
      photo_shape: (*b, H, W, C).
      size: side of the crop, pixels; the template grows with it.

    Returns:
      (*b, 2, 3): crop pixels = A @ (x, y, 1) of photo pixels.
    """
    template = jnp.asarray(ARCFACE_TEMPLATE * (size / ARCFACE_SIZE))
    points, weights = five_points(landmarks, visibility)
    seen, exists = similarity_2d(points, jnp.broadcast_to(template, points.shape), weights)
    points, weights = five_points(landmarks, jnp.ones(landmarks.shape[:-1]))
    assumed, possible = similarity_2d(points, jnp.broadcast_to(template, points.shape), weights)
    assumed = jnp.where(possible[..., None, None], assumed, _whole(landmarks.shape[:-2], photo_shape, size))
    return jnp.where(exists[..., None, None], seen, assumed)


def square_transform(
    landmarks: Array,
    visibility: Array,
    photo_shape: tuple[int, ...],
    size: int = FARL_SIZE,
    margin: float = FARL_MARGIN,
) -> Array:
    """From photo to an upright square about the face, `margin` times the longer side of the box of its visible
    landmarks (FaRL, as OFER uses it: 1.6 times, at 224 pixels).

    Where fewer than two landmarks are visible (0.5 or more) it is the box of all, and the whole photo where these do
    not span anything. Arguments and result as `arcface_transform`.
    """
    seen, exists = _box_transform(landmarks, _weights(landmarks, visibility) >= 0.5, size, margin)
    everything = jnp.isfinite(landmarks).all(axis=-1)
    assumed, possible = _box_transform(landmarks, everything, size, margin)
    assumed = jnp.where(possible[..., None, None], assumed, _whole(landmarks.shape[:-2], photo_shape, size))
    return jnp.where(exists[..., None, None], seen, assumed)


def warp(photo: Array, crop_from_photo: Array, size: int, samples: int | None = None) -> Array:
    """A crop of a photo, bilinear, with zeros outside of it.

    Each pixel of the crop is the mean of `samples` squared bilinear ones, spread over what it covers of the photo: all
    at one place, plain bilinear, where the crop is not smaller than the face in the photo.

    Args:
      photo: (*b, H, W, C).
      crop_from_photo: (*b, 2, 3), invertible.
      size: side of the crop, pixels.
      samples: by default as many as shrinking the whole photo to the crop needs, up to 4, which do for faces that
        shrink to a quarter; beyond that the finest patterns alias.

    Returns:
      (*b, size, size, C).
    """
    if samples is None:
        samples = min(max(math.ceil(max(photo.shape[-3:-1]) / size), 1), MAX_SAMPLES)
    batch = photo.shape[:-3]
    crops = jax.vmap(lambda one, transform: _warp_one(one, transform, size, samples))(
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
        places = [inverse[row, 0] * x + inverse[row, 1] * y + inverse[row, 2] for row in range(2)]
        return total + bilinear(photo, places[0], places[1]), None

    grid = jnp.stack(jnp.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    total, _ = jax.lax.scan(add, jnp.zeros((size, size, photo.shape[-1]), photo.dtype), grid)
    return total / samples**2


def _inverse(transform: Array) -> tuple[Array, Array]:
    """(2, 3) of the way back, and the photo's pixels along one of the crop."""
    (a, b, x), (c, d, y) = transform
    determinant = a * d - b * c
    determinant = jnp.where(jnp.abs(determinant) > 1e-12, determinant, 1e-12)
    rows = [jnp.stack([d, -b, b * y - d * x]), jnp.stack([-c, a, c * x - a * y])]
    return jnp.stack(rows) / determinant, jax.lax.rsqrt(jnp.abs(determinant))


def bilinear(photo: Array, x: Array, y: Array) -> Array:
    """Values of a photo (H, W, C) at places x, y (...), pixels; outside are zeros, into which it fades: (..., C)."""
    height, width = photo.shape[:2]
    # Far outside is outside: integers must not overflow.
    x, y = jnp.clip(x - 0.5, -2.0, width + 1.0), jnp.clip(y - 0.5, -2.0, height + 1.0)
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    found = jnp.zeros((*x.shape, photo.shape[-1]), photo.dtype)
    for down in range(2):
        for across in range(2):
            column, row = left.astype(jnp.int32) + across, top.astype(jnp.int32) + down
            share = (right_share if across else 1 - right_share) * (bottom_share if down else 1 - bottom_share)
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            taken = photo[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
            found = found + jnp.where(inside, share, 0)[..., None] * taken
    return found


def _box_transform(landmarks: Array, counted: Array, size: int, margin: float) -> tuple[Array, Array]:
    """The square about the landmarks that count (*b, 68) bool, and whether there is one."""
    far = jnp.finfo(jnp.float32).max
    low = jnp.min(jnp.where(counted[..., None], landmarks, far), axis=-2)
    high = jnp.max(jnp.where(counted[..., None], landmarks, -far), axis=-2)
    side = margin * jnp.max(high - low, axis=-1)
    exists = (jnp.sum(counted, axis=-1) >= 2) & (side > SMALLEST)
    scale = size / jnp.where(exists, side, 1.0)
    centre = jnp.where(exists[..., None], 0.5 * (low + high), 0.0)
    return _upright(scale, centre, size), exists


def _whole(batch: tuple[int, ...], photo_shape: tuple[int, ...], size: int) -> Array:
    """The smallest square about the photo."""
    height, width = photo_shape[-3:-1]
    centre = jnp.broadcast_to(jnp.asarray([0.5 * width, 0.5 * height], jnp.float32), (*batch, 2))
    return _upright(jnp.full(batch, size / max(height, width), jnp.float32), centre, size)


def _upright(scale: Array, centre: Array, size: int) -> Array:
    """(*b, 2, 3) that scales about a centre (*b, 2), which becomes the crop's."""
    linear = scale[..., None, None] * jnp.broadcast_to(jnp.eye(2), (*scale.shape, 2, 2))
    offset = 0.5 * size - scale[..., None] * centre
    return jnp.concatenate([linear, offset[..., None]], axis=-1)


def _weights(landmarks: Array, visibility: Array) -> Array:
    """Visibility as non-negative floats; zero where a landmark is no place."""
    return jnp.where(jnp.isfinite(landmarks).all(axis=-1), jnp.maximum(visibility.astype(jnp.float32), 0), 0)


def _finite(landmarks: Array) -> Array:
    return jnp.where(jnp.isfinite(landmarks), landmarks, 0)


def _weighted_mean(points: Array, weights: Array) -> tuple[Array, Array]:
    """(*b, 2), the plain mean where all weights are zero, and the sum of the weights (*b,)."""
    total = jnp.sum(weights, axis=-1)
    weights = jnp.where((total > 0)[..., None], weights, jnp.ones_like(weights))
    share = weights / jnp.sum(weights, axis=-1, keepdims=True)
    return jnp.sum(share[..., None] * points, axis=-2), total
