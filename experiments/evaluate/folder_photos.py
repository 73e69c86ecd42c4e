"""Photos of a folder, observed as `flamejax reconstruct` does, for the tables of hypotheses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.cache import read_tree, write_tree
from experiments.datasets.observations import spread_out
from experiments.photos import Failure, Photo, find_photos, name_photos
from experiments.reconstruct.config import Config
from experiments.reconstruct.observing import PhotoReader
from experiments.results import photo_digest
from experiments.tables.diverse_cases import Case
from experiments.tables.runs import Progress, head_id, run_folder
from fitting._observe import observe_photo
from fitting.detector import FaceDetector
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel
from flamejax.types import Observation

ROOMS = ("flamejax", "fitting", "experiments/cache.py", "experiments/evaluate/folder_photos.py")
"""Code that decides what is observed."""


def folder_cases(
    head: HeadModel, folder: Path, limit: int | None, progress: Progress, detector: Callable[[], FaceDetector],
    cache: Path | None = None,
) -> tuple[list[Case], list[str]]:  # fmt: skip
    """The largest face of each photo in a folder: default detector, masks found automatically. What was observed is
    kept in `cache`, by default the data folder's `evaluate`, under the photo's content.

    Args:
      limit: photos, spread over the sorted names.
      detector: makes one when the first photo needs it.

    Returns:
      The cases, and a line for every photo that gave none.

    Raises:
      FileNotFoundError: no photo in the folder.
    """
    found, _ = find_photos([str(folder)], exclude=folder / "nothing-is-left-out")
    if not folder.is_dir() or not found:
        raise FileNotFoundError(f"--photos {folder}: no folder with photos.")
    named = name_photos(found)
    photos = [named[k] for k in spread_out(len(named), limit)]
    kept, detector = run_folder(cache, "observations", ROOMS, head_id(head)), functools.cache(detector)
    cases, failures = [], []
    for number, photo in enumerate(photos):
        seen = _observed(head, photo, kept, detector)
        progress("observing", len(photos), 1)
        if isinstance(seen, str):
            failures.append(f"{photo.path}: {seen}")
        else:
            cases.append(Case(photo.name, number, "photo", seen))
    return cases, failures


def _observed(
    head: HeadModel, photo: Photo, folder: Path, detector: Callable[[], FaceDetector]
) -> Observation | str:  # fmt: skip
    """The largest face without batch axes, NumPy; or why there is none. One by one: a batch of one, one compilation."""
    try:
        path = folder / f"{photo_digest(photo.path)[:24]}.npz"
    except OSError as error:
        return str(error)
    kept = read_tree(path, Observation)
    if kept is not None:
        return kept
    config = Config(photos=(str(photo.path),), output=folder)
    found = PhotoReader(config, functools.partial(observe_photo, detector=detector()), [photo.name])(photo)
    if isinstance(found, Failure):
        return found.reason
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], found[0].observation)
    seen = jax.tree.map(lambda leaf: np.asarray(leaf)[0], auto_masks(head, batch))
    write_tree(path, seen)
    return seen
