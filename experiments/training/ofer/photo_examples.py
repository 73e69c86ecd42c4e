"""Training examples from photos whose heads are known, the open faces' or data sets in folders. What image encoders'
frozen layers give of photos is computed once, and kept:

    $FLAMEJAX_DATA/ofer_features/seen-<photos>.npy              landmarks and crop of each photo, and if it is sound
    $FLAMEJAX_DATA/ofer_features/arcface-<photos, base>.npy     features in half precision; farl-... likewise

Names are digests of the list of photos and of the encoder's frozen layers, so that other photos and other encoders get
files of their own; the folder may be deleted when no training is to go on. Half precision: trained encoders' features
come out of a normalisation and are of size one, so that they lose less than 0.1 %, as the weights that are kept do;
ArcFace's of 100,000 photos then take 5 GB instead of 10.
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

from experiments.cache import KeptRows, file_lock
from experiments.datasets.scans import report_left_out
from experiments.progress import progress_bar
from experiments.training.ofer.data import ExampleRows
from experiments.training.ofer.photo_folders import folder_photos
from experiments.training.ofer.photo_source import SIZE, PhotoSource, open_photos
from experiments.training.ofer.settings import SMOKE_PHOTOS, OferOptions
from flamejax.files import data_folder
from flamejax.head import HeadModel
from flamejax.types import VISIBLE_CONFIDENCE, Observation
from models.encoders import ArcFace, FaRL
from models.encoders.parts import base_digest

VERSION = 1
"""Of the files: what is computed for a photo."""
BLOCK = 64
"""Photos between two states on disk."""
BATCH = 16
"""Photos that an encoder is shown at once."""
LARGEST = float(np.finfo(np.float16).max)
WIDTH = 68 * 3 + 4
"""Of a row of `seen`: landmarks and confidence, scale and offset of the crop, 1 = sound."""


def features_folder() -> Path:
    """Where features are kept."""
    return data_folder() / "ofer_features"


def photo_examples(
    options: OferOptions, head: HeadModel, kind: str, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> tuple[ExampleRows, ExampleRows]:
    """Examples to train on, and those of other people to validate on.

    Args:
      kind: which coefficients are needed. encoders: those whose features are needed.

    Raises:
      ValueError: options that do not go together, or no photos that can be used. OSError: disk trouble.
    """
    found = []
    for source in photo_sources(options, head, kind, console):
        examples = examples_of(source, encoders, head, console)
        if not len(examples):
            raise ValueError(
                f"{source.title}: none of the {len(source.digests)} photos shows a face that is found. Put 68 "
                "landmarks beside them (docs/how-to/training-ofer.md)."
            )
        left_out = len(source.digests) - len(examples)
        console.print(
            f"{source.title}: {len(examples)} examples; identities: {examples.num_identities}"
            + (f"; {left_out} left out" if left_out else ""),
            markup=False,
        )
        found.append(examples)
    return found[0], found[1]


def photo_sources(options: OferOptions, head: HeadModel, kind: str, console: Console) -> tuple[PhotoSource, ...]:
    """Of training and validation. Raises: ValueError, as `photo_examples`."""
    if options.scans is not None:
        raise ValueError("--scans is of networks that see landmarks only; this one looks at photos: give --photos.")
    if options.photos is not None:
        limit = SMOKE_PHOTOS if options.smoke else None
        return folder_photos(options.photos, options.dataset, head, kind, console, limit)
    if options.dataset is not None:
        raise ValueError(f"--dataset {options.dataset}: give --photos, the folder it is in.")
    return tuple(open_photos(head, split, options.smoke, console) for split in ("train", "validation"))


def examples_of(
    source: PhotoSource, encoders: Mapping[Any, ArcFace | FaRL], head: HeadModel, console: Console
) -> ExampleRows:
    """The photos that show a face; what is not on disk is computed first, with a progress bar.

    Raises:
      OSError: the disk is full.
    """
    folder, count = features_folder(), len(source.digests)
    with file_lock(folder, "features of photos"):
        seen = KeptRows(folder / f"seen-{_key(source)}.npy", (count, WIDTH), np.float32)
        kept = {
            name: KeptRows(
                folder / f"{name}-{_key(source, base_digest(encoder))}.npy", (count, encoder.feature_width), np.float16
            )
            for name, encoder in encoders.items()
        }
        _fill(source, encoders, seen, kept, console)
    sound = np.flatnonzero(seen.whole()[:, -1] > 0)
    marks = np.array(seen.whole()[sound, : 68 * 3]).reshape(-1, 68, 3)
    visible = (marks[..., 2] > VISIBLE_CONFIDENCE).astype(np.float32)
    motion = np.zeros((count, head.num_expression + 3)) if source.motion is None else source.motion
    betas, motion = (np.asarray(part[sound], np.float32) for part in (source.betas, motion))
    features = {name: part.whole() for name, part in kept.items()}
    return ExampleRows(betas, motion, marks[..., :2], visible, features, sound, source.identity[sound])


def _key(source: PhotoSource, base: str = "") -> str:
    text = "\n".join([f"{VERSION} {SIZE} {base}", *source.digests])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:20]


def _fill(
    source: PhotoSource, encoders: Mapping[Any, ArcFace | FaRL], seen: KeptRows, kept: Mapping[Any, KeptRows],
    console: Console,
) -> None:  # fmt: skip
    """Compute what is missing, block by block."""
    count, left_out, too_large = len(source.digests), [], set()
    start = min(part.done for part in (seen, *kept.values()))
    if start == count:
        return
    with progress_bar(console, transient=True) as progress, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        task = progress.add_task(f"features of {source.title}", total=count, completed=start)
        while start < count:
            stop = min(start + BLOCK, count)
            known = seen.rows(start, stop) if seen.done >= stop else None
            look = functools.partial(_look, source, start, known)
            found = list(pool.map(look, range(start, stop)))
            rows = np.stack([row for _, row, _ in found]) if known is None else known
            left_out += [reason for _, _, reason in found if reason]
            if known is None:
                seen.add(rows)
            for name, part in kept.items():
                if part.done < stop:
                    features = _features_of(encoders[name], np.stack([image for image, _, _ in found]), rows)
                    too_large |= {name} if np.abs(features).max() > LARGEST else set()
                    part.add(np.clip(features, -LARGEST, LARGEST))
            progress.update(task, completed=stop)
            start = stop
    report_left_out(left_out, console)
    for name in sorted(too_large):
        console.print(f"{name}: features beyond {LARGEST:.0f} were cut. Are its weights trained ones?", markup=False)


def _look(source: PhotoSource, start: int, known: np.ndarray | None, index: int) -> tuple[np.ndarray, np.ndarray, str]:
    """A photo as encoders see it: its crop, its row of `seen`, and why it is unsound, if it is; known: rows of `seen`
    from `start` on."""
    nothing = np.zeros((SIZE, SIZE, 3), np.float32), np.zeros(WIDTH, np.float32)
    row = None if known is None else known[index - start]
    if row is not None and not row[-1]:
        return *nothing, ""
    try:
        observation = source.observe(index, None if row is None else _in_photo(row))
    except ValueError as error:  # An OSError may pass, and what is kept here is never looked at again: it ends the run.
        return *nothing, str(error)
    return np.asarray(observation.image), _row(observation), ""


def _row(observation: Observation) -> np.ndarray:
    marks = np.concatenate([observation.landmarks, np.asarray(observation.confidence)[:, None]], axis=1)
    crop = [np.asarray(observation.crop.scale).reshape(1), np.asarray(observation.crop.offset)]
    return np.concatenate([marks.reshape(-1), *crop, np.ones(1)]).astype(np.float32)


def _in_photo(row: np.ndarray) -> np.ndarray:
    """(68, 3) landmarks in the whole photo from a row of `seen`; NaN where they were missing."""
    marks, scale, offset = row[: 68 * 3].reshape(68, 3).astype(np.float64), row[-4], row[-3:-1]
    marks[(marks == 0).all(axis=1)] = np.nan
    marks[:, :2] = (marks[:, :2] - offset) / scale
    return marks


def _features_of(encoder: ArcFace | FaRL, images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n, SIZE, SIZE, 3) crops and rows of `seen` -> features (n, F)."""
    marks = rows[:, : 68 * 3].reshape(-1, 68, 3)
    found = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH], marks[start : start + BATCH]
        # One shape for all, so that one program does.
        missing = BATCH - len(part[0])
        photos, points = (np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)]) for a in part)
        visible = (points[..., 2] > VISIBLE_CONFIDENCE).astype(np.float32)
        found.append(np.asarray(_features(encoder, photos, points[..., :2], visible))[: len(part[0])])
    return np.concatenate(found)


@jax.jit
def _features(encoder: ArcFace | FaRL, photo: Array, landmarks: Array, visibility: Array) -> Array:
    return encoder.features(photo, landmarks, visibility)
