"""FLAME's companion files: landmarks, vertex masks, texture space, texture coordinates."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head.formats.files import HeadFileError, check_numbers
from flamejax.head.formats.npy_files import ArrayStream, open_npz_member, read_bytes, read_npy, read_npz_members
from flamejax.head.formats.obj_files import read_obj
from flamejax.head.formats.pickle_arrays import to_array
from flamejax.head.formats.safe_pickle import load_pickle

NUM_INNER, NUM_CONTOUR, NUM_ROWS = 51, 17, 79
MAX_REGIONS = 100
GREY, GREY_STEP = 170, 0.12
"""The albedo without a texture file: 8-bit level, and change of brightness per standard deviation."""


def read_landmarks(
    model: Path, both: Path | None, static: Path | None, dynamic: Path | None, triangles: int
) -> dict[str, np.ndarray]:
    """The 51 inner landmarks and the contour's table, under the names of flamejax's format.

    Args:
      model: the FLAME model, for messages.
      both: `landmark_embedding.npy`; used if given, else the other two.
      static: `flame_static_embedding.pkl`.
      dynamic: `flame_dynamic_embedding.npy`.
      triangles: F of the model.

    Raises:
      HeadFileError: none is there, or they are not of this form.
    """
    if both is not None:
        entries = _dictionary(read_npy(both), both)
        inner = _points(both, entries, "static_lmk_faces_idx", "static_lmk_bary_coords", (NUM_INNER,), triangles)
        contour = (both, entries, "dynamic_lmk_faces_idx", "dynamic_lmk_bary_coords")
    elif static is not None and dynamic is not None:
        entries = _dictionary(load_pickle(read_bytes(static), str(static))[0], static)
        inner = _points(static, entries, "lmk_face_idx", "lmk_b_coords", (NUM_INNER,), triangles)
        contour = (dynamic, _dictionary(read_npy(dynamic), dynamic), "lmk_face_idx", "lmk_b_coords")
    else:
        lack = "flame_dynamic_embedding.npy" if static is not None else "landmark_embedding.npy"
        raise HeadFileError(
            f"{model}: FLAME's landmarks are a file of their own. Place {lack} in {model.parent} (or name it): "
            "landmark_embedding.npy is part of DECA's data folder; flame_static_embedding.pkl and "
            "flame_dynamic_embedding.npy, which serve as well, are part of RingNet's."
        )
    moving = _points(*contour, (NUM_ROWS, NUM_CONTOUR), triangles)
    return {
        "landmark_face": inner[0],
        "landmark_barycentric": inner[1],
        "contour_face": moving[0],
        "contour_barycentric": moving[1],
    }


def read_masks(path: Path, count: int) -> dict[str, np.ndarray]:
    """`FLAME_masks.pkl`: region's name -> (V,) bool.

    Raises:
      HeadFileError: damaged, or for a mesh of more vertices.
    """
    entries = _dictionary(load_pickle(read_bytes(path), str(path))[0], path)
    masks: dict[str, np.ndarray] = {}
    for name, value in entries.items():
        if type(name) is not str or len(name) > 40 or len(masks) > MAX_REGIONS:
            raise HeadFileError(f"{path}: not a dictionary of regions by name. Fetch it again.")
        index = to_array(value, f"{path}: '{name}'")
        if index.dtype.kind not in "iu" or index.ndim != 1 or len(index) > count:
            raise HeadFileError(f"{path}: '{name}' is {index.dtype} {index.shape}, not a list of vertices.")
        if index.size and not (index.min() >= 0 and index.max() < count):
            raise HeadFileError(f"{path}: '{name}' points outside of the model's {count} vertices.")
        masks[name] = np.isin(np.arange(count), index)
    return masks


def read_texture(path: Path | None, size: int, components: int) -> dict[str, np.ndarray]:
    """`FLAME_texture.npz` (mean (H, W, 3) and tex_dir (H, W, 3, C), 0..255, blue first) as 8-bit albedo.

    The file takes more than a gigabyte, so it is read row by row, shrunk on the way.

    Args:
      path: None gives a neutral grey with one component, its brightness.
      size: a larger texture is shrunk by a whole factor to about this many rows.
      components: how many leading components are kept; 0 leaves the file unread, as if there were none.

    Raises:
      HeadFileError: damaged, or of another form.
    """
    if path is None or components <= 0:
        mean, scale = np.full((8, 8, 3), GREY, np.uint8), np.full(1, GREY_STEP, np.float32)
        return {"albedo_mean": mean, "albedo_basis": np.full((1, 8, 8, 3), 127, np.int8), "albedo_scale": scale}
    with open_npz_member(path, "mean") as stream:
        shape = stream.shape
        if len(shape) != 3 or shape[2] != 3 or not 0 < min(shape[:2]) <= max(shape[:2]) <= 8192 or stream.fortran:
            raise HeadFileError(f"{path}: 'mean' has shape {shape}, which is no texture.")
        factor = max(1, round(shape[0] / max(size, 1)))
        mean = _shrunk(stream, factor, 1)[..., 0]
    with open_npz_member(path, "tex_dir") as stream:
        if stream.shape[:3] != shape or len(stream.shape) != 4 or stream.fortran:
            raise HeadFileError(f"{path}: 'tex_dir' has shape {stream.shape}, expected {shape} and components.")
        basis = np.moveaxis(_shrunk(stream, factor, min(components, stream.shape[3])), -1, 0)
    check_numbers(mean, f"{path}: 'mean'")
    check_numbers(basis, f"{path}: 'tex_dir'")
    mean, basis = mean[..., ::-1], basis[..., ::-1]
    scale = np.maximum(np.abs(basis).max((1, 2, 3)), 1e-9)
    return {
        "albedo_mean": np.clip(np.rint(mean), 0, 255).astype(np.uint8),
        "albedo_basis": np.rint(basis / scale[:, None, None, None] * 127).astype(np.int8),
        "albedo_scale": (scale / 255).astype(np.float32),
    }


def read_uv(template: Path | None, texture: Path | None, model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Texture coordinates: of `head_template.obj`, else of the texture file (vt, ft), else a cylinder's.

    Raises:
      HeadFileError: a file is damaged, or its triangles are not the model's.
    """
    faces = model["faces"]
    if template is not None:
        mesh = read_obj(template)
        ours, theirs = _turned(faces), _turned(mesh.faces)
        one, other = np.lexsort(ours[0].T), np.lexsort(theirs[0].T)
        if not np.array_equal(ours[0][one], theirs[0][other]):
            raise HeadFileError(f"{template}: its triangles are not those of the model: another version of FLAME?")
        if len(mesh.uv_faces):
            uv_faces = np.empty_like(mesh.uv_faces)
            # Corner by corner, in the model's order of triangles and of corners.
            turned = np.take_along_axis(mesh.uv_faces, theirs[1], 1)[other]
            np.put_along_axis(uv_faces, ours[1], turned[np.argsort(one)], 1)
            return {"uv": mesh.uv.astype(np.float32), "uv_faces": uv_faces}
    if texture is not None:
        found = read_npz_members(texture, ("vt", "ft"))
        if len(found) == 2:
            uv, uv_faces = found["vt"], found["ft"]
            if uv.ndim != 2 or uv.shape[1] != 2 or uv.dtype.kind != "f":
                raise HeadFileError(f"{texture}: 'vt' is no list of texture coordinates.")
            check_numbers(uv, f"{texture}: 'vt'")
            if uv_faces.shape != faces.shape or uv_faces.dtype.kind not in "iu":
                raise HeadFileError(f"{texture}: 'ft' has shape {uv_faces.shape}, expected {faces.shape}.")
            return {"uv": uv.astype(np.float32), "uv_faces": uv_faces.astype(np.int32)}
    return cylinder_uv(model["v_template"], faces)


