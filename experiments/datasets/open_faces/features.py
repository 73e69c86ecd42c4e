"""Features of the detail field: local, nonlinear shape that the open head's components cannot represent.

A scan's rest shape is identity + expression + h n, where n are the unit normals of identity + expression and h (V,) is
a sum of features in millimetres. Each feature is a function of the position x on the mean head, a few latents
z ~ N(0, 1) of the subject (clipped at 2.5), and the activation a >= 0 of the muscles around it:

    bump      A g(x; c + shift tanh(z2), s exp(0.2 z3)) t(z1)        g a Gaussian, t tanh or one-sided softplus
    groove    (A0 softplus(z1) + A1 (1 + 0.5 tanh z2) a^1.5) (-exp(-(d/w)^2) + 0.7 exp(-((d - o)/w')^2))
              d the distance from a curve: nasolabial fold, frown lines, lip-chin fold, chin cleft, philtrum
    wrinkles  (A0 softplus(z1) + A1 (1 + 0.5 tanh z2) a^1.5) g(x) sin(2 pi (k.x + bow)/(L + dL tanh z2) + z3)
    patch     A (0.7 + 0.3 tanh z3) g(x; c, s) sin(2 pi u.x/L1 + 1.3 z1) cos(2 pi v.x/L2 + 1.3 z2)

Wavelengths are 9 to 25 mm, about three edges of the local mesh. Latents of a feature on both sides have a correlation
of 0.85 between the sides. A feature without `a` is the same in all expressions of a subject; one with `a` grows faster
than linearly with the expression. h is smoothed once over the mesh. It fades to zero at the neck, the margins of the
lids, the seam of the lips, and inside mouth and nostrils; eyeballs do not move.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

Feature = Callable[["HeadPoints", np.ndarray, Callable[[str], float]], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)  # compared and hashed as one object, for the cache of `curve_distance`
class HeadPoints:
    """Points of the mean head in millimetres; for features of the right side they are mirrored."""

    x: np.ndarray
    """(V, 3)"""

    def gaussian(self, centre: tuple[float, ...] | np.ndarray, widths: float | tuple[float, ...]) -> np.ndarray:
        """Evaluate a Gaussian, 1 at the centre: (V,); one standard deviation in mm, or one per axis."""
        return np.exp(-0.5 * (((self.x - np.asarray(centre)) / np.asarray(widths)) ** 2).sum(1))

    def wave(self, direction: tuple[float, ...], length: float, phase: float) -> np.ndarray:
        """Evaluate a sine wave along a direction, which need not be normalised: (V,)."""
        unit = np.asarray(direction) / np.linalg.norm(direction)
        return np.sin(2 * np.pi * (self.x @ unit) / length + phase)


@functools.cache
def curve_distance(
    head: HeadPoints, curve: tuple[tuple[float, ...], ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute distances from a polyline, (V,) each.

    Returns:
      The distance; the signed distance across the curve in the frontal plane (positive away from the symmetry plane, or
      above a horizontal curve); the position along the curve in [0, 1].
    """
    points = np.asarray(curve, float)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    best, across, along = (np.full(len(head.x), v) for v in (np.inf, 0.0, 0.0))
    for k, length in enumerate(lengths):
        step = points[k + 1] - points[k]
        share = np.clip((head.x - points[k]) @ step / length**2, 0, 1)
        offset = head.x - points[k] - share[:, None] * step
        distance = np.linalg.norm(offset, axis=1)
        nearer = distance < best
        orientation = -step[1] if abs(step[1]) >= abs(step[0]) else step[0]
        side = np.sign(offset[:, 0] * -step[1] + offset[:, 1] * step[0]) * np.sign(orientation)
        best = np.where(nearer, distance, best)
        across = np.where(nearer, side * distance, across)
        along = np.where(nearer, (starts[k] + share * length) / starts[-1], along)
    return best, across, along


def _softplus(z: float) -> float:
    return float(np.log1p(np.exp(2.0 * z)) / 2.0)


def _fold_depth(rest: float, active: float, z: np.ndarray, a: float) -> float:
    """Returns the depth of a fold in mm: a positive part of the subject plus a part that grows with the activation."""
    return rest * _softplus(z[0]) + active * (1 + 0.5 * np.tanh(z[1])) * max(a, 0.0) ** 1.5


