"""The files of one reconstructed face, with its hypotheses."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.reconstruct.observing import Face
from experiments.reconstruct.views import View, clay_sheet, mask_over, overlay
from experiments.results import spread_of
from experiments.view.viewer_page import Scene, viewer_page
from fitting.fit_model import FitModel
from flamejax.files import write_text
from flamejax.head import HeadModel
from flamejax.io.meshes import TexturedMesh, write_glb, write_obj
from flamejax.io.results import FORMAT_VERSION, HYPOTHESES, HeadIdentity
from flamejax.io.results_writing import camera_record, fit_npz, head_mesh, hypothesis_npz
from flamejax.types import VISIBLE_CONFIDENCE, Fit, Hypotheses, Observation
from sampling._complete import eyeball_vertices

SHEET, VIEWER = f"{HYPOTHESES}/sheet.jpg", "index.html"
"""In a face's folder: the picture of its hypotheses, and the page on which they are looked at."""
EXACT_METRES = 1e-5
"""Parameters count as exact when the vertices they give differ by less."""


@dataclass(frozen=True)
class FittedFace:
    """One face with its fit, as NumPy arrays without batch axes."""

    face: Face
    fit: Fit
    texture: np.ndarray
    """(Ht, Wt, 3) in [0, 1]."""
    parameter_error: float
    """Largest distance, metres, between the fit's vertices and those of its global parameters alone."""
    seconds: float
    """Of the fit, per face of its batch, compiling left out."""
    hypotheses: Hypotheses | None = None
    """Other heads that the photo allows, best first."""
    midpoints: np.ndarray | None = None
    """(P, V, 3) world metres: half-way between the first of them, see `sampling.interpolate`; None of methods without
    latents."""

    @functools.cached_property
    def camera(self) -> dict[str, Any]:
        """What camera.json says."""
        face, seen = self.face, self.face.observation
        overlaid = face.preview.shape[1], face.preview.shape[0]
        return camera_record(self.fit.camera, seen.crop, seen.image.shape[0], face.photo_size, overlaid)


@dataclass(frozen=True)
class ResultWriter:
    """Writes results of one run."""

    head: HeadModel
    identity: HeadIdentity
    model: FitModel
    """What is fitted: the head with its local models."""
    settings: dict[str, Any]
    """For metrics.json."""

    def write(self, folder: Path, fitted: FittedFace, view: View) -> None:
        """Write all of RESULT_FILES, and `hypothesis_files`, into an existing folder. Raises: OSError."""
        face, seen = fitted.face, fitted.face.observation
        exact, local = fitted.parameter_error < EXACT_METRES, str(self.settings.get("local"))
        (folder / "params.npz").write_bytes(fit_npz(fitted.fit, self.model, self.identity, exact, local))
        _write_json(folder / "camera.json", fitted.camera)
        _write_json(folder / "landmarks.json", _landmarks_record(fitted))
        zoom, offset = float(seen.crop.scale) / face.preview_scale, np.asarray(seen.crop.offset)
        drawn = overlay(face.preview, view, zoom, offset, seen.image.shape[0])
        Image.fromarray(drawn).save(folder / "overlay.png", compress_level=4)
        given = face.given_mask  # as it was given: a crop's has soft edges
        hidden = _over_preview(face, seen.occlusion_mask) if given is None else given
        Image.fromarray(hidden).save(folder / "occlusion_mask.png")
        Image.fromarray(_over_preview(face, seen.face_mask)).save(folder / "face_mask.png")
        mesh = head_mesh(self.head, fitted.fit.vertices, fitted.texture)
        write_obj(folder / "mesh.obj", mesh)
        write_glb(folder / "mesh.glb", mesh)
        # As for the Mesh-VAE: eyeballs count as seen.
        shown = np.asarray(fitted.fit.vertex_visibility, bool) | np.asarray(eyeball_vertices(self.head))
        if fitted.hypotheses is not None:
            self._write_hypotheses(folder, fitted, fitted.hypotheses, mesh, shown)
        _write_json(folder / "metrics.json", self._metrics(fitted, shown))

    def _write_hypotheses(
        self, folder: Path, fitted: FittedFace, found: Hypotheses, fit: TexturedMesh, seen: np.ndarray
    ) -> None:
        for place, vertices in enumerate(found.vertices):
            inner = folder / HYPOTHESES / f"{place:02d}"
            inner.mkdir(parents=True)
            (inner / "params.npz").write_bytes(hypothesis_npz(found, place, self.identity))
            write_glb(inner / "mesh.glb", dataclasses.replace(fit, vertices=np.asarray(vertices, np.float64)))
        spread = spread_of(found.vertices)
        sheet = clay_sheet(np.asarray(fitted.fit.vertices), np.asarray(found.vertices), spread, self.head.faces)
        sheet.save(folder / SHEET, quality=88)
        full, zoom = fitted.camera["full_image"], fitted.face.preview_scale
        scene = Scene(
            title=fitted.face.name,
            fit=fit,
            heads=np.asarray(found.vertices, np.float32),
            scores=np.asarray(found.score),
            midpoints=fitted.midpoints,
            seen=seen,
            spread=spread,
            light=np.asarray(fitted.fit.light),
            photo=fitted.face.preview,
            scale=zoom * full["scale"],
            translation=zoom * np.asarray(full["translation"]),
        )
        write_text(folder / VIEWER, viewer_page(scene))

    def _metrics(self, fitted: FittedFace, seen: np.ndarray) -> dict[str, Any]:
        """What metrics.json says. A loss that is not a number (nothing to measure) is null."""
        face, fit = fitted.face, fitted.fit
        losses = {name: float(value) if np.isfinite(value) else None for name, value in fit.losses.items()}
        visible = np.asarray(face.observation.confidence) > VISIBLE_CONFIDENCE
        drawn = {}
        if fitted.hypotheses is not None:
            drawn = hypotheses_record(np.asarray(fitted.hypotheses.vertices), np.asarray(fit.vertices), seen)
        return {
            "format_version": FORMAT_VERSION,
            "name": face.name,
            "photo": str(face.photo.path),
            "photo_path": str(face.photo.path.resolve()),
            "photo_sha256": face.photo_sha256,
            "photo_size": list(face.photo_size),
            "face": face.index,
            "num_faces": face.count,
            "method": self.settings["method"],
            "landmark_nme": losses.pop("nme", None),
            "visible_landmarks": int(visible.sum()),
            "visible_vertices": round(float(np.mean(fit.vertex_visibility)), 4),
            "losses": losses,
            "exact": fitted.parameter_error < EXACT_METRES,
            "fit_seconds": round(fitted.seconds, 3),
            **drawn,
            "head": dataclasses.asdict(self.identity),
            "settings": self.settings,
        }


