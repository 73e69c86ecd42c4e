"""MediaPipe's 468 face points on a head's surface, and the 51 inner iBUG landmarks as the detector places them.

Every landmark set defines points such as a mouth corner differently. A head's own landmarks follow the annotators of
iBUG, a detector follows its training data. `experiments.calibrate_landmarks` measures on renders of known heads where
on the surface the detector places its points, and writes a file that this module reads.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from flamejax.head.blend_skin import select_vertices, vertices
from flamejax.head.formats import HeadFileError, open_head_path, read_npz
from flamejax.head.model import DenseLandmarks, HeadModel
from flamejax.head.params import HeadParams

DENSE_FORMAT_VERSION = 1
NUM_DENSE, NUM_INNER = 468, 51
_SHAPES = {
    "dense_face": ("i", (NUM_DENSE,)),
    "dense_barycentric": ("f", (NUM_DENSE, 3)),
    "dense_spread": ("f", (NUM_DENSE,)),
    "landmark_face": ("i", (NUM_INNER,)),
    "landmark_barycentric": ("f", (NUM_INNER, 3)),
    "landmark_spread": ("f", (NUM_INNER,)),
}


def geometry_hash(head: HeadModel) -> str:
    """Returns the sha256 (hex) of a head's geometry: template, triangles, blend shapes, joints, skinning."""
    digest = hashlib.sha256()
    # NumPy views of the basis: the head's properties would compile and copy.
    basis, components = np.asarray(head.basis), head.joint_dirs.shape[-1]
    arrays = {
        "v_template": head.v_template,
        "faces": head.faces,
        "shapedirs": basis[:components].transpose(2, 1, 0),
        "posedirs": rearrange(basis[components:], "p i v -> p (v i)"),
        "J_regressor": head.J_regressor,
        "lbs_weights": head.lbs_weights,
    }
    for name, value in arrays.items():
        array = np.asarray(value)
        kind = "<i4" if array.dtype.kind == "i" else "<f4"
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array, kind).data)
    digest.update(f"parents {head.parents} num_betas {head.num_betas}".encode())
    return digest.hexdigest()


def dense_landmarks_path() -> Path:
    """Returns the file of the embedded open head's dense landmarks."""
    return open_head_path().with_name("open_head_landmarks.npz")


def load_dense_landmarks(head: HeadModel, path: str | os.PathLike[str] | None = None) -> DenseLandmarks | None:
    """Load a head's dense landmarks, as measured by `flamejax calibrate-landmarks`.

    Args:
      head: the head on which they were measured.
      path: the file; None for the embedded one.

    Returns:
      The landmarks; None if no path was given and the embedded file is missing or belongs to another head.

    Raises:
      HeadFileError: the file is missing, damaged or of another version, or (with a path) measured on another head.
    """
    file = dense_landmarks_path() if path is None else Path(path)
    if path is None and not file.is_file():
        return None
    arrays = _read(file)
    measured = f"{arrays['head_name']} {arrays['head_version']}"
    # The name is compared first, which saves hashing a large head.
    if measured != f"{head.name} {head.version}" or str(arrays["head_hash"]) != geometry_hash(head):
        if path is None:
            return None
        raise HeadFileError(
            f"{file}: measured on the head '{measured}' (geometry {str(arrays['head_hash'])[:12]}), "
            f"not on this '{head.name} {head.version}' (geometry {geometry_hash(head)[:12]}). "
            "Measure them with: flamejax calibrate-landmarks --head FILE --output FILE"
        )
    _check(file, arrays, len(head.faces))
    return DenseLandmarks(
        **jax.device_put(
            {name: arrays[name].astype(np.int32 if kind == "i" else np.float32) for name, (kind, _) in _SHAPES.items()}
        )
    )


@jax.jit
def dense_landmarks(head: HeadModel, dense: DenseLandmarks, params: HeadParams) -> Array:
    """Compute MediaPipe's 468 points of a posed head, from only the vertices that they need.

    Args:
      head: the model.
      dense: positions of the points on the head.
      params: batch axes (*b,).

    Returns:
      (*b, 468, 3) metres, world frame.
    """
    if params.batch:
        return jax.vmap(lambda one: dense_landmarks(head, dense, one))(params)
    triangles = head.faces[dense.dense_face]
    corners = vertices(select_vertices(head, triangles.reshape(-1)), params).reshape(*triangles.shape, 3)
    return jnp.sum(corners * dense.dense_barycentric[..., None], axis=-2)


def calibrated(head: HeadModel, dense: DenseLandmarks) -> HeadModel:
    """Returns the head with its 51 inner landmarks where the detector places them; the jaw contour is unchanged."""
    embedding = dataclasses.replace(
        head.landmark_embedding, face=dense.landmark_face, barycentric=dense.landmark_barycentric
    )
    return dataclasses.replace(head, landmark_embedding=embedding)


def with_dense_landmarks(head: HeadModel) -> HeadModel:
    """Returns the head with the embedded calibration applied, if it was measured on this head."""
    dense = load_dense_landmarks(head)
    return head if dense is None else dataclasses.replace(calibrated(head, dense), dense=dense)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise HeadFileError(f"{path}: no such landmark file.")
    arrays = read_npz(path)
    missing = [n for n in ("format_version", "head_name", "head_version", "head_hash", *_SHAPES) if n not in arrays]
    if missing:
        raise HeadFileError(f"{path}: not a file of dense landmarks ('{missing[0]}' is missing).")
    version = arrays["format_version"]
    if version.dtype.kind not in "iu" or version.ndim or int(version) != DENSE_FORMAT_VERSION:
        raise HeadFileError(
            f"{path}: landmark format {str(version)[:20]}, "
            f"but this flamejax reads format {DENSE_FORMAT_VERSION}."
        )
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray], triangles: int) -> None:
    for name, (kind, shape) in _SHAPES.items():
        array = arrays[name]
        if array.dtype.kind != kind or array.shape != shape:
            raise HeadFileError(f"{path}: '{name}' is {array.dtype} {array.shape}, not the expected type and shape.")
        if kind == "f" and not np.isfinite(array).all():
            raise HeadFileError(f"{path}: '{name}' holds numbers that are not finite.")
        if kind == "i" and not (array.min() >= 0 and array.max() < triangles):
            raise HeadFileError(f"{path}: '{name}' points outside the head's {triangles} triangles.")
        if name.endswith("_spread") and array.min() <= 0:
            raise HeadFileError(f"{path}: '{name}' must be positive.")
