"""Displacements that close the lids.

MakeHuman's blink overcloses by 3 mm in places, leaves slits in others, and half way the eyeball penetrates the lid.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from experiments.datasets.open_people.geometry import Head, adjacency, neighbour_mean
from experiments.datasets.open_people.mouth import SHARE, gap_operator
from tools.open_head.gaps import gap, height_profile, openings
from tools.open_head.mouth import remove_gap_change
from tools.open_head.surface import MeanHeadSurface

REACH = 0.004  # metres over the skin within which a correction of the lids fades
OVERLAP = 0.0009  # metres by which the shut lids overlap, so that no identity has a slit
CLEAR_UPPER, CLEAR_LOWER = 0.0011, 0.0006  # metres between lids and eyeball; the upper lid closes over the lower
HIDDEN = 2  # rings of vertices behind the margin, which always lie inside the eyeball
CLOSING_STEPS = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)  # shares of the closing at which the eyeball must be covered


def lid_operators(head: Head, surface: MeanHeadSurface) -> list[sparse.csr_matrix]:
    """Return the `gap_operator` of the left and the right eye; `remove_gap_change` then removes the lids' closing."""
    lids = openings(surface)
    return [gap_operator(head, surface, lids[s], REACH) for s in ("left", "right")]


def blinks(units: dict[str, np.ndarray], head: Head, surface: MeanHeadSurface) -> np.ndarray:
    """Return displacements (2, V, 3) that shut the subject's left and right eye."""
    v, lids = surface.vertices, openings(surface)["left"]
    operator = gap_operator(head, surface, lids, REACH)
    field = (units["eyeBlinkLeft"] + units["eyeBlinkRight"][head.mirror] * [-1, 1, 1]) / 2
    rest, closed = gap(lids, v), gap(lids, v + field)
    change = rest - closed
    field = float(np.median((rest / change)[change > 0.5 * change.max()])) * field
    closed_v = remove_gap_change(operator, v + field, 6)
    x = v[lids.upper, 0]
    s = (x - x[0]) / (x[-1] - x[0])
    overlap = np.zeros(len(v))
    overlap[lids.upper] = OVERLAP * np.minimum(1.0, 6 * np.minimum(s, 1 - s))
    closed_v[:, 1] -= operator @ overlap / SHARE
    field = _lift_off_eyeball(head, surface, closed_v - v, lids.upper)
    return np.stack([field, field[head.mirror] * [-1, 1, 1]])


def _lift_off_eyeball(head: Head, surface: MeanHeadSurface, field: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Lift the lids radially off the left eyeball wherever they would penetrate it on their straight path.

    The middle of a straight line between two points of a ball lies inside it, so a shut lid bulges, as over a real
    cornea.
    """
    v = surface.vertices
    ball = v[head.part == 1]
    centre = ball.mean(0)
    radius = np.linalg.norm(ball - centre, axis=1).max()
    near = adjacency(head.faces, len(v))
    hidden = np.zeros(len(v), bool)
    hidden[surface.seam(surface.socket_islands[1])] = True
    for _ in range(HIDDEN - 1):
        hidden |= (near @ hidden.astype(float)) > 0
    skin = np.zeros(len(v), bool)
    skin[np.unique(surface.faces[surface.skin])] = True
    moves = skin & ~hidden & (np.linalg.norm(field, axis=1) > 2e-4) & (np.linalg.norm(v - centre, axis=1) < 0.026)
    rest = np.linalg.norm(v - centre, axis=1) - radius
    line = np.interp(v[:, 0], *height_profile(v[upper]))
    clearance = np.where(v[:, 1] > line - 0.002, CLEAR_UPPER, CLEAR_LOWER)
    smooth = neighbour_mean(head.faces, len(v))
    field = field.copy()
    for _ in range(12):
        lift = np.zeros(len(v))
        for t in CLOSING_STEPS:
            height = np.linalg.norm(v + t * field - centre, axis=1) - radius
            # the open lid may be closer; the full clearance is required when shut
            required = np.minimum(clearance, np.maximum(rest, 2e-4) * (1 - t) + clearance * t)
            lift = np.maximum(lift, np.where(moves, (required - height) / t, 0.0))
        if lift.max() < 2e-5:
            break
        lift = np.maximum(0.6 * lift, 0.9 * (smooth @ lift))
        outward = v + field - centre
        lift *= np.linalg.norm(field, axis=1) > 1e-4
        field += lift[:, None] * outward / np.linalg.norm(outward, axis=1, keepdims=True)
    return field
