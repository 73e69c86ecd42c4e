"""Writes the files of one reconstructed face, with its hypotheses."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.reconstruct.observing import ObservedFace
from experiments.reconstruct.views import HeadRenders, draw_clay_sheet, mask_in_photo, overlay
from experiments.results import vertex_spread
from experiments.view.viewer_page import ViewerScene, viewer_page
from fitting.fit_model import FitModel
from flamejax.files import write_text
from flamejax.head import HeadModel
from flamejax.io.meshes import TexturedMesh, write_glb, write_obj
from flamejax.io.results import FORMAT_VERSION, HYPOTHESES, HeadIdentity
from flamejax.io.results_writing import camera_record, fit_npz, head_mesh, hypothesis_npz
from flamejax.types import VISIBLE_CONFIDENCE, Fit, Hypotheses, Observation
from sampling._complete import eyeball_vertices

SHEET, VIEWER = f"{HYPOTHESES}/sheet.jpg", "index.html"
"""Files in a face's folder: the picture of its hypotheses, and the page that shows them in 3D."""
HYPOTHESIS_FILES = ("params.npz", "mesh.glb")
"""Files of each hypothesis."""
EXACT_METRES = 1e-5
"""Global parameters count as exact when their vertices differ from the fit's by less."""


@dataclass(frozen=True)
class FaceResult:
    """One face with its fit and hypotheses, as NumPy arrays without batch axes."""

    face: ObservedFace
    fit: Fit
    texture: np.ndarray
    """(Ht, Wt, 3) in [0, 1]."""
    parameter_error: float
    """Largest distance, metres, between the fit's vertices and those of its global parameters without local models."""
    seconds: float
    """Seconds of the fit, per face of its batch, without compiling."""
    hypotheses: Hypotheses | None = None
    """Other heads that agree with the photo, best first."""
    midpoints: np.ndarray | None = None
    """(P, V, 3) world metres: heads half-way between the first hypotheses, from `sampling.midpoints`; None for methods
    without latents."""

    @functools.cached_property
    def camera(self) -> dict[str, Any]:
        """The content of camera.json."""
        face, observation = self.face, self.face.observation
        overlay_size = face.preview.shape[1], face.preview.shape[0]
        crop_side = observation.image.shape[0]
        return camera_record(self.fit.camera, observation.crop, crop_side, face.photo_size, overlay_size)


@dataclass(frozen=True)
class ResultWriter:
    """Writes the results of one run."""

    head: HeadModel
    identity: HeadIdentity
    model: FitModel
    """The head with its local models, which was fitted."""
    settings: dict[str, Any]
    """The run's settings, for metrics.json."""

    def write(self, folder: Path, result: FaceResult, renders: HeadRenders) -> None:
        """Write all of RESULT_FILES, and `hypothesis_files`, into an existing folder. Raises: OSError."""
        face, observation = result.face, result.face.observation
        exact, local = result.parameter_error < EXACT_METRES, str(self.settings.get("local"))
        (folder / "params.npz").write_bytes(fit_npz(result.fit, self.model, self.identity, exact, local))
        _write_json(folder / "camera.json", result.camera)
        _write_json(folder / "landmarks.json", _landmarks_record(result))
        zoom, offset = float(observation.crop.scale) / face.preview_scale, np.asarray(observation.crop.offset)
        pixels = overlay(face.preview, renders, zoom, offset, observation.image.shape[0])
        Image.fromarray(pixels).save(folder / "overlay.png", compress_level=4)
        # A mask that the user gave is written unchanged: the crop's copy has soft edges.
        given = face.given_mask
        occlusion = _crop_mask_in_preview(face, observation.occlusion_mask) if given is None else given
        Image.fromarray(occlusion).save(folder / "occlusion_mask.png")
        Image.fromarray(_crop_mask_in_preview(face, observation.face_mask)).save(folder / "face_mask.png")
        mesh = head_mesh(self.head, result.fit.vertices, result.texture)
        write_obj(folder / "mesh.obj", mesh)
        write_glb(folder / "mesh.glb", mesh)
        # Eyeballs count as visible, as they do for the Mesh-VAE.
        visible = np.asarray(result.fit.vertex_visibility, bool) | np.asarray(eyeball_vertices(self.head))
        if result.hypotheses is not None:
            self._write_hypotheses(folder, result, result.hypotheses, mesh, visible)
        _write_json(folder / "metrics.json", self._metrics(result, visible))

    def _write_hypotheses(
        self, folder: Path, result: FaceResult, hypotheses: Hypotheses, fit: TexturedMesh, visible: np.ndarray
    ) -> None:
        for i, vertices in enumerate(hypotheses.vertices):
            inner = folder / HYPOTHESES / f"{i:02d}"
            inner.mkdir(parents=True)
            (inner / "params.npz").write_bytes(hypothesis_npz(hypotheses, i, self.identity))
            write_glb(inner / "mesh.glb", dataclasses.replace(fit, vertices=np.asarray(vertices, np.float64)))
        heads, spread = np.asarray(hypotheses.vertices), vertex_spread(hypotheses.vertices)
        sheet = draw_clay_sheet(np.asarray(result.fit.vertices), heads, spread, self.head.faces)
        sheet.save(folder / SHEET, quality=88)
        full, zoom = result.camera["full_image"], result.face.preview_scale
        scene = ViewerScene(
            title=result.face.name,
            fit=fit,
            heads=np.asarray(heads, np.float32),
            scores=np.asarray(hypotheses.score),
            midpoints=result.midpoints,
            visible=visible,
            spread=spread,
            light=np.asarray(result.fit.light),
            photo=result.face.preview,
            scale=zoom * full["scale"],
            translation=zoom * np.asarray(full["translation"]),
        )
        write_text(folder / VIEWER, viewer_page(scene))

    def _metrics(self, result: FaceResult, visible: np.ndarray) -> dict[str, Any]:
        """Return the content of metrics.json. A loss that is not finite (nothing to measure) is null."""
        face, fit = result.face, result.fit
        losses = {name: float(value) if np.isfinite(value) else None for name, value in fit.losses.items()}
        visible_landmarks = np.asarray(face.observation.confidence) > VISIBLE_CONFIDENCE
        of_hypotheses = {}
        if result.hypotheses is not None:
            of_hypotheses = hypotheses_record(np.asarray(result.hypotheses.vertices), np.asarray(fit.vertices), visible)
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
            "visible_landmarks": int(visible_landmarks.sum()),
            "visible_vertices": round(float(np.mean(fit.vertex_visibility)), 4),
            "hidden_share": round(hidden, 4) if np.isfinite(hidden := face.hidden_share) else None,
            "losses": losses,
            "exact": result.parameter_error < EXACT_METRES,
            "fit_seconds": round(result.seconds, 3),
            **of_hypotheses,
            "head": dataclasses.asdict(self.identity),
            "settings": self.settings,
            "inputs": face.inputs,
        }


