"""The photos that the tables of hypotheses are of."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import photos
from experiments.cache import read_tree, write_tree
from experiments.datasets.observations import spread_out
from experiments.datasets.open_faces import Photo, data_source, load_photos
from experiments.datasets.open_faces.photos import kind_of
from experiments.datasets.open_faces.store import scan_list
from experiments.evaluate.config import EvaluateConfig
from experiments.reconstruct.config import Config
from experiments.reconstruct.observing import PhotoReader
from experiments.results import photo_digest
from experiments.tables.diverse_cases import Case, balanced, case_of
from experiments.tables.moving_occlusion import PLACES, frontality, with_patch
from experiments.tables.runs import Progress, head_id, run_folder
from fitting._observe import observe_photo
from fitting.detector import FaceDetector, LiteRTDetector
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel
from flamejax.types import Observation

ROOMS = ("flamejax", "fitting", "experiments/cache.py", "experiments/evaluate/cases.py")
"""Code that decides what is observed."""
FRONTAL_OF = 3
"""For the moving patch so many times the photos are looked at, and the most frontal of them are taken: a patch on a
cheek that is turned away hides nothing."""


def cases_for(config: EvaluateConfig, head: HeadModel, progress: Progress) -> tuple[list[Case], list[str]]:
    """The photos of a table, those for the moving patch with the patch at every place; and a line for every photo that
    is left out."""
    moving = config.table == "moving-occlusion"
    if config.photos is not None:
        cases, failures = folder_cases(head, config.photos, config.most, progress, LiteRTDetector)
        return [with_patch(case, None, place) for place in PLACES for case in cases] if moving else cases, failures
    if not moving:
        return scan_cases(config, config.most)
    count = len(data_source(config.split, config.data))
    places = spread_out(count, None if config.most is None else FRONTAL_OF * config.most)
    pairs, failures = _observed(config, places, occluded=False)
    pairs = sorted(pairs, key=lambda pair: -frontality(pair[0]))[: config.most]
    return [with_patch(case, photo, place) for place in PLACES for case, photo in pairs], failures


def scan_cases(config: EvaluateConfig, limit: int | None, occluded: bool = True) -> tuple[list[Case], list[str]]:
    """Photos of the open scans, occluded or clean, balanced by occluder; and a line for every one that is left out."""
    pairs = scan_list(config.data, config.split)
    places = balanced([s for s, _ in pairs], [kind_of(*pair) for pair in pairs], limit)
    observed, failures = _observed(config, places, occluded)
    return [case for case, _ in observed], failures


def _observed(
    config: EvaluateConfig, places: Sequence[int], occluded: bool
) -> tuple[list[tuple[Case, Photo]], list[str]]:  # fmt: skip
    detector = LiteRTDetector() if config.landmarks == "detected" else None
    pairs, failures = [], []
    for photo in load_photos(config.split, config.data, indices=list(places)):
        case = case_of(photo, config.landmarks, detector, occluded)
        if case is None:
            failures.append(f"{photo.key}: no face was found.")
        else:
            pairs.append((case, photo))
    return pairs, failures


def folder_cases(
    head: HeadModel, folder: Path, limit: int | None, progress: Progress, detector: Callable[[], FaceDetector],
    cache: Path | None = None,
) -> tuple[list[Case], list[str]]:  # fmt: skip
    """The largest face of each photo in a folder, of `limit` spread over the sorted names; and a line for every photo
    that gave none. Masks are found automatically. What was observed is kept in `cache`, by default the data folder's
    `evaluate`, under the photo's content. detector: makes one when the first photo needs it.

    Raises:
      FileNotFoundError: no photo in the folder.
    """
    found, _ = photos.find_photos([str(folder)], exclude=folder / "nothing-is-left-out")
    if not folder.is_dir() or not found:
        raise FileNotFoundError(f"--photos {folder}: no folder with photos.")
    named = photos.name_photos(found)
    chosen = [named[k] for k in spread_out(len(named), limit)]
    kept, detector = run_folder(cache, "observations", ROOMS, head_id(head)), functools.cache(detector)
    cases, failures = [], []
    for number, photo in enumerate(chosen):
        seen = _photographed(head, photo, kept, detector)
        progress("observing", len(chosen), 1)
        if isinstance(seen, str):
            failures.append(f"{photo.path}: {seen}")
        else:
            cases.append(Case(photo.name, number, "photo", seen))
    return cases, failures


def _photographed(
    head: HeadModel, photo: photos.Photo, folder: Path, detector: Callable[[], FaceDetector]
) -> Observation | str:
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
    if isinstance(found, photos.Failure):
        return found.reason
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], found[0].observation)
    seen = jax.tree.map(lambda leaf: np.asarray(leaf)[0], auto_masks(head, batch))
    write_tree(path, seen)
    return seen