def _bump(height: float, centre: tuple[float, ...], widths: tuple[float, ...], shift: tuple[float, ...] = (0, 0, 0),
          one_sided: bool = False) -> Feature:  # fmt: skip
    def feature(p: HeadPoints, z: np.ndarray, a: Callable[[str], float]) -> np.ndarray:
        size = _softplus(z[0]) if one_sided else np.tanh(0.8 * z[0])
        moved_centre = np.asarray(centre) + np.asarray(shift) * np.tanh(z[1])
        return height * size * p.gaussian(moved_centre, tuple(np.asarray(widths) * np.exp(0.2 * z[2])))

    return feature


def _groove(rest: float, active: float, muscle: str, curve: tuple[tuple[float, ...], ...], width: float, lip: float,
            ) -> Feature:  # fmt: skip
    def feature(p: HeadPoints, z: np.ndarray, a: Callable[[str], float]) -> np.ndarray:
        distance, across, along = curve_distance(p, curve)
        depth = _fold_depth(rest, active, z, a(muscle)) * np.sin(np.pi * np.clip(0.12 + 0.8 * along, 0, 1))
        bulge = np.exp(-(((across - lip - 0.15 * lip * np.tanh(z[2])) / (1.4 * width)) ** 2)) * (distance < 4 * width)
        return depth * (0.7 * bulge - np.exp(-((distance / width) ** 2)))

    return feature


def _wrinkles(rest: float, active: float, muscle: str, centre: tuple[float, ...], widths: tuple[float, ...],
              direction: tuple[float, ...], length: float, bow: float = 0.0) -> Feature:  # fmt: skip
    def feature(p: HeadPoints, z: np.ndarray, a: Callable[[str], float]) -> np.ndarray:
        height = _fold_depth(rest, active, z, a(muscle))
        bent = HeadPoints(p.x + np.array([0, 1.0, 0]) * (bow * (p.x[:, :1] / 30.0) ** 2))
        return height * p.gaussian(centre, widths) * bent.wave(direction, length * (1 + 0.1 * np.tanh(z[1])), z[2])

    return feature


def _patch(height: float, centre: tuple[float, ...], size: float, first: tuple[float, ...], second: tuple[float, ...],
           lengths: tuple[float, float]) -> Feature:  # fmt: skip
    def feature(p: HeadPoints, z: np.ndarray, a: Callable[[str], float]) -> np.ndarray:
        waves = p.wave(first, lengths[0], 1.3 * z[0]) * p.wave(second, lengths[1], 1.3 * z[1] + np.pi / 2)
        return height * (0.7 + 0.3 * np.tanh(z[2])) * p.gaussian(centre, size) * waves

    return feature


def _cheek_sucked_in(p: HeadPoints, z: np.ndarray, a: Callable[[str], float]) -> np.ndarray:
    """Suck the cheeks in by up to 7 mm: an activation that the face units lack."""
    middle = np.array([46.0, 86.0, 112.0]) + 2.0 * np.tanh(z[:1])
    return -7.0 * (1 + 0.15 * np.tanh(z[1])) * a("hollow") * p.gaussian(middle, (13.0, 15.0, 18.0))


