"""Writing of a result's files in the format that `flamejax.io.results` reads."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import jax
import numpy as np

from flamejax.camera import CropTransform, OrthographicCamera
from flamejax.head.model import HeadModel
from flamejax.head.params import HeadParams
from flamejax.io.meshes import TexturedMesh
from flamejax.io.results import FORMAT_VERSION, LOCAL_COUNTS, FittedModel, HeadIdentity
from flamejax.types import Fit, Hypotheses


def fit_npz(fit: Fit, model: FittedModel, head: HeadIdentity, exact: bool, local_model: str) -> bytes:
    """Encode a face's params.npz, without objects, so that it loads with allow_pickle=False.

    Args:
        fit: without batch axes.
        model: the fitted model. The file's `betas` and `expression` are those of its head without local models.
        exact: whether the head without local models reproduces the vertices from these parameters.
        local_model: identity of the local models that the coefficients `local` belong to.
    """
    arrays = _param_arrays(model.global_params(fit.params))
    arrays |= {
        "exact": np.bool_(exact),
        "vertices": np.asarray(fit.vertices, np.float32),
        "landmarks_3d": np.asarray(fit.landmarks, np.float32),
        "texture": np.asarray(fit.texture, np.float32),
        "light": np.asarray(fit.light, np.float32),
        "vertex_visibility": np.asarray(fit.vertex_visibility),
    }
    local = model.local_coefficients(fit.params)
    if local is not None:
        counts = model.global_betas, model.global_expression, model.head.num_betas - model.global_betas
        arrays |= {name: np.int32(count) for name, count in zip(LOCAL_COUNTS, counts, strict=True)}
        arrays |= {"local": np.asarray(local, np.float32), "local_model": np.str_(local_model)}
    return _npz_bytes(head, arrays)


def hypothesis_npz(hypotheses: Hypotheses, index: int, head: HeadIdentity) -> bytes:
    """Encode params.npz of one hypothesis of a face, without objects."""
    one = jax.tree.map(lambda leaf: leaf[index], hypotheses)
    arrays = {"vertices": np.asarray(one.vertices, np.float32), "score": np.float32(one.score)}
    if one.latents is not None:
        arrays["latents"] = np.asarray(one.latents, np.float32)
    if one.params is not None:
        # The vertices are those of the parameters times the size, so that they fit the camera of the fit: a photo
        # does not determine scale.
        arrays |= _param_arrays(one.params) | {"size": np.float32(1.0 if one.size is None else one.size)}
    return _npz_bytes(head, arrays)


def camera_record(
    camera: OrthographicCamera, crop: CropTransform, side: int, photo: tuple[int, int], overlay: tuple[int, int]
) -> dict[str, Any]:
    """Returns camera.json's content: the cameras of the crop (`side` pixels) and of the photo, and their transform.

    photo, overlay: (width, height) of the full photo and of the overlay images, pixels.
    """
    # Double precision: pixels of a large photo need more digits than float32 has.
    camera, crop = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (camera, crop))
    full = camera.to_full(crop)
    return {
        "format_version": FORMAT_VERSION,
        "model": "orthographic",
        "projection": "pixels = scale * (x, -y) + translation, of world metres (+y up, the face looks to +z)",
        "pixels": "x right, y down, (0, 0) is the top-left corner of the image, pixel centres at +0.5",
        "crop": {"size": [side, side], "scale": float(camera.scale), "translation": camera.translation.tolist()},
        "full_image": {"size": list(photo), "scale": float(full.scale), "translation": full.translation.tolist()},
        "crop_transform": {
            "scale": float(crop.scale),
            "offset": crop.offset.tolist(),
            "meaning": "crop = scale * full_image + offset",
        },
        "overlay": {
            "size": list(overlay),
            "scale": overlay[0] / photo[0],
            "meaning": "pixels of overlay.png per pixel of the full image",
        },
    }


def head_mesh(head: HeadModel, vertices: Any, texture: np.ndarray) -> TexturedMesh:
    """Combine vertices (V, 3) with the head's triangles and UVs, and a texture (Ht, Wt, 3) in [0, 1]."""
    uv, uv_faces = np.asarray(head.uv, np.float64), np.asarray(head.uv_faces)
    return TexturedMesh(np.asarray(vertices, np.float64), np.asarray(head.faces), uv, uv_faces, texture)


def _param_arrays(params: HeadParams) -> dict[str, Any]:
    return {field.name: np.asarray(getattr(params, field.name), np.float32) for field in dataclasses.fields(params)}


def _npz_bytes(head: HeadIdentity, arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    identity = {f"head_{name}": np.str_(getattr(head, name)) for name in ("name", "version", "sha256")}
    np.savez_compressed(buffer, **({"format_version": np.int32(FORMAT_VERSION)} | identity | arrays))
    return buffer.getvalue()
