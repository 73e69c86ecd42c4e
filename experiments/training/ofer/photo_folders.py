"""Data sets of photos with FLAME coefficients in folders: DIR/<data set>/<identity>/**/<photo>.jpg|png.

Coefficients of a photo are in `<photo>.npz` beside it, or in `flame.npz` or the only other .npz of its folder or of a
parent folder, up to the identity's. Landmarks are in `<photo>.npy|json|pts` beside it, as for `reconstruct
--landmarks`; without such a file they are detected.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.datasets.scans import OPEN_HEAD, report_skipped
from experiments.progress import progress_bar
from experiments.training.ofer.flame_coefficients import CoefficientReader
from experiments.training.ofer.photo_source import SIZE, PhotoSource
from fitting import observe_photo
from fitting.detector import LiteRTDetector
from fitting.inputs import LANDMARK_SUFFIXES, find_landmarks
from flamejax.head import HeadModel
from flamejax.io.images import load_image
from flamejax.types import Observation

SUFFIXES = (".jpg", ".jpeg", ".png")
VALIDATION_SHARE = 0.1
"""Share of the identities that validation gets."""


KNOWN_DATASETS = {
    "stirling": "Stirling/ESRC, photos and scans: identities as MICA registered them",
    "facewarehouse": "FaceWarehouse, photos and depth images: identities, MICA",
    "lyhm": "LYHM, the Liverpool-York head model's photos and scans: identities, MICA",
    "florence": "Florence 2D/3D faces, videos and scans: identities, MICA",
    "famos": "FaMoS, registered sequences of faces in motion: identities, expressions, jaws",
}
"""Data sets of photos with FLAME coefficients that OFER was trained on, by name in lower case; each is available from
its authors. Any other folder is a data set as well."""
WITH_EXPRESSIONS = ("famos",)
"""Known data sets with expressions and jaws; the others have only identities."""


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo with its identity and coefficients."""

    path: Path
    folder: Path
    """Folder of the data sets."""
    identity: str
    """<data set>/<identity>"""
    betas: np.ndarray
    """(S,)"""
    motion: np.ndarray | None
    """(E + 3,) expression and jaw."""


def _photo_source(title: str, photos: list[LabelledPhoto]) -> PhotoSource:
    """Returns photos with the landmarks beside them, or those of the largest detected face."""

    def observe(index: int, landmarks: np.ndarray | None) -> Observation:
        path = photos[index].path
        points = landmarks if landmarks is not None else find_landmarks(path.parent, path.stem)
        try:
            detector = None if points is not None else _detector()
            return observe_photo(load_image(path), landmarks=points, detector=detector, size=SIZE)[0]
        except ValueError as error:
            # The message about a photo without a face lacks its path.
            raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error

    motions = [photo.motion for photo in photos if photo.motion is not None]
    return PhotoSource(
        title,
        identity=np.array([photo.identity for photo in photos]),
        betas=np.stack([photo.betas for photo in photos]),
        motion=np.stack(motions) if len(motions) == len(photos) else None,
        digests=[_digest(photo) for photo in photos],
        observe=observe,
    )


