"""Reading of FLAME's companion files: landmarks, vertex masks, texture coordinates. `flame_texture` reads colours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head.formats.files import HeadFileError, check_numbers
from flamejax.head.formats.npy_files import read_bytes, read_npy, read_npz_members
from flamejax.head.formats.obj_files import read_obj
from flamejax.head.formats.pickle_arrays import to_array
from flamejax.head.formats.safe_pickle import load_pickle

NUM_INNER, NUM_CONTOUR, NUM_ROWS = 51, 17, 79
MAX_REGIONS = 100


def read_landmarks(
    combined: Path | None, static: Path | None, dynamic: Path | None, triangles: int
) -> dict[str, np.ndarray]:
    """Read the 51 inner landmarks and the contour table, under the names of flamejax's format.

    Args:
      combined: `landmark_embedding.npy`; used if given, else the other two.
      static: `flame_static_embedding.pkl`.
      dynamic: `flame_dynamic_embedding.npy`. Without both there are no landmarks: all arrays are empty.
      triangles: F of the model.

    Raises:
      HeadFileError: a file is damaged or has another format.
    """
    if combined is not None:
        entries = _check_dictionary(read_npy(combined), combined)
        inner_source = (combined, entries, "static_lmk_faces_idx", "static_lmk_bary_coords")
        contour_source = (combined, entries, "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords")
    elif static is not None and dynamic is not None:
        entries = _check_dictionary(load_pickle(read_bytes(static), str(static))[0], static)
        inner_source = (static, entries, "lmk_face_idx", "lmk_b_coords")
        contour_source = (dynamic, _check_dictionary(read_npy(dynamic), dynamic), "lmk_face_idx", "lmk_b_coords")
    else:
        return {
            "landmark_face": np.zeros(0, np.int32),
            "landmark_barycentric": np.zeros((0, 3), np.float32),
            "contour_face": np.zeros((0, NUM_CONTOUR), np.int32),
            "contour_barycentric": np.zeros((0, NUM_CONTOUR, 3), np.float32),
        }
    inner = _read_embedding(*inner_source, (NUM_INNER,), triangles)
    contour = _read_embedding(*contour_source, (NUM_ROWS, NUM_CONTOUR), triangles)
    return {
        "landmark_face": inner[0],
        "landmark_barycentric": inner[1],
        "contour_face": contour[0],
        "contour_barycentric": contour[1],
    }


def read_masks(path: Path, count: int) -> dict[str, np.ndarray]:
    """Read `FLAME_masks.pkl`: name of the region -> (V,) bool.

    Raises:
      HeadFileError: the file is damaged, or for a mesh of more vertices.
    """
    entries = _check_dictionary(load_pickle(read_bytes(path), str(path))[0], path)
    masks: dict[str, np.ndarray] = {}
    for name, value in entries.items():
        if type(name) is not str or len(name) > 40 or len(masks) > MAX_REGIONS:
            raise HeadFileError(f"{path}: not a dictionary of regions by name. Fetch it again.")
        index = to_array(value, f"{path}: '{name}'")
        if index.dtype.kind not in "iu" or index.ndim != 1 or len(index) > count:
            raise HeadFileError(f"{path}: '{name}' is {index.dtype} {index.shape}, not a list of vertices.")
        if index.size and not (index.min() >= 0 and index.max() < count):
            raise HeadFileError(f"{path}: '{name}' has indices outside of the model's {count} vertices.")
        masks[name] = np.isin(np.arange(count), index)
    return masks


def read_uv(template: Path | None, texture: Path | None, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Read texture coordinates from `head_template.obj`, else from the texture file (vt, ft); else returns none.

    Raises:
      HeadFileError: a file is damaged, or its triangles differ from the model's.
    """
    if template is not None:
        mesh = read_obj(template)
        (triangles, corners), (obj_triangles, obj_corners) = _canonical(faces), _canonical(mesh.faces)
        order, obj_order = np.lexsort(triangles.T), np.lexsort(obj_triangles.T)
        if not np.array_equal(triangles[order], obj_triangles[obj_order]):
            raise HeadFileError(f"{template}: its triangles are not those of the model: another version of FLAME?")
        if len(mesh.uv_faces):
            uv_faces = np.empty_like(mesh.uv_faces)
            # Corner by corner, in the model's order of triangles and of corners.
            canonical_uv = np.take_along_axis(mesh.uv_faces, obj_corners, 1)[obj_order]
            np.put_along_axis(uv_faces, corners, canonical_uv[np.argsort(order)], 1)
            return {"uv": mesh.uv.astype(np.float32), "uv_faces": uv_faces}
    if texture is not None:
        arrays = read_npz_members(texture, ("vt", "ft"))
        if len(arrays) == 2:
            uv, uv_faces = arrays["vt"], arrays["ft"]
            if uv.ndim != 2 or uv.shape[1] != 2 or uv.dtype.kind != "f":
                raise HeadFileError(f"{texture}: 'vt' is no list of texture coordinates.")
            check_numbers(uv, f"{texture}: 'vt'")
            if uv_faces.shape != faces.shape or uv_faces.dtype.kind not in "iu":
                raise HeadFileError(f"{texture}: 'ft' has shape {uv_faces.shape}, expected {faces.shape}.")
            return {"uv": uv.astype(np.float32), "uv_faces": uv_faces.astype(np.int32)}
    return {}


