"""Training examples from photos with known coefficients, of the open faces or of data sets in folders. Features from
the frozen layers of image encoders are computed once and stored:

    $FLAMEJAX_DATA/ofer_features/seen-<photos>.npy              landmarks and crop of each photo, and if it has a face
    $FLAMEJAX_DATA/ofer_features/arcface-<photos, base>.npy     features in half precision; farl-... likewise

Names have digests of the list of photos and of the encoder's frozen layers, so that other photos and other encoders get
their own files. The folder may be deleted when no training is to be resumed. Half precision loses less than 0.1 %, as
it does for the saved weights, since a normalisation brings trained encoders' features to size one; ArcFace's features
of 100,000 photos then take 5 GB instead of 10.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from rich.console import Console

from experiments.cache import CachedRows, file_lock
from experiments.datasets.scans import report_skipped
from experiments.progress import progress_bar
from experiments.training.ofer.data import ExampleRows
from experiments.training.ofer.photo_folders import folder_photos
from experiments.training.ofer.photo_source import SIZE, PhotoSource, open_photos
from experiments.training.ofer.settings import SMOKE_PHOTOS, OferOptions
from flamejax.files import data_folder
from flamejax.head import HeadModel
from flamejax.types import VISIBLE_CONFIDENCE, Observation
from models.encoders import ArcFace, FaRL
from models.encoders.conditioned import base_digest

VERSION = 1
"""Version of the files' contents."""
BLOCK = 64
"""Number of photos between writes to disk."""
BATCH = 16
"""Number of photos that an encoder processes at once."""
MAX_FLOAT16 = float(np.finfo(np.float16).max)
WIDTH = 68 * 3 + 4
"""Numbers in a row of `observed`: landmarks with confidence, scale and offset of the crop, 1 if there is a face."""


def features_folder() -> Path:
    """Returns the folder of stored features."""
    return data_folder() / "ofer_features"


def photo_examples(
    options: OferOptions, head: HeadModel, kind: str, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> tuple[ExampleRows, ExampleRows]:
    """Returns training examples, and validation examples of other people.

    Args:
      kind: identity or expression, the coefficients that are needed. encoders: those whose features are needed.

    Raises:
      ValueError: the options conflict, or no photo can be used. OSError: a file cannot be read or written.
    """
    splits = []
    for source in photo_sources(options, head, kind, console):
        examples = load_examples(source, encoders, head, console)
        if not len(examples):
            raise ValueError(
                f"{source.title}: no face was detected in any of the {len(source.digests)} photos. Put 68 "
                "landmarks beside them (docs/how-to/training-ofer.md)."
            )
        left_out = len(source.digests) - len(examples)
        console.print(
            f"{source.title}: {len(examples)} examples; identities: {examples.num_identities}"
            + (f"; {left_out} left out" if left_out else ""),
            markup=False,
        )
        splits.append(examples)
    return splits[0], splits[1]


def photo_sources(options: OferOptions, head: HeadModel, kind: str, console: Console) -> tuple[PhotoSource, ...]:
    """Returns the photos of training and validation. Raises: ValueError, as `photo_examples`."""
    if options.scans is not None:
        raise ValueError("--scans is for networks that see only landmarks; this one sees photos: give --photos.")
    if options.photos is not None:
        limit = SMOKE_PHOTOS if options.smoke else None
        return folder_photos(options.photos, options.dataset, head, kind, console, limit)
    if options.dataset is not None:
        raise ValueError(f"--dataset {options.dataset}: give --photos, the folder it is in.")
    return tuple(open_photos(head, split, options.smoke, console) for split in ("train", "validation"))


def load_examples(
    source: PhotoSource, encoders: Mapping[Any, ArcFace | FaRL], head: HeadModel, console: Console
) -> ExampleRows:
    """Returns examples of the photos with a face. Computes features that are not on disk, with a progress bar.

    Raises:
      OSError: the disk is full.
    """
    folder, count = features_folder(), len(source.digests)
    with file_lock(folder, "features of photos"):
        observed = CachedRows(folder / f"seen-{_key(source)}.npy", (count, WIDTH), np.float32)
        feature_files = {
            name: CachedRows(
                folder / f"{name}-{_key(source, base_digest(encoder))}.npy", (count, encoder.feature_width), np.float16
            )
            for name, encoder in encoders.items()
        }
        _compute_missing(source, encoders, observed, feature_files, console)
    usable = np.flatnonzero(observed.array()[:, -1] > 0)
    landmarks = np.array(observed.array()[usable, : 68 * 3]).reshape(-1, 68, 3)
    visible = (landmarks[..., 2] > VISIBLE_CONFIDENCE).astype(np.float32)
    motion = np.zeros((count, head.num_expression + 3)) if source.motion is None else source.motion
    betas, motion = (np.asarray(part[usable], np.float32) for part in (source.betas, motion))
    features = {name: part.array() for name, part in feature_files.items()}
    return ExampleRows(betas, motion, landmarks[..., :2], visible, features, usable, source.identity[usable])


def _key(source: PhotoSource, base: str = "") -> str:
    text = "\n".join([f"{VERSION} {SIZE} {base}", *source.digests])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:20]


