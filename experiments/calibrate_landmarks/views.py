"""Render known heads, and detect landmarks in the renders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jax
import numpy as np
from PIL import Image
from scipy import ndimage

from experiments.datasets.renders import SceneSpread, render_scenes, sample_scenes
from fitting.detections import Detection
from fitting.detector import FaceDetector
from fitting.landmark_maps import LEFT_OUTER_EYE, RIGHT_OUTER_EYE
from flamejax.head import NUM_DENSE, HeadModel, vertices
from flamejax.rendering import rasterize

SIZE = 256
BATCH = 8
_POSES = {"yaw": float(np.deg2rad(35.0)), "pitch": 0.3, "roll": 0.25}
SPREADS = (
    SceneSpread(**_POSES, expression=0.35, jaw=0.03),
    SceneSpread(**_POSES, expression=0.7, jaw=0.25),
)
"""Calm and lively faces in turn: detectors follow a wide-open mouth poorly, above all one without teeth."""
MIN_PRESENCE = 0.5
MAX_DEVIATION = 0.3
"""Mean deviation of the inner landmarks, in outer-eye distances, at which a detection counts as failed."""
SNAP_DISTANCE = 0.1
"""Points up to this far outside the silhouette, in outer-eye distances, are moved onto it."""


@dataclass(frozen=True)
class RenderedView:
    """A render of a known head, S x S pixels."""

    image: np.ndarray
    """(S, S, 3) float32 RGB in [0, 1]"""
    screen: np.ndarray
    """(V, 2) float32 pixels of the head's vertices"""
    face_index: np.ndarray
    """(S, S) int32 visible triangle of each pixel, -1 = background"""
    landmarks: np.ndarray
    """(68, 2) the model's own landmarks, pixels"""
    yaw: float
    """radians about +y"""
    lively: bool
    """whether expression and jaw are sampled from the wider of `SPREADS`"""


@dataclass(frozen=True)
class DetectedViews:
    """N renders with detections; L = 468 points of the detector's mesh, then 51 inner iBUG landmarks."""

    screen: np.ndarray
    """(N, V, 2) projected vertices, pixels"""
    detected: np.ndarray
    """(N, L, 2) detected points, pixels"""
    hit_face: np.ndarray
    """(N, L) int32 visible triangle at the detected point, -1 = none"""
    hit_barycentric: np.ndarray
    """(N, L, 3) barycentric coordinates in that triangle"""
    yaw: np.ndarray
    """(N,) radians"""
    lively: np.ndarray
    """(N,) bool"""
    visible_share: np.ndarray
    """(F,) fraction of the renders in which the triangle covers a pixel"""
    dropped: int = 0
    """number of renders in which the detector failed"""

    def __len__(self) -> int:
        return len(self.screen)

    @property
    def eye_distance(self) -> np.ndarray:
        """(N,) distance between the detected outer eye corners in pixels: the unit of all deviations."""
        corners = self.detected[:, NUM_DENSE - 17 + np.array([RIGHT_OUTER_EYE, LEFT_OUTER_EYE])]
        return np.linalg.norm(corners[:, 0] - corners[:, 1], axis=-1)

    def take(self, index: np.ndarray) -> DetectedViews:
        """Select views by index; `visible_share` remains that of all renders."""
        per_view = ("screen", "detected", "hit_face", "hit_barycentric", "yaw", "lively")
        return replace(self, **{name: getattr(self, name)[index] for name in per_view})


