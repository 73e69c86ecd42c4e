"""Turn photos into `Observation`s: detect the faces, or take the caller's landmarks or boxes, and crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image

from fitting._load_detector import call_detect, call_landmarks, load_detector
from fitting.detector import FaceDetector, FaceLandmarks, LiteRTDetector
from flamejax._checks import check_shape
from flamejax.camera import CropTransform
from flamejax.io.images import check_image
from flamejax.types import Observation, stack

NUM_DENSE = 468
"""Number of points of MediaPipe's face mesh."""
CROP_SCALE = 1.6  # side of the crop over the longer side of the face's box
NUM_LANDMARKS = 68
MIN_PRESENCE = 0.1  # full profiles score about 0.5, false detections on walls and fabrics below 0.05
MIN_FACE = 4.0  # photo pixels
LANDMARK_SHAPES = {"points": (NUM_LANDMARKS, 2), "confidence": (NUM_LANDMARKS,), "mesh": (NUM_DENSE, 3)}
REMEDY = (
    "Give 68 landmarks (landmarks=, or --landmarks on the command line) or a box round the face (box= or boxes=, "
    "--boxes), or a larger, more frontal view."
)


class NoFaceError(ValueError):
    """A photo has no usable face; the message says why and what to do."""


def observe_photo(
    image: np.ndarray,
    *,
    landmarks: np.ndarray | None = None,
    occlusion_mask: np.ndarray | None = None,
    face_mask: np.ndarray | None = None,
    box: Sequence[float] | None = None,
    detector: FaceDetector | None = None,
    size: int = 256,
    all_faces: bool = False,
) -> list[Observation]:
    """Return the faces of one photo as crops ready to fit, largest first.

    The crop is a square of 1.6 times the longer side of the face's box, which is `box` or else the landmarks' bounding
    box. Landmarks beyond the photo, and detected ones under `occlusion_mask`, get confidence 0.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1] (`load_image`), or uint8.
        landmarks: (68, 2) iBUG points in photo pixels, or (68, 3) with a confidence in [0, 1]; a row with NaN marks a
            missing point. No detector is run if they are given.
        occlusion_mask: (H, W) 1 = hidden.
        face_mask: (H, W) 1 = face.
        box: x0, y0, x1, y1 photo pixels of the chosen face; also sets the crop.
        detector: `LiteRTDetector()` by default. Pass one when there are many photos: loading it takes time. One of your
            own is checked by `load_detector`.
        size: side of the crop, pixels.
        all_faces: return all faces rather than the largest. Landmarks or a box select one face.

    Returns:
        One or more observations without leading axes.

    Raises:
        NoFaceError: no face was detected (in the box, if given), or the landmarks are fewer than 3, outside the photo
            or too close together.
        DetectorError: the detector lacks a method, or returned something wrong.
        ValueError: arguments of the wrong shape or range.
        MissingDependencyError: the default detector is needed, and its package is not installed.
    """
    image = check_image(image)
    extent = image.shape[:2]
    occlusion_mask = _check_mask(occlusion_mask, "occlusion_mask", extent)
    face_mask = _check_mask(face_mask, "face_mask", extent)
    box = None if box is None else _check_box(box, extent)
    if landmarks is not None:
        faces = [(*_check_landmarks(landmarks), None)]
    else:
        detector = LiteRTDetector() if detector is None else load_detector(detector)
        detected = _detect_landmarks(image, box, detector, all_faces)
        faces = [(f.points, _mask_confidence(f.points, f.confidence, occlusion_mask), f.mesh) for f in detected]
    return [_crop_face(image, *face, box, occlusion_mask, face_mask, size) for face in faces]


def observe(
    images: Sequence[np.ndarray],
    *,
    landmarks: Sequence[np.ndarray | None] | None = None,
    occlusion_masks: Sequence[np.ndarray | None] | None = None,
    face_masks: Sequence[np.ndarray | None] | None = None,
    boxes: Sequence[Sequence[float] | None] | None = None,
    detector: FaceDetector | None = None,
    size: int = 256,
) -> Observation:
    """Return the largest face of each photo, stacked along a leading axis.

    Args:
        images: B photos, as in `observe_photo`.
        landmarks, occlusion_masks, face_masks, boxes: one value per photo, as in `observe_photo`; None where a photo
            has none.
        detector, size: as in `observe_photo`.

    Returns:
        An observation with the batch axis (B,).

    Raises:
        NoFaceError: a photo has no face; the message gives its index in the batch.
        DetectorError: as `observe_photo`.
        ValueError: as `observe_photo`, or sequences of different lengths.
    """
    options = {"landmarks": landmarks, "occlusion_mask": occlusion_masks, "face_mask": face_masks, "box": boxes}
    for name, values in options.items():
        if values is not None and len(values) != len(images):
            raise ValueError(f"{len(values)} values of {name} were given for {len(images)} photos.")
    detector = LiteRTDetector() if detector is None else load_detector(detector)
    observations = []
    for i, image in enumerate(images):
        given: dict[str, Any] = {name: None if values is None else values[i] for name, values in options.items()}
        try:
            observations += observe_photo(image, **given, detector=detector, size=size)
        except NoFaceError as error:
            raise NoFaceError(f"photo {i}: {error}") from error
    return stack(observations)


