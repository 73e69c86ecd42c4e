"""Loading head models from files."""

import os
from pathlib import Path

import jax
import numpy as np

from flamejax.head._dense_landmarks import with_dense_landmarks
from flamejax.head.formats.files import HeadFileError, check_numbers, open_head_path
from flamejax.head.formats.flame_files import FlameFiles, is_flame, read_flame
from flamejax.head.formats.ict_files import find_ict_folder, read_ict
from flamejax.head.formats.npy_files import npz_names, read_npz
from flamejax.head.model import HeadModel, LandmarkEmbedding

FORMAT_VERSION = 1
ALBEDO_STEP = 127.0
"""The albedo basis is stored as int8: 127 stands for one `albedo_scale`."""

REGION_NAMES = (
    "boundary",
    "eye_region",
    "face",
    "forehead",
    "left_ear",
    "left_eye_region",
    "left_eyeball",
    "lips",
    "neck",
    "nose",
    "right_ear",
    "right_eye_region",
    "right_eyeball",
    "scalp",
)

_ARRAYS = {  # name -> (dtype kind, number of axes)
    "v_template": ("f", 2),
    "faces": ("i", 2),
    "shapedirs": ("f", 3),
    "posedirs": ("f", 2),
    "J_regressor": ("f", 2),
    "lbs_weights": ("f", 2),
    "parents": ("i", 1),
    "landmark_face": ("i", 1),
    "landmark_barycentric": ("f", 2),
    "contour_face": ("i", 2),
    "contour_barycentric": ("f", 3),
    "region_names": ("U", 1),
    "region_masks": ("b", 2),
    "uv": ("f", 2),
    "uv_faces": ("i", 2),
    "albedo_mean": ("u", 3),
    "albedo_basis": ("i", 4),
    "albedo_scale": ("f", 1),
    "num_betas": ("i", 0),
    "name": ("U", 0),
    "version": ("U", 0),
    "licence": ("U", 0),
}


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
    head = _assemble(read_head(Path(path) if path is not None else open_head_path(), flame))
    return with_dense_landmarks(head) if calibrate else head


def read_head(path: Path, flame: FlameFiles | None = None) -> dict[str, np.ndarray]:
    """The arrays of a head model under the names of flamejax's format, checked. Arguments and errors: `load_head`."""
    if path.is_dir():
        found = read_ict(find_ict_folder(path))
    elif not path.is_file():
        raise HeadFileError(f"{path}: no such head model file.")
    elif path.suffix == ".npz" and not is_flame(npz_names(path)):
        return _read_npz(path)
    elif path.suffix in (".npz", ".pkl"):
        found = read_flame(path, flame)
    else:
        raise HeadFileError(
            f"{path}: '{path.suffix}' is no form of head model. Known are flamejax's .npz, FLAME's .pkl and .npz, and "
            "ICT-FaceKit's folder."
        )
    _check(path, {"format_version": np.array(FORMAT_VERSION), **found})
    return found


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    found = read_npz(path)
    _check(path, found)
    return found


def _check(path: Path, found: dict[str, np.ndarray]) -> None:
    if "format_version" not in found:
        raise HeadFileError(f"{path}: this .npz is not a flamejax head model (it has no format_version).")
    version = found["format_version"]
    if version.dtype.kind not in "iu" or version.ndim != 0 or int(version) != FORMAT_VERSION:
        raise HeadFileError(f"{path}: head format {version}, but this flamejax reads format {FORMAT_VERSION}.")
    for name, (kind, axes) in _ARRAYS.items():
        if name not in found:
            raise HeadFileError(f"{path}: the array '{name}' is missing.")
        array = found[name]
        if array.dtype.kind not in ("iu" if kind in "iu" else kind) or array.ndim != axes:
            raise HeadFileError(f"{path}: '{name}' is {array.dtype} with {array.ndim} axes, which is not its form.")
        check_numbers(array, f"{path}: '{name}'")
    _check_shapes(path, found)
    _check_indices(path, found)


