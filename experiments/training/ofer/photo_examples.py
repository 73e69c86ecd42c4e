"""Training examples from photos whose heads are known: the open faces', or data sets in folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console

from experiments.training.ofer.data import ExampleRows
from experiments.training.ofer.examples import Kind
from experiments.training.ofer.photo_features import Seen, seen_photos
from experiments.training.ofer.photo_folders import folder_photos
from experiments.training.ofer.photo_source import PhotoSource, open_photos
from experiments.training.ofer.settings import SMOKE_PHOTOS, OferOptions
from flamejax.head import HeadModel
from models.encoders import ArcFace, FaRL


def photo_examples(
    options: OferOptions, head: HeadModel, kind: Kind, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> tuple[ExampleRows, ExampleRows]:
    """Examples to train on, and those of other people to validate on.

    Args:
      kind: which coefficients are needed. encoders: those whose features are needed.

    Raises:
      ValueError: options that do not go together, or no photos that can be used. OSError: disk trouble.
    """
    found = []
    for source in photo_sources(options, head, kind, console):
        examples = _sound(source, seen_photos(source, encoders, console), head)
        if not len(examples):
            raise ValueError(
                f"{source.title}: none of the {len(source.digests)} photos shows a face that is found. Put 68 "
                "landmarks beside them (docs/ofer-training.md)."
            )
        left_out = len(source.digests) - len(examples)
        console.print(
            f"{source.title}: {len(examples)} examples; identities: {examples.num_identities}"
            + (f"; {left_out} left out" if left_out else ""),
            markup=False,
        )
        found.append(examples)
    return found[0], found[1]


def photo_sources(options: OferOptions, head: HeadModel, kind: Kind, console: Console) -> tuple[PhotoSource, ...]:
    """Of training and validation. Raises: ValueError, as `photo_examples`."""
    if options.scans is not None:
        raise ValueError("--scans is of networks that see landmarks alone; this one looks at photos: give --photos.")
    if options.photos is not None:
        limit = SMOKE_PHOTOS if options.smoke else None
        return folder_photos(options.photos, options.dataset, head, kind, console, limit)
    if options.dataset is not None:
        raise ValueError(f"--dataset {options.dataset}: give --photos, the folder it is in.")
    return tuple(open_photos(head, split, options.smoke, console) for split in ("train", "validation"))


def _sound(source: PhotoSource, seen: Seen, head: HeadModel) -> ExampleRows:
    rows = np.flatnonzero(seen.sound)
    motion = source.motion
    if motion is None:
        motion = np.zeros((len(seen.sound), head.num_expression + 3), np.float32)
    parts = source.betas, motion, seen.landmarks, seen.visible
    betas, motion, points, visible = (np.asarray(part[rows], np.float32) for part in parts)
    return ExampleRows(betas, motion, points, visible, seen.features, rows, source.identity[rows])
