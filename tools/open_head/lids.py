"""Closing lids: MakeHuman's blink overcloses by 3 mm, leaves slits and, half way, lets the eyeball through the lid."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from experiments.datasets.open_people.geometry import Head, adjacency, neighbour_mean
from experiments.datasets.open_people.mouth import SHARE, gap_operator
from tools.open_head.gaps import gap, graph, openings
from tools.open_head.mouth import shut
from tools.open_head.surface import Surface

REACH = 0.004  # metres over the skin within which a correction of the lids fades
OVERLAP = 0.0009  # metres by which the shut lids overlap, so that nobody's have a slit
CLEAR_UPPER, CLEAR_LOWER = 0.0011, 0.0006  # metres the lids keep off the eyeball; the upper one shuts over the lower
HIDDEN = 2  # rings of vertices behind the margin, which always lie inside the eyeball
WAY = (0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1.0)  # shares of the way at which the eyeball must not show


def lid_operators(head: Head, surface: Surface) -> list[sparse.csr_matrix]:
    """`gap_operator` of both eyes: `shut` with them takes the closing of the lids out of a displacement."""
    lids = openings(surface)
    return [gap_operator(head, surface, lids[s], REACH) for s in ("left", "right")]


def blinks(units: dict[str, np.ndarray], head: Head, surface: Surface) -> np.ndarray:
    """(2, V, 3) displacements that shut the subject's left and right eye."""
    v, lids = surface.vertices, openings(surface)["left"]
    operator = gap_operator(head, surface, lids, REACH)
    field = (units["eyeBlinkLeft"] + units["eyeBlinkRight"][head.mirror] * [-1, 1, 1]) / 2
    rest, closed = gap(lids, v), gap(lids, v + field)
    way = rest - closed
    field = float(np.median((rest / way)[way > 0.5 * way.max()])) * field
    closed_v = shut(operator, v + field, 6)
    x = v[lids.upper, 0]
    s = (x - x[0]) / (x[-1] - x[0])
    lap = np.zeros(len(v))
    lap[lids.upper] = OVERLAP * np.minimum(1.0, 6 * np.minimum(s, 1 - s))
    closed_v[:, 1] -= operator @ lap / SHARE
    field = _clear(head, surface, closed_v - v, lids.upper)
    return np.stack([field, field[head.mirror] * [-1, 1, 1]])


def _clear(head: Head, surface: Surface, field: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Lifts the lids radially off the left eyeball wherever they would cut into it on their straight way.

    Half way a straight line between two points of a ball lies inside it, so a shut lid bulges, as over a real cornea.
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
    line = np.interp(v[:, 0], *graph(v[upper]))
    wanted = np.where(v[:, 1] > line - 0.002, CLEAR_UPPER, CLEAR_LOWER)
    smooth = neighbour_mean(head.faces, len(v))
    field = field.copy()
    for _ in range(12):
        lift = np.zeros(len(v))
        for t in WAY:
            now = np.linalg.norm(v + t * field - centre, axis=1) - radius
            # at rest the lid lies as it lies; the full clearance is asked for where it is shut
            need = np.minimum(wanted, np.maximum(rest, 2e-4) * (1 - t) + wanted * t)
            lift = np.maximum(lift, np.where(moves, (need - now) / t, 0.0))
        if lift.max() < 2e-5:
            break
        lift = np.maximum(0.6 * lift, 0.9 * (smooth @ lift))
        out = v + field - centre
        lift *= np.linalg.norm(field, axis=1) > 1e-4
        field += lift[:, None] * out / np.linalg.norm(out, axis=1, keepdims=True)
    return field
