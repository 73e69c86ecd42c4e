"""The face detector protocol, and the default detector: faces of a photo and their 68 landmarks with confidences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from fitting.detections import MIN_PRESENCE, Detection, box_overlap, find_faces
from fitting.landmark_maps import IBUG_MIRROR, LEFT_OUTER_EYE, RIGHT_OUTER_EYE, mediapipe_to_ibug
from fitting.mediapipe_models import ASSETS, LANDMARK_INPUT, MediaPipeModels
from fitting.regions_of_interest import REGION_SCALE, PhotoPyramid, Region, region_from_eyes, region_from_mesh

SCALE_JITTER = 1.3  # the largest factor on the side of a jittered crop; the smallest is its inverse
REFINEMENT_STEPS = 8  # maximum number of steps
CONVERGED_COSINE = float(np.cos(np.deg2rad(1.0)))  # of the change of the region's angle in one step
UPRIGHT_PRESENCE = 0.97  # an upright mesh fitted to an upside-down face reaches 0.9


@dataclass(frozen=True)
class FaceLandmarks:
    """The landmarks of one face, in pixels of the full photo."""

    points: np.ndarray
    """(68, 2) iBUG points, x, y; NaN where missing. They set the crop if no box is given."""
    confidence: np.ndarray
    """(68,) in [0, 1]: how stable each point is under jitter of the crop; a soft weight, not an occlusion mask.
    `observe` sets it to 0 at missing points."""
    presence: float
    """the landmark network's confidence that this is a face, in [0, 1]; `observe` drops faces below 0.1"""
    box: np.ndarray
    """(4,) x0, y0, x1, y1, tight round the points; `observe` does not read it"""
    spread: np.ndarray | None = None
    """(68,) RMS deviation over jittered crops, in outer-eye distances"""
    mesh: np.ndarray | None = None
    """(468, 3) MediaPipe's points; z at the scale of x, smaller is nearer"""


class FaceDetector(Protocol):
    """The interface of the detectors that `observe_photo` takes; write your own by implementing these two methods.

    `flamejax reconstruct` calls one detector from several threads at once.
    """

    def detect(self, image: np.ndarray, *, all_faces: bool = False) -> list[Detection]:
        """Return the faces of a photo, largest first; an empty list if there is none.

        Args:
            image: (H, W, 3) float32 RGB in [0, 1].
            all_faces: if false, only the largest face is needed, so a detector may stop after its first detection.
        """
        ...

    def landmarks(self, image: np.ndarray, face: Detection | Sequence[float]) -> FaceLandmarks:
        """Return the landmarks of one face, with confidences, in pixels of the full photo.

        Args:
            image: (H, W, 3) float32 RGB in [0, 1].
            face: one of the detections, or a box x0, y0, x1, y1 that the user gave, photo pixels.
        """
        ...


@dataclass(frozen=True)
class Calibration:
    """The map from spread to confidence, exp(-(spread / scale)^2); `python -m tools.calibrate_confidence` fits it."""

    scale: np.ndarray
    """(68,) outer-eye distances"""

    @classmethod
    def load(cls, path: Path = ASSETS / "landmark_spread.json") -> Calibration:
        return cls(np.asarray(json.loads(Path(path).read_text())["spread_scale"], np.float64))

    def confidence(self, spread: np.ndarray) -> np.ndarray:
        """(*b, 68) spreads -> (*b, 68) float32 in [0, 1]."""
        return np.exp(-((spread / self.scale) ** 2)).astype(np.float32)


@dataclass(frozen=True)
class Jitter:
    """One perturbation of a face's region, see `Region.jittered`."""

    shift: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """(2,) sides, along the region's axes"""
    scale: float = 1.0
    angle: float = 0.0
    """radians"""
    mirrored: bool = False
    """show the network the crop's mirror image"""

    @property
    def weight(self) -> float:
        """Weight in the mean landmarks: crops far from the network's training scale are less exact."""
        return float(np.exp(-((np.log(self.scale) / (0.5 * np.log(SCALE_JITTER))) ** 2)))


class _CropLandmarks(NamedTuple):
    """The landmarks detected in one crop, in photo pixels: points (68, 3), and mesh (468, 3), NaN if mirrored."""

    points: np.ndarray
    presence: float
    mesh: np.ndarray


