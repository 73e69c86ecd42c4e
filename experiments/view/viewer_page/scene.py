"""Defines the viewer's scene, and packs its arrays into the page.

Coordinates are rounded to a grid of 65,534 steps over the largest extent of all heads along an axis (0.4 m: steps of
6 um, an error of up to 3 um in each coordinate). Hypotheses are stored as differences from the fit, whose high bytes
are nearly all zero, and the bytes of one significance together, so that gzip compresses them well.
"""

from __future__ import annotations

import base64
import gzip
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from flamejax.io.meshes import TexturedMesh, split_seams

MIDPOINT_HEADS = 16
"""Pairs of the first this many hypotheses have decoded midpoints; between others the viewer interpolates linearly."""
GRID_STEPS = 65534
NEGLIGIBLE = 1e-5
"""Metres: midpoints that deviate less from the straight line, in every coordinate, are left out."""


@dataclass(frozen=True)
class ViewerScene:
    """The content of a viewer page: a fit, its hypotheses and the photo, as NumPy arrays."""

    title: str
    fit: TexturedMesh
    """World metres, with texture coordinates and a texture."""
    heads: np.ndarray
    """(M, V, 3) hypotheses, best first, same frame."""
    scores: np.ndarray
    """(M,) log probabilities in nats, up to a constant."""
    midpoints: np.ndarray | None
    """(P, V, 3) heads half-way between the first N <= MIDPOINT_HEADS hypotheses, ordered by `np.triu_indices(N, 1)`;
    None for linear interpolation."""
    visible: np.ndarray
    """(V,) bool: whether the photo shows the vertex."""
    spread: np.ndarray
    """(V,) metres: RMS distance of each vertex from its mean over the hypotheses."""
    light: np.ndarray
    """(9, 3) spherical harmonics, as in `flamejax.rendering.light`."""
    photo: np.ndarray
    """(h, w, 3) uint8."""
    scale: float
    """Scale of the camera: pixels of `photo` = scale * (x, -y) + translation."""
    translation: np.ndarray
    """(2,)."""


def pack(scene: ViewerScene) -> tuple[dict[str, Any], str]:
    """Return the input of `unpack.js`: a header for JSON, and arrays as base64 of gzip.

    Raises: ValueError, shapes do not match, or coordinates are not finite."""
    _check(scene)
    blobs: list[bytes] = []
    arrays: dict[str, dict[str, Any]] = {}

    def put(name: str, values: np.ndarray) -> None:
        little_endian = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        # Bytes of one significance together.
        data = little_endian.view(np.uint8).reshape(-1, little_endian.dtype.itemsize).T.tobytes()
        arrays[name] = {"type": values.dtype.name, "count": values.size, "offset": sum(map(len, blobs))}
        blobs.append(data)

    quantised, centre, step = quantise(np.concatenate([scene.fit.vertices[None], scene.heads]))
    # Differences wrap around at 2^16; so does the script's sum.
    quantised[1:] -= quantised[:1]
    put("heads", quantised)
    bends, bend_steps = _bends(scene)
    put("bends", bends)
    put("seen", np.asarray(scene.visible, np.uint8))
    put("spread", np.asarray(scene.spread, np.float32))
    vertex, uv_index, corners = split_seams(scene.fit)
    count = len(scene.fit.vertices)
    put("faces", _indices(scene.fit.faces, count))
    put("corners", _indices(corners, len(vertex)))
    put("vertex", _indices(vertex, count))
    put("uv", np.asarray(np.asarray(scene.fit.uv)[uv_index], np.float32))
    header = {
        "title": scene.title,
        "vertices": count,
        "heads": len(scene.heads),
        "scores": [round(float(score), 3) for score in scene.scores],
        "centre": centre.tolist(),
        "step": step,
        "bendSteps": bend_steps,
        "scale": float(scene.scale),
        "translation": np.asarray(scene.translation, np.float64).tolist(),
        "light": np.asarray(scene.light, np.float64).round(5).tolist(),
        "photoSize": [scene.photo.shape[1], scene.photo.shape[0]],
        "photo": _picture(scene.photo, 88),
        "texture": _picture(np.round(np.clip(np.asarray(scene.fit.texture), 0, 1) * 255).astype(np.uint8), 92),
        "arrays": arrays,
    }
    # mtime 0: the same scene gives the same page.
    return header, base64.b64encode(gzip.compress(b"".join(blobs), 9, mtime=0)).decode()


def quantise(heads: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return int16 q (N, V, 3), centre (3,) and step, metres: heads (N, V, 3) = centre + step q +- step / 2."""
    flat = np.asarray(heads, np.float64).reshape(-1, 3)
    low, high = flat.min(axis=0), flat.max(axis=0)
    centre, step = (low + high) / 2, max(float((high - low).max()), 1e-6) / GRID_STEPS
    return np.round((heads - centre) / step).astype(np.int16), centre, step


def _bends(scene: ViewerScene) -> tuple[np.ndarray, list[float]]:
    """Return the deviation of midpoints from the straight line, quantised, and each pair's step in metres.

    The deviations are int8 (K, V, 3), of the pairs where one exceeds NEGLIGIBLE; the step of other pairs is 0."""
    if scene.midpoints is None:
        return np.zeros(0, np.int8), []
    first, second = np.triu_indices(min(MIDPOINT_HEADS, len(scene.heads)), 1)
    bends, steps = [], []
    for i, j, middle in zip(first, second, np.asarray(scene.midpoints, np.float64), strict=True):
        bend = middle - (scene.heads[i].astype(np.float64) + scene.heads[j]) / 2
        largest = float(np.abs(bend).max())
        steps.append(largest / 127 if largest > NEGLIGIBLE else 0.0)
        if steps[-1]:
            bends.append(np.round(bend / steps[-1]).astype(np.int8))
    return np.stack(bends) if bends else np.zeros(0, np.int8), steps


def _indices(values: np.ndarray, count: int) -> np.ndarray:
    return np.asarray(values, np.uint16 if count <= 2**16 else np.uint32)


def _picture(pixels: np.ndarray, quality: int) -> str:
    """Return pixels as a data: URL of a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _check(scene: ViewerScene) -> None:
    if not len(scene.heads):
        raise ValueError("there are no hypotheses to show.")
    shape = scene.fit.vertices.shape
    if scene.heads.shape[1:] != shape or len(scene.scores) != len(scene.heads):
        raise ValueError(
            f"a fit of shape {shape}, but hypotheses of {scene.heads.shape} with {len(scene.scores)} scores."
        )
    if not np.isfinite(scene.heads).all():
        raise ValueError("vertices hold NaN or infinite values.")
