"""Build FLAME's 14 region masks for the open head from MakeHuman's painted masks, landmarks and smooth surfaces."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy import ndimage, sparse

from experiments.datasets.open_people.geometry import Head, adjacency
from experiments.datasets.open_people.sources import MPFB, MakeHumanSource
from tools.open_head.surface import MeanHeadSurface

NAMES = (
    "boundary", "eye_region", "face", "forehead", "left_ear", "left_eye_region", "left_eyeball", "lips", "neck", "nose",
    "right_ear", "right_eye_region", "right_eyeball", "scalp",
)  # fmt: skip


def sample_mask(source: MakeHumanSource, name: str, head: Head, surface: MeanHeadSurface) -> np.ndarray:
    """Sample one of MakeHuman's painted masks at the vertices: (V,) in [0, 1]; zero off the outer skin."""
    uv = np.zeros((len(surface.vertices), 2))
    uv[head.faces[surface.skin]] = head.uv[head.uv_faces[surface.skin]]
    out = sample_painted(source, name, uv)
    skin = np.zeros(len(out), bool)
    skin[head.faces[surface.skin]] = True
    return np.where(skin, out, 0.0)


def sample_painted(source: MakeHumanSource, name: str, uv: np.ndarray) -> np.ndarray:
    """Sample one of MakeHuman's painted masks at texture coordinates (N, 2): (N,) in [0, 1].

    Interpolates bilinearly with row = (1 - v) H - 0.5.
    """
    with Image.open(io.BytesIO(source.read(f"{MPFB}textures/mpfb_{name}.jpg"))) as file:
        image = np.asarray(file.convert("L"), np.float32) / 255.0
    h, w = image.shape
    return ndimage.map_coordinates(image, [(1 - uv[:, 1]) * h - 0.5, uv[:, 0] * w - 0.5], order=1, mode="nearest")


class MaskSmoother:
    """Smooths ragged mask borders: averages masks over neighbours, makes them mirror symmetric, and thresholds."""

    def __init__(self, head: Head):
        near = adjacency(head.faces, len(head.part)) + sparse.identity(len(head.part))
        self.step = sparse.diags(1 / np.asarray(near.sum(1)).ravel()) @ near
        self.mirror = head.mirror

    def __call__(self, mask: np.ndarray, rounds: int = 2, sided: bool = False) -> np.ndarray:
        field = mask.astype(float)
        for _ in range(rounds):
            field = self.step @ field
        return (field if sided else (field + field[self.mirror]) / 2) > 0.5


def _inside(x: np.ndarray, y: np.ndarray, centre: np.ndarray, axes: tuple[float, float]) -> np.ndarray:
    return ((x - centre[0]) / axes[0]) ** 2 + ((y - centre[1]) / axes[1]) ** 2 < 1


def build_regions(
    source: MakeHumanSource, head: Head, surface: MeanHeadSurface, measures: dict, limit: dict
) -> dict[str, np.ndarray]:
    """Return masks (V,) by name. The inside of the mouth belongs to the neck, so that `face` is skin only."""
    v = surface.vertices
    x, y, z = v.T
    smooth = MaskSmoother(head)
    painted = {n: sample_mask(source, n, head, surface) for n in ("face", "ears", "lips")}
    skin = np.zeros(len(v), bool)
    skin[head.faces[surface.skin]] = True
    outer = skin.copy()
    outer[np.unique(head.faces[surface.island == surface.neck_island])] = True

    def of_island(i):
        mask = np.zeros(len(v), bool)
        mask[np.unique(head.faces[surface.island == i])] = True
        return mask

    mouth = of_island(surface.mouth_island) & ~skin
    ears = smooth(painted["ears"] > 0.5, 1)
    lips = smooth(painted["lips"] > 0.5, 1) & skin
    lips[measures["lip_ring"]] = True
    near_ring = adjacency(head.faces, len(v)) @ lips.astype(float) > 0
    lips |= near_ring & mouth  # the rim that is visible when the lips part
    ring = v[measures["lids"]["left"]]
    centre = (ring[:, :2].min(0) + ring[:, :2].max(0)) / 2 + [0.0015, 0.002]
    out = {}
    depth = z > np.percentile(ring[:, 2], 50) - 0.028
    for side, sign, island in (("left", 1, surface.socket_islands[1]), ("right", -1, surface.socket_islands[0])):
        region = _inside(sign * x, y, centre, (0.0245, 0.0205)) & skin & depth
        out[f"{side}_eye_region"] = smooth(region, 1, sided=True) & skin | of_island(island)
        out[f"{side}_eyeball"] = head.part == (1 if side == "left" else 2)
        out[f"{side}_ear"] = ears & (sign * x > 0)
    out["right_eye_region"] = out["left_eye_region"][head.mirror]
    top, bottom = measures["eye_y"] + 0.004, measures["subnasale_y"] - 0.001
    t = np.clip((top - y) / (top - measures["alar_y"]), 0, 1)
    half_width = 0.0085 + (measures["alar_x"] + 0.002 - 0.0085) * t**1.6
    cheek_z = np.percentile(ring[:, 2], 20) - 0.012
    nose = (np.abs(x) < half_width) & (y < top) & (y > bottom) & (z > cheek_z) & skin & ~lips
    out["nose"] = smooth(nose, 1) & skin
    brow_y = np.interp(np.abs(x), measures["brow"][:, 0], measures["brow"][:, 1])
    hairline = measures["eye_y"] + 0.072 - 12.0 * x**2
    frontal = skin & (z > limit["ear_z"] + 0.030) & ~ears
    forehead = frontal & (y > brow_y + 0.002) & (y < hairline)
    out["forehead"] = smooth(forehead) & skin
    bridge = (np.abs(x) < 0.02) & (np.abs(y - centre[1] - 0.004) < 0.014) & frontal
    out["eye_region"] = out["left_eye_region"] | out["right_eye_region"] | smooth(bridge, 1) & skin
    line = limit["gonion_y"] + (z - limit["gonion_z"]) / (limit["menton_z"] - limit["gonion_z"]) * (
        limit["menton_y"] - limit["gonion_y"])  # fmt: skip
    line = np.where(z < limit["gonion_z"], limit["gonion_y"] + 0.15 * (limit["gonion_z"] - z), line)
    neck = outer & (y < line - 0.002) & ~ears
    front = frontal | (skin & (z > limit["ear_z"] + 0.006) & (y < measures["eye_y"] + 0.01))
    face = front & ~neck & ~ears & (y < hairline)
    sockets = of_island(surface.socket_islands[0]) | of_island(surface.socket_islands[1])
    face = smooth(face) & skin | out["nose"] | out["forehead"] | lips & skin | out["eye_region"] & ~sockets
    out["lips"] = lips
    out["face"] = face
    out["neck"] = smooth(neck) & outer & ~face & ~ears | mouth & ~lips
    low = v[ears, 1].min() + 0.012  # a strip under the ear lobe is neck, not scalp
    out["neck"] |= outer & (y < low) & ~face & ~ears
    out["scalp"] = outer & ~out["neck"] & ~face & ~ears
    boundary = np.zeros(len(v), bool)
    boundary[head.neck_loop] = True
    out["boundary"] = boundary
    out["neck"] |= boundary
    out["scalp"] |= ~np.any([out[n] for n in NAMES], axis=0)
    return {n: out[n] for n in NAMES}
