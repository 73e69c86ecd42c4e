"""What a source of training photos is; and the open faces' photos: of each scan the clean and the occluded one."""

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
"""Side of the crop that an encoder is shown, pixels: as `reconstruct` takes it from a photo."""
CONDITIONS = (("image", "landmarks_visible"), ("occluded", "landmarks_visible_occluded"))


@dataclass(frozen=True)
class PhotoSource:
    """Photos of a split and the coefficients of what they show: N of them."""

    title: str
    """For progress bars."""
    identity: np.ndarray
    """(N,) labels."""
    betas: np.ndarray
    """(N, S)"""
    motion: np.ndarray | None
    """(N, E + 3) expression and jaw; None where only identities are known."""
    digests: Sequence[str]
    """Of each photo and all that its crop and landmarks depend on."""
    observe: Callable[[int, np.ndarray | None], Observation]
    """A photo's crop of `SIZE` and its landmarks, from its index and (68, 3) landmarks that an earlier call found,
    pixels of the whole photo and confidence; None: they are to be found. Safe to call from several threads. Raises
    ValueError where it shows no face, and ValueError or OSError where it cannot be read."""


def open_photos(head: HeadModel, split: str, smoke: bool, console: Console) -> PhotoSource:
    """The open faces' photos. Identity is the mean over a subject's scans, which differ in it by their details alone;
    landmarks are exact, and those that are hidden have confidence 0.

    Raises:
      ValueError: the head is another than the open one, whose coefficients the scans have.
    """
    if head.name != OPEN_HEAD:
        raise ValueError(
            f"the open faces' coefficients are those of '{OPEN_HEAD}', not of '{head.name}': give --photos DIR, a "
            "folder of photos with this head's coefficients (docs/how-to/training-ofer.md)."
        )
    scans = scan_coefficients(head, split, ScanOptions(smoke=smoke), console)
    config = "slice" if smoke else "full"
    examples = data_source(split, config)
    of_subject = {name: scans.betas[scans.subject == name].mean(axis=0) for name in np.unique(scans.subject)}
    both = np.repeat(np.arange(len(scans.subject)), len(CONDITIONS))
    identity = scans.subject[both]

    def observe(index: int, landmarks: np.ndarray | None) -> Observation:
        example = examples[index // len(CONDITIONS)]
        image, visible = CONDITIONS[index % len(CONDITIONS)]
        points = np.asarray(example["landmarks"], np.float64)
        points = np.concatenate([points, np.asarray(example[visible], np.float64)[:, None]], axis=1)
        return observe_photo(np.asarray(example[image]), landmarks=points, size=SIZE)[0]

    return PhotoSource(
        title=f"open faces, {split}",
        identity=identity,
        betas=np.stack([of_subject[name] for name in identity]),
        motion=np.concatenate([scans.expression, scans.jaw], axis=1)[both],
        digests=[f"open faces {VERSION} {config} {split} {k}" for k in range(len(both))],
        observe=observe,
    )