def crop_transform(box: np.ndarray, size: int) -> CropTransform:
    """Return the square crop of `size` pixels round a face box (4,) of the photo, with a margin of `CROP_SCALE`."""
    scale = size / (CROP_SCALE * float(max(box[2:] - box[:2])))
    offset = size / 2 - scale * (box[:2] + box[2:]) / 2
    return CropTransform(jnp.asarray(scale, jnp.float32), jnp.asarray(offset, jnp.float32))


def crop_image(image: np.ndarray, crop: CropTransform, size: int) -> np.ndarray:
    """Resample a photo to a crop; shrinking is antialiased, magnifying linear, and the photo's edge is repeated.

    Args:
        image: (H, W) or (H, W, C) float32.

    Returns:
        (size, size) or (size, size, C) float32.
    """
    scale, offset = float(crop.scale), np.asarray(crop.offset, np.float64)
    low, high = -offset / scale, (size - offset) / scale
    # The filter reaches one crop pixel beyond the crop, or one photo pixel where it magnifies.
    reach = int(np.ceil(max(1.0 / scale, 1.0))) + 1
    first, last = np.floor(low).astype(int) - reach, np.ceil(high).astype(int) + reach
    rows = np.clip(np.arange(first[1], last[1]), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(first[0], last[0]), 0, image.shape[1] - 1)
    window = image[rows[:, None], columns[None, :]].astype(np.float32)
    box = tuple(np.concatenate([low - first, high - first]).tolist())
    resized = [
        np.asarray(Image.fromarray(np.ascontiguousarray(c)).resize((size, size), Image.Resampling.BILINEAR, box=box))
        for c in np.moveaxis(np.atleast_3d(window), -1, 0)
    ]
    return np.stack(resized, axis=-1).reshape(size, size, *image.shape[2:])


def _detect_landmarks(
    image: np.ndarray, box: np.ndarray | None, detector: FaceDetector, all_faces: bool
) -> list[FaceLandmarks]:
    """Return the landmarks of the face in the box, or of the photo's largest face, or of all its faces."""
    by = "" if isinstance(detector, LiteRTDetector) else f" by {type(detector).__name__}"
    candidates: Sequence[Any] = [box] if box is not None else call_detect(detector, image, all_faces)
    if not candidates:
        raise NoFaceError(f"no face was found{by}. {REMEDY}")
    faces = []
    for candidate in candidates:
        face = call_landmarks(detector, image, candidate, LANDMARK_SHAPES)
        if face.presence >= MIN_PRESENCE:
            faces.append(face)
            if not all_faces:
                break
    if not faces:
        if box is None:
            raise NoFaceError(f"what was detected{by} is probably not a face. {REMEDY}")
        raise NoFaceError(f"the given box does not seem to contain a face. {REMEDY}")
    return faces


def _crop_face(
    image: np.ndarray,
    points: np.ndarray,
    confidence: np.ndarray,
    mesh: np.ndarray | None,
    box: np.ndarray | None,
    occlusion_mask: np.ndarray | None,
    face_mask: np.ndarray | None,
    size: int,
) -> Observation:
    """Return the observation of one face."""
    height, width = image.shape[:2]
    present = np.isfinite(points).all(axis=-1)
    if present.sum() < 3:
        raise NoFaceError(f"fewer than 3 landmarks are present. {REMEDY}")
    if box is None:
        box = np.concatenate([points[present].min(axis=0), points[present].max(axis=0)]).astype(np.float64)
        if max(box[2:] - box[:2]) < MIN_FACE:
            raise NoFaceError(
                f"the landmarks span less than {MIN_FACE:g} px. Are they in pixels of the full photo? {REMEDY}"
            )
    inside = present & (points >= 0).all(axis=-1) & (points <= (width, height)).all(axis=-1)
    if not inside.any():
        raise NoFaceError(f"all landmarks lie outside the photo. Are they in pixels of the full photo? {REMEDY}")
    crop = crop_transform(box, size)
    hidden = None if occlusion_mask is None else crop_image(occlusion_mask, crop, size)
    face = None if face_mask is None else crop_image(face_mask, crop, size)
    confidence = np.where(inside, confidence, 0.0)
    dense = None if mesh is None else (mesh[:, :2], _dense_confidence(mesh[:, :2], points, confidence))
    return crop_observation(crop, image, size, (points, confidence), dense, hidden, face)


