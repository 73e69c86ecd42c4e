"""Glasses and face masks that are fitted to a head; numpy, metres.

They are built in the wearer's frame, the head frame without the rotation of the neck, from landmarks, ears and skin.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from experiments.datasets.open_faces.patterns import cloth, random_colour, surgical
from experiments.datasets.open_faces.solids import Solid, grid, join, shell, tube

MM = 1e-3


@dataclasses.dataclass(frozen=True)
class Wearer:
    """Head that wearables are fitted to, millimetres."""

    skin: np.ndarray
    """(P, 3) points of the outer skin without the ears."""
    ears: tuple[np.ndarray, np.ndarray]
    """(P, 3) points of the left and of the right ear."""
    landmarks: np.ndarray
    """(68, 3)"""


@dataclasses.dataclass(frozen=True)
class Occluder:
    """An object in front of a face; metres, head frame."""

    solid: Solid
    lens_from: int
    """Index of the first triangle of the transparent part."""
    opacity: float
    """Opacity of the transparent part."""
    texture: np.ndarray
    """(S, S, 3)"""
    gloss: float
    """Strength of the highlights."""


def glasses(rng: np.random.Generator, wearer: Wearer) -> Occluder:
    """Make spectacles or sunglasses in the wearer's frame."""
    landmarks = wearer.landmarks
    left, right = landmarks[42:48].mean(0), landmarks[36:42].mean(0)
    eye_distance, level = left[0] - right[0], (left[1] + right[1]) / 2
    width = min(eye_distance * rng.uniform(0.74, 0.86), eye_distance - 13.0)
    height, power = width * rng.uniform(0.62, 0.92), rng.uniform(1.9, 4.2)
    drop, wrap, middle = rng.uniform(0.0, 4.0), rng.uniform(0.0012, 0.0026), (left[0] + right[0]) / 2
    thick = rng.uniform(0.9, 1.3) if rng.uniform() < 0.45 else rng.uniform(1.7, 2.8)
    dark = rng.uniform() < 0.4
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = np.stack([np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** (2 / power) * width / 2,
                     np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** (2 / power) * height / 2], 1)  # fmt: skip
    ring[:, 0] *= 1 + rng.uniform(-0.06, 0.10) * ring[:, 1] / height  # wider at the top or the bottom
    outlines = {
        1: ring + np.array([left[0] + 1.0, level - drop]),
        -1: ring * [-1, 1] + np.array([right[0] - 1.0, level - drop]),
    }

    def bend(xy: np.ndarray) -> np.ndarray:
        return -wrap * (xy[..., 0] - middle) ** 2 + 0.10 * (xy[..., 1] - level)

    rims = np.concatenate(list(outlines.values()))
    clearances = [_front(wearer.skin, p, 4.0) - bend(p) for p in rims]
    eyes = max(_front(wearer.skin, p[:2], 9.0) - bend(p[:2]) for p in (left, right))
    depth = np.clip(np.nanmax(clearances) + thick + 1.0, eyes + 6.0, eyes + 20.0)

    def lift(xy: np.ndarray) -> np.ndarray:
        return np.concatenate([xy, (depth + bend(xy))[..., None]], axis=-1)

    frames, lenses = [], []
    for side, outline in outlines.items():
        frames.append(tube(lift(outline) * MM, thick * MM, closed=True))
        centre = outline.mean(0)
        shares = np.linspace(1.0, 0.0, 5)
        sheet = lift(centre + shares[None, :, None] * (outline - centre)[:, None]) * MM
        lens = grid(sheet, np.zeros((*sheet.shape[:2], 2)), around=True)
        lenses.append(lens if side == 1 else dataclasses.replace(lens, faces=lens.faces[:, ::-1].copy()))
        frames.append(_arm(wearer, side, lift(outline), max(thick, 1.4)))
    upper = level - drop + height * rng.uniform(0.08, 0.28)
    ends = [outline[np.abs(outline - [x, upper]).sum(1).argmin()]
            for outline, x in ((outlines[-1], middle - 6), (outlines[1], middle + 6))]  # fmt: skip
    shares = np.linspace(0, 1, 13)[:, None]
    bridge = lift(ends[0] + shares * (ends[1] - ends[0]))
    arch = np.sin(np.pi * shares[:, 0])
    bridge_depth = _front(wearer.skin, np.array([middle, upper]), 5.0) + thick + 1.0
    bridge[:, 2] += arch * max(2.0, bridge_depth - bridge[6, 2])
    bridge[:, 1] += 2.0 * arch
    frames.append(tube(bridge * MM, thick * MM))
    material = rng.choice(["black", "brown", "colour", "metal"])
    paint = {"black": np.full(3, 0.05), "brown": np.array([0.22, 0.12, 0.06]), "colour": random_colour(rng, (0.2, 0.8)),
             "metal": np.array([0.62, 0.58, 0.5]) * rng.uniform(0.5, 1.3)}[material]  # fmt: skip
    tint = rng.uniform(0.02, 0.12) * (1 + 0.5 * rng.uniform(-1, 1, 3)) if dark else random_colour(rng, (0.3, 0.7), 0.4)
    frame = join([f.painted(paint) for f in frames])
    solid = join([frame, *(lens.painted(tint) for lens in lenses)])
    opacity = rng.uniform(0.82, 0.96) if dark else rng.uniform(0.10, 0.30)
    return Occluder(solid, len(frame.faces), opacity, np.ones((4, 4, 3)), rng.uniform(0.25, 0.6))


