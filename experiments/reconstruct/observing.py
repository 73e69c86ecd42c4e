"""From a photo's file to faces ready to fit; runs in threads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import jax
import numpy as np
from PIL import Image

from experiments.photos import Failure, Photo, face_name
from experiments.reconstruct.config import Config
from experiments.results import UsageError, photo_digest, reason_of
from fitting.inputs import InputError, find_landmarks, find_mask, load_boxes
from flamejax.io.images import load_image
from flamejax.types import Observation

MAX_OVERLAY_SIDE = 2048
"""Pixels. Larger photos are overlaid on a smaller copy; `camera.json` states the factor."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class Face:
    """One face of one photo."""

    photo: Photo
    name: str
    """Folder of its results."""
    index: int
    """0 for the largest of the photo."""
    count: int
    """Faces of the photo that are reconstructed."""
    observation: Observation
    photo_size: tuple[int, int]
    """(width, height) of the upright photo, pixels."""
    photo_sha256: str
    preview: np.ndarray
    """(h, w, 3) uint8: the photo, scaled down where its longer side exceeds MAX_OVERLAY_SIDE."""
    given_mask: np.ndarray | None = None
    """(h, w) uint8 of 0 and 255 in the preview's size: the user's occlusion mask, where there is one."""

    @property
    def preview_scale(self) -> float:
        """Preview pixels per photo pixel."""
        return self.preview.shape[1] / self.photo_size[0]


class PhotoReader:
    """Loads a photo with what the user gave beside it, and observes its faces."""

    def __init__(self, config: Config, observe: Callable[..., list[Observation]], names: Collection[str]):
        """names: folder names of all photos, which a further face must not take. Raises: UsageError."""
        self.config, self.observe, self.names = config, observe, {name.casefold() for name in names}
        try:
            self.boxes = {} if config.boxes is None else load_boxes(config.boxes)
        except InputError as error:
            raise UsageError(f"--boxes: {error}") from error

    def __call__(self, photo: Photo) -> list[Face] | Failure:
        """The faces of a photo, largest first, or why there are none. Raises nothing but KeyboardInterrupt and such."""
        stage, config = "load", self.config
        try:
            image = load_image(photo.path)
            height, width = image.shape[:2]
            beside = self._given(photo, (height, width))
            stage = "observe"
            observations = self.observe(image, size=config.size, all_faces=config.all_faces, **beside)
            # Waiting faces stay out of the accelerator's memory; a batch is sent there at once.
            observations = jax.device_get(observations)
            preview, digest = make_preview(image), photo_digest(photo.path)
            given_mask = _mask_preview(beside.get("occlusion_mask"), preview)
        except Exception as error:
            return Failure(str(photo.path), stage, reason_of(error))
        number = len(observations)
        return [
            Face(photo, face_name(photo, i, self.names), i, number, o, (width, height), digest, preview, given_mask)
            for i, o in enumerate(observations)
        ]

    def _given(self, photo: Photo, size: tuple[int, int]) -> dict[str, np.ndarray]:
        """The keyword arguments of `observe_photo` that the user's files give for a photo of (height, width)."""
        config = self.config
        given: dict[str, np.ndarray | None] = {"box": _first(self.boxes.get, photo, "--boxes")}
        for key, flag, folder, find in (
            ("landmarks", "--landmarks", config.landmarks, find_landmarks),
            ("occlusion_mask", "--masks", config.mask_folder, partial(find_mask, size=size)),
            ("face_mask", "--face-masks", config.face_masks, partial(find_mask, size=size)),
        ):
            if folder is not None:
                given[key] = _first(partial(find, folder), photo, flag)
        return {key: value for key, value in given.items() if value is not None}


def _first(find: Callable[[str], Found | None], photo: Photo, flag: str) -> Found | None:
    """What is found under the photo's first name that has something.

    Raises:
        InputError: only the bare stem has something, and several photos share that stem.
    """
    for stem in photo.input_stems():
        if (found := find(stem)) is not None:
            return found
    if photo.shares_stem and find(photo.path.stem) is not None:
        stem = photo.path.stem
        raise InputError(f"{flag}: several photos are called {stem!r}; name what belongs to this one {photo.name!r}.")
    return None


def make_preview(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) float in [0, 1] -> (h, w, 3) uint8 with no side over MAX_OVERLAY_SIDE."""
    pixels = np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)
    height, width = pixels.shape[:2]
    scale = MAX_OVERLAY_SIDE / max(height, width)
    if scale >= 1.0:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _mask_preview(mask: np.ndarray | None, preview: np.ndarray) -> np.ndarray | None:
    """A mask (H, W) of zeros and ones as `Face.given_mask`."""
    if mask is None:
        return None
    white = Image.fromarray(np.where(mask >= 0.5, 255, 0).astype(np.uint8))
    return np.asarray(white.resize(preview.shape[1::-1], Image.Resampling.NEAREST))


Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """`map` in the executor's threads, in order, with at most `ahead` results waiting (so memory stays bounded)."""
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
