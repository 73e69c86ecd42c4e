"""Training photos with coefficients, and those of the open faces: a clean and an occluded photo of each scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from experiments.datasets.open_faces import data_source
from experiments.datasets.open_faces.subjects import VERSION
from experiments.datasets.scans import OPEN_HEAD, ScanOptions
from experiments.training.ofer.coefficients import scan_coefficients
from fitting import observe_photo
from flamejax.head import HeadModel
from flamejax.types import Observation

SIZE = 256
"""Side of the crop that encoders see, pixels: as in `reconstruct`."""
CONDITIONS = (("image", "landmarks_visible"), ("occluded", "landmarks_visible_occluded"))
"""Names of the image and of the landmarks' visibility in an example, for the clean and the occluded photo."""


@dataclass(frozen=True)
class PhotoSource:
    """N photos of a split and the coefficients of the heads in them."""

    title: str
    """Name in progress bars."""
    identity: np.ndarray
    """(N,) labels."""
    betas: np.ndarray
    """(N, S)"""
    motion: np.ndarray | None
    """(N, E + 3) expression and jaw; None if only identities are known."""
    digests: Sequence[str]
    """For each photo, a text that changes with anything its crop and landmarks depend on."""
    observe: Callable[[int, np.ndarray | None], Observation]
    """Returns a photo's crop of `SIZE` and its landmarks, from its index and the landmarks of an earlier call, (68, 3):
    pixels in the full photo and confidence. Without those it determines the landmarks. Safe to call from several
    threads. Raises ValueError if there is no face, and ValueError or OSError if the photo cannot be read."""


def open_photos(head: HeadModel, split: str, smoke: bool, console: Console) -> PhotoSource:
    """Returns the open faces' photos. Identity is the mean over a subject's scans, which differ only in details;
    landmarks are exact, and hidden ones have confidence 0.

    Raises:
      ValueError: the head is not the open head, whose coefficients the scans have.
    """
    if head.name != OPEN_HEAD:
        raise ValueError(
            f"the open faces' coefficients are those of '{OPEN_HEAD}', not of '{head.name}': give --photos DIR, a "
            "folder of photos with this head's coefficients (docs/how-to/training-ofer.md)."
        )
    scans = scan_coefficients(head, split, ScanOptions(smoke=smoke), console)
    config = "slice" if smoke else "full"
    examples = data_source(split, config)
    subject_betas = {name: scans.betas[scans.subject == name].mean(axis=0) for name in np.unique(scans.subject)}
    scan_index = np.repeat(np.arange(len(scans.subject)), len(CONDITIONS))
    identity = scans.subject[scan_index]

    def observe(index: int, landmarks: np.ndarray | None) -> Observation:
        example = examples[index // len(CONDITIONS)]
        image, visible = CONDITIONS[index % len(CONDITIONS)]
        points = np.asarray(example["landmarks"], np.float64)
        points = np.concatenate([points, np.asarray(example[visible], np.float64)[:, None]], axis=1)
        return observe_photo(np.asarray(example[image]), landmarks=points, size=SIZE)[0]

    return PhotoSource(
        title=f"open faces, {split}",
        identity=identity,
        betas=np.stack([subject_betas[name] for name in identity]),
        motion=np.concatenate([scans.expression, scans.jaw], axis=1)[scan_index],
        digests=[f"open faces {VERSION} {config} {split} {k}" for k in range(len(scan_index))],
        observe=observe,
    )
