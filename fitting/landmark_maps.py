"""Map MediaPipe's 468 face points to the 68 landmarks of iBUG/300-W."""

from __future__ import annotations

import numpy as np

# One entry per iBUG point; pairs are averaged. The 17 contour points follow MediaPipe's face oval, which lies slightly
# inside the contour that iBUG annotators draw, so they need another weight than the inner 51.
_CONTOUR = (127, 234, 93, (132, 58), (58, 172), 136, 150, 176, 152,
            400, 379, 365, (397, 288), (288, 361), 323, 454, 356)  # fmt: skip
_BROWS = (70, 63, 105, 66, 107, 336, 296, 334, 293, 300)
_NOSE = ((168, 6), (197, 195), 5, 4, 75, 97, 2, 326, 305)
_EYES = (33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380)
_LIPS = (61, 39, 37, 0, 267, 269, 291, 321, 314, 17, 84, 91, 78, 82, 13, 312, 308, 317, 14, 87)
MEDIAPIPE_TO_IBUG = tuple(e if isinstance(e, tuple) else (e, e) for e in _CONTOUR + _BROWS + _NOSE + _EYES + _LIPS)

# The iBUG index that each point becomes in a mirrored photo.
IBUG_MIRROR = (
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31,
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip

RIGHT_OUTER_EYE, LEFT_OUTER_EYE = 36, 45  # iBUG; the subject's right is the photo's left


def mediapipe_to_ibug(points: np.ndarray) -> np.ndarray:
    """Return the 68 iBUG points of MediaPipe's mesh.

    Args:
        points: (*b, 468, D) in any coordinates.

    Returns:
        (*b, 68, D) in the same coordinates.
    """
    pairs = np.asarray(MEDIAPIPE_TO_IBUG)
    return 0.5 * (points[..., pairs[:, 0], :] + points[..., pairs[:, 1], :])