def _arm(wearer: Wearer, side: int, outline: np.ndarray, thick: float) -> Solid:
    """Make a temple arm, from the hinge over the ear and down behind it."""
    ear = wearer.ears[0 if side == 1 else 1]
    corner = outline[(side * outline[:, 0] + 0.5 * outline[:, 1]).argmax()]
    top = np.percentile(ear[:, 1], 90)
    root = ear[ear[:, 1] > np.percentile(ear[:, 1], 75)]
    ear_top = np.array([side * np.abs(root[:, 0]).min(), top + thick, np.median(root[:, 2])])
    hinge = corner + np.array([side * 3.5, 0.0, -2.0])
    behind = np.array([ear_top[0], top - 26.0, ear[:, 2].min() + 1.0])
    straight = hinge + np.linspace(0, 1, 16)[:, None] * (ear_top - hinge)
    hook = ear_top + np.linspace(0.2, 1, 6)[:, None] * (behind - ear_top)
    path = np.concatenate([corner[None], straight, hook])
    for point in path[1:]:
        near = wearer.skin[(np.abs(wearer.skin[:, 1] - point[1]) < 8) & (np.abs(wearer.skin[:, 2] - point[2]) < 9)]
        near = near[side * near[:, 0] > 25]
        if len(near):
            point[0] = side * max(side * point[0], np.max(side * near[:, 0]) + thick + 0.8)
    path[2:-1] = ndimage.gaussian_filter1d(path, 1.2, axis=0, mode="nearest")[2:-1]
    return tube(path * MM, thick * MM, sides=6)


