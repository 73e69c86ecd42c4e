"""Detect the faces of a photo: search it at several scales and angles and merge the detections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from fitting.mediapipe_models import DETECTORS, MediaPipeModels
from fitting.regions_of_interest import PhotoPyramid, Region

SAME_FACE_IOU = 0.3
# Full profiles have a presence of about 0.5, most false detections below 0.1.
MIN_PRESENCE = 0.2
CONFIDENT_PRESENCE = 0.8
CONFIDENT_SCORE = 0.7
MIN_TILE_SIDE = 128  # photo pixels: smaller tiles would have to be magnified for the network


@dataclass(frozen=True)
class Detection:
    """One detected face, in pixels of the full photo."""

    box: np.ndarray
    """(4,) x0, y0, x1, y1: brows to chin. It tells `FaceDetector.landmarks` which face is meant."""
    score: float
    """in [0, 1]; only the shipped detector reads it"""
    keypoints: np.ndarray | None = None
    """(6, 2) right eye, left eye (the subject's), nose tip, mouth, right ear, left ear; None if unknown"""
    presence: float = 1.0
    """the landmark network's confidence that this is a face, in [0, 1]; `observe` reads that of `FaceLandmarks`"""

    @property
    def known_keypoints(self) -> np.ndarray:
        """(6, 2) the keypoints. Raises: ValueError if they are unknown."""
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
    """Return the detected faces, largest first.

    Searches the whole photo, then with margins (for faces that fill it), rotated, and in ever smaller tiles (for small
    faces). Stops at the first confident detection. A doubtful one is not enough: an upside-down face is at first
    detected as a doubtful upright one.

    Args:
        presence: returns a second network's confidence in a detection, in [0, 1]. BlazeFace without it detects faces
            in coffee cups.
        min_score: BlazeFace's detections with a lower score are dropped.
        thorough: do not stop early, so that all faces are detected.
        tiles: search tiles for small faces.
    """
    faces: list[Detection] = []
    for regions, tiled in _search_rounds(*pyramid.size, tiles):
        # A good score ends the search of the whole photo; tiles are skipped only for a high presence.
        confident = (d.presence >= CONFIDENT_PRESENCE if tiled else d.score >= CONFIDENT_SCORE for d in faces)
        if not thorough and any(confident):
            break
        candidates = [d for name, box in regions for d in _detect_in_region(pyramid, models, name, box, min_score)]
        scored = [replace(d, presence=presence(d)) for d in weighted_nms(candidates)]
        faces += [d for d in scored if d.presence >= MIN_PRESENCE]
    if any(d.presence >= CONFIDENT_PRESENCE for d in faces):  # doubtful detections count only if there are no others
        faces = [d for d in faces if d.presence >= CONFIDENT_PRESENCE]
    return sorted(weighted_nms(faces), key=lambda d: -_area(d.box))


def weighted_nms(detections: list[Detection]) -> list[Detection]:
    """Merge detections of the same face into the best of them, with box and keypoints averaged by score.

    Only detections of about the same tilt are averaged, the others are dropped. A detection mostly inside a better one
    (a tile's cut-off view of a face) is dropped without being averaged.
    """
    remaining = sorted(detections, key=lambda d: -d.score)
    merged = []
    while remaining:
        best = remaining[0]
        overlaps = [box_overlap(d.box, best.box) for d in remaining]
        overlapping = [d for d, iou in zip(remaining, overlaps, strict=True) if iou > SAME_FACE_IOU]
        remaining = [
            d
            for d, iou in zip(remaining, overlaps, strict=True)
            if iou <= SAME_FACE_IOU and not _is_inside(d.box, best.box)
        ]
        group = [d for d in overlapping if d is best or _eye_direction(d) @ _eye_direction(best) > 0.8]
        weights = np.array([d.score for d in group])
        weights = weights / weights.sum()
        box = np.einsum("n,ni->i", weights, np.stack([d.box for d in group]))
        keypoints = np.einsum("n,nij->ij", weights, np.stack([d.known_keypoints for d in group]))
        merged.append(replace(best, box=box, keypoints=keypoints))
    return merged


def box_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    common = _intersection(a, b)
    return common / max(_area(a) + _area(b) - common, 1e-9)


def _search_rounds(width: int, height: int, tiles: bool) -> Iterator[tuple[list[tuple[str, Region]], bool]]:
    """Yield the (network, region) pairs of each round, the likeliest first, and whether the regions are tiles."""
    centre, longer = np.array([width, height]) / 2.0, float(max(width, height))
    for name, scale in (("back", 1.0), ("short_range", 1.0), ("back", 1.6), ("short_range", 1.6)):
        yield [(name, Region(centre, scale * longer, 0.0))], False
    yield [("back", Region(centre, 1.2 * longer, a)) for a in np.deg2rad((-45, 45, -90, 90, 180))], False
    for divisor in (2, 4, 8, 16) if tiles else ():
        side = longer / divisor
        if side >= MIN_TILE_SIDE:
            # The larger network detects more in a tile; in a tile of few pixels the smaller one does as well.
            name = "back" if divisor < 16 and side > 192 else "short_range"
            yield [(name, Region(c, side, 0.0)) for c in _tile_centres(width, height, side)], True


def _tile_centres(width: int, height: int, side: float) -> list[np.ndarray]:
    """Return the centres of square tiles that cover the photo and overlap by a quarter."""
    axes = []
    for length in (width, height):
        number = max(int(np.ceil((length / side - 0.25) / 0.75)), 1)
        axes.append([length / 2] if number == 1 else np.linspace(side / 2, length - side / 2, number))
    return [np.array([x, y]) for y in axes[1] for x in axes[0]]


def _detect_in_region(
    pyramid: PhotoPyramid, models: MediaPipeModels, name: str, region: Region, min_score: float
) -> list[Detection]:
    """Return one network's detections in one region."""
    boxes, keypoints, scores = models.detect(name, pyramid.crop(region, DETECTORS[name][1]))
    detections = []
    for i in np.flatnonzero(scores >= min_score):
        # Boxes are squares and stay upright whatever the region's tilt; the tilt is in the keypoints.
        centre = region.to_photo((boxes[i, :2] + boxes[i, 2:]) / 2)
        half = (boxes[i, 2:] - boxes[i, :2]) / 2 * region.side
        detections.append(Detection(np.concatenate([centre - half, centre + half]), float(scores[i]),
                                    region.to_photo(keypoints[i])))  # fmt: skip
    return weighted_nms(detections)


def _eye_direction(detection: Detection) -> np.ndarray:
    """(2,) unit vector from the right eye to the left."""
    line = detection.known_keypoints[1] - detection.known_keypoints[0]
    return line / max(float(np.linalg.norm(line)), 1e-9)


def _area(box: np.ndarray) -> float:
    return float(np.prod(np.maximum(box[2:] - box[:2], 0.0)))


def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0.0)))


def _is_inside(box: np.ndarray, other: np.ndarray) -> bool:
    return _intersection(box, other) > 0.7 * _area(box)
