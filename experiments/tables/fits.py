"""Fits of the open scans' photos, in batches of one shape, kept on disk so that tables share them and runs go on."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import fitting
from experiments.datasets.observations import Look, observe
from experiments.datasets.open_faces import Photo
from experiments.tables.runs import Tick, head_id, no_tick, resumed, run_folder
from fitting.config import PRESETS
from fitting.detector import FaceDetector
from fitting.fit_model import FitModel
from fitting.local_files import load_local_model
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel, head_frame, root_joint

BATCH = 4
ROOMS = ("flamejax", "fitting", "experiments/cache.py", "experiments/datasets", "experiments/tables")
"""The code that decides a fit of a photo, which does not depend on `models` or `sampling`."""
NO_FACE = -1
"""Code of a photo in which the detector found no face."""


@dataclass(frozen=True)
class Job:
    """One way to fit a photo."""

    method: str
    """global or global+local."""
    look: Look
    preset: str = "fast"
    seed: int = 0
    """Of what a detector would make of hidden landmarks."""


@dataclass(frozen=True)
class Result:
    """What is kept of a fit."""

    vertices: np.ndarray
    """(V, 3) float32 metres, head frame."""
    occlusion_mask: np.ndarray
    """(S, S) bool: what the fit took for hidden."""
    nme: float
    code: int


class Fitter:
    """Fits photos and keeps the results, one file per photo and job, under a digest of everything that decides them."""

    def __init__(self, head: HeadModel, detector: Callable[[], FaceDetector], folder: Path | None = None):
        """folder: keeps the results, by default the data folder's `evaluate`."""
        self.head, self.folder = head, folder
        self._detector = functools.cache(detector)
        self._model = functools.cache(self._prepare)

    def fit(self, photos: Sequence[Photo], job: Job, tick: Tick = no_tick) -> list[Result]:
        """Fit photos, or take what an earlier run kept. `tick` is told of every photo that is done."""

        def make(missing: list[int]) -> Iterator[Result]:
            for start in range(0, len(missing), BATCH):
                yield from self._fit_batch([photos[k] for k in missing[start : start + BATCH]], job)

        folder = run_folder(self.folder, "photos", ROOMS, job, PRESETS[job.preset], head_id(self.head))
        return resumed([folder / f"{photo.key}.npz" for photo in photos], Result, make, tick)

    def _fit_batch(self, photos: list[Photo], job: Job) -> list[Result]:
        detector = self._detector() if job.look.landmarks == "detected" else None
        seen = [observe(photo, job.look, detector, job.seed) for photo in photos]
        faces = [one for one in seen if one is not None]
        if not faces:
            return [self._no_face(photo) for photo in photos]
        # The batch is filled up with copies, so that no other shape is ever compiled.
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(faces + [faces[-1]] * (BATCH - len(faces))))
        if job.look.masks == "auto":
            batch = auto_masks(self.head, batch)
        model = self._model(job.method)
        fit = jax.device_get(fitting.fit(model, batch, PRESETS[job.preset]))
        root = root_joint(model.head, fit.params)
        vertices = np.asarray(head_frame(fit.vertices, root, fit.params.global_orient))
        masks = np.asarray(batch.occlusion_mask) > 0.5
        results = (
            Result(vertices[k], masks[k], float(fit.losses["nme"][k]), int(fit.code[k])) for k in range(len(faces))
        )
        return [self._no_face(photo) if one is None else next(results) for photo, one in zip(photos, seen, strict=True)]

    def _no_face(self, photo: Photo) -> Result:
        """The mean head: what one knows of a face that is not found."""
        at_root = np.asarray(self.head.v_template) - np.asarray(self.head.joint_template[0])
        return Result(at_root, np.zeros(photo.image.shape[:2], bool), float("nan"), NO_FACE)

    def _prepare(self, method: str) -> FitModel:
        return fitting.prepare(self.head, load_local_model(self.head) if method == "global+local" else None)
