"""Cameras (world metres -> pixels and depth) and the transform between a square crop and the full photo.

Pixel coordinates are continuous, (0, 0) is the image's top-left corner and pixel centres lie at +0.5.
Camera axes: x right, y down, z forward.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

HIGHEST = jax.lax.Precision.HIGHEST
ORTHOGRAPHIC_DEPTH_OFFSET = 10.0
"""Metres from the world's origin back to the orthographic image plane, so that depth is positive for any head."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CropTransform:
    """Crop pixels = scale * full-photo pixels + offset."""

    scale: Array
    """(*b,) crop pixels per photo pixel."""
    offset: Array
    """(*b, 2) crop pixels."""

    def to_crop(self, points: Array) -> Array:
        """(*b, N, 2) full-photo pixels -> crop pixels."""
        return self.scale[..., None, None] * points + self.offset[..., None, :]

    def to_full(self, points: Array) -> Array:
        """(*b, N, 2) crop pixels -> full-photo pixels."""
        return (points - self.offset[..., None, :]) / self.scale[..., None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OrthographicCamera:
    """Scaled orthographic camera looking along -z of the world: pixels = scale * (x, -y) + translation."""

    scale: Array
    """(*b,) pixels per metre."""
    translation: Array
    """(*b, 2) pixels: where the world's origin appears."""

    @property
    def perspective(self) -> bool:
        """Whether depth must be interpolated with 1/z."""
        return False

    @classmethod
    def from_deca(cls, cam: ArrayLike, size: int = 224) -> "OrthographicCamera":
        """The camera of DECA's square crop.

        DECA scales x and y after shifting them, in units of half the crop about its centre, and turns y down.

        Args:
          cam: (*b, 3) scale and shift, `cam` of DECA's code.
          size: pixels of the crop's side.
        """
        values, half = jnp.asarray(cam, jnp.float32), 0.5 * size
        scale = half * values[..., 0]
        x, y = half + scale * values[..., 1], half - scale * values[..., 2]
        return cls(scale, jnp.stack([x, y], axis=-1))

    def project(self, points: Array) -> Array:
        """(*b, N, 3) world metres -> (*b, N, 3): x, y in pixels and depth z in metres (nearer is smaller)."""
        x = self.scale[..., None] * points[..., 0] + self.translation[..., :1]
        y = -self.scale[..., None] * points[..., 1] + self.translation[..., 1:]
        return jnp.stack([x, y, ORTHOGRAPHIC_DEPTH_OFFSET - points[..., 2]], axis=-1)

    def to_full(self, crop: CropTransform) -> "OrthographicCamera":
        """The camera of the full photo, given this camera of its crop."""
        return OrthographicCamera(self.scale / crop.scale, (self.translation - crop.offset) / crop.scale[..., None])

    def to_crop(self, crop: CropTransform) -> "OrthographicCamera":
        """The camera of the crop, given this camera of the full photo."""
        return OrthographicCamera(self.scale * crop.scale, self.translation * crop.scale[..., None] + crop.offset)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PerspectiveCamera:
    """Pinhole camera."""

    focal: Array
    """(*b,) pixels."""
    centre: Array
    """(*b, 2) principal point, pixels."""
    T_camera_world: Array
    """(*b, 4, 4) rigid transform from world to camera; camera axes x right, y down, z forward."""

    @property
    def perspective(self) -> bool:
        """Whether depth must be interpolated with 1/z."""
        return True

    def project(self, points: Array) -> Array:
        """(*b, N, 3) world metres -> (*b, N, 3): x, y in pixels and depth z in metres.

        Points at or behind the camera (z <= 0) get finite but meaningless pixels; `rasterize` drops their triangles.
        """
        rotation, translation = self.T_camera_world[..., :3, :3], self.T_camera_world[..., :3, 3]
        local = jnp.matmul(points, jnp.swapaxes(rotation, -1, -2), precision=HIGHEST) + translation[..., None, :]
        depth = local[..., 2:]
        safe_depth = jnp.where(depth > 1e-6, depth, 1.0)
        xy = self.focal[..., None, None] * local[..., :2] / safe_depth + self.centre[..., None, :]
        return jnp.concatenate([xy, depth], axis=-1)

    def to_full(self, crop: CropTransform) -> "PerspectiveCamera":
        """The camera of the full photo, given this camera of its crop."""
        centre = (self.centre - crop.offset) / crop.scale[..., None]
        return PerspectiveCamera(self.focal / crop.scale, centre, self.T_camera_world)

    def to_crop(self, crop: CropTransform) -> "PerspectiveCamera":
        """The camera of the crop, given this camera of the full photo."""
        centre = self.centre * crop.scale[..., None] + crop.offset
        return PerspectiveCamera(self.focal * crop.scale, centre, self.T_camera_world)


Camera = OrthographicCamera | PerspectiveCamera
