"""The dynamic jaw contour: 17 landmarks for each of FLAME's 79 yaw bins.

Each landmark owns a path over the face: the section of the skin with a plane that holds the viewing axis and a ray from
the face's middle outward. For a head turned by some yaw, the landmark is the path's outermost point as seen in the
picture, among the points before the jaw's edge. On the far side that is the silhouette, on the near side the jaw line.
"""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from tools.open_head.landmarks import YAW_BINS, mirror_item, yaw_bin
from tools.open_head.surface import Surface

# Two stretches of a path can tie for outermost, which makes the point leap as the head turns. The points' depth is
# averaged over neighbouring yaws (degrees), which costs a fraction of a millimetre in the picture.
SMOOTH = np.array([1.0, 2, 3, 4, 5, 4, 3, 2, 1])


def limits(surface: Surface, ears: np.ndarray, lip_bottom_y: float) -> dict[str, float]:
    """Where the jaw ends: ear front z, menton (y, z), gonion (y, z)."""
    v = surface.vertices
    skin = np.unique(surface.faces[surface.skin])
    ear = skin[ears[skin] > 0.5]
    low, high = v[ear, 1].min(), v[ear, 1].max()
    middle = ear[np.abs(v[ear, 1] - (low + high) / 2) < 0.25 * (high - low)]
    ear_z = np.percentile(v[middle, 2], 97)
    centre = skin[(np.abs(v[skin, 0]) < 0.012) & (v[skin, 1] < lip_bottom_y)]
    front_z = v[centre, 2].max()
    chin = centre[v[centre, 2] > front_z - 0.028]
    # menton: the lowest chin point in front of the throat, found as the extreme against a line tilted to the neck
    menton = chin[np.argmin(v[chin, 1] - 0.35 * (v[chin, 2] - front_z))]
    return {
        "ear_z": float(ear_z),
        "ear_low": float(low),
        "menton_y": float(v[menton, 1]),
        "menton_z": float(v[menton, 2]),
        "gonion_y": float(low - 0.012),
        "gonion_z": float(ear_z + 0.004),
    }


class Paths:
    """Path points of one outward angle: faces, barycentric and positions, already cut at the jaw's edge."""

    def __init__(self, surface: Surface, limit: dict, middle_y: float, ears: np.ndarray):
        self.surface, self.limit, self.middle_y = surface, limit, middle_y
        v, f = surface.vertices, surface.faces
        line = (v[:, 2] - limit["gonion_z"]) / (limit["menton_z"] - limit["gonion_z"])
        mandible = limit["gonion_y"] + np.clip(line, -1, 1.2) * (limit["menton_y"] - limit["gonion_y"])
        self.height = v[:, 1] - mandible  # above the lower edge of the jaw
        ear_face = (ears[f] > 0.3).any(1)
        self.mask = surface.skin & ~ear_face

    def at(self, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`angle` (radians): 0 to the subject's right (-x), pi/2 to the chin."""
        s, v = self.surface, self.surface.vertices
        direction = np.array([-np.cos(angle), -np.sin(angle)])
        offset = v[:, :2] - [0.0, self.middle_y]
        field = offset[:, 0] * direction[1] - offset[:, 1] * direction[0]
        faces, bary = s.crossings(field + 1e-9, self.mask)
        points = np.einsum("nk,nkd->nd", bary, v[s.faces[faces]])
        height = np.einsum("nk,nk->n", bary, self.height[s.faces[faces]])
        outward = (points[:, :2] - [0, self.middle_y]) @ direction > 0.01
        back = self.limit["ear_z"] + 0.004
        keep = outward & (points[:, 2] > back) & (height > -0.001)
        return faces[keep], bary[keep], points[keep]


def outermost(points: np.ndarray, angle: float, yaw: float) -> int:
    """Index of the path point that lies furthest outward in the picture of the head turned by `yaw` degrees."""
    a = np.radians(yaw)
    x = np.cos(a) * points[:, 0] + np.sin(a) * points[:, 2]
    # at and above the middle the outline runs upright: sideways is outward
    down = max(np.sin(angle), 0.0)
    side = np.sign(np.cos(angle)) * np.sqrt(1 - down**2)
    return int(np.argmax(-side * x - down * points[:, 1]))


def contour_landmarks(surface: Surface, head: Head, ears: np.ndarray, measures: dict, lip_bottom_y: float):
    """Tables `face` (79,17) int32 and `barycentric` (79,17,3) float32, and the limits used."""
    limit = limits(surface, ears, lip_bottom_y)
    middle_y = measures["subnasale_y"]
    paths = Paths(surface, limit, middle_y, ears)
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
    half = np.interp(np.linspace(0, length[-1], 9), length, angles)
    half[-1] = np.pi / 2
    half = half.tolist()
    face = np.zeros((YAW_BINS, 17), np.int32)
    bary = np.zeros((YAW_BINS, 17, 3), np.float32)

    def put(bin_, k, item):
        face[bin_, k] = item[0]
        w = np.clip(item[1], 0, 1)
        bary[bin_, k] = w / w.sum()

    yaws = np.arange(-39, 40)
    for k in range(9):  # the right half of the face and the chin; the left half is its mirror image
        faces, weights, points = paths.at(half[k])
        depth = np.array([points[outermost(points, half[k], float(yaw)), 2] for yaw in yaws])
        depth = np.convolve(np.pad(depth, len(SMOOTH) // 2, mode="edge"), SMOOTH / SMOOTH.sum(), "valid")
        for yaw, z in zip(yaws, depth, strict=True):
            # among the path's points near that depth the outermost one, should the path pass it twice
            near = np.where(np.abs(points[:, 2] - z) < np.abs(points[:, 2] - z).min() + 0.0008)[0]
            i = int(near[outermost(points[near], half[k], float(yaw))])
            item = int(faces[i]), weights[i]
            put(yaw_bin(yaw), k, item)
            if k < 8:
                put(yaw_bin(-yaw), 16 - k, mirror_item(head, item))
    return face, bary, limit
