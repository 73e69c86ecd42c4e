"""Reading of head model files in all supported formats."""

from pathlib import Path

import numpy as np

from flamejax.head.formats.files import HeadFileError, check_numbers
from flamejax.head.formats.flame_files import FlameFiles, is_flame, read_flame
from flamejax.head.formats.ict_files import find_ict_folder, read_ict
from flamejax.head.formats.npy_files import npz_names, read_npz
from flamejax.head.regions import REGION_NAMES

FORMAT_VERSION = 1

_ARRAYS = {  # name -> (dtype kinds, number of axes)
    "v_template": ("f", 2),
    "faces": ("iu", 2),
    "shapedirs": ("f", 3),
    "posedirs": ("f", 2),
    "J_regressor": ("f", 2),
    "lbs_weights": ("f", 2),
    "parents": ("iu", 1),
    "landmark_face": ("iu", 1),
    "landmark_barycentric": ("f", 2),
    "contour_face": ("iu", 2),
    "contour_barycentric": ("f", 3),
    "region_names": ("U", 1),
    "region_masks": ("b", 2),
    "uv": ("f", 2),
    "uv_faces": ("iu", 2),
    "albedo_mean": ("iuf", 3),
    "albedo_basis": ("iuf", 4),
    "albedo_scale": ("f", 1),
    "num_betas": ("iu", 0),
    "name": ("U", 0),
    "version": ("U", 0),
    "licence": ("U", 0),
}


def read_head(path: Path, flame: FlameFiles | None = None) -> dict[str, np.ndarray]:
    """Read and check a head model's arrays, under the names of flamejax's format. Arguments and errors: `load_head`."""
    if path.is_dir():
        arrays = read_ict(find_ict_folder(path))
    elif not path.is_file():
        raise HeadFileError(f"{path}: no such head model file.")
    elif path.suffix == ".npz" and not is_flame(npz_names(path)):
        return _read_npz(path)
    elif path.suffix in (".npz", ".pkl"):
        arrays = read_flame(path, flame)
    else:
        raise HeadFileError(
            f"{path}: '{path.suffix}' is not a format of head models. Give flamejax's .npz, FLAME's .pkl or .npz, "
            "or ICT-FaceKit's folder."
        )
    _check(path, {"format_version": np.array(FORMAT_VERSION), **arrays})
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = read_npz(path)
    _check(path, arrays)
    return arrays


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if "format_version" not in arrays:
        raise HeadFileError(f"{path}: this .npz is not a flamejax head model (it has no format_version).")
    version = arrays["format_version"]
    if version.dtype.kind not in "iu" or version.ndim != 0 or int(version) != FORMAT_VERSION:
        raise HeadFileError(f"{path}: head format {version}, but this flamejax reads format {FORMAT_VERSION}.")
    for name, (kinds, axes) in _ARRAYS.items():
        if name not in arrays:
            raise HeadFileError(f"{path}: the array '{name}' is missing.")
        array = arrays[name]
        if array.dtype.kind not in kinds or array.ndim != axes:
            raise HeadFileError(f"{path}: '{name}' is {array.dtype} with {array.ndim} axes, not {kinds} with {axes}.")
        check_numbers(array, f"{path}: '{name}'")
    _check_shapes(path, arrays)
    _check_indices(path, arrays)


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> None:
    count, joints = arrays["v_template"].shape[0], arrays["parents"].shape[0]
    triangles = arrays["faces"].shape[0]
    components = arrays["shapedirs"].shape[-1]
    rows, inner = (79, 51) if arrays["landmark_face"].size else (0, 0)  # a head may have no landmarks
    expected = {
        "v_template": (count, 3),
        "faces": (triangles, 3),
        "shapedirs": (count, 3, components),
        "posedirs": (9 * (joints - 1), 3 * count),
        "J_regressor": (joints, count),
        "lbs_weights": (count, joints),
        "landmark_face": (inner,),
        "landmark_barycentric": (inner, 3),
        "contour_face": (rows, 17),
        "contour_barycentric": (rows, 17, 3),
        "region_masks": (len(arrays["region_names"]), count),
        "uv_faces": (triangles, 3),
        "uv": (arrays["uv"].shape[0], 2),
        "albedo_basis": (arrays["albedo_scale"].shape[0], *arrays["albedo_mean"].shape),
    }
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise HeadFileError(f"{path}: '{name}' has shape {arrays[name].shape}, expected {shape}.")
    if joints != 5:
        raise HeadFileError(f"{path}: {joints} joints, but a head has 5 (root, neck, jaw, left eye, right eye).")
    if not 0 <= int(arrays["num_betas"]) <= components:
        raise HeadFileError(f"{path}: num_betas is {int(arrays['num_betas'])} of {components} components.")
    if "expression_range" in arrays:
        limits = arrays["expression_range"]
        if limits.dtype.kind != "f" or limits.shape != (2, components - int(arrays["num_betas"])):
            raise HeadFileError(f"{path}: 'expression_range' is {limits.dtype} {limits.shape}, unlike its components.")
        if not ((limits[0] <= 0) & (limits[1] >= 0)).all():
            raise HeadFileError(f"{path}: 'expression_range' leaves out the neutral face (0).")


def _check_indices(path: Path, arrays: dict[str, np.ndarray]) -> None:
    limits = {
        "faces": len(arrays["v_template"]),
        "uv_faces": len(arrays["uv"]),
        "landmark_face": len(arrays["faces"]),
        "contour_face": len(arrays["faces"]),
    }
    for name, limit in limits.items():
        if arrays[name].size and not (0 <= arrays[name].min() and arrays[name].max() < limit):
            raise HeadFileError(f"{path}: '{name}' has indices outside of 0..{limit - 1}.")
    parents = arrays["parents"]
    if parents[0] != -1 or any(not 0 <= parent < joint for joint, parent in enumerate(parents[1:], start=1)):
        raise HeadFileError(f"{path}: 'parents' {parents.tolist()} is not a tree with parents before children.")
    missing = set(REGION_NAMES) - {str(name) for name in arrays["region_names"]}
    if missing:
        raise HeadFileError(f"{path}: regions missing: {', '.join(sorted(missing))}.")
