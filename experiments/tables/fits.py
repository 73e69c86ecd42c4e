"""Fits of the open scans' photos in batches of one shape, cached on disk so that tables share them and runs resume."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import fitting
from experiments.datasets.observations import ObservationOptions, observe
from experiments.datasets.open_faces import ScanPhoto
from experiments.tables.runs import Tick, head_id, load_or_compute, no_tick, run_folder
from fitting.config import PRESETS
from fitting.detector import FaceDetector
from fitting.fit_model import FitModel
from fitting.local_files import load_local_model
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel, head_frame, root_joint

BATCH = 4
CODE_PATHS = ("flamejax", "fitting", "experiments/cache.py", "experiments/datasets", "experiments/tables")
"""Code that the fit of a photo depends on; `models` and `sampling` are not among it."""
NO_FACE = -1
"""Result code of a photo in which no face was detected."""


@dataclass(frozen=True)
class FitJob:
    """One way to fit a photo."""

    method: str
    """global or global+local."""
    options: ObservationOptions
    preset: str = "fast"
    seed: int = 0
    """Seed of the simulated detector's errors at hidden landmarks."""


@dataclass(frozen=True)
class PhotoFit:
    """The cached result of a fit."""

    vertices: np.ndarray
    """(V, 3) float32 metres, head frame."""
    occlusion_mask: np.ndarray
    """(S, S) bool, pixels that the fit treated as hidden."""
    nme: float
    """Mean distance of the inner landmarks, in outer-eye distances; NaN without a face."""
    code: int
    """Result code of the fit, 0 = ok, or `NO_FACE`."""


class Fitter:
    """Fits photos; each result is cached in one file per photo and job, under a digest of its inputs."""

    def __init__(self, head: HeadModel, detector: Callable[[], FaceDetector], folder: Path | None = None):
        """folder: of the cache, by default the data folder's `evaluate`."""
        self.head, self.folder = head, folder
        self._detector = functools.cache(detector)
        self._model = functools.cache(self._prepare)

    def fit(self, photos: Sequence[ScanPhoto], job: FitJob, tick: Tick = no_tick) -> list[PhotoFit]:
        """Returns fits of photos, computed or cached. `tick` is called with the number of new results."""

        def compute(missing: list[int]) -> Iterator[PhotoFit]:
            for start in range(0, len(missing), BATCH):
                yield from self._fit_batch([photos[k] for k in missing[start : start + BATCH]], job)

        folder = run_folder(self.folder, "photos", CODE_PATHS, job, PRESETS[job.preset], head_id(self.head))
        return load_or_compute([folder / f"{photo.key}.npz" for photo in photos], PhotoFit, compute, tick)

    def _fit_batch(self, photos: list[ScanPhoto], job: FitJob) -> list[PhotoFit]:
        detector = self._detector() if job.options.landmarks == "detected" else None
        observations = [observe(photo, job.options, detector, job.seed) for photo in photos]
        faces = [each for each in observations if each is not None]
        if not faces:
            return [self._no_face(photo) for photo in photos]
        # The batch is padded with copies, so that only one shape is compiled.
        batch = jax.tree.map(lambda *leaves: np.stack(leaves), *(faces + [faces[-1]] * (BATCH - len(faces))))
        if job.options.masks == "auto":
            batch = auto_masks(self.head, batch)
        model = self._model(job.method)
        fit = jax.device_get(fitting.fit(model, batch, PRESETS[job.preset]))
        root = root_joint(model.head, fit.params)
        vertices = np.asarray(head_frame(fit.vertices, root, fit.params.global_orient))
        masks = np.asarray(batch.occlusion_mask) > 0.5
        results = (
            PhotoFit(vertices[k], masks[k], float(fit.losses["nme"][k]), int(fit.code[k])) for k in range(len(faces))
        )
        pairs = zip(photos, observations, strict=True)
        return [self._no_face(photo) if each is None else next(results) for photo, each in pairs]

    def _no_face(self, photo: ScanPhoto) -> PhotoFit:
        """Returns the mean head, the best guess without a detected face."""
        at_root = np.asarray(self.head.v_template) - np.asarray(self.head.joint_template[0])
        return PhotoFit(at_root, np.zeros(photo.image.shape[:2], bool), float("nan"), NO_FACE)

    def _prepare(self, method: str) -> FitModel:
        return fitting.prepare(self.head, load_local_model(self.head) if method == "global+local" else None)
