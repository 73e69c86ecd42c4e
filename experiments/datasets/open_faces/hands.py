"""Hands, modelled as smoothly united capsules and placed on mouth, cheek or eye until they touch the face. Metres."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.spatial.transform import Rotation

from experiments.datasets.open_faces.solids import Solid, surface_net
from experiments.datasets.open_faces.wearables import MM, Occluder

# The back of the right hand, fingers up (+y), thumb at -x, palm towards -z; millimetres.
KNUCKLES = np.array([[-27.0, 93.0, 0.0], [-8.0, 98.0, 1.5], [12.0, 94.0, 0.5], [30.0, 84.0, -2.0]])
BONES = ((44.0, 26.0, 21.0), (48.0, 30.0, 22.0), (45.0, 28.0, 22.0), (35.0, 20.0, 19.0))
RADII = ((9.6, 8.8, 7.8, 6.8), (9.8, 9.0, 8.0, 7.0), (9.4, 8.6, 7.6, 6.7), (8.4, 7.5, 6.6, 5.8))
OUTWARDS = np.array([0.0, 0.0, 8.0])
STEP = 3.6
"""Spacing of the grid for the skin's surface, millimetres."""
MAX_PENETRATION = 2.5
"""Millimetres by which a hand may penetrate the face."""


@dataclasses.dataclass(frozen=True)
class HandSkeleton:
    """C round cones, millimetres."""

    start: np.ndarray
    """(C, 3)"""
    end: np.ndarray
    """(C, 3)"""
    radii: np.ndarray
    """(C, 2) at start and end."""
    finger: np.ndarray
    """(C,) cones with the same number are united smoothly."""
    nails: np.ndarray
    """(5, 3) centres of the nails."""
    joints: np.ndarray
    """(J, 3) knuckles."""


def random_skeleton(rng: np.random.Generator) -> HandSkeleton:
    """Draw a hand with slightly spread and bent fingers."""
    cones, nails, joints = [], [], []

    def add_cone(a: np.ndarray, b: np.ndarray, ra: float, rb: float, number: int) -> None:
        cones.append((a, b, (ra, rb), number))

    spread, bend = rng.uniform(2.5, 8.0), rng.uniform(4.0, 20.0)
    for k, knuckle in enumerate(KNUCKLES):
        add_cone(np.array([0.45 * knuckle[0], 8.0, 0.0]), knuckle, 13.0, 11.0, 4)
        sideways = np.deg2rad(spread * (1.3 - k) + rng.normal(0, 1.0))
        tilt, at = np.deg2rad(bend * rng.uniform(0.4, 1.0)), knuckle
        joints.append(knuckle + OUTWARDS)
        for j, length in enumerate(BONES[k]):
            ahead = np.array([-np.sin(sideways) * np.cos(tilt), np.cos(sideways) * np.cos(tilt), -np.sin(tilt)])
            to = at + length * ahead
            add_cone(at, to, RADII[k][j], RADII[k][j + 1], k)
            up = np.array([0, 0, 1.0]) - ahead * ahead[2]
            if j == 2:
                nails.append(at + 0.68 * length * ahead + RADII[k][2] * 0.92 * up)
            else:
                joints.append(to + 0.8 * RADII[k][j + 1] * up)
            at, tilt = to, tilt + np.deg2rad(bend * rng.uniform(0.5, 1.3))
    out = rng.uniform(0.0, 1.0)
    root, first = np.array([-20.0, 20.0, -5.0]), np.array([-42.0 - 8 * out, 54.0 - 6 * out, -10.0])
    second = first + np.array([-10.0 - 16 * out, 30.0 - 6 * out, -3.0])
    tip = second + np.array([-4.0 - 12 * out, 24.0 - 5 * out, -3.0])
    for a, b, ra, rb in ((root, first, 14.0, 11.5), (first, second, 11.0, 9.6), (second, tip, 9.4, 7.6)):
        add_cone(a, b, ra, rb, 5)
    nails.append(tip + np.array([-1.0, -3.0, 7.2]))
    joints.append(second + OUTWARDS)
    add_cone(np.array([-6.0, 6.0, 0.0]), np.array([-9.0, -170.0, -6.0]), 19.0, 27.0, 4)
    add_cone(np.array([6.0, 6.0, 0.0]), np.array([9.0, -170.0, -6.0]), 19.0, 27.0, 4)
    return HandSkeleton(*(np.array(a) for a in (*zip(*cones, strict=True), nails, joints)))


def signed_distance(skeleton: HandSkeleton, points: np.ndarray) -> np.ndarray:
    """Compute the signed distance (P,) of points (P, 3) from the skin, mm.

    Fingers are united smoothly with the palm, but not with each other.
    """
    parts: dict[int, list[np.ndarray]] = {}
    for a, b, (ra, rb), number in zip(
        skeleton.start, skeleton.end, skeleton.radii, skeleton.finger.tolist(), strict=True
    ):
        step = b - a
        share = np.clip((points - a) @ step / (step @ step), 0, 1)
        gap = np.linalg.norm(points - a - share[:, None] * step, axis=1) - (ra + share * (rb - ra))
        parts.setdefault(number, []).append(gap)
    fingers = {number: _smooth_union(gaps, 3.0 if number != 4 else 9.0) for number, gaps in parts.items()}
    palm = fingers.pop(4)
    return np.minimum.reduce([_smooth_union([palm, finger], 5.0) for finger in fingers.values()])