def crop_observation(
    crop: CropTransform,
    image: np.ndarray,
    size: int,
    landmarks: tuple[np.ndarray, np.ndarray],
    dense: tuple[np.ndarray, np.ndarray] | None = None,
    hidden: np.ndarray | None = None,
    face: np.ndarray | None = None,
) -> Observation:
    """Return the observation of one crop of a photo.

    Args:
        image: (H, W, 3) float32 RGB in [0, 1].
        size: side S of the crop, pixels.
        landmarks: (68, 2) photo pixels, NaN rows where missing, and confidence (68,).
        dense: (468, 2) photo pixels and confidence (468,), as `landmarks`; zeros when left out.
        hidden: (S, S) of the crop, 1 = hidden; the area beyond the photo is added.
        face: (S, S) of the crop, 1 = face; the area beyond the photo is removed. The whole crop when left out.
    """
    in_photo = _photo_mask(crop, size, (image.shape[0], image.shape[1]))
    points = [_to_crop_pixels(crop, each[0]) for each in (landmarks, dense) if each is not None]
    hidden = np.zeros((size, size), np.float32) if hidden is None else hidden
    return Observation(
        image=jnp.asarray(crop_image(image, crop, size)),
        landmarks=points[0],
        confidence=jnp.asarray(landmarks[1], jnp.float32),
        dense_landmarks=jnp.zeros((NUM_DENSE, 2)) if dense is None else points[1],
        dense_confidence=jnp.zeros(NUM_DENSE) if dense is None else jnp.asarray(dense[1], jnp.float32),
        face_mask=jnp.asarray(in_photo if face is None else face * in_photo),
        occlusion_mask=jnp.asarray(np.maximum(hidden, 1.0 - in_photo)),
        crop=crop,
    )


def _to_crop_pixels(crop: CropTransform, points: np.ndarray) -> jnp.ndarray:
    """Convert photo pixels (N, 2) to crop pixels; rows that are not finite become 0."""
    present = np.isfinite(points).all(axis=-1, keepdims=True)
    transformed = float(crop.scale) * np.where(present, points, 0.0) + np.asarray(crop.offset)
    return jnp.asarray(np.where(present, transformed, 0.0), jnp.float32)


def _dense_confidence(mesh: np.ndarray, points: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Return confidences (468,) of dense points: the mean of those of the three nearest of the 68 landmarks.

    It is 0 where the point is missing (NaN). Only the 68 landmarks' spreads are calibrated.
    """
    distance = np.linalg.norm(mesh[:, None] - points[None], axis=-1)
    nearest = np.argsort(distance, axis=1)[:, :3]
    return np.where(np.isfinite(mesh).all(axis=-1), confidence[nearest].mean(axis=1), 0.0)


def _photo_mask(crop: CropTransform, size: int, extent: tuple[int, int]) -> np.ndarray:
    """(size, size) float32: 1 where a crop pixel's centre lies in the photo."""
    centres = ((np.arange(size) + 0.5)[:, None] - np.asarray(crop.offset, np.float64)) / float(crop.scale)
    x, y = (centres >= 0).T & (centres <= (extent[1], extent[0])).T
    return (y[:, None] & x[None, :]).astype(np.float32)


def _mask_confidence(points: np.ndarray, confidence: np.ndarray, occlusion_mask: np.ndarray | None) -> np.ndarray:
    """Return the confidence (68,) times 1 - mask: under a mask, a detector's landmarks are guesses, however stable."""
    if occlusion_mask is None:
        return confidence
    height, width = occlusion_mask.shape
    x, y = np.clip(np.floor(np.nan_to_num(points)).astype(int), 0, (width - 1, height - 1)).T
    return confidence * (1.0 - occlusion_mask[y, x])


def _check_landmarks(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a caller's landmarks as points (68, 2), with NaN rows where missing, and confidence (68,)."""
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.shape not in ((NUM_LANDMARKS, 2), (NUM_LANDMARKS, 3)):
        raise ValueError(f"landmarks of shape (68, 2) or (68, 3) are needed, not {landmarks.shape}.")
    if np.isinf(landmarks).any():
        raise ValueError("landmarks hold infinite values; use NaN for missing points.")
    missing = np.isnan(landmarks).any(axis=-1)
    points = np.where(missing[:, None], np.nan, landmarks[:, :2])
    confidence = np.ones(NUM_LANDMARKS) if landmarks.shape[1] == 2 else landmarks[:, 2]
    confidence = np.where(missing, 0.0, confidence)
    if confidence.min() < 0 or confidence.max() > 1:
        raise ValueError(
            f"landmark confidences are in [0, 1]; these run from {confidence.min():g} to {confidence.max():g}."
        )
    return points, confidence


def _check_box(box: Sequence[float], extent: tuple[int, int]) -> np.ndarray:
    box = np.asarray(box, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(f"a box is four numbers x0, y0, x1, y1, not {box.tolist()}.")
    if min(box[2:] - box[:2]) < MIN_FACE:
        raise ValueError(
            f"box {box.tolist()}: x1, y1 must exceed x0, y0 by {MIN_FACE:g} px; it is x0, y0, x1, y1 in pixels."
        )
    if (box[2:] <= 0).any() or (box[:2] >= extent[::-1]).any() or max(box[2:] - box[:2]) > 4 * max(extent):
        raise ValueError(f"box {box.tolist()} does not fit the photo of {extent[1]}x{extent[0]} px.")
    return box


def _check_mask(mask: np.ndarray | None, name: str, extent: tuple[int, int]) -> np.ndarray | None:
    if mask is None:
        return None
    mask = np.asarray(mask, np.float32)
    check_shape(name, mask, *extent, batched=False)
    if not np.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise ValueError(f"{name} must hold values in [0, 1].")
    return mask
