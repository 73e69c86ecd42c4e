"""Photos of a folder, observed as `flamejax reconstruct` does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.cache import read_observation, write_tree
from experiments.datasets.observations import spread_out
from experiments.reconstruct.config import Config
from experiments.reconstruct.observing import PhotoReader, photo_digest
from experiments.reconstruct.photos import Failure, Photo, find_photos, name_photos
from experiments.tables.fits import code_version
from fitting._observe import observe_photo
from fitting.detector import FaceDetector
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel, geometry_hash
from flamejax.types import Observation

ROOMS = ("flamejax", "fitting", "experiments/evaluate/folder_photos.py")
"""Code that decides what is observed."""


def photos_in(folder: Path, limit: int | None) -> list[Photo]:
    """Photos below a folder, spread over the sorted names. Raises: FileNotFoundError, there is none."""
    found, _ = find_photos([str(folder)], exclude=folder / "nothing-is-left-out")
    if not folder.is_dir() or not found:
        raise FileNotFoundError(f"--photos {folder}: no folder with photos.")
    named = name_photos(found)
    return [named[k] for k in spread_out(len(named), limit)]


class Observer:
    """Observes photos one by one (a batch of one: one compilation) and keeps what it saw."""

    def __init__(self, head: HeadModel, detector: Callable[[], FaceDetector], cache: Path):
        self.head = head
        self.folder = cache / f"observations-{code_version(ROOMS)}-{geometry_hash(head)[:8]}"
        self._detector = functools.cache(detector)

    def __call__(self, photo: Photo) -> Observation | str:
        """The largest face without batch axes, NumPy; or why there is none."""
        try:
            path = self.folder / f"{photo_digest(photo.path)[:24]}.npz"
        except OSError as error:
            return str(error)
        kept = read_observation(path)
        if kept is not None:
            return kept
        config = Config(photos=(str(photo.path),), output=self.folder)
        reader = PhotoReader(config, functools.partial(observe_photo, detector=self._detector()), [photo.name])
        found = reader(photo)
        if isinstance(found, Failure):
            return found.reason
        batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], found[0].observation)
        seen = jax.tree.map(lambda leaf: np.asarray(leaf)[0], auto_masks(self.head, batch))
        write_tree(path, seen)
        return seen
