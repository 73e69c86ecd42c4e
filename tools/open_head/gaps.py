"""Measure signed gaps between the lips and between the lids: negative where they cross."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from experiments.datasets.open_people.geometry import adjacency
from experiments.datasets.open_people.joints import JAW
from experiments.datasets.open_people.mouth import Opening, find_lips
from experiments.datasets.open_people.surface import MeshIslands

SAMPLES = np.linspace(0.15, 0.85, 23)  # shares of the way from corner to corner; beyond, the borders differ in depth
MARGIN_LAYER = 2  # rings of vertices from the hidden seam of the eye socket to the lid margin on the eyeball


def gap(opening: Opening, vertices: np.ndarray) -> np.ndarray:
    """Return the height of the upper border above the lower one, metres: vertices (V, 3) -> (23,)."""
    corners = vertices[opening.upper[[0, -1]], 0]
    x = corners[0] + SAMPLES * (corners[1] - corners[0])
    upper, lower = (np.interp(x, *height_profile(vertices[half])) for half in (opening.upper, opening.lower))
    return upper - lower


def height_profile(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return x (n,), increasing, and the heights (n,) of a border's points (n, 3)."""
    order = np.argsort(points[:, 0], kind="stable")
    return points[order, 0], points[order, 1]


def openings(surface: MeshIslands, height: np.ndarray | None = None) -> dict[str, Opening]:
    """Return the openings "lips", "right" and "left" (lids) of the mean head; `height` as in `find_lips`."""
    result = {"lips": find_lips(surface, height)}
    for name, island in zip(("right", "left"), surface.socket_islands, strict=True):
        result[name] = _lids(surface, surface.seam_loop(island))
    return result


def _lids(surface: MeshIslands, ring: np.ndarray) -> Opening:
    """Return the visible lid margins, two rings of vertices outside the seam, which the eyeball's front hides."""
    neighbours = adjacency(surface.faces[surface.skin], len(surface.vertices))
    inside, margin = set(ring.tolist()), set(ring.tolist())
    for _ in range(MARGIN_LAYER):
        margin = {int(j) for i in margin for j in neighbours[i].indices} - inside
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
    """Return the openings of a finished asset."""
    part = np.zeros(len(asset["v_template"]), int)
    names = [str(n) for n in asset["region_names"]]
    part[asset["region_masks"][names.index("left_eyeball")]] = 1
    part[asset["region_masks"][names.index("right_eyeball")]] = 2
    template = asset["v_template"].astype(float)
    head = SimpleNamespace(faces=asset["faces"], uv=asset["uv"], uv_faces=asset["uv_faces"], part=part)
    return openings(MeshIslands(head, template), -asset["lbs_weights"][:, JAW])  # the jaw moves the lower lip