def face_mask(rng: np.random.Generator, wearer: Wearer) -> Occluder:
    """Make a surgical, cup-shaped or cloth mask from the nose to below the chin, in the wearer's frame."""
    kind = rng.choice(["surgical", "cup", "cloth"], p=[0.45, 0.15, 0.40])
    landmarks, columns, rows = wearer.landmarks, 57, 41
    back = np.median(np.concatenate(wearer.ears)[:, 2]) + 4.0
    azimuth, height = np.arctan2(wearer.skin[:, 0], wearer.skin[:, 2] - back), wearer.skin[:, 1]
    radius = np.hypot(wearer.skin[:, 0], wearer.skin[:, 2] - back)
    chin, cheek = landmarks[8, 1], (landmarks[2, 1] + landmarks[14, 1]) / 2
    used = (np.abs(azimuth) < 1.75) & (height > chin - 30) & (height < landmarks[27, 1] + 12)
    used &= wearer.skin[:, 2] > back - 5
    samples = np.stack([azimuth[used] * 60.0, height[used]], 1)
    widest = np.deg2rad(rng.uniform(62, 72))
    angle = np.linspace(-1, 1, columns) * widest
    nose = landmarks[28, 1] + rng.uniform(-4, 4)
    bell = np.cos(np.linspace(-1, 1, columns) * np.pi / 2)
    top = cheek + rng.uniform(-4, 4) + (nose - cheek) * bell ** rng.uniform(1.0, 1.5)
    bottom = cheek - rng.uniform(24, 32) + (chin - rng.uniform(3, 9) - (cheek - 28)) * bell ** rng.uniform(0.5, 0.8)
    share = np.linspace(0, 1, rows)
    level = bottom[:, None] + share * (top - bottom)[:, None]
    grid_points = np.stack([np.broadcast_to(angle[:, None] * 60.0, level.shape), level], -1)
    skin = LinearNDInterpolator(samples, radius[used])(grid_points)
    skin = np.where(np.isnan(skin), NearestNDInterpolator(samples, radius[used])(grid_points), skin)
    skin = ndimage.maximum_filter(skin, (3, 3))
    taut = np.stack([_envelope(share, row) for row in skin])
    taut = 0.85 * taut + 0.15 * skin
    taut = ndimage.gaussian_filter(taut, (2.2, 1.2), mode="nearest")
    for _ in range(3):
        taut = ndimage.gaussian_filter(np.maximum(taut, skin), 0.9, mode="nearest")
    bulge = bell[:, None] ** 2 * np.sin(np.pi * share)
    out = np.maximum(taut, skin) + 2.2
    if kind == "cup":
        out = out + 9.0 * bulge * np.exp(-((angle[:, None] / 0.5) ** 2)) + 3.0 * bulge
    elif kind == "surgical":
        fold = (share * 3.999) % 1.0
        out = out + 1.6 * fold * bulge**0.5
    else:
        out = out + 1.5 * bulge + 2.0 * np.exp(-((angle[:, None] / 0.06) ** 2)) * bulge  # the central seam
    points = np.stack([np.sin(angle)[:, None] * out, level, back + np.cos(angle)[:, None] * out], -1) * MM
    uv = np.stack(np.meshgrid(np.linspace(0, 1, columns), share, indexing="ij"), -1)
    parts = [shell(points, uv, 0.9 * MM)]
    for column, side in ((0, -1), (-1, 1)):
        ear = wearer.ears[0 if side == 1 else 1]
        for row, end in ((-3, (np.percentile(ear[:, 1], 88), 0.0)), (2, (ear[:, 1].min() + 4.0, 2.0))):
            start = points[column, row] / MM
            goal = np.array([side * (np.abs(ear[:, 0]).min() + end[1] + 2.0), end[0], ear[:, 2].min() + 6.0])
            path = start + np.linspace(0, 1, 12)[:, None] * (goal - start)
            for point in path:
                near = (np.abs(wearer.skin[:, 1:] - point[1:]) < 8).all(1)
                near = wearer.skin[near & (side * wearer.skin[:, 0] > 25)]
                if len(near):
                    point[0] = side * max(side * point[0], np.max(side * near[:, 0]) + 1.5)
            parts.append(tube(ndimage.gaussian_filter1d(path, 0.8, axis=0, mode="nearest") * MM, 1.3 * MM, sides=6))
    size = 256
    if kind == "cup":
        texture = np.clip(surgical(rng, size).mean() + 0.02 * rng.standard_normal((size, size, 1)), 0, 1) * np.ones(3)
    else:
        texture = surgical(rng, size) if kind == "surgical" else cloth(rng, size)
    solid = join(parts)
    return Occluder(solid, len(solid.faces), 1.0, texture, 0.03)


def _front(skin: np.ndarray, xy: np.ndarray, reach: float) -> float:
    """Returns the largest z of the skin within `reach` of a point in x and y; NaN if there is no skin."""
    near = (np.abs(skin[:, :2] - xy) < reach).all(1)
    return float(skin[near, 2].max()) if near.any() else float("nan")


def _envelope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the least concave function above the samples, the shape of cloth stretched over them."""
    hull: list[int] = []
    for k in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[k] - x[a]) > (y[k] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(k)
    return np.interp(x, x[hull], y[hull])
