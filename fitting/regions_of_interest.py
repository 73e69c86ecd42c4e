"""Rotated square regions of a photo, and resampling them to a network's input.

Photo coordinates are continuous: the photo's top-left corner is (0, 0), pixel centres lie at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

REGION_SCALE = 1.5  # side over the longer side of the face's box: the margin the landmark network was trained with


@dataclass(frozen=True)
class Region:
    """A rotated square in the photo."""

    centre: np.ndarray
    """(2,) x, y photo pixels"""
    side: float
    """photo pixels"""
    angle: float
    """radians, clockwise on the screen: the direction of the region's own x axis"""

    def axes(self) -> np.ndarray:
        """(2, 2): rows are the region's x and y axes in the photo, each `side` long."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.side * np.array([[c, s], [-s, c]])

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Convert points (*b, 2) to photo pixels. (0, 0) is the region's top-left corner, (1, 1) the opposite one."""
        return self.centre + (points - 0.5) @ self.axes()

    def jittered(self, shift: np.ndarray, scale: float, angle: float) -> Region:
        """Return the region shifted by (2,) sides along its own axes, scaled, and rotated by angle radians."""
        return Region(self.centre + shift @ self.axes(), self.side * scale, self.angle + angle)


class PhotoPyramid:
    """An image pyramid of a photo in 8 bits at full, half, quarter... size; levels are computed when first needed.

    Crops are sampled from the level that has one to two pixels per crop pixel, so shrinking does not alias. Not safe to
    share between threads.
    """

    def __init__(self, image: np.ndarray):
        """image: (H, W, 3) float32 in [0, 1]."""
        pixels = image * np.float32(255.0)
        pixels += np.float32(0.5)
        self._levels = {0: Image.fromarray(pixels.astype(np.uint8))}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the photo."""
        return self._levels[0].size

    def crop(self, region: Region, side: int) -> np.ndarray:
        """Resample a region to (side, side, 3) float32 in [0, 1]; black outside the photo."""
        level = int(np.floor(np.log2(max(region.side / side, 1.0))))
        if level not in self._levels:
            # Pixel i of a level covers photo pixels [i, i + 1) * 2**level exactly, also if a side is odd.
            self._levels[level] = self._levels[0].reduce(2**level)
        ratio = 2.0**-level
        x_axis, y_axis = region.axes() / side * ratio
        corner = region.to_photo(np.zeros(2)) * ratio
        matrix = (x_axis[0], y_axis[0], corner[0], x_axis[1], y_axis[1], corner[1])
        crop = self._levels[level].transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(crop, np.float32) / 255.0


def region_from_eyes(box: np.ndarray, eyes: np.ndarray) -> Region:
    """Return the square round a face box (4,), rotated so that the eyes are level.

    eyes (2, 2): the subject's right eye first, which is on the photo's left if the face is upright.
    """
    along = eyes[1] - eyes[0]
    angle = float(np.arctan2(along[1], along[0]))
    return Region((box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2]) * REGION_SCALE), angle)


def region_from_mesh(mesh: np.ndarray) -> Region:
    """Return the square round a face mesh (468, 2+), rotated so that the outer eye corners are level.

    Unlike MediaPipe's, the bounding box is that in the rotated frame, so the region rotates exactly with the face.
    """
    eyes = mesh[263, :2] - mesh[33, :2]
    angle = float(np.arctan2(eyes[1], eyes[0]))
    axes = Region(np.zeros(2), 1.0, angle).axes()
    rotated = mesh[:, :2] @ axes.T
    low, high = rotated.min(axis=0), rotated.max(axis=0)
    return Region((low + high) / 2 @ axes, float(max(high - low) * REGION_SCALE), angle)
