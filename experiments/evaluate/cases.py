"""The photos that the tables of hypotheses are computed on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import photos
from experiments.cache import read_tree, write_tree
from experiments.datasets.observations import evenly_spaced_indices
from experiments.datasets.open_faces import ScanPhoto, data_source, load_photos
from experiments.datasets.open_faces.photos import occluder_kind
from experiments.datasets.open_faces.store import scan_list
from experiments.evaluate.config import EvaluateDiversityConfig, EvaluatePhotosConfig
from experiments.reconstruct.config import FitOptions, InputOptions
from experiments.reconstruct.inputs import GivenInputs
from experiments.reconstruct.observing import PhotoReader
from experiments.results import file_digest
from experiments.tables.diverse_cases import Case, balanced_indices, case_from_photo
from experiments.tables.moving_occlusion import PLACES, frontality, with_patch
from experiments.tables.runs import Progress, head_id, run_folder
from fitting._observe import observe_photo
from fitting.detector import FaceDetector, LiteRTDetector
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel
from flamejax.types import Observation

CODE_PATHS = ("flamejax", "fitting", "experiments/cache.py", "experiments/evaluate/cases.py")
"""Code that observations depend on."""
CANDIDATE_FACTOR = 3
"""The moving patch is put on the most frontal photos among this many times as many candidates, since a patch on a cheek
that is turned away hides nothing."""


def cases_for(config: EvaluatePhotosConfig, head: HeadModel, progress: Progress) -> tuple[list[Case], list[str]]:
    """Return the photos of a table, and a line for every photo that is left out.

    For the moving occlusion, each photo is there with the patch at every place."""
    moving = config.table == "moving-occlusion"
    if isinstance(config, EvaluateDiversityConfig) and config.photos is not None:
        cases, failures = folder_cases(head, config.photos, config.max_cases, progress, LiteRTDetector)
        return [with_patch(case, None, place) for place in PLACES for case in cases] if moving else cases, failures
    if not moving:
        return scan_cases(config, config.max_cases)
    count = len(data_source(config.split, config.data))
    indices = evenly_spaced_indices(count, None if config.max_cases is None else CANDIDATE_FACTOR * config.max_cases)
    pairs, failures = _observe_scans(config, indices, occluded=False)
    pairs = sorted(pairs, key=lambda pair: -frontality(pair[0]))[: config.max_cases]
    return [with_patch(case, photo, place) for place in PLACES for case, photo in pairs], failures


def scan_cases(config: EvaluatePhotosConfig, limit: int | None, occluded: bool = True) -> tuple[list[Case], list[str]]:
    """Return photos of the open scans, occluded or clean, balanced by occluder; and a line for each one left out."""
    pairs = scan_list(config.data, config.split)
    indices = balanced_indices([subject for subject, _ in pairs], [occluder_kind(*pair) for pair in pairs], limit)
    observed, failures = _observe_scans(config, indices, occluded)
    return [case for case, _ in observed], failures


def _observe_scans(
    config: EvaluatePhotosConfig, indices: Sequence[int], occluded: bool
) -> tuple[list[tuple[Case, ScanPhoto]], list[str]]:  # fmt: skip
    detector = LiteRTDetector() if config.landmarks == "detected" else None
    pairs, failures = [], []
    for photo in load_photos(config.split, config.data, indices=list(indices)):
        case = case_from_photo(photo, config.landmarks, detector, occluded)
        if case is None:
            failures.append(f"{photo.key}: no face was found.")
        else:
            pairs.append((case, photo))
    return pairs, failures


def folder_cases(
    head: HeadModel, folder: Path, limit: int | None, progress: Progress, detector: Callable[[], FaceDetector],
    cache: Path | None = None,
) -> tuple[list[Case], list[str]]:  # fmt: skip
    """Return the largest face of each photo in a folder, and a line for every photo without one.

    At most `limit` photos are taken, spread over the sorted names. Masks are computed automatically. Observations are
    cached in `cache`, by default the data folder's `evaluate`, by the photo's content. detector: creates one when the
    first photo needs it.

    Raises:
      FileNotFoundError: no photo in the folder.
    """
    paths, _ = photos.find_photos([str(folder)], exclude=folder / "nothing-is-left-out")
    if not folder.is_dir() or not paths:
        raise FileNotFoundError(f"--photos {folder}: no folder with photos.")
    named = photos.name_photos(paths)
    chosen = [named[k] for k in evenly_spaced_indices(len(named), limit)]
    cache, detector = run_folder(cache, "observations", CODE_PATHS, head_id(head)), functools.cache(detector)
    cases, failures = [], []
    for number, photo in enumerate(chosen):
        observation = _observe_photo_file(head, photo, cache, detector)
        progress("observing", len(chosen), 1)
        if isinstance(observation, str):
            failures.append(f"{photo.path}: {observation}")
        else:
            cases.append(Case(photo.name, number, "photo", observation))
    return cases, failures


def _observe_photo_file(
    head: HeadModel, photo: photos.PhotoFile, folder: Path, detector: Callable[[], FaceDetector]
) -> Observation | str:
    """Return the largest face without batch axes, as NumPy; or why there is none.

    Photos go one by one, as batches of one: that is a single compilation."""
    try:
        path = folder / f"{file_digest(photo.path)[:24]}.npz"
    except OSError as error:
        return str(error)
    cached = read_tree(path, Observation)
    if cached is not None:
        return cached
    observe = functools.partial(observe_photo, detector=detector())
    faces = PhotoReader(GivenInputs(InputOptions()), FitOptions().size, observe, [photo.name])(photo)
    if isinstance(faces, photos.Failure):
        return faces.reason
    batch = jax.tree.map(lambda leaf: np.asarray(leaf)[None], faces[0].observation)
    observation = jax.tree.map(lambda leaf: np.asarray(leaf)[0], auto_masks(head, batch))
    write_tree(path, observation)
    return observation
