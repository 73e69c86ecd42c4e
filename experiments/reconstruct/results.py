"""The files of one reconstructed face."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.reconstruct.observing import Face
from experiments.reconstruct.views import View, mask_over, overlay
from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.head import HeadParams
from flamejax.io.meshes import TexturedMesh, write_glb, write_obj
from flamejax.types import VISIBLE_CONFIDENCE, Hypotheses
from sampling._complete import eyeball_vertices

FORMAT_VERSION = 1
RESULT_FILES = (
    "params.npz",
    "camera.json",
    "landmarks.json",
    "overlay.png",
    "occlusion_mask.png",
    "face_mask.png",
    "mesh.obj",
    "mesh.mtl",
    "mesh.png",
    "mesh.glb",
    "metrics.json",
)
EXACT_METRES = 1e-5
"""Parameters count as exact when the vertices they give differ by less."""


@dataclass(frozen=True)
class HeadIdentity:
    """Which head model a result belongs to."""

    name: str
    version: str
    licence: str
    sha256: str
    """Of its file."""


@dataclass(frozen=True)
class FittedFace:
    """One face with its fit, as NumPy arrays without batch axes."""

    face: Face
    params: HeadParams
    """Of the head without local models."""
    local: np.ndarray | None
    """Coefficients of local models, where the fit has them."""
    vertices: np.ndarray
    """(V, 3) world metres."""
    landmarks: np.ndarray
    """(68, 3) world metres."""
    camera: OrthographicCamera
    """World to crop pixels."""
    texture: np.ndarray
    """(Ht, Wt, 3) in [0, 1]."""
    texture_coefficients: np.ndarray
    """(C,) standard deviations."""
    light: np.ndarray
    """(9, 3)."""
    vertex_visibility: np.ndarray
    """(V,)."""
    losses: dict[str, float]
    parameter_error: float
    """Largest distance, metres, between `vertices` and those of `params` alone."""
    seconds: float
    """Of the fit, per face of its batch, compiling left out."""
    hypotheses: Hypotheses | None = None
    """Other heads that the photo allows, best first."""
    midpoints: np.ndarray | None = None
    """(P, V, 3) world metres: half-way between the first of them, see `sampling.interpolate`; None of methods without
    latents."""


def write_result(
    folder: Path, fitted: FittedFace, head: Any, identity: HeadIdentity, view: View, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write all of RESULT_FILES into an existing folder. Returns what metrics.json says.

    Raises:
        OSError: the disk refuses.
    """
    face = fitted.face
    (folder / "params.npz").write_bytes(_params_bytes(fitted, identity, str(settings.get("local"))))
    _write_json(folder / "camera.json", camera_record(fitted))
    _write_json(folder / "landmarks.json", landmarks_record(fitted))
    crop = face.observation.crop
    drawn = overlay(
        face.preview,
        view,
        float(crop.scale) / face.preview_scale,
        np.asarray(crop.offset),
        face.observation.image.shape[0],
    )
    Image.fromarray(drawn).save(folder / "overlay.png", compress_level=4)
    Image.fromarray(written_mask(face)).save(folder / "occlusion_mask.png")
    Image.fromarray(_over_preview(face, face.observation.face_mask)).save(folder / "face_mask.png")
    mesh = TexturedMesh(
        np.asarray(fitted.vertices, np.float64),
        np.asarray(head.faces),
        np.asarray(head.uv, np.float64),
        np.asarray(head.uv_faces),
        fitted.texture,
    )
    write_obj(folder / "mesh.obj", mesh)
    write_glb(folder / "mesh.glb", mesh)
    metrics = metrics_record(fitted, identity, settings, np.asarray(eyeball_vertices(head)))
    _write_json(folder / "metrics.json", metrics)
    return metrics


def written_mask(face: Face) -> np.ndarray:
    """What occlusion_mask.png shows, (h, w) uint8 of 0 and 255 in the preview's size: the user's mask as it was given,
    or the one that the fit used in its crop and nothing outside."""
    return _over_preview(face, face.observation.occlusion_mask) if face.given_mask is None else face.given_mask


def _over_preview(face: Face, mask: Any) -> np.ndarray:
    """A mask (S, S) of the crop in the preview's size: (h, w) uint8 of 0 and 255."""
    crop = face.observation.crop
    size = (face.preview.shape[1], face.preview.shape[0])
    return mask_over(np.asarray(mask), float(crop.scale), np.asarray(crop.offset, np.float64), face.photo_size, size)


def camera_record(fitted: FittedFace) -> dict[str, Any]:
    """What camera.json says: the camera of the crop and of the full photo, and how they hang together."""
    face, crop = fitted.face, fitted.face.observation.crop
    a, offset = float(crop.scale), np.asarray(crop.offset, np.float64)
    scale, translation = float(fitted.camera.scale), np.asarray(fitted.camera.translation, np.float64)
    side = face.observation.image.shape[0]
    return {
        "format_version": FORMAT_VERSION,
        "model": "orthographic",
        "projection": "pixels = scale * (x, -y) + translation, of world metres (+y up, the face looks to +z)",
        "pixels": "x right, y down, (0, 0) is the top-left corner of the image, pixel centres at +0.5",
        "crop": {"size": [side, side], "scale": scale, "translation": translation.tolist()},
        "full_image": {
            "size": list(face.photo_size),
            "scale": scale / a,
            "translation": ((translation - offset) / a).tolist(),
        },
        "crop_transform": {"scale": a, "offset": offset.tolist(), "meaning": "crop = scale * full_image + offset"},
        "overlay": {
            "size": [face.preview.shape[1], face.preview.shape[0]],
            "scale": face.preview_scale,
            "meaning": "pixels of overlay.png per pixel of the full image",
        },
    }