def hypothesis_files(count: int) -> list[str]:
    """What a result with so many hypotheses has besides RESULT_FILES."""
    each = [f"{HYPOTHESES}/{place:02d}/{file}" for place in range(count) for file in ("params.npz", "mesh.glb")]
    return [*each, SHEET, VIEWER] if count else []


def hypotheses_record(heads: np.ndarray, fit: np.ndarray, seen: np.ndarray) -> dict[str, Any]:
    """What metrics.json says of hypotheses (M, V, 3): how many; how far they lie from the fit (V, 3) where the photo
    shows the head, seen (V,) (median over these vertices and all heads); how far from each other (RMS distance from
    their mean), there and where nothing is seen."""
    away, spread = np.linalg.norm(heads[:, seen].astype(np.float64) - fit[seen], axis=-1), spread_of(heads)
    record: dict[str, Any] = {"hypotheses": len(heads)}
    for name, values, reduce in (
        ("hypotheses_visible_mm", away, np.median),
        ("hypotheses_visible_spread_mm", spread[seen], _rms),
        ("hypotheses_hidden_spread_mm", spread[~seen], _rms),
    ):
        record[name] = round(1e3 * float(reduce(values)), 4) if values.size else None
    return record


def _over_preview(face: Face, mask: Any) -> np.ndarray:
    """A mask (S, S) of the crop in the preview's size: (h, w) uint8 of 0 and 255."""
    crop, size = face.observation.crop, (face.preview.shape[1], face.preview.shape[0])
    return mask_over(np.asarray(mask), float(crop.scale), np.asarray(crop.offset, np.float64), face.photo_size, size)


def _landmarks_record(fitted: FittedFace) -> dict[str, Any]:
    """What landmarks.json says. `points` and `confidence` are in the form that --landmarks reads."""
    seen, full = fitted.face.observation, fitted.camera["full_image"]
    landmarks = np.asarray(fitted.fit.landmarks, np.float64)
    record = {
        "format_version": FORMAT_VERSION,
        "scheme": "iBUG 68",
        "frame": "pixels of the full image",
        "points": _in_photo(seen, seen.landmarks, seen.confidence),
        "confidence": _rounded(seen.confidence, 6),
        "fitted": _rounded(full["scale"] * landmarks[:, :2] * (1.0, -1.0) + np.asarray(full["translation"])),
        "fitted_3d": _rounded(landmarks, 6),
    }
    if np.any(seen.dense_landmarks):
        record["dense_points"] = _in_photo(seen, seen.dense_landmarks, seen.dense_confidence)
        record["dense_confidence"] = _rounded(seen.dense_confidence, 6)
    return record


def _in_photo(seen: Observation, points: Any, confidence: Any) -> list[list[float] | None]:
    """Crop pixels (N, 2) as pixels of the full photo; None where missing."""
    points, confidence = np.asarray(points), np.asarray(confidence)
    moved = (points.astype(np.float64) - np.asarray(seen.crop.offset)) / float(seen.crop.scale)
    missing = (confidence == 0) & (points == 0).all(axis=-1)
    return [None if gone else p for gone, p in zip(missing, _rounded(moved), strict=True)]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _rounded(values: Any, digits: int = 3) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
