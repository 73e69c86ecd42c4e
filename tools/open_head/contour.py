"""The dynamic jaw contour: 17 landmarks for each of FLAME's 79 yaw bins.

Each landmark has a path over the face: the section of the skin with a plane that contains the viewing axis and a ray
outward from the face's middle. For a head rotated by some yaw, the landmark is the path's outermost point in the image,
among the points before the jaw's edge. On the far side that is the silhouette, on the near side the jaw line.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from tools.open_head.landmarks import YAW_BINS, mirror_point, yaw_bin
from tools.open_head.surface import MeanHeadSurface

# Two parts of a path can be equally far out, which makes the point jump as the head turns. So the points' depth is
# averaged over neighbouring yaws (degrees), at a cost of a fraction of a millimetre in the image.
SMOOTHING_KERNEL = np.array([1.0, 2, 3, 4, 5, 4, 3, 2, 1]) / 25


def jaw_limits(surface: MeanHeadSurface, ears: np.ndarray, lip_bottom_y: float) -> dict[str, float]:
    """Measure where the jaw ends: ear front z, menton (y, z), gonion (y, z)."""
    v = surface.vertices
    skin = np.unique(surface.faces[surface.skin])
    ear = skin[ears[skin] > 0.5]
    low, high = v[ear, 1].min(), v[ear, 1].max()
    middle = ear[np.abs(v[ear, 1] - (low + high) / 2) < 0.25 * (high - low)]
    ear_z = np.percentile(v[middle, 2], 97)
    centre = skin[(np.abs(v[skin, 0]) < 0.012) & (v[skin, 1] < lip_bottom_y)]
    front_z = v[centre, 2].max()
    chin = centre[v[centre, 2] > front_z - 0.028]
    # menton: the lowest chin point in front of the throat, which is the extreme against a line tilted to the neck
    menton = chin[np.argmin(v[chin, 1] - 0.35 * (v[chin, 2] - front_z))]
    return {
        "ear_z": float(ear_z),
        "ear_low": float(low),
        "menton_y": float(v[menton, 1]),
        "menton_z": float(v[menton, 2]),
        "gonion_y": float(low - 0.012),
        "gonion_z": float(ear_z + 0.004),
    }


class ContourPaths:
    """Computes the paths on which the contour landmarks lie, cut off at the jaw's edge."""

    def __init__(self, surface: MeanHeadSurface, limit: dict, middle_y: float, ears: np.ndarray):
        self.surface, self.limit, self.middle_y = surface, limit, middle_y
        v, f = surface.vertices, surface.faces
        line = (v[:, 2] - limit["gonion_z"]) / (limit["menton_z"] - limit["gonion_z"])
        mandible = limit["gonion_y"] + np.clip(line, -1, 1.2) * (limit["menton_y"] - limit["gonion_y"])
        self.height = v[:, 1] - mandible  # above the lower edge of the jaw
        ear_face = (ears[f] > 0.3).any(1)
        self.mask = surface.skin & ~ear_face

    def at(self, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return faces, barycentric coordinates and positions of the path at an angle.

        `angle` (radians): 0 to the subject's right (-x), pi/2 to the chin.
        """
        s, v = self.surface, self.surface.vertices
        direction = np.array([-np.cos(angle), -np.sin(angle)])
        offset = v[:, :2] - [0.0, self.middle_y]
        field = offset[:, 0] * direction[1] - offset[:, 1] * direction[0]
        faces, bary = s.zero_line(field + 1e-9, self.mask)
        points = np.einsum("nk,nkd->nd", bary, v[s.faces[faces]])
        height = np.einsum("nk,nk->n", bary, self.height[s.faces[faces]])
        outward = (points[:, :2] - [0, self.middle_y]) @ direction > 0.01
        back = self.limit["ear_z"] + 0.004
        valid = outward & (points[:, 2] > back) & (height > -0.001)
        return faces[valid], bary[valid], points[valid]


def outermost(points: np.ndarray, angle: float, yaw: float) -> int:
    """Return the index of the path point that lies furthest outward in the image of the head at `yaw` degrees."""
    a = np.radians(yaw)
    x = np.cos(a) * points[:, 0] + np.sin(a) * points[:, 2]
    # at and above the middle the outline is vertical, so that outward is sideways
    down = max(np.sin(angle), 0.0)
    side = np.sign(np.cos(angle)) * np.sqrt(1 - down**2)
    return int(np.argmax(-side * x - down * points[:, 1]))


def place_contour_landmarks(
    surface: MeanHeadSurface, head: Head, ears: np.ndarray, measures: dict, lip_bottom_y: float
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Return the tables `face` (79,17) int32 and `barycentric` (79,17,3) float32, and the `jaw_limits`."""
    limit = jaw_limits(surface, ears, lip_bottom_y)
    middle_y = measures["subnasale_y"]
    paths = ContourPaths(surface, limit, middle_y, ears)
    # the frontal outline on one side gives the 9 angles: equal steps of arc length from eye level to the chin
    fine = np.linspace(-np.radians(45), np.pi / 2, 91)
    outline, angles = [], []
    for angle in fine:
        _, _, points = paths.at(angle)
        if len(points):
            outline.append(points[outermost(points, angle, 0.0), :2])
            angles.append(angle)
    outline, angles = np.array(outline), np.array(angles)
    start = int(np.argmin(np.abs(outline[:, 1] - measures["eye_y"])))
    outline, angles = outline[start:], angles[start:]
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(outline, axis=0), axis=1))]
    landmark_angles = np.interp(np.linspace(0, length[-1], 9), length, angles)
    landmark_angles[-1] = np.pi / 2
    landmark_angles = landmark_angles.tolist()
    face = np.zeros((YAW_BINS, 17), np.int32)
    bary = np.zeros((YAW_BINS, 17, 3), np.float32)

    def store(bin_, k, point):
        face[bin_, k] = point[0]
        w = np.clip(point[1], 0, 1)
        bary[bin_, k] = w / w.sum()

    yaws = np.arange(-39, 40)
    for k, angle in enumerate(landmark_angles):  # the right half of the face and the chin; the left is mirrored
        faces, weights, points = paths.at(angle)
        depth = np.array([points[outermost(points, angle, float(yaw)), 2] for yaw in yaws])
        depth = np.convolve(np.pad(depth, len(SMOOTHING_KERNEL) // 2, mode="edge"), SMOOTHING_KERNEL, "valid")
        for yaw, z in zip(yaws, depth, strict=True):
            # the outermost of the path's points near that depth, since the path may pass it twice
            near = np.where(np.abs(points[:, 2] - z) < np.abs(points[:, 2] - z).min() + 0.0008)[0]
            i = int(near[outermost(points[near], angle, float(yaw))])
            point = int(faces[i]), weights[i]
            store(yaw_bin(yaw), k, point)
            if k < 8:
                store(yaw_bin(-yaw), 16 - k, mirror_point(head, point))
    return face, bary, limit
