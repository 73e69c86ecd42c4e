"""Joints for a head that has blend shapes only: rotations that reproduce its `jawOpen` and `eyeLook*` shapes.

A rotation explains most of such a shape. Per vertex, the share that it explains is the skinning weight, and the
residual becomes a pose corrective. So the full rotation reproduces the shape, and smaller ones follow an arc.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from flamejax.head.formats.files import HeadFileError
from flamejax.head.regions import boundary_vertices

PARENTS = np.array([-1, 0, 1, 1, 1], np.int32)
ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)
MIN_MOTION = 0.0015
"""Metres: regularizes the jaw's weights near its axis, where a rotation moves vertices less than about this."""
NECK_OFFSET = 0.25
"""Distance of the head's pivot behind the jaw hinges, in outer-eye distances."""
REGRESSOR_SIZE = 400
"""Number of vertices from which a joint inside the head is regressed."""


@dataclasses.dataclass(frozen=True)
class IctNeutralHead:
    """The neutral head of the ICT model, metres."""

    points: np.ndarray
    """(V, 3)"""
    left_eyeball: np.ndarray
    """(V,) bool: the subject's left eyeball."""
    right_eyeball: np.ndarray
    """(V,) bool"""
    landmarks: np.ndarray
    """(68, 3)"""


def joints_and_skinning(
    neutral: IctNeutralHead, faces: np.ndarray, shapes: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Derive joint regressor, skinning weights and pose correctives, under the names of flamejax's format.

    Args:
      neutral: the neutral head.
      faces: (F, 3).
      shapes: name -> (V, 3) offsets in metres; `jawOpen` and `eyeLook{Up,Down,In,Out}_{L,R}` are used.

    Raises:
      HeadFileError: `jawOpen` opens nothing, or the mesh has no border at the neck.
    """
    points, landmarks = neutral.points, neutral.landmarks
    eyeballs = neutral.left_eyeball, neutral.right_eyeball
    skin = ~(eyeballs[0] | eyeballs[1])
    unit = float(np.linalg.norm(landmarks[36] - landmarks[45]))
    neck_rim = boundary_vertices(faces, len(points)) & skin & (points[:, 1] < landmarks[8, 1])
    if not neck_rim.any():
        raise HeadFileError("ICT-FaceKit: the head's mesh has no border below the chin, where its neck ends.")
    hinges, middle = landmarks[[1, 15]].mean(0), landmarks[27:31, 0].mean()
    pivot = np.array([middle, hinges[1], hinges[2] - NECK_OFFSET * unit])
    opening = np.where(skin[:, None], shapes["jawOpen"], 0)
    angle, jaw_centre = _fit_jaw_rotation(points, opening, middle)
    regressor = np.stack(
        [
            neck_rim / neck_rim.sum(),
            _affine_weights(points, skin, pivot),
            _affine_weights(points, skin, jaw_centre),
            *(eyeball / eyeball.sum() for eyeball in eyeballs),
        ]
    )
    root = regressor[ROOT] @ points
    height = np.clip((points[:, 1] - root[1]) / max(pivot[1] - root[1], 1e-6), 0, 1)
    neck = height * height * (3 - 2 * height)  # smoothstep
    jaw, corrective = _jaw_weights(points, opening, angle, jaw_centre)
    weights = np.stack([(1 - jaw) * (1 - neck), (1 - jaw) * neck, jaw, 0 * jaw, 0 * jaw], 1)
    weights[eyeballs[0]], weights[eyeballs[1]] = np.eye(5)[LEFT_EYE], np.eye(5)[RIGHT_EYE]
    posedirs = np.zeros((36, len(points), 3))
    _add_corrective(posedirs, JAW, 0, corrective / np.sin(angle))
    sides = ("L", "R") if _moves_left_eye(shapes["eyeLookDown_L"], neutral) else ("R", "L")
    for joint, side, eyeball in zip((LEFT_EYE, RIGHT_EYE), sides, eyeballs, strict=True):
        for axis, directions in ((0, ("Down", "Up")), (1, ("Out", "In"))):
            opposite = [shapes[f"eyeLook{direction}_{side}"] for direction in directions]
            _add_corrective(posedirs, joint, axis, _lid_motion(points, skin, eyeball, axis, opposite))
    return {
        "J_regressor": regressor.astype(np.float32),
        "lbs_weights": weights.astype(np.float32),
        "posedirs": posedirs.reshape(36, -1).astype(np.float32),
        "parents": PARENTS,
    }


def _moves_left_eye(shape: np.ndarray, neutral: IctNeutralHead) -> bool:
    """Returns whether a shape moves the subject's left eye more than the right. Shape names are not reliable."""
    motion = np.abs(shape)
    return bool(motion[neutral.left_eyeball].sum() >= motion[neutral.right_eyeball].sum())


def _rotation(axis: int, angle: float) -> np.ndarray:
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[[i, j], [i, j]], matrix[i, j], matrix[j, i] = np.cos(angle), -np.sin(angle), np.sin(angle)
    return matrix


def _fit_jaw_rotation(points: np.ndarray, opening: np.ndarray, middle: float) -> tuple[float, np.ndarray]:
    """Fit a rotation to `jawOpen` where it moves most: angle (radians about +x) and centre (3,)."""
    motion = np.linalg.norm(opening, axis=1)
    chin = motion > 0.6 * motion.max()
    if motion.max() < 1e-3:
        raise HeadFileError("ICT-FaceKit: jawOpen.obj opens nothing. Fetch it again.")
    # y' - y = a y - b z + s and z' - z = b y + a z + t, with a = cos - 1 and b = sin.
    y, z, one, zero = points[chin, 1], points[chin, 2], np.ones(chin.sum()), np.zeros(chin.sum())
    system = np.concatenate([np.stack([y, -z, one, zero], 1), np.stack([z, y, zero, one], 1)])
    (a, b, _, _), *_ = np.linalg.lstsq(system, np.concatenate([opening[chin, 1], opening[chin, 2]]), rcond=None)
    angle = float(np.arctan2(b, 1 + a))
    if not 0.02 < angle < 1.5:
        raise HeadFileError(f"ICT-FaceKit: jawOpen.obj turns the jaw by {np.degrees(angle):.1f} degrees, not 1 to 85.")
    change = _rotation(0, angle)[1:, 1:] - np.eye(2)
    # a and b are consistent only for a rigid motion, so the translation is computed again for the exact rotation.
    translation = (opening[chin, 1:] - points[chin, 1:] @ change.T).mean(0)
    centre = np.linalg.solve(change, -translation)
    return angle, np.array([middle, *centre])


def _jaw_weights(
    points: np.ndarray, opening: np.ndarray, angle: float, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the jaw's skinning weights (V,), and the corrective before skinning that reproduces the shape (V, 3)."""
    change = _rotation(0, angle) - np.eye(3)
    motion = (points - centre) @ change.T
    weights = np.clip((opening * motion).sum(1) / ((motion**2).sum(1) + MIN_MOTION**2), 0, 1)
    residual = opening - weights[:, None] * motion
    blended = np.eye(3) + weights[:, None, None] * change
    return weights, np.linalg.solve(blended, residual[:, :, None])[:, :, 0]


def _lid_motion(
    points: np.ndarray, skin: np.ndarray, eyeball: np.ndarray, axis: int, shapes: list[np.ndarray]
) -> np.ndarray:
    """Returns the motion of the skin (V, 3) per sine of the eye's angle: the mean over two opposite shapes."""
    rest = points[eyeball] - points[eyeball].mean(0)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    slopes = []
    for shape in shapes:
        moved = rest + shape[eyeball] - shape[eyeball].mean(0)
        cross = (rest[:, i] * moved[:, j] - rest[:, j] * moved[:, i]).sum()
        sine = np.sin(np.arctan2(cross, (rest[:, [i, j]] * moved[:, [i, j]]).sum()))
        if abs(sine) > 0.02:
            slopes.append(np.where(skin[:, None], shape, 0) / sine)
    return np.mean(slopes, axis=0) if slopes else np.zeros_like(points)


def _add_corrective(posedirs: np.ndarray, joint: int, axis: int, slope: np.ndarray) -> None:
    """Add to posedirs (36, V, 3) a motion of `slope` times the sine of a joint's rotation about one axis.

    R - I has -sine and sine in two entries; each gets half of the slope.
    """
    i, j = (axis + 1) % 3, (axis + 2) % 3
    first = 9 * (joint - 1)
    posedirs[first + 3 * i + j] -= slope / 2
    posedirs[first + 3 * j + i] += slope / 2


def _affine_weights(points: np.ndarray, allowed: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns (V,) the minimum-norm weights on vertices near `target` that sum to 1 and average to it."""
    candidates = np.flatnonzero(allowed)
    distance = np.linalg.norm(points[candidates] - target, axis=1)
    nearest = candidates[np.argsort(distance, kind="stable")[:REGRESSOR_SIZE]]
    system = np.concatenate([(points[nearest] - target).T, np.ones((1, len(nearest)))])
    weights = np.zeros(len(points))
    weights[nearest] = np.linalg.lstsq(system, np.array([0, 0, 0, 1.0]), rcond=None)[0]
    return weights