def render_views(
    head: HeadModel, seed: int, count: int, *, purpose: int = 0, size: int = SIZE
) -> Iterator[RenderedView]:
    """Yield renders of random known heads on random backgrounds; they depend on the arguments only.

    Different purposes use independent random numbers, for any seeds.
    """
    for batch in range(-(-count // BATCH)):
        key = jax.random.key(seed)
        for part in (purpose, batch):
            key = jax.random.fold_in(key, part)
        kind = batch % len(SPREADS)
        scenes = sample_scenes(head, key, BATCH, size, SPREADS[kind])
        screen = scenes.camera.project(vertices(head, scenes.params))
        face_index = rasterize(screen, head.faces, (size, size), perspective=False, cull=True).face_index
        images, points, alpha = render_scenes(head, scenes, key, size)
        arrays = [np.asarray(a) for a in (images, alpha, screen[..., :2], face_index, points)]
        yaw = np.asarray(scenes.params.global_orient[:, 1])
        for i in range(min(BATCH, count - batch * BATCH)):
            image, covered, pixels, triangles, known = (array[i] for array in arrays)
            generator = np.random.default_rng([seed, purpose, batch, i])
            composite = np.where(covered[..., None] > 0.5, image, background(generator, size))
            yield RenderedView(composite, pixels, triangles, known, float(yaw[i]), kind > 0)


def background(generator: np.random.Generator, size: int) -> np.ndarray:
    """Draw a plain, shaded, blurred or grainy background: (size, size, 3) float32 in [0, 1]."""
    cells = int(generator.choice([1, 2, 5, 24]))
    coarse = np.clip(generator.uniform(0, 1, 3) + generator.uniform(-0.4, 0.4, (cells, cells, 3)), 0, 1)
    pixels = Image.fromarray(np.uint8(np.round(255 * coarse)))
    return np.asarray(pixels.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255.0


def observe_views(
    head: HeadModel,
    rendered: Iterator[RenderedView],
    detector: FaceDetector,
    advance: Callable[[], None] = lambda: None,
) -> DetectedViews:
    """Run the detector on renders and find the visible surface point at each detection.

    `advance` is called after each render. Raises: ValueError, the detector failed in all renders.
    """
    faces = np.asarray(head.faces)
    detections: list[tuple] = []
    visible, total = np.zeros(len(faces)), 0
    for view in rendered:
        points = detect(view, detector)
        total += 1
        visible[np.unique(view.face_index[view.face_index >= 0])] += 1
        if points is not None:
            detections.append((view.screen, points, *back_project(points, view, faces), view.yaw, view.lively))
        advance()
    if not detections:
        raise ValueError(f"the detector saw no face in any of {total} renders.")
    screen, detected, hit_face, hit_barycentric, yaw, lively = (
        np.stack(column) for column in zip(*detections, strict=True)
    )
    dropped = total - len(detections)
    return DetectedViews(screen, detected, hit_face, hit_barycentric, yaw, lively, visible / total, dropped)


def detect(view: RenderedView, detector: FaceDetector) -> np.ndarray | None:
    """Detect 468 points and the 51 inner landmarks, (519, 2) pixels; None if the detector fails.

    The detector is given the true face box, so that only its landmark model is tested. It still refines the box itself.
    """
    known = view.landmarks
    keypoints = np.stack(
        [known[a:b].mean(axis=0) for a, b in ((36, 42), (42, 48), (30, 31), (48, 68), (0, 1), (16, 17))]
    )
    box = np.concatenate([known.min(axis=0), known.max(axis=0)])
    detected = detector.landmarks(view.image, Detection(box, 1.0, keypoints))
    if detected.mesh is None or detected.presence < MIN_PRESENCE:
        return None
    mesh = np.asarray(detected.mesh[:, :2], np.float64)
    points = np.concatenate([mesh, np.asarray(detected.points[17:], np.float64)])
    eyes = np.linalg.norm(known[RIGHT_OUTER_EYE] - known[LEFT_OUTER_EYE])
    deviation = np.linalg.norm(points[NUM_DENSE:] - known[17:], axis=-1).mean()
    return points if np.isfinite(points).all() and deviation < MAX_DEVIATION * eyes else None


def back_project(points: np.ndarray, view: RenderedView, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the visible surface at pixels (L, 2): triangles (L,) int32, -1 = none, and barycentric coordinates (L, 3).

    A point outside the silhouette is moved to the nearest covered pixel, unless it is farther than `SNAP_DISTANCE`.
    """
    size = view.face_index.shape[0]
    distance, nearest = ndimage.distance_transform_edt(view.face_index < 0, return_indices=True)
    column, row = np.clip(np.floor(points).astype(int), 0, size - 1).T
    outside = view.face_index[row, column] < 0
    eyes = np.linalg.norm(view.landmarks[RIGHT_OUTER_EYE] - view.landmarks[LEFT_OUTER_EYE])
    too_far = distance[row, column] > SNAP_DISTANCE * eyes
    row, column = nearest[0][row, column], nearest[1][row, column]
    triangle = view.face_index[row, column]
    point = np.where(outside[:, None], np.stack([column, row], axis=-1) + 0.5, points)
    weights = np.maximum(barycentric_2d(point, view.screen[faces[triangle]].astype(np.float64)), 0.0)
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-12)
    return np.where(too_far | (triangle < 0), -1, triangle).astype(np.int32), weights


def barycentric_2d(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Compute barycentric coordinates (L, 3) of points (L, 2) in triangles (L, 3, 2); negative outside."""
    a, b, c = np.moveaxis(corners, -2, 0)

    def cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]

    area = cross(b - a, c - a)
    area = np.where(np.abs(area) < 1e-12, 1e-12, area)
    second, third = cross(points - a, c - a) / area, cross(b - a, points - a) / area
    return np.stack([1.0 - second - third, second, third], axis=-1)
