"""Loading head models."""

import os
from pathlib import Path

import numpy as np

from flamejax.head._dense_landmarks import with_dense_landmarks
from flamejax.head.formats import FlameFiles, open_head_path, read_head
from flamejax.head.model import HeadModel, LandmarkEmbedding

ALBEDO_INT8_MAX = 127.0
"""Albedo bases are stored as int8: 127 stands for one `albedo_scale`."""


def load_head(
    path: str | os.PathLike[str] | None = None, *, calibrate: bool = True, flame: FlameFiles | None = None
) -> HeadModel:
    """Load a head model.

    No code in a file is ever run: pickles are read as data (`formats.safe_pickle`). Reading a FLAME model takes about a
    second; `flamejax convert` converts one with its companion files to a single `.npz`.

    Args:
      path: a flamejax `.npz`; a FLAME model, `.pkl` or `.npz`, with its companion files beside it; a folder with
        ICT-FaceKit's `FaceXModel`; None for the embedded open head (CC0).
      calibrate: attach the detector's dense landmarks and move the inner landmarks to the detector's positions, if the
        embedded calibration was measured on this head. False keeps the landmarks of the file.
      flame: paths of a FLAME model's companion files, if not in its folder, and how much of them to load.

    Returns:
      The model, on the default device.

    Raises:
      HeadFileError: the file is missing, damaged, dangerous, of another version, or no head model. The message says
        what to do.
    """
    head = _build_head(read_head(Path(path) if path is not None else open_head_path(), flame))
    return with_dense_landmarks(head) if calibrate else head


def _build_head(arrays: dict[str, np.ndarray]) -> HeadModel:
    """Build the model from the arrays of `read_head`."""
    basis = _to_float32(arrays["albedo_basis"])
    basis *= (_to_float32(arrays["albedo_scale"]) / ALBEDO_INT8_MAX)[:, None, None, None]
    mean, kind = _to_float32(arrays["albedo_mean"]), arrays["albedo_mean"].dtype.kind
    return HeadModel.from_arrays(
        _to_float32(arrays["v_template"]),
        arrays["faces"],
        _to_float32(arrays["shapedirs"]),
        posedirs=_to_float32(arrays["posedirs"]),
        J_regressor=_to_float32(arrays["J_regressor"]),
        lbs_weights=_to_float32(arrays["lbs_weights"]),
        uv=_to_float32(arrays["uv"]),
        uv_faces=arrays["uv_faces"],
        num_betas=int(arrays["num_betas"]),
        parents=tuple(int(parent) for parent in arrays["parents"]),
        landmark_embedding=LandmarkEmbedding.from_arrays(
            arrays["landmark_face"],
            _to_float32(arrays["landmark_barycentric"]),
            arrays["contour_face"],
            _to_float32(arrays["contour_barycentric"]),
        ),
        regions={str(n): m for n, m in zip(arrays["region_names"], arrays["region_masks"], strict=True)},
        albedo_mean=mean if kind == "f" else mean / np.float32(255.0),
        albedo_basis=basis,
        expression_range=_to_float32(arrays["expression_range"]) if "expression_range" in arrays else None,
        name=str(arrays["name"]),
        version=str(arrays["version"]),
        licence=str(arrays["licence"]),
    )


def _to_float32(array: np.ndarray) -> np.ndarray:
    """Convert any real array to float32. For float16 a table of its 65,536 values is faster than NumPy's conversion."""
    if array.dtype != np.float16:
        return array.astype(np.float32)
    table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return table[np.ascontiguousarray(array).view(np.uint16)]