NASOLABIAL = ((15, 108, 141), (22, 95, 138), (29, 80, 132), (32, 70, 127))
CENTRAL: dict[str, Feature] = {
    "bridge hump": _bump(2.2, (0, 129, 148), (6, 6, 12), (0, 6, 0)),
    "nose root": _bump(1.6, (0, 145, 140), (6.5, 5.5, 12), (0, 3, 0)),
    "nose tip": _bump(1.8, (0, 111, 158), (6.5, 5.5, 9), (0, 2.5, 0)),
    "columella": _bump(1.2, (0, 101, 151), (5, 4, 8)),
    "philtrum": _groove(0.9, 0.0, "smile", ((0, 97, 148), (0, 85, 148)), 4.0, 6.5),
    "lip and chin fold": _groove(0.7, 1.6, "down", ((-16, 57, 133), (0, 59, 137), (16, 57, 133)), 5.0, 9.0),
    "chin cleft": _groove(1.1, 0.5, "down", ((0, 50, 135), (0, 34, 130)), 5.5, 10.0),
    "chin ball": _bump(2.0, (0, 41, 130), (11, 9, 14), (0, 4, 0)),
    "glabella": _bump(1.6, (0, 162, 142), (9, 7, 12), (0, 3, 0)),
    "forehead": _bump(1.8, (0, 192, 137), (20, 13, 20), (0, 6, 0)),
    "forehead wrinkles": _wrinkles(0.30, 1.8, "brow", (0, 187, 135), (34, 13, 40), (0, 1, -0.2), 21.0, 3.0),
    "chin dimples": _wrinkles(0.15, 0.9, "down", (0, 42, 130), (14, 11, 14), (1, 0.6, 0), 14.0),
    "mouth opened": _wrinkles(0.10, 0.5, "open", (0, 45, 128), (24, 12, 20), (0.4, 1, 0), 18.0),
}
PAIRED: dict[str, Feature] = {
    "ala": _bump(1.5, (13, 104, 145), (5, 5, 7), (0, 2.5, 0)),
    "above the ala": _bump(1.3, (11, 117, 143), (5.5, 6, 9), (0, 3, 0)),
    "side of the nose": _wrinkles(0.12, 1.1, "frown", (10, 135, 138), (7, 9, 10), (0.3, 1, 0), 11.0),
    "nasolabial fold": _groove(0.45, 2.0, "smile", NASOLABIAL, 5.0, 9.0),
    "frown line": _groove(0.25, 1.3, "frown", ((5, 170, 142), (5, 156, 141)), 4.5, 9.0),
    "brow ridge": _bump(1.9, (32, 163, 136), (14, 5.5, 12), (5, 3, 0)),
    "outer brow": _bump(1.6, (50, 160, 120), (9, 7, 12), (0, 4, 0)),
    "bag of the eye": _groove(0.55, 0.6, "squint", ((18, 128, 133), (30, 122, 131), (42, 126, 125)), 5.0, 9.0),
    "crow's feet": _wrinkles(0.12, 1.3, "squint", (57, 143, 108), (9, 11, 12), (0, 1, 0.2), 11.0),
    "cheekbone": _bump(1.9, (52, 120, 112), (12, 10, 16), (5, 4, 0)),
    "cheek hollow": _bump(-2.2, (50, 90, 104), (12, 14, 18), (4, 6, 0)),
    "cheek raised": _wrinkles(0.10, 0.9, "squint", (38, 114, 126), (14, 10, 14), (0.3, 1, 0), 18.0),
    "jowl": _bump(1.5, (38, 54, 106), (13, 11, 16), (6, 3, 0), one_sided=True),
    "corner of the mouth": _bump(1.4, (31, 74, 128), (7, 7, 9), (2, 3, 0)),
    "upper lip": _bump(1.5, (9, 82, 147), (8, 4.5, 9), (4, 0, 0)),
    "lower lip": _bump(1.6, (8, 67, 143), (9, 4.5, 9), (4, 0, 0)),
    "puckered": _wrinkles(0.10, 1.0, "pucker", (13, 77, 142), (11, 12, 12), (1, 0.1, 0), 10.0),
    "marionette line": _groove(0.35, 1.0, "down", ((28, 70, 129), (31, 58, 123), (30, 48, 117)), 5.0, 9.5),
    "temple": _bump(-1.7, (62, 168, 98), (12, 13, 16), (0, 5, 0)),
    "ear": _patch(1.5, (77, 126, 40), 16, (0, 1, 0.3), (0, -0.3, 1), (20, 18)),
    "lobe": _bump(1.6, (72, 99, 50), (7, 7, 9), (0, 3, 0)),
    "sucked in": _cheek_sucked_in,
    "patch: forehead": _patch(1.5, (28, 190, 132), 14, (1, 0.3, 0), (-0.3, 1, 0), (25, 25)),
    "patch: temple": _patch(1.4, (57, 178, 112), 14, (0.5, 1, 0), (-1, 0.5, 0.5), (25, 25)),
    "patch: under the eye": _patch(1.3, (30, 116, 130), 13, (1, 0, 0), (0.2, 1, 0), (19, 17)),
    "patch: cheek": _patch(1.5, (48, 104, 116), 14, (1, 0.4, 0), (-0.4, 1, 0), (24, 23)),
    "patch: side": _patch(1.4, (60, 92, 88), 14, (0, 1, 0.4), (0, -0.4, 1), (25, 25)),
    "patch: mouth": _patch(1.3, (27, 62, 126), 12, (1, 0.5, 0), (-0.5, 1, 0), (18, 16)),
    "patch: upper lip": _patch(1.1, (14, 92, 143), 10, (1, 0, 0), (0, 1, 0), (14, 13)),
    "patch: chin": _patch(1.3, (17, 44, 125), 12, (1, 0.3, 0), (-0.3, 1, 0), (19, 18)),
    "patch: nose": _patch(1.1, (7, 122, 148), 10, (0, 1, 0.3), (1, 0, -0.4), (15, 14)),
    "patch: brow": _patch(1.2, (38, 168, 130), 12, (1, 0.2, 0), (0, 1, 0), (20, 18)),
}  # fmt: skip
EXPRESSION_FEATURES = ("sucked in",)
"""Features that are a part of the expression, not of the detail."""
