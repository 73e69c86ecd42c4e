"""Face detectors: where faces are in a photo, and their 68 landmarks with a soft confidence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from fitting.detections import PRESENCE, Detection, box_overlap, find_faces
from fitting.landmark_maps import IBUG_MIRROR, LEFT_OUTER_EYE, RIGHT_OUTER_EYE, mediapipe_to_ibug
from fitting.mediapipe_models import ASSETS, LANDMARK_INPUT, MediaPipeModels
from fitting.regions_of_interest import REGION_SCALE, PhotoPyramid, Region, region_from_eyes, region_from_mesh

SCALE_JITTER = 1.3
SETTLING_STEPS = 8
SETTLED_COSINE = float(np.cos(np.deg2rad(1.0)))
UPRIGHT_PRESENCE = 0.97  # an upright mesh forced on an upside-down face reaches 0.9


@dataclass(frozen=True)
class FaceLandmarks:
    """The landmarks of one face, in pixels of the full photo."""

    points: np.ndarray
    """(68, 2) iBUG points, x, y"""
    confidence: np.ndarray
    """(68,) in [0, 1]: how stable each point is, a soft weight and not an occlusion mask"""
    presence: float
    """how sure the landmark network is that it sees a face, in [0, 1]"""
    box: np.ndarray
    """(4,) x0, y0, x1, y1, tight round the points"""
    spread: np.ndarray | None = None
    """(68,) deviation over jittered crops, in outer-eye distances"""
    mesh: np.ndarray | None = None
    """(468, 3) MediaPipe's points; z at the scale of x, smaller is nearer"""


class FaceDetector(Protocol):
    """What `observe_photo` needs of a detector; bring your own by writing these two methods."""

    def detect(self, image: np.ndarray, *, all_faces: bool = False) -> list[Detection]:
        """Faces of a photo (H, W, 3) float32 RGB in [0, 1], largest first; an empty list where there is none.

        With `all_faces` false only the largest need be there, and a detector may stop looking once it has found any.
        """
        ...

    def landmarks(self, image: np.ndarray, face: Detection | Sequence[float]) -> FaceLandmarks:
        """Landmarks of one face: a detection, or a box x0, y0, x1, y1."""
        ...


@dataclass(frozen=True)
class Calibration:
    """confidence = exp(-(spread / scale)^2), made by `python -m tools.calibrate_confidence`."""

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
    """One change of a face's region, see `Region.jittered`."""

    shift: np.ndarray = field(default_factory=lambda: np.zeros(2))
    """(2,) sides, along the region's axes"""
    scale: float = 1.0
    angle: float = 0.0
    """radians"""
    mirrored: bool = False
    """show the network the crop's mirror image"""

    @property
    def weight(self) -> float:
        """Share in the mean landmarks: crops far from the scale that the network was trained with are less exact."""
        return float(np.exp(-((np.log(self.scale) / (0.5 * np.log(SCALE_JITTER))) ** 2)))


class _Look(NamedTuple):
    """What one crop gave, in photo pixels: points (68, 3), and mesh (468, 3), NaN for a mirrored crop."""

    points: np.ndarray
    presence: float
    mesh: np.ndarray