def hypothesis_files(count: int) -> list[str]:
    """Return the files of a result with `count` hypotheses, besides RESULT_FILES."""
    each = [f"{HYPOTHESES}/{i:02d}/{file}" for i in range(count) for file in HYPOTHESIS_FILES]
    return [*each, SHEET, VIEWER] if count else []


def hypotheses_record(heads: np.ndarray, fit: np.ndarray, visible: np.ndarray) -> dict[str, Any]:
    """Return the entries of metrics.json about hypotheses `heads` (M, V, 3), world metres; distances in mm.

    They are: their number; their distance from the fit (V, 3), median over the vertices in `visible` (V,) and all
    heads; and their spread (RMS distance from their mean) over visible and over hidden vertices.
    """
    distances = np.linalg.norm(heads[:, visible].astype(np.float64) - fit[visible], axis=-1)
    spread = vertex_spread(heads)
    record: dict[str, Any] = {"hypotheses": len(heads)}
    for name, values, reduce in (
        ("hypotheses_visible_mm", distances, np.median),
        ("hypotheses_visible_spread_mm", spread[visible], _rms),
        ("hypotheses_hidden_spread_mm", spread[~visible], _rms),
    ):
        record[name] = round(1e3 * float(reduce(values)), 4) if values.size else None
    return record


def _crop_mask_in_preview(face: ObservedFace, mask: Any) -> np.ndarray:
    """Resample a mask (S, S) of the crop to the preview: (h, w) uint8 of 0 and 255."""
    crop, size = face.observation.crop, (face.preview.shape[1], face.preview.shape[0])
    offset = np.asarray(crop.offset, np.float64)
    return mask_in_photo(np.asarray(mask), float(crop.scale), offset, face.photo_size, size)


def _landmarks_record(result: FaceResult) -> dict[str, Any]:
    """Return the content of landmarks.json. `points` and `confidence` are in the form that --landmarks reads."""
    observation, full = result.face.observation, result.camera["full_image"]
    landmarks = np.asarray(result.fit.landmarks, np.float64)
    record = {
        "format_version": FORMAT_VERSION,
        "scheme": "iBUG 68",
        "frame": "pixels of the full image",
        "points": _in_photo(observation, observation.landmarks, observation.confidence),
        "confidence": _rounded(observation.confidence, 6),
        "fitted": _rounded(full["scale"] * landmarks[:, :2] * (1.0, -1.0) + np.asarray(full["translation"])),
        "fitted_3d": _rounded(landmarks, 6),
    }
    if np.any(observation.dense_landmarks):
        dense = observation.dense_landmarks, observation.dense_confidence
        record["dense_points"] = _in_photo(observation, *dense)
        record["dense_confidence"] = _rounded(observation.dense_confidence, 6)
    return record


def _in_photo(observation: Observation, points: Any, confidence: Any) -> list[list[float] | None]:
    """Convert crop pixels (N, 2) to pixels of the full photo; None where a point is missing."""
    points, confidence, crop = np.asarray(points), np.asarray(confidence), observation.crop
    in_photo = (points.astype(np.float64) - np.asarray(crop.offset)) / float(crop.scale)
    missing = (confidence == 0) & (points == 0).all(axis=-1)
    return [None if absent else point for absent, point in zip(missing, _rounded(in_photo), strict=True)]


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _rounded(values: Any, digits: int = 3) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
