"""Data sets of photos with FLAME coefficients in folders: DIR/<data set>/<identity>/**/<photo>.jpg|png.

Coefficients of a photo are in `<photo>.npz` beside it, or in `flame.npz`, or in the only .npz that is no photo's, of
its folder or of one above it within the identity's. Landmarks are in `<photo>.npy|json|pts` beside it, as `reconstruct
--landmarks` takes them; where there are none, the detector finds them.
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

from experiments.datasets.scans import OPEN_HEAD, report_left_out
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
VALIDATION = 0.1
"""Share of the identities."""


KNOWN = {
    "stirling": "Stirling/ESRC, photos and scans: identities as MICA registered them",
    "facewarehouse": "FaceWarehouse, photos and depth images: identities, MICA",
    "lyhm": "LYHM, the Liverpool-York head model's photos and scans: identities, MICA",
    "florence": "Florence 2D/3D faces, videos and scans: identities, MICA",
    "famos": "FaMoS, registered sequences of faces in motion: identities, expressions, jaws",
}
"""Data sets of photos with FLAME coefficients that OFER was trained on, by name in lower case; each must be had from
its makers. Any other folder is a data set, too."""
MOVING = ("famos",)
"""Those whose coefficients have expressions and jaws; the others have identities alone."""


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo and what is known of it."""

    path: Path
    folder: Path
    """Of the data sets."""
    identity: str
    """<data set>/<identity>"""
    betas: np.ndarray
    """(S,)"""
    motion: np.ndarray | None
    """(E + 3,) expression and jaw."""


def _source(title: str, photos: list[LabelledPhoto]) -> PhotoSource:
    """Landmarks are those beside a photo, or those of the largest face that is found."""

    def observe(index: int, landmarks: np.ndarray | None) -> Observation:
        path = photos[index].path
        points = landmarks if landmarks is not None else find_landmarks(path.parent, path.stem)
        try:
            detector = None if points is not None else _detector()
            return observe_photo(load_image(path), landmarks=points, detector=detector, size=SIZE)[0]
        except ValueError as error:
            # A photo without a face does not know its own name.
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
    """Photos to train on, and those of the tenth of the identities that is held out.

    Args:
      dataset: names of data sets, with commas between; all in the folder when left out.
      kind: identity or expression: which coefficients are needed.
      limit: so many photos of each part; all when left out.

    Raises:
      ValueError: no such data set, one without the coefficients that are needed, or no photos of two identities that
        can be used.
    """
    reader = CoefficientReader(head.num_betas, head.num_expression, kind == "expression")
    # No .npz is looked for or read twice.
    read, shared_files = functools.lru_cache(64)(reader.read), functools.lru_cache(64)(_shared_files)
    found: list[LabelledPhoto] = []
    left_out: list[str] = []
    for name, place in dataset_folders(folder, dataset, head, kind):
        paths = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        loose = [path for path in paths if path.parent == place]
        if loose:
            raise ValueError(f"{loose[0]}: lies in no identity's folder. Photos are expected as {place}/<identity>/...")
        with progress_bar(console, transient=True) as progress:
            for path in progress.track(paths, description=f"reading {name}"):
                try:
                    identity = path.relative_to(place).parts[0]
                    betas, motion = read(_coefficients_of(path, place / identity, shared_files))
                    found.append(LabelledPhoto(path, folder, f"{name}/{identity}", betas, motion))
                except (ValueError, OSError) as error:
                    left_out.append(str(error))
    for what, (had, taken) in reader.cut.items():
        console.print(f"{what} coefficients cut: the first {taken}, as many as the head has, of {had}", markup=False)
    report_left_out(left_out, console)
    if not found:
        why = f"The first: {left_out[0]}" if left_out else f"Photos are {', '.join(SUFFIXES)} files."
        raise ValueError(f"{folder}: no photo with coefficients that can be used ({len(left_out)} left out). {why}")
    held_out = held_out_identities([photo.identity for photo in found])
    if not held_out:
        raise ValueError(f"{folder}: photos of {found[0].identity} alone; another identity is needed to validate on.")
    parts = [photo for photo in found if photo.identity not in held_out], [p for p in found if p.identity in held_out]
    return _source("photos", parts[0][:limit]), _source("validation photos", parts[1][:limit])


def dataset_folders(folder: Path, dataset: str | None, head: HeadModel, kind: str) -> list[tuple[str, Path]]:
    """Names and folders of the data sets that are asked for. Raises: ValueError, as `folder_photos`."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of data sets.")
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    names = list(there) if dataset is None else [name.strip().lower() for name in dataset.split(",") if name.strip()]
    if not names or not set(names) <= set(there):
        missing = ", ".join(name for name in names if name not in there) or "folder of a data set"
        descriptions = "; ".join(f"{name}: {said}" for name, said in KNOWN.items())
        raise ValueError(
            f"{folder}: no {missing}; there are: {', '.join(there) or 'none'}. Photos are expected as "
            f"{folder}/<data set>/<identity>/*.jpg. Known data sets: {descriptions}."
        )
    for name in names:
        if kind == "expression" and name in KNOWN and name not in MOVING:
            raise ValueError(
                f"{name} has identities alone ({KNOWN[name]}), and ExpGen learns expressions and jaws. Give "
                f"--dataset {', '.join(MOVING)}, or one of your own that has them."
            )
        if name in KNOWN and head.name == OPEN_HEAD:
            raise ValueError(f"{name}: its coefficients are FLAME's, not the open head's. Give --head, a FLAME model.")
    return [(there[name].name, there[name]) for name in dict.fromkeys(names)]


def held_out_identities(identities: list[str]) -> set[str]:
    """A tenth of the identities, and one at least, by a hash of their names; none of a single one."""
    order = sorted(set(identities), key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest())
    return set(order[: max(1, round(VALIDATION * len(order)))]) if len(order) > 1 else set()


def _coefficients_of(path: Path, top: Path, shared_files: Callable[[Path], tuple[Path, ...]]) -> Path:
    """The .npz file of a photo in the identity's folder `top`. Raises: ValueError, there is none, or more than one that
    could be meant."""
    own = path.with_suffix(".npz")
    if own.is_file():
        return own
    for place in path.parents:
        shared, named = shared_files(place), place / "flame.npz"
        if named in shared or len(shared) == 1:
            return named if named in shared else shared[0]
        if shared:
            raise ValueError(f"{path}: which of {len(shared)} .npz files in {place}? Name it {named.name}.")
        if place == top:
            break
    raise ValueError(f"{path}: no coefficients: {own.name} beside it, or flame.npz in {top}.")


def _shared_files(folder: Path) -> tuple[Path, ...]:
    """A folder's .npz files that are no photo's own."""
    files = list(folder.iterdir())
    photos = {path.stem for path in files if path.suffix.lower() in SUFFIXES}
    return tuple(path for path in files if path.suffix == ".npz" and path.stem not in photos)


def _digest(photo: LabelledPhoto) -> str:
    """A photo's and its landmarks' name, size and time of change: to read all of a large data set would take longer
    than a start should."""
    files = [photo.path, *(photo.path.with_suffix(suffix) for suffix in LANDMARK_SUFFIXES)]
    stats = [path.stat() if path.is_file() else None for path in files]
    name = photo.path.relative_to(photo.folder)
    return f"{name} {[None if stat is None else (stat.st_size, stat.st_mtime_ns) for stat in stats]}"


_loading = threading.Lock()


def _detector() -> LiteRTDetector:
    """Loaded once, when it is first needed."""
    with _loading:
        return _loaded()


_loaded = functools.cache(LiteRTDetector)
