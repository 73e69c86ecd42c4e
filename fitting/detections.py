"""Searching a photo for faces: several looks at it, and one list of faces out of what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from fitting.mediapipe_models import DETECTORS, MediaPipeModels
from fitting.regions_of_interest import PhotoPyramid, Region

SAME_FACE_IOU = 0.3
# Full profiles have a presence of about 0.5, most things that fool the detector below 0.1.
PRESENCE = 0.2
SURE_PRESENCE = 0.8
SURE_SCORE = 0.7
SMALLEST_TILE = 128  # photo pixels: below this the network would see magnified pixels only


@dataclass(frozen=True)
class Detection:
    """One face found, in pixels of the full photo."""

    box: np.ndarray
    """(4,) x0, y0, x1, y1: brows to chin"""
    score: float
    """in [0, 1]"""
    keypoints: np.ndarray | None = None
    """(6, 2) right eye, left eye (the subject's), nose tip, mouth, right ear, left ear; None if unknown"""
    presence: float = 1.0
    """the landmark network's opinion, in [0, 1]"""

    @property
    def known_keypoints(self) -> np.ndarray:
        """(6, 2) the keypoints. Raises: ValueError where they are unknown."""
        if self.keypoints is None:
            raise ValueError("This detection has no keypoints.")
        return self.keypoints


def find_faces(
    pyramid: PhotoPyramid,
    models: MediaPipeModels,
    presence: Callable[[Detection], float],
    *,
    min_score: float = 0.5,
    thorough: bool = False,
    tiles: bool = True,
) -> list[Detection]:
    """Faces, largest first.

    Looks at the whole photo, then from further away (faces that fill it), turned, and in ever smaller tiles (small
    faces), and stops once it is sure of a find. An upside-down face is first seen as a doubtful upright one.

    Args:
        presence: a second opinion on a detection, in [0, 1]. BlazeFace alone sees faces in coffee cups.
        thorough: do not stop early, so as to find all faces.
        tiles: look for small faces at all.
    """
    found: list[Detection] = []
    for looks, tiled in _rounds(*pyramid.size, tiles):
        # A good score makes further looks needless; small tiles only what is surely a face.
        if not thorough and any(d.presence >= SURE_PRESENCE if tiled else d.score >= SURE_SCORE for d in found):
            break
        seen = [d for name, region in looks for d in _look(pyramid, models, name, region, min_score)]
        judged = [replace(d, presence=presence(d)) for d in weighted_nms(seen)]
        found += [d for d in judged if d.presence >= PRESENCE]
    if any(d.presence >= SURE_PRESENCE for d in found):  # doubtful finds count only where there is nothing better
        found = [d for d in found if d.presence >= SURE_PRESENCE]
    return sorted(weighted_nms(found), key=lambda d: -_area(d.box))


def weighted_nms(detections: list[Detection]) -> list[Detection]:
    """Merge detections of the same face: the best of a group, averaged with the others by score.

    Only detections of about the same tilt are averaged, the others lose. A detection mostly inside a better one (a
    tile's cut-off view of a face) is dropped without being averaged.
    """
    rest = sorted(detections, key=lambda d: -d.score)
    kept = []
    while rest:
        best = rest[0]
        same = [d for d in rest if box_overlap(d.box, best.box) > SAME_FACE_IOU]
        rest = [d for d in rest if box_overlap(d.box, best.box) <= SAME_FACE_IOU and not _inside(d.box, best.box)]
        group = [d for d in same if d is best or _eye_line(d) @ _eye_line(best) > 0.8]
        weights = np.array([d.score for d in group])
        weights = weights / weights.sum()
        box = np.einsum("n,ni->i", weights, np.stack([d.box for d in group]))
        keypoints = np.einsum("n,nij->ij", weights, np.stack([d.known_keypoints for d in group]))
        kept.append(replace(best, box=box, keypoints=keypoints))
    return kept


def box_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    common = _intersection(a, b)
    return common / max(_area(a) + _area(b) - common, 1e-9)


def _rounds(width: int, height: int, tiles: bool) -> Iterator[tuple[list[tuple[str, Region]], bool]]:
    """Rounds of looks (network, region), the likeliest first, and whether they are at tiles."""
    centre, longer = np.array([width, height]) / 2.0, float(max(width, height))
    for name, scale in (("back", 1.0), ("short_range", 1.0), ("back", 1.6), ("short_range", 1.6)):
        yield [(name, Region(centre, scale * longer, 0.0))], False
    yield [("back", Region(centre, 1.2 * longer, a)) for a in np.deg2rad((-45, 45, -90, 90, 180))], False
    for divisor in (2, 4, 8, 16) if tiles else ():
        side = longer / divisor
        if side >= SMALLEST_TILE:
            # The larger network sees more in a tile, the smaller one as much where the tile has few pixels.
            name = "back" if divisor < 16 and side > 192 else "short_range"
            yield [(name, Region(c, side, 0.0)) for c in _tile_centres(width, height, side)], True


def _tile_centres(width: int, height: int, side: float) -> list[np.ndarray]:
    """Centres of square tiles that cover the photo and overlap by a quarter: larger faces show in larger tiles."""
    axes = []
    for length in (width, height):
        number = max(int(np.ceil((length / side - 0.25) / 0.75)), 1)
        axes.append([length / 2] if number == 1 else np.linspace(side / 2, length - side / 2, number))
    return [np.array([x, y]) for y in axes[1] for x in axes[0]]


def _look(
    pyramid: PhotoPyramid, models: MediaPipeModels, name: str, region: Region, min_score: float
) -> list[Detection]:
    """What one network sees in one region."""
    boxes, keypoints, scores = models.detect(name, pyramid.crop(region, DETECTORS[name][1]))
    found = []
    for i in np.flatnonzero(scores >= min_score):
        # Boxes are squares; they are kept upright whatever the region's tilt, the tilt is in the keypoints.
        centre = region.to_photo((boxes[i, :2] + boxes[i, 2:]) / 2)
        half = (boxes[i, 2:] - boxes[i, :2]) / 2 * region.side
        found.append(Detection(np.concatenate([centre - half, centre + half]), float(scores[i]),
                               region.to_photo(keypoints[i])))  # fmt: skip
    return weighted_nms(found)


def _eye_line(detection: Detection) -> np.ndarray:
    """(2,) unit vector from the right eye to the left."""
    line = detection.known_keypoints[1] - detection.known_keypoints[0]
    return line / max(float(np.linalg.norm(line)), 1e-9)


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0.0)))


def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0)))


def _inside(box: np.ndarray, other: np.ndarray) -> bool:
    return _intersection(box, other) > 0.7 * _area(box)