def folder_photos(
    folder: Path, dataset: str | None, head: HeadModel, kind: str, console: Console, limit: int | None = None
) -> tuple[PhotoSource, PhotoSource]:
    """Returns photos for training, and those of a tenth of the identities for validation.

    Args:
      dataset: comma-separated names of data sets; all in the folder when left out.
      kind: identity or expression, the coefficients that are needed.
      limit: largest number of photos of each part; all when left out.

    Raises:
      ValueError: there is no such data set, it lacks the coefficients that are needed, or there are no usable photos of
        two identities.
    """
    reader = CoefficientReader(head.num_betas, head.num_expression, kind == "expression")
    # Cached, so that no .npz is looked for or read twice.
    read, shared_files = functools.lru_cache(64)(reader.read), functools.lru_cache(64)(_shared_files)
    photos: list[LabelledPhoto] = []
    left_out: list[str] = []
    for name, dataset_folder in dataset_folders(folder, dataset, head, kind):
        paths = sorted(path for path in dataset_folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        misplaced = [path for path in paths if path.parent == dataset_folder]
        if misplaced:
            raise ValueError(
                f"{misplaced[0]}: lies in no identity's folder. Photos are expected as {dataset_folder}/<identity>/..."
            )
        with progress_bar(console, transient=True) as progress:
            for path in progress.track(paths, description=f"reading {name}"):
                try:
                    identity = path.relative_to(dataset_folder).parts[0]
                    betas, motion = read(_coefficients_file(path, dataset_folder / identity, shared_files))
                    photos.append(LabelledPhoto(path, folder, f"{name}/{identity}", betas, motion))
                except (ValueError, OSError) as error:
                    left_out.append(str(error))
    for what, (available, used) in reader.truncated.items():
        console.print(f"{what} coefficients cut: the first {used} of {available}; the head has no more", markup=False)
    report_skipped(left_out, console)
    if not photos:
        why = f"The first: {left_out[0]}" if left_out else f"Photos are {', '.join(SUFFIXES)} files."
        raise ValueError(f"{folder}: no photo with coefficients that can be used ({len(left_out)} left out). {why}")
    held_out = held_out_identities([photo.identity for photo in photos])
    if not held_out:
        raise ValueError(f"{folder}: photos of only {photos[0].identity}; another identity is needed to validate on.")
    training = [photo for photo in photos if photo.identity not in held_out]
    validation = [photo for photo in photos if photo.identity in held_out]
    return _photo_source("photos", training[:limit]), _photo_source("validation photos", validation[:limit])


def dataset_folders(folder: Path, dataset: str | None, head: HeadModel, kind: str) -> list[tuple[str, Path]]:
    """Returns names and folders of the requested data sets. Raises: ValueError, as `folder_photos`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of data sets.")
    folders = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    names = list(folders) if dataset is None else [name.strip().lower() for name in dataset.split(",") if name.strip()]
    if not names or not set(names) <= set(folders):
        missing = ", ".join(name for name in names if name not in folders) or "folder of a data set"
        descriptions = "; ".join(f"{name}: {text}" for name, text in KNOWN_DATASETS.items())
        raise ValueError(
            f"{folder}: no {missing}; there are: {', '.join(folders) or 'none'}. Photos are expected as "
            f"{folder}/<data set>/<identity>/*.jpg. Known data sets: {descriptions}."
        )
    for name in names:
        if kind == "expression" and name in KNOWN_DATASETS and name not in WITH_EXPRESSIONS:
            raise ValueError(
                f"{name} has only identities ({KNOWN_DATASETS[name]}), but ExpGen learns expressions and jaws. Give "
                f"--dataset {', '.join(WITH_EXPRESSIONS)}, or one of your own that has them."
            )
        if name in KNOWN_DATASETS and head.name == OPEN_HEAD:
            raise ValueError(f"{name}: its coefficients are FLAME's, not the open head's. Give --head, a FLAME model.")
    return [(folders[name].name, folders[name]) for name in dict.fromkeys(names)]


def held_out_identities(identities: list[str]) -> set[str]:
    """Returns a tenth of the identities, at least one, chosen by a hash of their names; none if there is only one."""
    order = sorted(set(identities), key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest())
    return set(order[: max(1, round(VALIDATION_SHARE * len(order)))]) if len(order) > 1 else set()


def _coefficients_file(path: Path, top: Path, shared_files: Callable[[Path], tuple[Path, ...]]) -> Path:
    """Returns the .npz file of a photo in the identity's folder `top`. Raises: ValueError, there is none, or several
    could be meant."""
    own = path.with_suffix(".npz")
    if own.is_file():
        return own
    for parent in path.parents:
        shared, named = shared_files(parent), parent / "flame.npz"
        if named in shared or len(shared) == 1:
            return named if named in shared else shared[0]
        if shared:
            raise ValueError(f"{path}: which of {len(shared)} .npz files in {parent}? Name it {named.name}.")
        if parent == top:
            break
    raise ValueError(f"{path}: no coefficients: {own.name} beside it, or flame.npz in {top}.")


def _shared_files(folder: Path) -> tuple[Path, ...]:
    """Returns a folder's .npz files that are not named like a photo."""
    files = list(folder.iterdir())
    photos = {path.stem for path in files if path.suffix.lower() in SUFFIXES}
    return tuple(path for path in files if path.suffix == ".npz" and path.stem not in photos)


def _digest(photo: LabelledPhoto) -> str:
    """Returns the names, sizes and modification times of a photo and its landmarks: reading the contents is slow."""
    files = [photo.path, *(photo.path.with_suffix(suffix) for suffix in LANDMARK_SUFFIXES)]
    stats = [path.stat() if path.is_file() else None for path in files]
    name = photo.path.relative_to(photo.folder)
    return f"{name} {[None if stat is None else (stat.st_size, stat.st_mtime_ns) for stat in stats]}"


_detector_lock = threading.Lock()


def _detector() -> LiteRTDetector:
    """Returns the detector, loaded once on first use; safe to call from several threads."""
    with _detector_lock:
        return _load_detector()


_load_detector = functools.cache(LiteRTDetector)