class LiteRTDetector:
    """MediaPipe's BlazeFace detectors and face mesh, run by LiteRT on the CPU. Safe to share between threads.

    Args:
        jitters: number of crops per face whose disagreement gives the confidence (0: one crop, confidence 1).
        seed: seed of the jitters; the same photo always gives the same numbers.
        min_score: detections with a lower score are dropped.
        num_threads: threads per interpreter.
        calibration: maps spread to confidence; by default the result of tools/calibrate_confidence.py.
    """

    def __init__(
        self,
        *,
        jitters: int = 12,
        seed: int = 0,
        min_score: float = 0.5,
        num_threads: int = 1,
        calibration: Calibration | None = None,
    ):
        self.models = MediaPipeModels(num_threads=num_threads)
        self.min_score = min_score
        self.jitters = draw_jitters(jitters, seed)
        self.calibration = Calibration.load() if calibration is None else calibration

    def detect(self, image: np.ndarray, *, all_faces: bool = False) -> list[Detection]:
        """See `FaceDetector.detect`."""
        return self._detect_faces(PhotoPyramid(image), thorough=all_faces)

    def landmarks(self, image: np.ndarray, face: Detection | Sequence[float]) -> FaceLandmarks:
        """See `FaceDetector.landmarks`. If no keypoints are given, detects a face in the box first, for its tilt."""
        box = np.asarray(face.box if isinstance(face, Detection) else face, np.float64)
        image, origin = _crop_around_box(image, box)
        pyramid = PhotoPyramid(image)
        if isinstance(face, Detection) and face.keypoints is not None:
            start = region_from_eyes(face.box - np.tile(origin, 2), face.keypoints[:2] - origin)
        else:
            start = self._region_in_box(pyramid, box - np.tile(origin, 2))
        region = self._refine_region(pyramid, start)
        crops = [self._landmarks_in_crop(pyramid, region, jitter) for jitter in self.jitters]
        points = np.stack([crop.points for crop in crops]) + np.append(origin, 0.0)
        spread = landmark_spread(points)
        weights = np.array([jitter.weight for jitter in self.jitters])
        mean = np.average(points, axis=0, weights=weights)[:, :2]
        unmirrored = np.flatnonzero([not jitter.mirrored for jitter in self.jitters])
        mesh = np.average([crops[k].mesh for k in unmirrored], axis=0, weights=weights[unmirrored])
        mesh = mesh + np.append(origin, 0.0)
        return FaceLandmarks(
            points=mean.astype(np.float32),
            confidence=self.calibration.confidence(spread),
            presence=float(np.median([crop.presence for crop in crops])),
            box=np.concatenate([mean.min(axis=0), mean.max(axis=0)]).astype(np.float32),
            spread=spread.astype(np.float32),
            mesh=mesh.astype(np.float32),
        )

    def _detect_faces(self, pyramid: PhotoPyramid, **options: bool) -> list[Detection]:
        def presence(detection: Detection) -> float:
            region = region_from_eyes(detection.box, detection.known_keypoints[:2])
            first = self._landmarks_in_crop(pyramid, region, Jitter())
            if first.presence < MIN_PRESENCE:
                return first.presence
            # A true face still has a high presence in a crop that is centred on its detected landmarks.
            second = self._landmarks_in_crop(pyramid, region_from_mesh(first.mesh), Jitter())
            return min(first.presence, second.presence)

        return find_faces(pyramid, self.models, presence, min_score=self.min_score, **options)

    def _landmarks_in_crop(self, pyramid: PhotoPyramid, region: Region, jitter: Jitter) -> _CropLandmarks:
        """Run the landmark network on one jittered, maybe mirrored crop."""
        region = region.jittered(jitter.shift, jitter.scale, jitter.angle)
        pixels = pyramid.crop(region, LANDMARK_INPUT)
        mesh, presence = self.models.landmarks(pixels[:, ::-1] if jitter.mirrored else pixels)
        mesh = mesh / LANDMARK_INPUT
        if jitter.mirrored:
            mesh = np.concatenate([1.0 - mesh[:, :1], mesh[:, 1:]], axis=1)
        mesh = np.concatenate([region.to_photo(mesh[:, :2]), mesh[:, 2:] * region.side], axis=1)
        points = mediapipe_to_ibug(mesh)
        if jitter.mirrored:
            # There is no table that swaps left and right of the 468 points, so a mirrored crop has no mesh.
            return _CropLandmarks(points[list(IBUG_MIRROR)], presence, np.full_like(mesh, np.nan))
        return _CropLandmarks(points, presence, mesh)

    def _refine_region(self, pyramid: PhotoPyramid, start: Region) -> Region:
        """Centre the region on the landmarks detected in it, until it stops changing. Tries other tilts at first if the
        presence is low."""
        crop = self._landmarks_in_crop(pyramid, start, Jitter())
        if crop.presence < UPRIGHT_PRESENCE:
            angles = np.deg2rad((-90.0, -60.0, -30.0, 30.0, 60.0, 90.0, 180.0)).tolist()
            crops = [crop] + [self._landmarks_in_crop(pyramid, start, Jitter(angle=angle)) for angle in angles]
            crop = max(crops, key=lambda candidate: candidate.presence)
        region = region_from_mesh(crop.mesh)
        for _ in range(REFINEMENT_STEPS):  # a tilt that is wrong by 60 degrees improves by about 10 a step
            previous, crop = region, self._landmarks_in_crop(pyramid, region, Jitter())
            region = region_from_mesh(crop.mesh)
            converged = np.cos(region.angle - previous.angle) > CONVERGED_COSINE
            if converged and abs(region.side / previous.side - 1.0) < 0.02:
                break
        return region

    def _region_in_box(self, pyramid: PhotoPyramid, box: np.ndarray) -> Region:
        """Return the region of the detected face that overlaps the box most, or of the box itself if there is none."""
        faces = self._detect_faces(pyramid, tiles=False)
        best = max(faces, key=lambda f: box_overlap(f.box, box), default=None)
        if best is not None and box_overlap(best.box, box) > 0.2:
            return region_from_eyes(best.box, best.known_keypoints[:2])
        return Region((box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2]) * REGION_SCALE), 0.0)


