"""Region masks where a model brings none: guessed from its 68 landmarks, its skinning and its border.

They cover what FLAME's 14 masks cover, roughly: good enough to know skin from eyes and hair, not to cut a nose out.
"""

from collections.abc import Mapping

import numpy as np

REGION_NAMES = (
    "boundary",
    "eye_region",
    "face",
    "forehead",
    "left_ear",
    "left_eye_region",
    "left_eyeball",
    "lips",
    "neck",
    "nose",
    "right_ear",
    "right_eye_region",
    "right_eyeball",
    "scalp",
)
"""FLAME's 14 vertex masks."""
LEFT_EYE, RIGHT_EYE = 3, 4
"""Joints, which eyeballs are bound to."""


def landmark_points(model: Mapping[str, np.ndarray]) -> np.ndarray:
    """(68, 3) landmarks of the mean head at rest, from arrays under the names of flamejax's format."""
    corners = model["v_template"][model["faces"]]
    contour = np.sum(corners[model["contour_face"][0]] * model["contour_barycentric"][0][..., None], 1)
    inner = np.sum(corners[model["landmark_face"]] * model["landmark_barycentric"][..., None], 1)
    return np.concatenate([contour, inner]).astype(np.float64)


def guess_regions(model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The 14 regions of FLAME's vertex masks.

    Args:
      model: arrays under the names of flamejax's format: geometry, skinning and landmarks.

    Returns:
      Name -> (V,) bool.
    """
    points, marks = model["v_template"].astype(np.float64), landmark_points(model)
    weights = model["lbs_weights"]
    left_ball, right_ball = weights[:, LEFT_EYE] > 0.5, weights[:, RIGHT_EYE] > 0.5
    skin = ~(left_ball | right_ball)
    unit = max(float(np.linalg.norm(marks[36] - marks[45])), 1e-9)  # between the outer eye corners
    brow, chin, nose = marks[17:27, 1].mean(), marks[8, 1], marks[30]

    def near(chain: np.ndarray, reach: float) -> np.ndarray:
        """Skin within `reach` (in outer-eye distances) of a chain of points."""
        share = np.linspace(0, 1, 6)[:, None, None]
        dense = (chain[:-1] * (1 - share) + chain[1:] * share).reshape(-1, 3)
        distance = np.full(len(points), np.inf)
        for point in dense:
            distance = np.minimum(distance, np.linalg.norm(points - point, axis=1))
        return skin & (distance < reach * unit)

    left_eye = near(marks[[*range(42, 48), 42]], 0.25)
    right_eye = near(marks[[*range(36, 42), 36]], 0.25)
    eyes = left_eye | right_eye | near(marks[17:22], 0.2) | near(marks[22:27], 0.2)
    width = max(float(np.abs(marks[[0, 16], 0] - nose[0]).mean()), 1e-9)
    middle = np.abs(points[:, 0] - nose[0])
    depth = (marks[0, 2] + marks[16, 2]) / 2
    front = skin & (points[:, 2] > depth) & (middle < 1.05 * width)
    forehead = (
        front & (points[:, 1] > brow) & (points[:, 1] < brow + 0.65 * unit) & (points[:, 2] > nose[2] - 0.7 * unit)
    )
    face = (front & (points[:, 1] > chin - 0.1 * unit) & (points[:, 1] <= brow)) | forehead
    ears = {}
    for name, end in (("right_ear", marks[0]), ("left_ear", marks[16])):
        away = np.abs(points - (end - [0, 0, 0.2 * unit])) / unit
        side = (points[:, 0] - nose[0]) * (end[0] - nose[0]) > 0
        ears[name] = skin & ~face & side & (middle > 0.95 * width) & (away[:, 1] < 0.5) & (away[:, 2] < 0.4)
    below = points[:, 1] < chin - 0.1 * unit
    nape = (points[:, 2] < depth) & (points[:, 1] < nose[1])
    neck = skin & ~face & ~ears["left_ear"] & ~ears["right_ear"] & (below | nape)
    return {
        "boundary": border(model["faces"], len(points)) & neck,
        "eye_region": eyes,
        "face": face | eyes,
        "forehead": forehead,
        "left_eye_region": left_eye,
        "left_eyeball": left_ball,
        "lips": near(marks[[*range(48, 60), 48]], 0.08) | near(marks[[*range(60, 68), 60]], 0.08),
        "neck": neck,
        "nose": near(marks[27:31], 0.18) | near(marks[31:36], 0.18),
        "right_eye_region": right_eye,
        "right_eyeball": right_ball,
        "scalp": skin & ~face & ~eyes & ~neck & ~ears["left_ear"] & ~ears["right_ear"],
        **ears,
    }


def border(faces: np.ndarray, count: int) -> np.ndarray:
    """(V,) bool: vertices on edges that have a triangle on one side only."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64), axis=1)
    unique, times = np.unique(edges[:, 0] * count + edges[:, 1], return_counts=True)
    single = unique[times == 1]
    border = np.zeros(count, bool)
    border[np.concatenate([single // count, single % count])] = True
    return border
