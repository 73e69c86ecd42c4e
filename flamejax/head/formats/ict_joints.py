"""Joints for a head that has blend shapes only: rotations that reproduce its `jawOpen` and `eyeLook*` shapes.

A rotation explains most of such a shape; per vertex, the share that it explains is the skinning weight, and what is
left becomes a pose corrective. So the full rotation gives the shape itself, and parts of it follow an arc, not a line.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from flamejax.head.formats.files import HeadFileError
from flamejax.head.regions import border

PARENTS = np.array([-1, 0, 1, 1, 1], np.int32)
ROOT, NECK, JAW, LEFT_EYE, RIGHT_EYE = range(5)
SOFT = 0.0015
"""Metres: nearer to the jaw's axis than about this, a rotation moves too little to tell a weight."""
NECK_BACK = 0.25
"""How far the head's pivot lies behind the jaw hinges, in outer-eye distances."""
POOL = 400
"""Vertices that a joint inside the head is regressed from."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """The neutral head, metres."""

    points: np.ndarray
    """(V, 3)"""
    left_ball: np.ndarray
    """(V,) bool: the subject's left eyeball."""
    right_ball: np.ndarray
    """(V,) bool"""
    marks: np.ndarray
    """(68, 3) landmarks."""


def joints_and_skinning(parts: Parts, faces: np.ndarray, shapes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Regressor, weights and correctives of root, neck, jaw and eyes, under the names of flamejax's format.

    Args:
      parts: the head.
      faces: (F, 3).
      shapes: name -> (V, 3) offsets in metres; `jawOpen` and `eyeLook{Up,Down,In,Out}_{L,R}` are used.

    Raises:
      HeadFileError: `jawOpen` opens nothing, or the mesh has no border at the neck.
    """
    points, skin = parts.points, ~(parts.left_ball | parts.right_ball)
    unit = float(np.linalg.norm(parts.marks[36] - parts.marks[45]))
    low = border(faces, len(points)) & skin & (points[:, 1] < parts.marks[8, 1])
    if not low.any():
        raise HeadFileError("ICT-FaceKit: the head's mesh has no border below the chin, where its neck ends.")
    hinges = parts.marks[[1, 15]].mean(0)
    pivot = np.array([parts.marks[27:31, 0].mean(), hinges[1], hinges[2] - NECK_BACK * unit])
    opening = np.where(skin[:, None], shapes["jawOpen"], 0)
    angle, axis = _hinge(points, opening, parts.marks[27:31, 0].mean())
    regressor = np.stack(
        [
            low / low.sum(),
            _affine(points, skin, pivot),
            _affine(points, skin, axis),
            parts.left_ball / parts.left_ball.sum(),
            parts.right_ball / parts.right_ball.sum(),
        ]
    )
    root = regressor[ROOT] @ points
    rise = np.clip((points[:, 1] - root[1]) / max(pivot[1] - root[1], 1e-6), 0, 1)
    head = rise * rise * (3 - 2 * rise)
    jaw, corrective = _jaw(points, opening, angle, axis)
    weights = np.stack([(1 - jaw) * (1 - head), (1 - jaw) * head, jaw, 0 * jaw, 0 * jaw], 1)
    weights[parts.left_ball], weights[parts.right_ball] = np.eye(5)[LEFT_EYE], np.eye(5)[RIGHT_EYE]
    posedirs = np.zeros((36, len(points), 3))
    _odd(posedirs, JAW, 0, corrective / np.sin(angle))
    left, right = ("L", "R") if _moves(shapes["eyeLookDown_L"], parts) else ("R", "L")
    for joint, side, ball in ((LEFT_EYE, left, parts.left_ball), (RIGHT_EYE, right, parts.right_ball)):
        for about, ways in ((0, ("Down", "Up")), (1, ("Out", "In"))):
            _odd(posedirs, joint, about, _lids(points, skin, ball, about, [shapes[f"eyeLook{w}_{side}"] for w in ways]))
    return {
        "J_regressor": regressor.astype(np.float32),
        "lbs_weights": weights.astype(np.float32),
        "posedirs": posedirs.reshape(36, -1).astype(np.float32),
        "parents": PARENTS,
    }


def _moves(shape: np.ndarray, parts: Parts) -> bool:
    """Whether a shape moves the subject's left eye more than the right. Names of sides differ; the motion tells."""
    far = np.abs(shape)
    return bool(far[parts.left_ball].sum() >= far[parts.right_ball].sum())


def _rotation(about: int, angle: float) -> np.ndarray:
    one, two = (about + 1) % 3, (about + 2) % 3
    out = np.eye(3)
    out[[one, two], [one, two]], out[one, two], out[two, one] = np.cos(angle), -np.sin(angle), np.sin(angle)
    return out


def _hinge(points: np.ndarray, opening: np.ndarray, middle: float) -> tuple[float, np.ndarray]:
    """Angle (radians about +x) and centre (3,) of the rotation that fits `jawOpen` best where it moves most."""
    size = np.linalg.norm(opening, axis=1)
    firm = size > 0.6 * size.max()
    if size.max() < 1e-3:
        raise HeadFileError("ICT-FaceKit: jawOpen.obj opens nothing. Fetch it again.")
    # y' - y = a y - b z + s and z' - z = b y + a z + t, with a = cos - 1 and b = sin.
    y, z, one, zero = points[firm, 1], points[firm, 2], np.ones(firm.sum()), np.zeros(firm.sum())
    system = np.concatenate([np.stack([y, -z, one, zero], 1), np.stack([z, y, zero, one], 1)])
    (a, b, s, t), *_ = np.linalg.lstsq(system, np.concatenate([opening[firm, 1], opening[firm, 2]]), rcond=None)
    angle = float(np.arctan2(b, 1 + a))
    if not 0.02 < angle < 1.5:
        raise HeadFileError(f"ICT-FaceKit: jawOpen.obj turns the jaw by {np.degrees(angle):.1f} degrees, not 1 to 85.")
    turn = _rotation(0, angle)[1:, 1:] - np.eye(2)
    # a and b belong together only for a rigid motion, so the shift is taken again with the rotation as it is.
    del s, t
    shift = (opening[firm, 1:] - points[firm, 1:] @ turn.T).mean(0)
    centre = np.linalg.solve(turn, -shift)
    return angle, np.array([middle, *centre])


def _jaw(points: np.ndarray, opening: np.ndarray, angle: float, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skinning weights of the jaw (V,), and what must be added before the rotation to meet the shape (V, 3)."""
    turn = _rotation(0, angle) - np.eye(3)
    arm = (points - axis) @ turn.T
    jaw = np.clip((opening * arm).sum(1) / ((arm**2).sum(1) + SOFT**2), 0, 1)
    left = opening - jaw[:, None] * arm
    blend = np.eye(3) + jaw[:, None, None] * turn
    return jaw, np.linalg.solve(blend, left[:, :, None])[:, :, 0]


def _lids(points: np.ndarray, skin: np.ndarray, ball: np.ndarray, about: int, ways: list[np.ndarray]) -> np.ndarray:
    """(V, 3) motion of the skin per sine of the eye's angle: the mean of what the two opposite shapes say."""
    rest = points[ball] - points[ball].mean(0)
    one, two = (about + 1) % 3, (about + 2) % 3
    slopes = []
    for shape in ways:
        moved = rest + shape[ball] - shape[ball].mean(0)
        cross = (rest[:, one] * moved[:, two] - rest[:, two] * moved[:, one]).sum()
        sine = np.sin(np.arctan2(cross, (rest[:, [one, two]] * moved[:, [one, two]]).sum()))
        if abs(sine) > 0.02:
            slopes.append(np.where(skin[:, None], shape, 0) / sine)
    return np.mean(slopes, axis=0) if slopes else np.zeros_like(points)


def _odd(posedirs: np.ndarray, joint: int, about: int, slope: np.ndarray) -> None:
    """Add to posedirs (36, V, 3) a motion of `slope` times the sine of a joint's rotation about one axis.

    R - I has -sine and sine in two entries; each takes half.
    """
    one, two = (about + 1) % 3, (about + 2) % 3
    first = 9 * (joint - 1)
    posedirs[first + 3 * one + two] -= slope / 2
    posedirs[first + 3 * two + one] += slope / 2


def _affine(points: np.ndarray, allowed: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(V,) the smallest weights on vertices near a point that sum to 1 and average to it."""
    candidates = np.flatnonzero(allowed)
    distance = np.linalg.norm(points[candidates] - target, axis=1)
    chosen = candidates[np.argsort(distance, kind="stable")[:POOL]]
    system = np.concatenate([(points[chosen] - target).T, np.ones((1, len(chosen)))])
    out = np.zeros(len(points))
    out[chosen] = np.linalg.lstsq(system, np.array([0, 0, 0, 1.0]), rcond=None)[0]
    return out
