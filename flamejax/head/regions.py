"""Estimated region masks for models without their own, from the 68 landmarks, the skinning and the mesh boundary.

They roughly match FLAME's 14 masks. That is enough to tell skin from eyes and hair, but not to cut out a nose.
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
"""Names of FLAME's 14 vertex masks."""
LEFT_EYE, RIGHT_EYE = 3, 4
"""Joints that the eyeballs are bound to."""


def mean_landmarks(model: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute the 68 landmarks (68, 3) of the mean head at rest, from arrays with the names of flamejax's format."""
    corners = model["v_template"][model["faces"]]
    contour = np.sum(corners[model["contour_face"][0]] * model["contour_barycentric"][0][..., None], 1)
    inner = np.sum(corners[model["landmark_face"]] * model["landmark_barycentric"][..., None], 1)
    return np.concatenate([contour, inner]).astype(np.float64)


def guess_regions(model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Estimate the 14 regions of FLAME's vertex masks.

    Args:
      model: arrays with the names of flamejax's format: geometry, skinning and landmarks. Without landmarks, `face` is
        all vertices, and of the others only the eyeballs and the boundary are not empty.

    Returns:
      Name -> (V,) bool.
    """
    if not len(model["landmark_face"]):
        return _regions_without_landmarks(model)
    points, landmarks = model["v_template"].astype(np.float64), mean_landmarks(model)
    weights = model["lbs_weights"]
    left_ball, right_ball = weights[:, LEFT_EYE] > 0.5, weights[:, RIGHT_EYE] > 0.5
    skin = ~(left_ball | right_ball)
    unit = max(float(np.linalg.norm(landmarks[36] - landmarks[45])), 1e-9)  # between the outer eye corners
    brow, chin, nose = landmarks[17:27, 1].mean(), landmarks[8, 1], landmarks[30]

    def near(chain: np.ndarray, reach: float) -> np.ndarray:
        """Returns skin vertices within `reach` (in outer-eye distances) of a polyline."""
        share = np.linspace(0, 1, 6)[:, None, None]
        samples = (chain[:-1] * (1 - share) + chain[1:] * share).reshape(-1, 3)
        distance = np.full(len(points), np.inf)
        for point in samples:
            distance = np.minimum(distance, np.linalg.norm(points - point, axis=1))
        return skin & (distance < reach * unit)

    left_eye = near(landmarks[[*range(42, 48), 42]], 0.25)
    right_eye = near(landmarks[[*range(36, 42), 36]], 0.25)
    eyes = left_eye | right_eye | near(landmarks[17:22], 0.2) | near(landmarks[22:27], 0.2)
    width = max(float(np.abs(landmarks[[0, 16], 0] - nose[0]).mean()), 1e-9)
    sideways = np.abs(points[:, 0] - nose[0])
    depth = (landmarks[0, 2] + landmarks[16, 2]) / 2
    front = skin & (points[:, 2] > depth) & (sideways < 1.05 * width)
    forehead = (
        front & (points[:, 1] > brow) & (points[:, 1] < brow + 0.65 * unit) & (points[:, 2] > nose[2] - 0.7 * unit)
    )
    face = (front & (points[:, 1] > chin - 0.1 * unit) & (points[:, 1] <= brow)) | forehead
    ears = {}
    for name, end in (("right_ear", landmarks[0]), ("left_ear", landmarks[16])):
        offset = np.abs(points - (end - [0, 0, 0.2 * unit])) / unit
        side = (points[:, 0] - nose[0]) * (end[0] - nose[0]) > 0
        ears[name] = skin & ~face & side & (sideways > 0.95 * width) & (offset[:, 1] < 0.5) & (offset[:, 2] < 0.4)
    below = points[:, 1] < chin - 0.1 * unit
    nape = (points[:, 2] < depth) & (points[:, 1] < nose[1])
    neck = skin & ~face & ~ears["left_ear"] & ~ears["right_ear"] & (below | nape)
    return {
        "boundary": boundary_vertices(model["faces"], len(points)) & neck,
        "eye_region": eyes,
        "face": face | eyes,
        "forehead": forehead,
        "left_eye_region": left_eye,
        "left_eyeball": left_ball,
        "lips": near(landmarks[[*range(48, 60), 48]], 0.08) | near(landmarks[[*range(60, 68), 60]], 0.08),
        "neck": neck,
        "nose": near(landmarks[27:31], 0.18) | near(landmarks[31:36], 0.18),
        "right_eye_region": right_eye,
        "right_eyeball": right_ball,
        "scalp": skin & ~face & ~eyes & ~neck & ~ears["left_ear"] & ~ears["right_ear"],
        **ears,
    }


def _regions_without_landmarks(model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    count, weights = len(model["v_template"]), model["lbs_weights"]
    left_ball, right_ball = weights[:, LEFT_EYE] > 0.5, weights[:, RIGHT_EYE] > 0.5
    boundary = boundary_vertices(model["faces"], count) & ~left_ball & ~right_ball
    return dict.fromkeys(REGION_NAMES, np.zeros(count, bool)) | {
        "boundary": boundary,
        "face": np.ones(count, bool),
        "left_eyeball": left_ball,
        "right_eyeball": right_ball,
    }


def boundary_vertices(faces: np.ndarray, count: int) -> np.ndarray:
    """Returns (V,) bool: vertices on edges with only one triangle."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64), axis=1)
    unique, counts = np.unique(edges[:, 0] * count + edges[:, 1], return_counts=True)
    single = unique[counts == 1]
    boundary = np.zeros(count, bool)
    boundary[np.concatenate([single // count, single % count])] = True
    return boundary