def draw_jitters(number: int, seed: int) -> list[Jitter]:
    """Draw the jitters of one face: a ladder of scales with small shifts and rotations, half of them mirrored.

    The response to scale separates hidden from visible landmarks best. Mirroring cancels the network's left-right bias:
    each jitter's mirror image is in the set too, so that a mirrored photo gives mirrored landmarks.
    """
    if number == 0:
        return [Jitter()]
    generator = np.random.default_rng(seed)
    half = (number + 1) // 2
    exponents = np.linspace(-1.0, 1.0, half) if half > 1 else np.zeros(1)
    jitters = []
    for exponent, (x, y, turn) in zip(exponents, generator.uniform(-1.0, 1.0, size=(half, 3)), strict=True):
        scale, angle = float(SCALE_JITTER**exponent), float(np.deg2rad(10.0) * turn)
        jitters.append(Jitter(np.array([0.03 * x, 0.03 * y]), scale, angle))
        jitters.append(Jitter(np.array([-0.03 * x, 0.03 * y]), scale, -angle, mirrored=True))
    return jitters[:number]


def landmark_spread(points: np.ndarray) -> np.ndarray:
    """Return the RMS deviation of landmarks about their mean over N crops, in outer-eye distances.

    Args:
        points: (N, 68, 3) x, y, z. The eye distance is taken in 3D, so that it does not vanish on a profile.

    Returns:
        (68,).
    """
    mean = points.mean(axis=0)
    eyes = np.linalg.norm(mean[LEFT_OUTER_EYE] - mean[RIGHT_OUTER_EYE])
    deviation = ((points[..., :2] - mean[:, :2]) ** 2).sum(axis=-1).mean(axis=0)
    return np.sqrt(deviation) / max(eyes, 1e-6)


def _crop_around_box(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop the photo to the surroundings of a box (4,) that its landmarks can depend on.

    Returns the crop, with a margin of one and a half box sides, and its top-left corner (2,) in the photo.
    """
    height, width = image.shape[:2]
    centre, reach = (box[:2] + box[2:]) / 2, 2.0 * max(box[2:] - box[:2]) + 1.0
    x0, y0 = np.clip(np.floor(centre - reach), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(centre + reach), (x0 + 1, y0 + 1), (width, height)).astype(int)
    return image[y0:y1, x0:x1], np.array([x0, y0], np.float64)