def _check_shapes(path: Path, found: dict[str, np.ndarray]) -> None:
    count, joints = found["v_template"].shape[0], found["parents"].shape[0]
    triangles = found["faces"].shape[0]
    components = found["shapedirs"].shape[-1]
    expected = {
        "v_template": (count, 3),
        "faces": (triangles, 3),
        "shapedirs": (count, 3, components),
        "posedirs": (9 * (joints - 1), 3 * count),
        "J_regressor": (joints, count),
        "lbs_weights": (count, joints),
        "landmark_face": (51,),
        "landmark_barycentric": (51, 3),
        "contour_face": (79, 17),
        "contour_barycentric": (79, 17, 3),
        "region_masks": (len(found["region_names"]), count),
        "uv_faces": (triangles, 3),
        "uv": (found["uv"].shape[0], 2),
        "albedo_basis": (found["albedo_scale"].shape[0], *found["albedo_mean"].shape),
    }
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise HeadFileError(f"{path}: '{name}' has shape {found[name].shape}, expected {shape}.")
    if joints != 5:
        raise HeadFileError(f"{path}: {joints} joints, but a head has 5 (root, neck, jaw, left eye, right eye).")
    if not 0 < int(found["num_betas"]) <= components:
        raise HeadFileError(f"{path}: num_betas is {int(found['num_betas'])} of {components} components.")
    if "expression_range" in found:
        limits = found["expression_range"]
        if limits.dtype.kind != "f" or limits.shape != (2, components - int(found["num_betas"])):
            raise HeadFileError(f"{path}: 'expression_range' is {limits.dtype} {limits.shape}, which is not its form.")
        if not ((limits[0] <= 0) & (limits[1] >= 0)).all():
            raise HeadFileError(f"{path}: 'expression_range' leaves out the neutral face.")


def _check_indices(path: Path, found: dict[str, np.ndarray]) -> None:
    limits = {
        "faces": len(found["v_template"]),
        "uv_faces": len(found["uv"]),
        "landmark_face": len(found["faces"]),
        "contour_face": len(found["faces"]),
    }
    for name, limit in limits.items():
        if found[name].size and not (0 <= found[name].min() and found[name].max() < limit):
            raise HeadFileError(f"{path}: '{name}' points outside its {limit} elements.")
    parents = found["parents"]
    if parents[0] != -1 or any(not 0 <= parent < joint for joint, parent in enumerate(parents[1:], start=1)):
        raise HeadFileError(f"{path}: 'parents' {parents.tolist()} is not a tree with parents before children.")
    missing = set(REGION_NAMES) - {str(name) for name in found["region_names"]}
    if missing:
        raise HeadFileError(f"{path}: regions missing: {', '.join(sorted(missing))}.")


def _widened(array: np.ndarray) -> np.ndarray:
    """Any real array as float32. numpy widens float16 slowly; there are only 65,536 of them, so a table is faster."""
    if array.dtype != np.float16:
        return array.astype(np.float32)
    table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    return table[np.ascontiguousarray(array).view(np.uint16)]


def stacked_basis(shapedirs: np.ndarray, posedirs: np.ndarray) -> np.ndarray:
    """`HeadModel.basis` (C + P, 3, V) of shapedirs (V, 3, C) and posedirs (P, 3 V), float32."""
    count, _, components = shapedirs.shape
    basis = np.empty((components + len(posedirs), 3, count), np.float32)
    basis[:components] = shapedirs.transpose(2, 1, 0)
    basis[components:] = posedirs.reshape(len(posedirs), count, 3).swapaxes(1, 2)
    return basis


def _assemble(found: dict[str, np.ndarray]) -> HeadModel:
    def floats(name: str) -> np.ndarray:
        return _widened(found[name])

    def integers(name: str) -> np.ndarray:
        return found[name].astype(np.int32)

    template, shapedirs, regressor = floats("v_template"), floats("shapedirs"), floats("J_regressor")
    used = np.flatnonzero(regressor.any(axis=0))  # joints depend on few vertices
    basis = floats("albedo_basis")
    basis *= (floats("albedo_scale") / ALBEDO_STEP)[:, None, None, None]
    arrays = jax.device_put(  # all at once
        {
            "v_template": template,
            "faces": integers("faces"),
            "basis": stacked_basis(shapedirs, floats("posedirs")),
            "J_regressor": regressor,
            "lbs_weights": floats("lbs_weights"),
            "joint_template": regressor @ template,
            "joint_dirs": np.tensordot(regressor[:, used], shapedirs[used], axes=1),
            "regions": {str(n): m for n, m in zip(found["region_names"], found["region_masks"], strict=True)},
            "uv": floats("uv"),
            "uv_faces": integers("uv_faces"),
            "albedo_mean": floats("albedo_mean") / np.float32(255.0),
            "albedo_basis": basis,
            "expression_range": floats("expression_range") if "expression_range" in found else None,
        }
    )
    landmarks = jax.device_put(
        {
            "face": integers("landmark_face"),
            "barycentric": floats("landmark_barycentric"),
            "contour_face": integers("contour_face"),
            "contour_barycentric": floats("contour_barycentric"),
        }
    )
    return HeadModel(
        **arrays,
        landmark_embedding=LandmarkEmbedding(**landmarks),
        name=str(found["name"]),
        version=str(found["version"]),
        licence=str(found["licence"]),
        num_betas=int(found["num_betas"]),
        parents=tuple(int(parent) for parent in found["parents"]),
    )
