"""Training examples from photos whose heads are known: the open faces', or data sets in folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.cache import array_digest
from experiments.training.ofer.examples import Examples, Kind
from experiments.training.ofer.open_photos import OpenPhotos
from experiments.training.ofer.photo_features import Seen, seen_photos
from experiments.training.ofer.photo_folders import folder_photos
from experiments.training.ofer.photo_source import PhotoSource
from experiments.training.ofer.settings import SMOKE_PHOTOS, OferSettings
from flamejax.head import HeadModel
from models.encoders import ArcFace, FaRL

SHUFFLED = 987_654
"""Seed of the order in which validation examples are taken."""


@dataclass(frozen=True)
class PhotoExamples:
    """N sound photos of a split, their features on disk. Random access gives one as nested numpy arrays."""

    identity: np.ndarray
    """(N,) labels."""
    betas: np.ndarray
    """(N, S)"""
    motion: np.ndarray
    """(N, E + 3) expression and jaw; zeros where only identities are known."""
    points: np.ndarray
    """(N, 68, 2) pixels of the crop."""
    visible: np.ndarray
    """(N, 68) 1 = visible."""
    features: Mapping[str, np.ndarray]
    """By encoder, (M, F) float16 of all M photos, the unsound ones as well."""
    rows: np.ndarray
    """(N,) which of these."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            name: np.asarray(getattr(self, name)[index], np.float32)
            for name in ("betas", "motion", "points", "visible")
        }
        return {**found, "features": {name: np.array(part[self.rows[index]]) for name, part in self.features.items()}}

    @property
    def num_identities(self) -> int:
        """How many people there are."""
        return len(np.unique(self.identity))

    def some(self, count: int) -> Examples:
        """`count` of them, always the same; all if there are fewer."""
        order = np.sort(np.random.default_rng(SHUFFLED).permutation(len(self))[:count])
        columns = {name: jnp.asarray(getattr(self, name)[order]) for name in ("betas", "motion", "points", "visible")}
        features = {
            name: jnp.asarray(part[self.rows[order]], jnp.float32) for name, part in self.features.items()
        }  # fmt: skip
        return Examples(**columns, features=features)

    def digest(self) -> str:
        """A short name of what is learned of which photos, wherever these lie."""
        parts = self.betas, self.motion, self.points, self.visible
        return "-".join(array_digest(part)[:8] for part in parts)


def photo_examples(
    settings: OferSettings, head: HeadModel, kind: Kind, encoders: Mapping[Any, ArcFace | FaRL], console: Console
) -> tuple[PhotoExamples, PhotoExamples]:
    """Examples to train on, and those of other people to validate on.

    Args:
      kind: which coefficients are needed. encoders: those whose features are needed.

    Raises:
      ValueError: options that do not go together, or no photos that can be used. OSError: disk trouble.
    """
    found = []
    for source in photo_sources(settings, head, kind, console):
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


def photo_sources(settings: OferSettings, head: HeadModel, kind: Kind, console: Console) -> tuple[PhotoSource, ...]:
    """Of training and validation. Raises: ValueError, as `photo_examples`."""
    if settings.scans is not None:
        raise ValueError("--scans is of networks that see landmarks alone; this one looks at photos: give --photos.")
    if settings.photos is not None:
        limit = SMOKE_PHOTOS if settings.smoke else None
        return folder_photos(settings.photos, settings.dataset, head, kind, console, limit)
    if settings.dataset is not None:
        raise ValueError(f"--dataset {settings.dataset}: give --photos, the folder it is in.")
    return tuple(OpenPhotos(head, split, settings.smoke, console) for split in ("train", "validation"))


def _sound(source: PhotoSource, seen: Seen, head: HeadModel) -> PhotoExamples:
    rows = np.flatnonzero(seen.sound)
    motion = source.motion
    if motion is None:
        motion = np.zeros((len(seen.sound), head.num_expression + 3), np.float32)
    parts = source.betas, motion, seen.landmarks, seen.visible
    betas, motion, points, visible = (np.asarray(part[rows], np.float32) for part in parts)
    return PhotoExamples(source.identity[rows], betas, motion, points, visible, seen.features, rows)
