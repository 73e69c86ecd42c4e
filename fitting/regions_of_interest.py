"""Rotated square regions of a photo, and the crops a network sees of them.

Photo coordinates are continuous: the photo's top-left corner is (0, 0), pixel centres lie at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

REGION_SCALE = 1.5  # side over the longer side of the face's box: the margin the landmark network was trained with


@dataclass(frozen=True)
class Region:
    """A rotated square in the photo: centre (2,) x, y and side in photo pixels."""

    centre: np.ndarray
    side: float
    angle: float
    """radians, clockwise on the screen: the direction of the region's own x axis"""

    def axes(self) -> np.ndarray:
        """(2, 2): rows are the region's x and y axes in the photo, each `side` long."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return self.side * np.array([[c, s], [-s, c]])

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Photo pixels of points (*b, 2) given in units of the side, (0, 0) being the region's top-left corner."""
        return self.centre + (points - 0.5) @ self.axes()

    def jittered(self, shift: np.ndarray, scale: float, angle: float) -> Region:
        """The region moved by shift (2,) sides along its own axes, scaled, and turned by angle radians."""
        return Region(self.centre + shift @ self.axes(), self.side * scale, self.angle + angle)


class PhotoPyramid:
    """A photo in 8 bits at full, half, quarter... size, each level made when first needed.

    Crops are taken from the level that keeps one to two source pixels per crop pixel, so shrinking does not alias.
    Not to be shared between threads.
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
        """(side, side, 3) float32 in [0, 1]; black outside the photo."""
        level = int(np.floor(np.log2(max(region.side / side, 1.0))))
        if level not in self._levels:
            # Pixel i of a level covers photo pixels [i, i + 1) * 2**level exactly, also where a side is odd.
            self._levels[level] = self._levels[0].reduce(2**level)
        ratio = 2.0**-level
        x_axis, y_axis = region.axes() / side * ratio
        corner = region.to_photo(np.zeros(2)) * ratio
        matrix = (x_axis[0], y_axis[0], corner[0], x_axis[1], y_axis[1], corner[1])
        crop = self._levels[level].transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return np.asarray(crop, np.float32) / 255.0


def region_from_eyes(box: np.ndarray, eyes: np.ndarray) -> Region:
    """The square round a face box (4,), turned so that the eyes are level: eyes (2, 2), the subject's right one first,
    which is on the photo's left when the face is upright."""
    along = eyes[1] - eyes[0]
    angle = float(np.arctan2(along[1], along[0]))
    return Region((box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2]) * REGION_SCALE), angle)


def region_from_mesh(mesh: np.ndarray) -> Region:
    """The square round a face mesh (468, 2+), with the outer eye corners level.

    Unlike MediaPipe's the box is taken in the turned frame, so the region turns exactly with the face.
    """
    eyes = mesh[263, :2] - mesh[33, :2]
    angle = float(np.arctan2(eyes[1], eyes[0]))
    axes = Region(np.zeros(2), 1.0, angle).axes()
    turned = mesh[:, :2] @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    return Region((low + high) / 2 @ axes, float(max(high - low) * REGION_SCALE), angle)
