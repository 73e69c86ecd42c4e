"""Signed gaps between the lips and between the lids: negative where they cross."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from experiments.datasets.open_people.geometry import adjacency
from experiments.datasets.open_people.landmarks import split_ring
from experiments.datasets.open_people.surface import Surface

JAW = 2
SAMPLES = np.linspace(0.15, 0.85, 23)  # shares of the way from corner to corner; beyond, depth tells the borders apart
MARGIN_LAYER = 2  # rings of vertices from the hidden seam of the eye socket to the lid margin on the eyeball


@dataclass(frozen=True)
class Opening:
    """The two borders of an opening as vertex paths from corner to corner, by growing x; both hold the corners."""

    upper: np.ndarray
    lower: np.ndarray

    def gap(self, vertices: np.ndarray) -> np.ndarray:
        """(V, 3) -> (23,) height of the upper border over the lower one, metres."""
        corners = vertices[self.upper[[0, -1]], 0]
        x = corners[0] + SAMPLES * (corners[1] - corners[0])
        sides = [np.interp(x, *_graph(vertices[half])) for half in (self.upper, self.lower)]
        return sides[0] - sides[1]


def _graph(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(points[:, 0], kind="stable")
    return points[order, 0], points[order, 1]


def openings(surface: Surface, height: np.ndarray | None = None) -> dict[str, Opening]:
    """The openings "lips", "right" and "left" (lids) of the mean head.

    `height` (V,) tells the upper lip from the lower; by default from the base mesh, whose lips lie a little apart.
    """
    height = surface.outer_height() if height is None else height
    ring = surface.seam_loop(surface.mouth_island)
    x = surface.vertices[ring, 0]
    out = {"lips": Opening(*split_ring(ring, int(np.argmin(x)), int(np.argmax(x)), height))}
    for name, island in zip(("right", "left"), surface.socket_islands, strict=True):
        out[name] = _lids(surface, surface.seam_loop(island))
    return out


def _lids(surface: Surface, ring: np.ndarray) -> Opening:
    """The visible margins: two rings of vertices outside the seam, which is hidden behind the eyeball's front."""
    near = adjacency(surface.faces[surface.skin], len(surface.vertices))
    inside, margin = set(ring.tolist()), set(ring.tolist())
    for _ in range(MARGIN_LAYER):
        margin = {int(j) for i in margin for j in near[i].indices} - inside
        inside |= margin
    ids = np.array(sorted(margin))
    x, y = surface.vertices[ids, 0], surface.vertices[ids, 1]
    low, high = int(np.argmin(x)), int(np.argmax(x))
    above = y > y[low] + (y[high] - y[low]) * (x - x[low]) / (x[high] - x[low])
    ends = np.zeros(len(ids), bool)
    ends[[low, high]] = True
    halves = [ids[ends | half][np.argsort(x[ends | half], kind="stable")] for half in (above, ~above)]
    return Opening(*halves)


def asset_openings(asset: dict) -> dict[str, Opening]:
    """The openings of a finished asset."""
    part = np.zeros(len(asset["v_template"]), int)
    names = [str(n) for n in asset["region_names"]]
    part[asset["region_masks"][names.index("left_eyeball")]] = 1
    part[asset["region_masks"][names.index("right_eyeball")]] = 2
    template = asset["v_template"].astype(float)
    head = SimpleNamespace(faces=asset["faces"], uv=asset["uv"], uv_faces=asset["uv_faces"], part=part)
    return openings(Surface(head, template), -asset["lbs_weights"][:, JAW])  # the jaw carries the lower lip