def _compute_missing(
    source: PhotoSource, encoders: Mapping[Any, ArcFace | FaRL], observed: CachedRows,
    feature_files: Mapping[Any, CachedRows], console: Console,
) -> None:  # fmt: skip
    """Compute and store missing rows of `observed` and of features, block by block."""
    count, left_out, too_large = len(source.digests), [], set()
    start = min(part.done for part in (observed, *feature_files.values()))
    if start == count:
        return
    with progress_bar(console, transient=True) as progress, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        task = progress.add_task(f"features of {source.title}", total=count, completed=start)
        while start < count:
            stop = min(start + BLOCK, count)
            known_rows = observed.rows(start, stop) if observed.done >= stop else None
            observe = functools.partial(_observe, source, start, known_rows)
            photos = list(pool.map(observe, range(start, stop)))
            rows = np.stack([row for _, row, _ in photos]) if known_rows is None else known_rows
            left_out += [reason for _, _, reason in photos if reason]
            if known_rows is None:
                observed.add(rows)
            for name, part in feature_files.items():
                if part.done < stop:
                    features = _compute_features(encoders[name], np.stack([image for image, _, _ in photos]), rows)
                    too_large |= {name} if np.abs(features).max() > MAX_FLOAT16 else set()
                    part.add(np.clip(features, -MAX_FLOAT16, MAX_FLOAT16))
            progress.update(task, completed=stop)
            start = stop
    report_skipped(left_out, console)
    for name in sorted(too_large):
        console.print(f"{name}: features beyond {MAX_FLOAT16:.0f} were clipped. Are its weights trained?", markup=False)


def _observe(
    source: PhotoSource, start: int, known_rows: np.ndarray | None, index: int
) -> tuple[np.ndarray, np.ndarray, str]:  # fmt: skip
    """Returns a photo's crop, its row of `observed`, and the reason if it has no face; known_rows: of
    `observed`, from `start` on."""
    unusable = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros(WIDTH, np.float32)
    row = None if known_rows is None else known_rows[index - start]
    if row is not None and not row[-1]:
        return *unusable, ""
    try:
        observation = source.observe(index, None if row is None else _in_photo(row))
    except ValueError as error:  # An OSError may be temporary, and must not be stored as a missing face: it propagates.
        return *unusable, str(error)
    return np.asarray(observation.image), _row(observation), ""


def _row(observation: Observation) -> np.ndarray:
    landmarks = np.concatenate([observation.landmarks, np.asarray(observation.confidence)[:, None]], axis=1)
    crop = [np.asarray(observation.crop.scale).reshape(1), np.asarray(observation.crop.offset)]
    return np.concatenate([landmarks.reshape(-1), *crop, np.ones(1)]).astype(np.float32)


def _in_photo(row: np.ndarray) -> np.ndarray:
    """Returns landmarks in the full photo from a row of `observed`, (68, 3); NaN if they were missing."""
    landmarks, scale, offset = row[: 68 * 3].reshape(68, 3).astype(np.float64), row[-4], row[-3:-1]
    landmarks[(landmarks == 0).all(axis=1)] = np.nan
    landmarks[:, :2] = (landmarks[:, :2] - offset) / scale
    return landmarks


def _compute_features(encoder: ArcFace | FaRL, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns features (n, F) of crops (n, SIZE, SIZE, 3) and their rows of `observed`."""
    landmarks = rows[:, : 68 * 3].reshape(-1, 68, 3)
    features = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH], landmarks[start : start + BATCH]
        # Padded to one shape, so that only one program is compiled.
        missing = BATCH - len(part[0])
        photos, points = (np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in part)
        visible = (points[..., 2] > VISIBLE_CONFIDENCE).astype(np.float32)
        features.append(np.asarray(_features(encoder, photos, points[..., :2], visible))[: len(part[0])])
    return np.concatenate(features)


@jax.jit
def _features(encoder: ArcFace | FaRL, photo: Array, landmarks: Array, visibility: Array) -> Array:
    return encoder.features(photo, landmarks, visibility)