def _canonical(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotate triangles to begin with their smallest vertex; returns them and their original corner numbers (F, 3)."""
    corners = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    return np.take_along_axis(faces, corners, 1), corners


def cylinder_uv(template: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Compute cylindrical texture coordinates about the vertical axis, with the seam at the back of the head."""
    middle = (template.max(0) + template.min(0)) / 2
    u = np.arctan2(template[:, 0] - middle[0], template[:, 2] - middle[2]) / (2 * np.pi) + 0.5
    span = max(float(np.ptp(template[:, 1])), 1e-9)
    v = (template[:, 1] - template[:, 1].min()) / span
    corners = u[faces].astype(np.float64)
    # Triangles across the seam continue beyond 1, where textures repeat, or clamp to the same colours.
    corners += (np.ptp(corners, axis=1, keepdims=True) > 0.5) & (corners < 0.5)
    uv, uv_faces = np.unique(
        np.stack([corners.reshape(-1), v[faces.reshape(-1)]], 1).astype(np.float32), axis=0, return_inverse=True
    )
    return {"uv": uv, "uv_faces": uv_faces.reshape(faces.shape).astype(np.int32)}


def _check_dictionary(value: Any, path: Path) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise HeadFileError(f"{path}: holds no dictionary. Fetch it again.")
    return value


def _read_embedding(
    path: Path, entries: Mapping[Any, Any], face: str, weight: str, shape: tuple[int, ...], triangles: int
) -> tuple[np.ndarray, np.ndarray]:
    for name in (face, weight):
        if name not in entries:
            raise HeadFileError(f"{path}: '{name}' is missing. Fetch it again.")
    index = _to_numpy(entries[face], f"{path}: '{face}'")
    barycentric = _to_numpy(entries[weight], f"{path}: '{weight}'")
    if index.dtype.kind not in "iu" or index.shape != shape or barycentric.shape != (*shape, 3):
        raise HeadFileError(
            f"{path}: '{face}' is {index.dtype} {index.shape} and '{weight}' {barycentric.shape}, "
            f"expected integers {shape} and {(*shape, 3)}."
        )
    if not (index.min() >= 0 and index.max() < triangles):
        raise HeadFileError(f"{path}: '{face}' has indices outside of the model's {triangles} triangles.")
    check_numbers(barycentric, f"{path}: '{weight}'")
    return index.astype(np.int32), barycentric.astype(np.float32)


def _to_numpy(value: Any, label: str) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else to_array(value, label)