def landmarks_record(fitted: FittedFace) -> dict[str, Any]:
    """What landmarks.json says. `points` and `confidence` are in the form that --landmarks reads."""
    seen = fitted.face.observation
    record = {
        "format_version": FORMAT_VERSION,
        "scheme": "iBUG 68",
        "frame": "pixels of the full image",
        "points": _in_photo(seen.crop, seen.landmarks, seen.confidence),
        "confidence": _rounded(seen.confidence, 6),
        "fitted": _rounded(_projected(fitted)),
        "fitted_3d": _rounded(fitted.landmarks, 6),
    }
    if np.any(seen.dense_landmarks):
        record["dense_points"] = _in_photo(seen.crop, seen.dense_landmarks, seen.dense_confidence)
        record["dense_confidence"] = _rounded(seen.dense_confidence, 6)
    return record


def _in_photo(crop: CropTransform, points: Any, confidence: Any) -> list[list[float] | None]:
    """Crop pixels (N, 2) as pixels of the full photo; None where missing."""
    points, confidence = np.asarray(points), np.asarray(confidence)
    moved = (points.astype(np.float64) - np.asarray(crop.offset)) / float(crop.scale)
    missing = (confidence == 0) & (points == 0).all(axis=-1)
    return [None if gone else p for gone, p in zip(missing, _rounded(moved), strict=True)]


def metrics_record(
    fitted: FittedFace, identity: HeadIdentity, settings: dict[str, Any], eyeballs: np.ndarray
) -> dict[str, Any]:  # fmt: skip
    """What metrics.json says. A loss that is not a number (nothing to measure) is null."""
    face = fitted.face
    confidence = np.asarray(face.observation.confidence)
    losses = {name: value if np.isfinite(value) else None for name, value in fitted.losses.items()}
    return {
        "format_version": FORMAT_VERSION,
        "name": face.name,
        "photo": str(face.photo.path),
        "photo_path": str(face.photo.path.resolve()),
        "photo_sha256": face.photo_sha256,
        "photo_size": list(face.photo_size),
        "face": face.index,
        "num_faces": face.count,
        "method": settings["method"],
        "landmark_nme": losses.pop("nme", None),
        "visible_landmarks": int((confidence > VISIBLE_CONFIDENCE).sum()),
        "visible_vertices": round(float(np.mean(fitted.vertex_visibility)), 4),
        "losses": losses,
        "exact": fitted.parameter_error < EXACT_METRES,
        "fit_seconds": round(fitted.seconds, 3),
        **hypotheses_record(fitted, eyeballs),
        "head": dataclasses.asdict(identity),
        "settings": settings,
    }


def hypotheses_record(fitted: FittedFace, eyeballs: np.ndarray) -> dict[str, Any]:
    """What metrics.json says of hypotheses: how many; how far they lie from the fit where the photo shows the head
    (median over these vertices and all heads); how far from each other (RMS distance from their mean), there and where
    nothing is seen. Eyeballs count as seen, as for the Mesh-VAE."""
    if fitted.hypotheses is None:
        return {}
    heads = np.asarray(fitted.hypotheses.vertices, np.float64)
    seen = np.asarray(fitted.vertex_visibility, bool) | eyeballs
    away = np.linalg.norm(heads[:, seen] - fitted.vertices[None, seen], axis=-1)
    spread = spread_of(heads)
    record: dict[str, Any] = {"hypotheses": len(heads)}
    for name, values, reduce in (
        ("hypotheses_visible_mm", away, np.median),
        ("hypotheses_visible_spread_mm", spread[seen], _rms),
        ("hypotheses_hidden_spread_mm", spread[~seen], _rms),
    ):
        record[name] = round(1e3 * float(reduce(values)), 4) if values.size else None
    return record


def spread_of(heads: np.ndarray) -> np.ndarray:
    """(V,) RMS distance of each vertex from its mean over heads (M, V, 3)."""
    return np.sqrt(((heads - heads.mean(axis=0)) ** 2).sum(axis=-1).mean(axis=0))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _projected(fitted: FittedFace) -> np.ndarray:
    """Fitted landmarks (68, 2) in pixels of the full photo."""
    full = camera_record(fitted)["full_image"]
    return full["scale"] * fitted.landmarks[:, :2] * (1.0, -1.0) + np.asarray(full["translation"])


def _params_bytes(fitted: FittedFace, identity: HeadIdentity, local_model: str) -> bytes:
    """An .npz without objects, so that it loads with allow_pickle=False. local_model: which the coefficients are of."""
    arrays: dict[str, Any] = {f.name: getattr(fitted.params, f.name) for f in dataclasses.fields(fitted.params)}
    arrays |= {
        "format_version": np.int32(FORMAT_VERSION),
        "head_name": np.str_(identity.name),
        "head_version": np.str_(identity.version),
        "head_sha256": np.str_(identity.sha256),
        "exact": np.bool_(fitted.parameter_error < EXACT_METRES),
        "vertices": np.asarray(fitted.vertices, np.float32),
        "landmarks_3d": np.asarray(fitted.landmarks, np.float32),
        "texture": np.asarray(fitted.texture_coefficients, np.float32),
        "light": np.asarray(fitted.light, np.float32),
        "vertex_visibility": fitted.vertex_visibility,
    }
    if fitted.local is not None:
        arrays["local"] = np.asarray(fitted.local, np.float32)
        arrays["local_model"] = np.str_(local_model)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _rounded(values: Any, digits: int = 3) -> list:
    return np.round(np.asarray(values, np.float64), digits).tolist()


def _write_json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
