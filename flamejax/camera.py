"""Cameras (world metres -> pixels and depth) and the transform between a square crop and the full photo.

Pixel coordinates are continuous, (0, 0) is the image's top-left corner and pixel centres lie at +0.5.
Camera axes: x right, y down, z forward.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from flamejax._checks import check_shape
from flamejax.geometry import HIGHEST, normalize

ORTHOGRAPHIC_DEPTH_OFFSET = 10.0
"""Metres from the world's origin back to the orthographic image plane, so that depth is positive for any head."""


def _arrays(tree: Any) -> tuple[Array, ...]:
    """Returns a dataclass's fields as arrays, float32 where they are plain numbers or lists."""
    # Not in `__post_init__`: JAX's transformations also build these dataclasses from axis numbers and other objects.
    return tuple(v if isinstance(v, Array) else jnp.asarray(v, jnp.float32) for v in vars(tree).values())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CropTransform:
    """Crop pixels = scale * full-photo pixels + offset."""

    scale: Array
    """(*b,) crop pixels per photo pixel."""
    offset: Array
    """(*b, 2) crop pixels."""

    def to_crop(self, points: Array) -> Array:
        """Convert points (*b, N, 2) from full-photo to crop pixels."""
        scale, offset = _arrays(self)
        return scale[..., None, None] * points + offset[..., None, :]

    def to_full(self, points: Array) -> Array:
        """Convert points (*b, N, 2) from crop to full-photo pixels."""
        scale, offset = _arrays(self)
        return (points - offset[..., None, :]) / scale[..., None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OrthographicCamera:
    """Scaled orthographic camera looking along -z of the world: pixels = scale * (x, -y) + translation.

    Its fields may be given as plain numbers and lists: `OrthographicCamera(400.0, [128.0, 150.0])`.
    """

    scale: Array
    """(*b,) pixels per metre."""
    translation: Array
    """(*b, 2) pixels: image of the world's origin."""

    @property
    def perspective(self) -> bool:
        """Whether depth must be interpolated with 1/z."""
        return False

    @classmethod
    def from_deca(cls, cam: ArrayLike, size: int = 224) -> "OrthographicCamera":
        """Returns the camera of DECA's square crop.

        DECA shifts x and y, then scales them to units of half the crop about its centre, and negates y.

        Args:
          cam: (*b, 3) scale and shift, `cam` of DECA's code.
          size: side of the crop, pixels.
        """
        values, half = jnp.asarray(cam, jnp.float32), 0.5 * size
        scale = half * values[..., 0]
        x, y = half + scale * values[..., 1], half - scale * values[..., 2]
        return cls(scale, jnp.stack([x, y], axis=-1))

    def project(self, points: Array) -> Array:
        """Project (*b, N, 3) world metres -> (*b, N, 3): x, y in pixels and depth z in metres (nearer is smaller).

        Raises:
          ValueError: the points are not (*b, N, 3), or the translation not (*b, 2).
        """
        scale, translation = _arrays(self)
        check_shape("points", points, "N", 3)
        check_shape("translation", translation, 2)
        x = scale[..., None] * points[..., 0] + translation[..., :1]
        y = -scale[..., None] * points[..., 1] + translation[..., 1:]
        return jnp.stack([x, y, ORTHOGRAPHIC_DEPTH_OFFSET - points[..., 2]], axis=-1)

    def to_full(self, crop: CropTransform) -> "OrthographicCamera":
        """Returns the camera of the full photo, given this camera of its crop."""
        (scale, translation), (zoom, offset) = _arrays(self), _arrays(crop)
        return OrthographicCamera(scale / zoom, (translation - offset) / zoom[..., None])

    def to_crop(self, crop: CropTransform) -> "OrthographicCamera":
        """Returns the camera of the crop, given this camera of the full photo."""
        (scale, translation), (zoom, offset) = _arrays(self), _arrays(crop)
        return OrthographicCamera(scale * zoom, translation * zoom[..., None] + offset)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerspectiveCamera:
    """Pinhole camera. Its fields may be given as plain numbers and lists."""

    focal: Array
    """(*b,) pixels."""
    centre: Array
    """(*b, 2) principal point, pixels."""
    T_camera_world: Array
    """(*b, 4, 4) rigid transform from world to camera; camera axes x right, y down, z forward."""

    @classmethod
    def look_at(
        cls,
        eye: ArrayLike | Sequence[float],
        target: ArrayLike | Sequence[float],
        up: ArrayLike | Sequence[float] = (0.0, 1.0, 0.0),
        *,
        focal: ArrayLike,
        size: tuple[int, int],
    ) -> "PerspectiveCamera":
        """Returns a camera at `eye` that sees `target` at the centre of its image.

        Args:
          eye: (*b, 3) camera centre, world metres.
          target: (*b, 3) point to look at, different from `eye`.
          up: (3,) or (*b, 3) direction that points up in the image, not along the line of sight.
          focal: (*b,) pixels; a focal length equal to the image width gives a field of view of 53 degrees.
          size: (H, W) of the image, pixels.

        Raises:
          ValueError: eye, target or up does not have 3 coordinates.
        """
        vectors = [jnp.asarray(value, jnp.float32) for value in (eye, target, up)]
        for name, vector in zip(("eye", "target", "up"), vectors, strict=True):
            check_shape(name, vector, 3)
        eye, target, up = jnp.broadcast_arrays(*vectors)
        forward = normalize(target - eye)
        right = normalize(jnp.cross(forward, up))
        rotation = jnp.stack([right, jnp.cross(forward, right), forward], axis=-2)
        offset = -jnp.matmul(rotation, eye[..., None], precision=HIGHEST)
        bottom = jnp.broadcast_to(jnp.asarray([0.0, 0.0, 0.0, 1.0]), (*eye.shape[:-1], 1, 4))
        T_camera_world = jnp.concatenate([jnp.concatenate([rotation, offset], axis=-1), bottom], axis=-2)
        centre = jnp.broadcast_to(jnp.asarray([0.5 * size[1], 0.5 * size[0]]), (*eye.shape[:-1], 2))
        return cls(jnp.broadcast_to(jnp.asarray(focal, jnp.float32), eye.shape[:-1]), centre, T_camera_world)

    @property
    def perspective(self) -> bool:
        """Whether depth must be interpolated with 1/z."""
        return True

    def project(self, points: Array) -> Array:
        """Project (*b, N, 3) world metres -> (*b, N, 3): x, y in pixels and depth z in metres.

        Points at or behind the camera (z <= 0) get finite but meaningless pixels; `rasterize` drops their triangles.

        Raises:
          ValueError: the points are not (*b, N, 3), the centre not (*b, 2), or T_camera_world not (*b, 4, 4).
        """
        focal, centre, T_camera_world = _arrays(self)
        check_shape("points", points, "N", 3)
        check_shape("centre", centre, 2)
        check_shape("T_camera_world", T_camera_world, 4, 4)
        rotation, translation = T_camera_world[..., :3, :3], T_camera_world[..., :3, 3]
        local = jnp.matmul(points, jnp.swapaxes(rotation, -1, -2), precision=HIGHEST) + translation[..., None, :]
        depth = local[..., 2:]
        safe_depth = jnp.where(depth > 1e-6, depth, 1.0)
        xy = focal[..., None, None] * local[..., :2] / safe_depth + centre[..., None, :]
        return jnp.concatenate([xy, depth], axis=-1)

    def to_full(self, crop: CropTransform) -> "PerspectiveCamera":
        """Returns the camera of the full photo, given this camera of its crop."""
        (focal, centre, T_camera_world), (zoom, offset) = _arrays(self), _arrays(crop)
        return PerspectiveCamera(focal / zoom, (centre - offset) / zoom[..., None], T_camera_world)

    def to_crop(self, crop: CropTransform) -> "PerspectiveCamera":
        """Returns the camera of the crop, given this camera of the full photo."""
        (focal, centre, T_camera_world), (zoom, offset) = _arrays(self), _arrays(crop)
        return PerspectiveCamera(focal * zoom, centre * zoom[..., None] + offset, T_camera_world)


Camera = OrthographicCamera | PerspectiveCamera


@functools.partial(jax.jit, static_argnames=("size", "margin"))
def framing(
    vertices: ArrayLike, size: tuple[int, int], *, margin: float = 0.03, max_scale: ArrayLike = jnp.inf
) -> OrthographicCamera:
    """Returns a frontal camera that shows all vertices, centred and as large as they fit.

    Args:
      vertices: (*b, V, 3) world metres.
      size: (H, W) of the image, pixels.
      margin: empty border on each side, as a share of the image.
      max_scale: (*b,) upper limit of the scale, pixels per metre.

    Raises:
      ValueError: `vertices` is not (*b, V, 3).
    """
    check_shape("vertices", vertices, "V", 3)
    xy = jnp.asarray(vertices, jnp.float32)[..., :2]
    low, high = jnp.min(xy, axis=-2), jnp.max(xy, axis=-2)
    extent = jnp.broadcast_to(jnp.asarray([size[1], size[0]], jnp.float32), low.shape)
    largest_scale = (1.0 - 2.0 * margin) * jnp.min(extent / jnp.maximum(high - low, 1e-6), axis=-1)
    scale = jnp.minimum(jnp.asarray(max_scale, jnp.float32), largest_scale)
    flip = jnp.broadcast_to(jnp.asarray([1.0, -1.0]), low.shape)
    return OrthographicCamera(scale, 0.5 * extent - scale[..., None] * flip * 0.5 * (low + high))
