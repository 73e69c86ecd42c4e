"""The open faces' photos as training examples: of each scan the clean and the occluded one."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from experiments.datasets.open_faces import data_source
from experiments.datasets.open_faces.subjects import VERSION
from experiments.datasets.scans import OPEN_HEAD
from experiments.training.ofer.coefficients import scan_coefficients
from experiments.training.ofer.photo_source import SIZE
from fitting import observe_photo
from flamejax.head import HeadModel
from flamejax.types import Observation

CONDITIONS = (("image", "landmarks_visible"), ("occluded", "landmarks_visible_occluded"))


class OpenPhotos:
    """A `PhotoSource`. Identity is the mean over a subject's scans, which differ in it by their details alone."""

    def __init__(self, head: HeadModel, split: str, smoke: bool, console: Console):
        """Raises: ValueError, the head is another than the open one, whose coefficients the scans have."""
        if head.name != OPEN_HEAD:
            raise ValueError(
                f"the open faces' coefficients are those of '{OPEN_HEAD}', not of '{head.name}': give --photos DIR, a "
                "folder of photos with this head's coefficients (docs/ofer-training.md)."
            )
        scans = scan_coefficients(head, split, None, "m", 1, smoke, console)
        self._examples = data_source(split, "slice" if smoke else "full")
        self.title = f"open faces, {split}"
        of_subject = {name: scans.betas[scans.subject == name].mean(axis=0) for name in np.unique(scans.subject)}
        both = np.repeat(np.arange(len(scans.subject)), len(CONDITIONS))
        self.identity = scans.subject[both]
        self.betas = np.stack([of_subject[name] for name in self.identity])
        self.motion = np.concatenate([scans.expression, scans.jaw], axis=1)[both]
        config = "slice" if smoke else "full"
        self.digests = [f"open faces {VERSION} {config} {split} {k}" for k in range(len(both))]

    def observe(self, index: int, landmarks: np.ndarray | None = None) -> Observation:
        """As `PhotoSource`; landmarks are exact, and those that are hidden have confidence 0."""
        example = self._examples[index // len(CONDITIONS)]
        image, visible = CONDITIONS[index % len(CONDITIONS)]
        points = np.asarray(example["landmarks"], np.float64)
        points = np.concatenate([points, np.asarray(example[visible], np.float64)[:, None]], axis=1)
        return observe_photo(np.asarray(example[image]), landmarks=points, size=SIZE)[0]
