"""Fits of the open scans' photos, in batches of one shape, kept on disk so that tables share them and runs go on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

import fitting
from experiments.datasets.observations import Look, observe
from experiments.datasets.open_faces import Photo
from experiments.runtime import data_folder
from fitting.config import PRESETS
from fitting.detector import FaceDetector
from fitting.fit_model import FitModel
from fitting.local_files import load_local_model
from fitting.occlusion import auto_masks
from flamejax.head import HeadModel, geometry_hash, head_frame, root_joint
from flamejax.io.files import write_bytes

BATCH = 4
ROOMS = ("flamejax", "fitting", "experiments/datasets", "experiments/tables")
"""Folders of the code that decides a fit of a photo, which does not depend on `models` or `sampling`."""
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
        self.head = head
        self.folder = folder or data_folder() / "evaluate" / code_version()
        self._detector = functools.cache(detector)
        self._model = functools.cache(self._prepare)

    def fit(self, photos: Sequence[Photo], job: Job, tick: Callable[[int], None] = lambda count: None) -> list[Result]:
        """Fit photos, or take what an earlier run kept. `tick` is told of every photo that is done."""
        paths = [self.folder / digest(job, self.head) / f"{photo.key}.npz" for photo in photos]
        kept = {path: read_result(path) for path in paths if path.exists()}
        found = {path: result for path, result in kept.items() if result is not None}
        tick(len(found))
        missing = [(photo, path) for photo, path in zip(photos, paths, strict=True) if path not in found]
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            for (_, path), result in zip(part, self._fit_batch([photo for photo, _ in part], job), strict=True):
                write_result(path, result)
                found[path] = result
            tick(len(part))
        return [found[path] for path in paths]

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


def digest(job: Job, head: HeadModel) -> str:
    """A short name of a job, its settings and the head."""
    settings = {
        "job": dataclasses.asdict(job),
        "config": dataclasses.asdict(PRESETS[job.preset]),
        "head": [head.name, head.version, geometry_hash(head)],
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def code_version(rooms: tuple[str, ...] = ROOMS) -> str:
    """A digest of the code and data files (folders, or single files) that decide a fit: results of other code are not
    mixed with this one's."""
    root = Path(fitting.__file__).parents[1]
    state = hashlib.sha256()
    for room in (root / name for name in rooms):
        inside = [room] if room.is_file() else sorted(room.rglob("*"))
        for path in inside:
            # Weights of networks are not code: whoever uses them names them by their own digest.
            weights = path.is_relative_to(root / "models" / "assets")
            if path.suffix in (".py", ".npz", ".json", ".tflite") and not weights:
                state.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return state.hexdigest()[:12]


def read_result(path: Path) -> Result | None:
    """A kept result; None if the file is damaged, so that the photo is fitted again."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            mask = np.unpackbits(file["occlusion_mask"]).astype(bool)
            side = int(np.sqrt(len(mask)))
            return Result(file["vertices"], mask.reshape(side, side), float(file["nme"]), int(file["code"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def write_result(path: Path, result: Result) -> None:
    """Keep a result; written whole or not at all."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        vertices=result.vertices,
        occlusion_mask=np.packbits(result.occlusion_mask),
        nme=np.float32(result.nme),
        code=np.int32(result.code),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
