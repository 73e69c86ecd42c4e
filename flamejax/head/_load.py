"""Loading head models."""

import os
from pathlib import Path

import numpy as np

from flamejax.head._dense_landmarks import with_dense_landmarks
from flamejax.head.formats import FlameFiles, open_head_path, read_head
from flamejax.head.model import HeadModel, LandmarkEmbedding

ALBEDO_STEP = 127.0
"""The open head's albedo basis is stored as int8: 127 stands for one `albedo_scale`."""


def load_head(
    path: str | os.PathLike[str] | None = None, *, calibrate: bool = True, flame: FlameFiles | None = None
) -> HeadModel:
    """Load a head model.

    Nothing in a file is ever run: pickles are read as data (`formats.safe_pickle`). FLAME models take about a
    second to read; `flamejax convert` makes an `.npz` of one, which holds its companions as well.

    Args:
      path: a flamejax `.npz`; a FLAME model, `.pkl` or `.npz`, with its companion files beside it; a folder with
        ICT-FaceKit's `FaceXModel`; None for the embedded open head (CC0).
      calibrate: attach the detector's dense landmarks and move the inner landmarks to where the detector puts them, if
        the embedded calibration was measured on this very head; False leaves the landmarks as the file has them.
      flame: where a FLAME model's companions lie, if not beside it, and how much of them to take.

    Returns:
      The model, on the default device.

    Raises:
      HeadFileError: the file is missing, damaged, dangerous, of another version, or no head model; or a FLAME model's
        landmarks are missing. The message says what to do.
    """
    head = _assembled(read_head(Path(path) if path is not None else open_head_path(), flame))
    return with_dense_landmarks(head) if calibrate else head


def _assembled(found: dict[str, np.ndarray]) -> HeadModel:
    """The model of `read_head`'s arrays."""
    basis = _widened(found["albedo_basis"])
    basis *= (_widened(found["albedo_scale"]) / ALBEDO_STEP)[:, None, None, None]
    mean, form = _widened(found["albedo_mean"]), found["albedo_mean"].dtype.kind
    return HeadModel.from_arrays(
        _widened(found["v_template"]),
        found["faces"],
        _widened(found["shapedirs"]),
        posedirs=_widened(found["posedirs"]),
        J_regressor=_widened(found["J_regressor"]),
        lbs_weights=_widened(found["lbs_weights"]),
        uv=_widened(found["uv"]),
        uv_faces=found["uv_faces"],
        num_betas=int(found["num_betas"]),
        parents=tuple(int(parent) for parent in found["parents"]),
        landmark_embedding=LandmarkEmbedding.from_arrays(
            found["landmark_face"],
            _widened(found["landmark_barycentric"]),
            found["contour_face"],
            _widened(found["contour_barycentric"]),
        ),
        regions={str(n): m for n, m in zip(found["region_names"], found["region_masks"], strict=True)},
        albedo_mean=mean if form == "f" else mean / np.float32(255.0),
        albedo_basis=basis,
        expression_range=_widened(found["expression_range"]) if "expression_range" in found else None,
        name=str(found["name"]),
        version=str(found["version"]),
        licence=str(found["licence"]),
    )


def _widened(array: np.ndarray) -> np.ndarray:
    """Any real array as float32. numpy widens float16 slowly; there are only 65,536 of them, so a table is faster."""
    if array.dtype != np.float16:
        return array.astype(np.float32)
    table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return table[np.ascontiguousarray(array).view(np.uint16)]