class LiteRTDetector:
    """MediaPipe's BlazeFace detectors and face mesh, run by LiteRT on the CPU. Safe to share between threads.

    Args:
        jitters: crops per face whose disagreement gives the confidence (0: one crop, confidence 1).
        seed: of the jitters; the same photo always gives the same numbers.
        min_score: detections below are dropped.
        num_threads: per interpreter.
        calibration: how spread becomes confidence; by default what tools/calibrate_confidence.py made.
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
        return self._find(PhotoPyramid(image), thorough=all_faces)

    def landmarks(self, image: np.ndarray, face: Detection | Sequence[float]) -> FaceLandmarks:
        """See `FaceDetector.landmarks`. A box without keypoints is first searched for a face, for its exact place and tilt."""
        box = np.asarray(face.box if isinstance(face, Detection) else face, np.float64)
        image, origin = _window(image, box)
        pyramid = PhotoPyramid(image)
        if isinstance(face, Detection) and face.keypoints is not None:
            start = region_from_eyes(face.box - np.tile(origin, 2), face.keypoints[:2] - origin)
        else:
            start = self._region_in_box(pyramid, box - np.tile(origin, 2))
        region = self._settle(pyramid, start)
        looks = [self._look(pyramid, region, jitter) for jitter in self.jitters]
        points = np.stack([look.points for look in looks]) + np.append(origin, 0.0)
        spread = landmark_spread(points)
        weights = np.array([jitter.weight for jitter in self.jitters])
        mean = np.average(points, axis=0, weights=weights)[:, :2]
        plain = np.flatnonzero([not jitter.mirrored for jitter in self.jitters])
        mesh = np.average([looks[k].mesh for k in plain], axis=0, weights=weights[plain]) + np.append(origin, 0.0)
        return FaceLandmarks(
            points=mean.astype(np.float32),
            confidence=self.calibration.confidence(spread),
            presence=float(np.median([look.presence for look in looks])),
            box=np.concatenate([mean.min(axis=0), mean.max(axis=0)]).astype(np.float32),
            spread=spread.astype(np.float32),
            mesh=mesh.astype(np.float32),
        )

    def _find(self, pyramid: PhotoPyramid, **options: bool) -> list[Detection]:
        def presence(detection: Detection) -> float:
            region = region_from_eyes(detection.box, detection.known_keypoints[:2])
            look = self._look(pyramid, region, Jitter())
            if look.presence < PRESENCE:
                return look.presence
            # A face still looks like one once the crop is centred on what was taken for its landmarks.
            again = self._look(pyramid, region_from_mesh(look.mesh), Jitter())
            return min(look.presence, again.presence)

        return find_faces(pyramid, self.models, presence, min_score=self.min_score, **options)

    def _look(self, pyramid: PhotoPyramid, region: Region, jitter: Jitter) -> _Look:
        """What the landmark network sees in one jittered, maybe mirrored crop."""
        region = region.jittered(jitter.shift, jitter.scale, jitter.angle)
        pixels = pyramid.crop(region, LANDMARK_INPUT)
        mesh, presence = self.models.landmarks(pixels[:, ::-1] if jitter.mirrored else pixels)
        mesh = mesh / LANDMARK_INPUT
        if jitter.mirrored:
            mesh = np.concatenate([1.0 - mesh[:, :1], mesh[:, 1:]], axis=1)
        mesh = np.concatenate([region.to_photo(mesh[:, :2]), mesh[:, 2:] * region.side], axis=1)
        points = mediapipe_to_ibug(mesh)
        if jitter.mirrored:
            # The 468 points are not renamed left for right, so a mirrored look has no mesh.
            return _Look(points[list(IBUG_MIRROR)], presence, np.full_like(mesh, np.nan))
        return _Look(points, presence, mesh)

    def _settle(self, pyramid: PhotoPyramid, start: Region) -> Region:
        """The region that the landmarks themselves ask for, trying further tilts where no face shows at first."""
        look = self._look(pyramid, start, Jitter())
        if look.presence < UPRIGHT_PRESENCE:
            turns = np.deg2rad((-90.0, -60.0, -30.0, 30.0, 60.0, 90.0, 180.0)).tolist()
            looks = [look] + [self._look(pyramid, start, Jitter(angle=turn)) for turn in turns]
            look = max(looks, key=lambda found: found.presence)
        region = region_from_mesh(look.mesh)
        for _ in range(SETTLING_STEPS):  # a tilt misjudged by 60 degrees is made good by about 10 a step
            last, look = region, self._look(pyramid, region, Jitter())
            region = region_from_mesh(look.mesh)
            if abs(region.side / last.side - 1.0) < 0.02 and np.cos(region.angle - last.angle) > SETTLED_COSINE:
                break
        return region

    def _region_in_box(self, pyramid: PhotoPyramid, box: np.ndarray) -> Region:
        """The region of the face that best fills a given box, or the box itself where the detectors see none."""
        faces = self._find(pyramid, tiles=False)
        best = max(faces, key=lambda f: box_overlap(f.box, box), default=None)
        if best is not None and box_overlap(best.box, box) > 0.2:
            return region_from_eyes(best.box, best.known_keypoints[:2])
        return Region((box[:2] + box[2:]) / 2, float(max(box[2:] - box[:2]) * REGION_SCALE), 0.0)


def draw_jitters(number: int, seed: int) -> list[Jitter]:
    """Crops for one face: a ladder of scales with small shifts and turns, half of them mirrored.

    Scale is what separates hidden from seen landmarks best; mirroring cancels the network's left-right bias. Each
    crop's mirror image is in the set too, so that a mirrored photo gives mirrored landmarks.
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
    """RMS deviation of landmarks about their mean over N crops, in outer-eye distances.

    Args:
        points: (N, 68, 3) x, y, z. The eye distance is taken in 3D, so that it does not vanish on a profile.

    Returns:
        (68,).
    """
    mean = points.mean(axis=0)
    eyes = np.linalg.norm(mean[LEFT_OUTER_EYE] - mean[RIGHT_OUTER_EYE])
    deviation = ((points[..., :2] - mean[:, :2]) ** 2).sum(axis=-1).mean(axis=0)
    return np.sqrt(deviation) / max(eyes, 1e-6)


def _window(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The part of the photo round a box that its landmarks can depend on, and its top-left corner (2,)."""
    height, width = image.shape[:2]
    centre, reach = (box[:2] + box[2:]) / 2, 2.0 * max(box[2:] - box[:2]) + 1.0
    x0, y0 = np.clip(np.floor(centre - reach), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(centre + reach), (x0 + 1, y0 + 1), (width, height)).astype(int)
    return image[y0:y1, x0:x1], np.array([x0, y0], np.float64)