def _smooth_union(gaps: list[np.ndarray], width: float) -> np.ndarray:
    total = gaps[0]
    for gap in gaps[1:]:
        h = np.maximum(width - np.abs(total - gap), 0.0) / width
        total = np.minimum(total, gap) - 0.25 * width * h * h
    return total


def random_hand(rng: np.random.Generator, face: np.ndarray, landmarks: np.ndarray, tone: np.ndarray) -> Occluder:
    """Draw a hand that covers part of a face.

    Args:
      face: (P, 3) outer skin; landmarks: (68, 3). The wearer's frame (see `wearables`), metres, as the result.
      tone: (3,) colour of the face's skin, which most hands have too.
    """
    skeleton = random_skeleton(rng)
    side = 1.0 if rng.uniform() < 0.5 else -1.0  # side of the image from which the hand comes
    region = rng.choice(["mouth", "cheek", "eye"])
    if region == "mouth":
        goal = landmarks[[48, 54, 57, 33]].mean(0) / MM + [side * rng.uniform(-5, 15), rng.uniform(-8, 6), 0]
        lean, grip = rng.uniform(45, 100), 92.0
    elif region == "cheek":
        cheek = landmarks[[54, 14, 12, 45]] if side > 0 else landmarks[[48, 2, 4, 36]]
        goal = cheek.mean(0) / MM + [0, rng.uniform(-10, 10), 0]
        lean, grip = rng.uniform(-15, 35), 85.0
    else:
        eye = landmarks[42:48] if side > 0 else landmarks[36:42]
        goal = eye.mean(0) / MM + [side * rng.uniform(-4, 12), rng.uniform(-12, 8), 0]
        lean, grip = rng.uniform(10, 60), 100.0
    # Fingers point to the other side; the palm follows the curvature of the face.
    azimuth = np.rad2deg(np.arctan2(goal[0] - landmarks[30, 0] / MM, 75.0)) * rng.uniform(0.5, 0.9)
    rotation = Rotation.from_euler("yxz", [azimuth, rng.uniform(-8, 8), side * lean], degrees=True).as_matrix()
    if rng.uniform() < 0.5:  # the left hand
        mirrored = {name: getattr(skeleton, name) * [-1, 1, 1] for name in ("start", "end", "nails", "joints")}
        skeleton = dataclasses.replace(skeleton, **mirrored)
    normal = rotation @ np.array([0.0, 0.0, 1.0])

    def at(shift: float) -> np.ndarray:
        return goal + shift * normal - rotation @ np.array([0.0, grip, 0.0])

    low, high = -40.0, 120.0
    for _ in range(9):
        middle = 0.5 * (low + high)
        local = (face / MM - at(middle)) @ rotation
        low, high = (low, middle) if signed_distance(skeleton, local).min() > -MAX_PENETRATION else (middle, high)
    ends = np.concatenate([skeleton.start, skeleton.end])
    reach = skeleton.radii.max() + 2.5 * STEP
    skin = surface_net(lambda p: signed_distance(skeleton, p), ends.min(0) - reach, ends.max(0) + reach, STEP)
    solid = dataclasses.replace(skin, uv=_planar_uv(skin.vertices), colour=_colours(rng, skeleton, skin, tone))
    texture = np.clip(1 + 0.05 * rng.standard_normal((128, 128, 1)), 0, 1.1) * np.ones(3)
    placed = dataclasses.replace(solid, vertices=(solid.vertices @ rotation.T + at(high)) * MM)
    return Occluder(placed, len(placed.faces), 1.0, texture, rng.uniform(0.04, 0.12))


def _planar_uv(points: np.ndarray) -> np.ndarray:
    return np.clip((points[:, :2] - points[:, :2].min(0)) / np.ptp(points[:, :2], axis=0), 0, 1)


def _colours(rng: np.random.Generator, skeleton: HandSkeleton, skin: Solid, tone: np.ndarray) -> np.ndarray:
    """Draw vertex colours of skin, redder at the knuckles, and nails."""
    fair, dark = np.array([0.87, 0.68, 0.58]), np.array([0.36, 0.22, 0.16])
    base = tone if rng.uniform() < 0.75 else fair + rng.beta(1.2, 1.8) * (dark - fair)
    colours = np.broadcast_to(base, skin.vertices.shape).copy()
    back = skin.vertices[:, 2] > -2.0

    def near(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(skin.vertices[:, None] - points, axis=2).min(1)

    red = np.exp(-((near(skeleton.joints) / 7.0) ** 2)) * back
    colours *= 1 + red[:, None] * [0.0, -0.13, -0.14]
    nail = (near(skeleton.nails) < 5.2)[:, None]
    return np.where(nail, 0.55 * colours + 0.45 * np.array([0.93, 0.75, 0.73]), colours)
