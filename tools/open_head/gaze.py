"""Pose correctives of the eyes that make the lids follow a vertical gaze, from the face units `eyeLookUp/Down`."""

from __future__ import annotations

import numpy as np

from experiments.datasets.open_people.geometry import Head
from experiments.datasets.open_people.sources import FACE_UNITS, MakeHumanSource

FOLLOW = 0.8  # share of the units' lid motion


def _angle(before: np.ndarray, after: np.ndarray) -> float:
    """Return the angle (radians) of the best rotation of an eyeball's vertices (n, 3) about +x; positive looks down."""
    a, b = before - before.mean(0), after - before.mean(0)
    return float(np.arctan2((a[:, 1] * b[:, 2] - a[:, 2] * b[:, 1]).sum(), (a[:, 1:] * b[:, 1:]).sum()))


def lid_correctives(
    source: MakeHumanSource, head: Head, template: np.ndarray, rows: int = 36
) -> tuple[np.ndarray, dict]:
    """Return posedirs (rows, V, 3) of the two eyes, and the gaze angles (degrees) of the face units they are made from.

    Rotation by a about x puts -sin a and sin a into entries 5 and 7 of R - I, and cos a - 1 into entries 4 and 8. The
    former model the odd part of the lids' motion. The latter would model the even part, which is omitted.
    """
    posedirs, angles = np.zeros((rows, len(template), 3)), {}
    fields = {}
    for unit in ("Down", "Up"):
        for side, part in (("Left", 1), ("Right", 2)):
            field = head.to_head(source.target(f"{FACE_UNITS}eyeLook{unit}{side}.target"))
            ball = head.part == part
            base = head.to_head(head.base["vertices"])[ball]
            angles[unit + side] = _angle(base, base + field[ball])
            field[head.part > 0] = 0
            fields[unit, side] = field
    flip_x = np.array([-1, 1, 1])
    for unit in ("Down", "Up"):  # symmetrise
        left, right = fields[unit, "Left"], fields[unit, "Right"]
        fields[unit, "Left"] = (left + right[head.mirror] * flip_x) / 2
        fields[unit, "Right"] = fields[unit, "Left"][head.mirror] * flip_x
    for side, first in (("Left", 18), ("Right", 27)):
        slopes = [fields[unit, side] / (2 * np.sin(angles[unit + side])) for unit in ("Down", "Up")]
        odd = FOLLOW * (slopes[0] + slopes[1]) / 2  # per unit of each of the two entries
        posedirs[first + 5], posedirs[first + 7] = -odd, odd
    return posedirs, {name: round(float(np.degrees(a)), 1) for name, a in angles.items()}