def _turned(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles turned so that their smallest vertex comes first, and which corner each of theirs was (F, 3)."""
    corners = (np.argmin(faces, axis=1)[:, None] + np.arange(3)) % 3
    return np.take_along_axis(faces, corners, 1), corners


def cylinder_uv(template: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Texture coordinates around the vertical axis, with the seam at the back of the head."""
    middle = (template.max(0) + template.min(0)) / 2
    around = np.arctan2(template[:, 0] - middle[0], template[:, 2] - middle[2]) / (2 * np.pi) + 0.5
    span = max(float(np.ptp(template[:, 1])), 1e-9)
    up = (template[:, 1] - template[:, 1].min()) / span
    corners = around[faces].astype(np.float64)
    # Triangles across the seam go on past 1; textures repeat there, or clamp to the same colours.
    corners += (np.ptp(corners, axis=1, keepdims=True) > 0.5) & (corners < 0.5)
    uv, uv_faces = np.unique(
        np.stack([corners.reshape(-1), up[faces.reshape(-1)]], 1).astype(np.float32), axis=0, return_inverse=True
    )
    return {"uv": uv, "uv_faces": uv_faces.reshape(faces.shape).astype(np.int32)}


def _dictionary(value: Any, path: Path) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise HeadFileError(f"{path}: holds no dictionary. Fetch it again.")
    return value


def _points(
    path: Path, entries: Mapping[Any, Any], face: str, weight: str, shape: tuple[int, ...], triangles: int
) -> tuple[np.ndarray, np.ndarray]:
    for name in (face, weight):
        if name not in entries:
            raise HeadFileError(f"{path}: '{name}' is missing. Fetch it again.")
    index = _array(entries[face], f"{path}: '{face}'")
    barycentric = _array(entries[weight], f"{path}: '{weight}'")
    if index.dtype.kind not in "iu" or index.shape != shape or barycentric.shape != (*shape, 3):
        raise HeadFileError(
            f"{path}: '{face}' is {index.dtype} {index.shape} and '{weight}' {barycentric.shape}, "
            f"expected integers {shape} and {(*shape, 3)}."
        )
    if not (index.min() >= 0 and index.max() < triangles):
        raise HeadFileError(f"{path}: '{face}' points outside of the model's {triangles} triangles.")
    check_numbers(barycentric, f"{path}: '{weight}'")
    return index.astype(np.int32), barycentric.astype(np.float32)


def _array(value: Any, what: str) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else to_array(value, what)


def _shrunk(stream: ArrayStream, factor: int, components: int) -> np.ndarray:
    """The mean of factor x factor texels, float32 (H / factor, W / factor, 3, components)."""
    height, width = stream.shape[0] // factor, stream.shape[1] // factor
    out = np.zeros((height, width, 3, components), np.float32)
    for row in range(height * factor):
        texels = stream.row().reshape(stream.shape[1], 3, -1)[: width * factor, :, :components]
        with np.errstate(over="ignore", invalid="ignore"):  # A damaged number becomes infinite, and is refused later.
            out[row // factor] += texels.reshape(width, factor, 3, components).mean(1, dtype=np.float32) / factor
    return out
