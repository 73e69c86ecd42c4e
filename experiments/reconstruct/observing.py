"""Reads photos and detects the faces to fit, in threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import jax
import numpy as np
from PIL import Image

from experiments.photos import Failure, PhotoFile, face_name
from experiments.reconstruct.inputs import GivenInputs
from experiments.results import error_text, short_digest
from flamejax.io.images import ImageError, load_image
from flamejax.types import Observation

MAX_OVERLAY_SIDE = 2048
"""Pixels. Larger photos are scaled down for the overlay; `camera.json` states the factor."""


@dataclass(frozen=True)
class ObservedFace:
    """One face of one photo."""

    photo: PhotoFile
    name: str
    """Name of its result folder."""
    index: int
    """Rank by size in the photo; 0 is the largest."""
    count: int
    """Number of faces of the photo that are reconstructed."""
    observation: Observation
    """Without batch axes, as NumPy arrays."""
    photo_size: tuple[int, int]
    """(width, height) of the upright photo, pixels."""
    photo_sha256: str
    preview: np.ndarray
    """(h, w, 3) uint8: the photo, scaled down where its longer side exceeds MAX_OVERLAY_SIDE."""
    given_mask: np.ndarray | None = None
    """(h, w) uint8 of 0 and 255 in the preview's size: the user's occlusion mask, if any."""
    needs_mask: bool = True
    """Whether its occlusion mask is estimated."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """What the user gave for the photo, as `GivenInputs.record`."""

    @property
    def hidden_share(self) -> float:
        """Share of the box round the landmarks that the occlusion mask hides; NaN if the box is outside the crop."""
        mask = np.asarray(self.observation.occlusion_mask) >= 0.5
        points = np.asarray(self.observation.landmarks)
        points = np.clip(points[points.any(axis=-1)], 0, len(mask))  # missing points are 0
        if not len(points):
            return float("nan")
        (left, top), (right, bottom) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        part = mask[int(top) : int(bottom), int(left) : int(right)]
        return float(part.mean()) if part.size else float("nan")

    @property
    def preview_scale(self) -> float:
        """Preview pixels per photo pixel."""
        return self.preview.shape[1] / self.photo_size[0]


class PhotoReader:
    """Loads a photo with the landmarks, masks and boxes that the user gave for it, and detects its faces."""

    def __init__(
        self, inputs: GivenInputs, size: int, observe: Callable[..., list[Observation]], names: Collection[str]
    ):
        """names: folder names of all photos, which a further face must not get. size: side of the crop, pixels."""
        self.inputs, self.size, self.observe = inputs, size, observe
        self.names = {name.casefold() for name in names}

    def __call__(self, photo: PhotoFile) -> list[ObservedFace] | Failure:
        """Return the faces of a photo, largest first, or why there are none. Raises no `Exception`."""
        stage = "load"
        try:
            # Before the pixels: if the file changes in between, --resume does it again.
            digest = short_digest(photo.path, digits=64)
            image = load_image(photo.path)
            if digest is None:
                raise ImageError(f"{photo.path}: cannot be read. Check the path and the permissions.")
            height, width = image.shape[:2]
            given, record = self.inputs.load(photo, (height, width)), self.inputs.record(photo)
            stage = "observe"
            observations = self.observe(image, size=self.size, all_faces=self.inputs.options.all_faces, **given)
            # Waiting faces stay in host memory; a batch is sent to the accelerator as one.
            observations = jax.device_get(observations)
            preview = make_preview(image)
            given_mask = _mask_preview(given.get("occlusion_mask"), preview)
        except Exception as error:
            return Failure(str(photo.path), stage, error_text(error))
        needs_mask = given_mask is None and self.inputs.options.masks != "none"
        facts = (width, height), digest, preview, given_mask, needs_mask, record
        return [
            ObservedFace(photo, face_name(photo, i, self.names), i, len(observations), observation, *facts)
            for i, observation in enumerate(observations)
        ]


def make_preview(image: np.ndarray) -> np.ndarray:
    """Scale (H, W, 3) float in [0, 1] to (h, w, 3) uint8 with no side longer than MAX_OVERLAY_SIDE."""
    pixels = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    height, width = pixels.shape[:2]
    scale = MAX_OVERLAY_SIDE / max(height, width)
    if scale >= 1.0:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _mask_preview(mask: np.ndarray | None, preview: np.ndarray) -> np.ndarray | None:
    """Return a mask (H, W) of zeros and ones as `ObservedFace.given_mask`."""
    if mask is None:
        return None
    white = Image.fromarray(np.where(mask >= 0.5, 255, 0).astype(np.uint8))
    return np.asarray(white.resize(preview.shape[1::-1], Image.Resampling.NEAREST))


Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Map in the executor's threads and yield results in order; at most `ahead` of them wait, which bounds memory."""
    waiting: list[Future[Result]] = []
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()
