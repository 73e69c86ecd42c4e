"""Reading of FLAME models (Li et al. 2017) as published: a pickle or `.npz`, and companion files in its folder.

The releases 2017, 2019, 2020, 2023 and 2023 Open are supported, with or without jaw, of any sex. They contain chumpy
arrays and SciPy sparse matrices, written by Python 2; neither package is needed (see `formats.safe_pickle`).
"""

import dataclasses
import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head.formats.files import HeadFileError, check_numbers
from flamejax.head.formats.flame_companions import cylinder_uv, read_landmarks, read_masks, read_uv
from flamejax.head.formats.flame_texture import LINEAR_TEXTURE, TEXTURES, read_texture
from flamejax.head.formats.npy_files import read_bytes, read_npz
from flamejax.head.formats.pickle_arrays import to_array, to_dense
from flamejax.head.formats.safe_pickle import load_pickle
from flamejax.head.regions import guess_regions

FLAME_NAME = "FLAME"
"""`HeadModel.name` of models in FLAME's files."""
HOME = "https://flame.is.tue.mpg.de"
NUM_BETAS, NUM_COMPONENTS = 300, 400
"""FLAME's `shapedirs` are 300 identity components, then 100 expression components."""
PARENTS = (-1, 0, 1, 1, 1)
"""Parents of root, neck, jaw, left eye, right eye: FLAME's joints in FLAME's order, which is also flamejax's."""
MAX_VERTICES, MAX_COMPONENTS = 200_000, 2_000
CALLER = 5
"""`stacklevel` of warnings: the caller of `load_head`."""
_FIELDS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table")
COMPANIONS = {
    "landmarks": ("landmark_embedding.npy",),
    "static_landmarks": ("flame_static_embedding.pkl",),
    "dynamic_landmarks": ("flame_dynamic_embedding.npy",),
    "masks": ("FLAME_masks.pkl",),
    "texture": TEXTURES,
    "template": ("head_template.obj", "head_template_mesh.obj"),
}
"""Field of `FlameFiles` -> file names that are searched in the model's folder, the preferred one first."""


@dataclasses.dataclass(frozen=True)
class FlameFiles:
    """Companion files of a FLAME model, and how much of them to load.

    If a path is None, its file is searched in the model's folder. Landmarks have one of two formats. A model without
    them has vertices, but cannot be fitted to photos.
    """

    landmarks: Path | None = None
    """`landmark_embedding.npy`, static and dynamic landmarks in one file (DECA's format)."""
    static_landmarks: Path | None = None
    """`flame_static_embedding.pkl` (format of smplx and RingNet)."""
    dynamic_landmarks: Path | None = None
    """`flame_dynamic_embedding.npy`, the jaw contour by yaw (format of smplx and RingNet)."""
    masks: Path | None = None
    """`FLAME_masks.pkl`; without it regions are estimated, most of them from landmarks (`flamejax.head.regions`)."""
    texture: Path | None = None
    """`FLAME_texture.npz`, or `FLAME_albedo_from_BFM.npz`, which has no texture coordinates and needs the template;
    without it the albedo is a neutral grey of variable brightness."""
    template: Path | None = None
    """`head_template.obj` for texture coordinates; without it those of the texture file, or of a cylinder."""
    num_betas: int | None = None
    """Identity components of `shapedirs`: 300 of 400 by default; required if `shapedirs` has another number."""
    texture_size: int = 256
    """Rows and columns to which a larger texture is downsampled."""
    texture_components: int = 50
    """Leading components of the texture to load; 0 ignores the texture."""
    version: str | None = None
    """The release, such as "2020"; by default from the name of the file or of its folder."""


def read_flame(path: Path, files: FlameFiles | None = None) -> dict[str, np.ndarray]:
    """Read a FLAME model.

    Args:
      path: `generic_model.pkl`, `female_model.pkl`, `male_model.pkl`, `flame2023.pkl`, ..., or an `.npz` of the same.
      files: companion files.

    Returns:
      The arrays of flamejax's head format, under its names (`flamejax.head.formats`).

    Raises:
      HeadFileError: the model is missing, or it or a companion is damaged, dangerous, or not in FLAME's format.
    """
    given = files or FlameFiles()
    files = _locate_companions(path, given)
    raw = _read_fields(path)
    model = _read_geometry(path, raw, files.num_betas)
    _check_landmark_pair(given, files)
    model |= read_landmarks(files.landmarks, files.static_landmarks, files.dynamic_landmarks, len(model["faces"]))
    regions = guess_regions(model)
    if files.masks is not None:
        regions |= read_masks(files.masks, len(model["v_template"]))
    model["region_names"] = np.array(sorted(regions))
    model["region_masks"] = np.stack([regions[name] for name in sorted(regions)])
    model |= _read_appearance(path, model, given, files)
    return model | _describe_release(path, files.version, model)


def _check_landmark_pair(given: FlameFiles, files: FlameFiles) -> None:
    """Warn of half a pair of landmark files beside the model, which is not used; one that was asked for raises."""
    pair = (files.static_landmarks, files.dynamic_landmarks)
    if files.landmarks is not None or (pair[0] is None) == (pair[1] is None):
        return
    missing = COMPANIONS["static_landmarks" if pair[0] is None else "dynamic_landmarks"][0]
    message = f"{pair[0] or pair[1]} is not used, so the head has no landmarks: it needs {missing} beside it."
    if given.static_landmarks is not None or given.dynamic_landmarks is not None:
        raise HeadFileError(message)
    warnings.warn(message, stacklevel=CALLER)


def _read_appearance(
    path: Path, model: Mapping[str, np.ndarray], given: FlameFiles, files: FlameFiles
) -> dict[str, np.ndarray]:
    """Read the texture and its coordinates, and warn of textures beside the model that are not used."""
    uv = read_uv(files.template, files.texture, model["faces"])
    texture = files.texture if files.texture_components > 0 else None
    reasons = {path.parent / LINEAR_TEXTURE: f"linear albedo is not read, only {' or '.join(TEXTURES)}"}
    if texture is not None and not uv:
        template = COMPANIONS["template"][0]
        reason = f"it has no texture coordinates. Place {template} (DECA's data folder) beside the model"
        if given.texture is not None:
            raise HeadFileError(f"{texture}: {reason}.")
        reasons[texture], texture = reason, None
    elif texture is not None:
        reasons |= {path.parent / name: f"{texture.name} is" for name in TEXTURES if name != texture.name}
    if given.texture is None and files.texture_components > 0:
        for file, reason in reasons.items():
            if file.is_file():
                warnings.warn(f"{file} is not used: {reason}.", stacklevel=CALLER)
    uv = uv or cylinder_uv(model["v_template"], model["faces"])
    return uv | read_texture(texture, files.texture_size, files.texture_components)


def is_flame(fields: Iterable[str]) -> bool:
    """Returns whether a file with these entries is meant to be a FLAME model."""
    return {"v_template", "shapedirs", "kintree_table"} <= set(fields)


def _locate_companions(path: Path, files: FlameFiles) -> FlameFiles:
    changes: dict[str, Any] = {}
    for field, names in COMPANIONS.items():
        given = getattr(files, field)
        if given is not None:
            changes[field] = Path(given)
            continue
        existing = [path.parent / name for name in names if (path.parent / name).is_file()]
        if existing:
            changes[field] = existing[0]
    return dataclasses.replace(files, **changes)


def _read_fields(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        raw = read_npz(path, objects=True)
    else:
        raw, _ = load_pickle(read_bytes(path), str(path))
    if not isinstance(raw, dict) or not is_flame(raw):
        keys = sorted(key[:30] for key in raw if type(key) is str) if isinstance(raw, dict) else ["no dictionary"]
        names = ", ".join(keys[:12])
        raise HeadFileError(f"{path}: not a FLAME model (it holds: {names}). FLAME is published at {HOME}")
    missing = [name for name in _FIELDS if name not in raw]
    if missing:
        raise HeadFileError(f"{path}: '{missing[0]}' is missing from this FLAME model. Fetch it again from {HOME}")
    return raw


def _read_array(path: Path, raw: Mapping[str, Any], name: str, kinds: str, axes: int) -> np.ndarray:
    value = raw[name]
    array = value if isinstance(value, np.ndarray) else to_array(value, f"{path}: '{name}'")
    if array.dtype.kind not in kinds or array.ndim != axes:
        raise HeadFileError(f"{path}: '{name}' is {array.dtype} with {array.ndim} axes, unlike FLAME's.")
    check_numbers(array, f"{path}: '{name}'")
    return array


def _read_geometry(path: Path, raw: Mapping[str, Any], num_betas: int | None) -> dict[str, np.ndarray]:
    template = _read_array(path, raw, "v_template", "f", 2)
    faces = _read_array(path, raw, "f", "iu", 2)
    shapedirs = _read_array(path, raw, "shapedirs", "f", 3)
    posedirs = _read_array(path, raw, "posedirs", "f", 3)
    weights = _read_array(path, raw, "weights", "f", 2)
    tree = _read_array(path, raw, "kintree_table", "iu", 2)
    count, joints = len(template), tree.shape[1]
    expected = {
        "v_template": (template, (count, 3)),
        "f": (faces, (len(faces), 3)),
        "shapedirs": (shapedirs, (count, 3, shapedirs.shape[2])),
        "posedirs": (posedirs, (count, 3, 9 * (joints - 1))),
        "weights": (weights, (count, joints)),
        "kintree_table": (tree, (2, joints)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise HeadFileError(f"{path}: '{name}' has shape {array.shape}, expected {shape}. Fetch it again.")
    if not (3 <= count <= MAX_VERTICES and 0 < shapedirs.shape[2] <= MAX_COMPONENTS and len(faces) <= 4 * MAX_VERTICES):
        raise HeadFileError(f"{path}: {count} vertices and {shapedirs.shape[2]} components are no head model.")
    if not (faces.size and 0 <= int(faces.min()) and int(faces.max()) < count):
        raise HeadFileError(f"{path}: 'f' has indices outside of its {count} vertices. Fetch it again from {HOME}")
    if joints not in (4, 5):
        raise HeadFileError(f"{path}: {joints} joints, but FLAME has 5 (root, neck, jaw, left eye, right eye).")
    regressor = _read_regressor(path, raw["J_regressor"], (joints, count))
    if not (np.abs(weights.sum(1, dtype=np.float64) - 1) < 1e-2).all():
        raise HeadFileError(f"{path}: the skinning 'weights' do not sum to 1. Fetch it again from {HOME}")
    parents = (-1, *(int(parent) for parent in tree[0, 1:]))
    if joints == 4:
        # A model without a jaw gets one without effect, so that all heads have the same parameters.
        parents = (*parents[:2], 1, *parents[2:])
        regressor, weights = np.insert(regressor, 2, regressor[1], 0), np.insert(weights, 2, 0, 1)
        posedirs = np.insert(posedirs, [9] * 9, 0, 2)
    if parents != PARENTS:
        raise HeadFileError(f"{path}: the joints' parents are {parents}, but FLAME's are {PARENTS}.")
    return {
        "v_template": template.astype(np.float32),
        "faces": faces.astype(np.int32),
        "shapedirs": shapedirs.astype(np.float32),
        # FLAME: (vertex, axis, entry); flamejax: (entry, vertex and axis).
        "posedirs": np.ascontiguousarray(posedirs.reshape(3 * count, -1).T, np.float32),
        "J_regressor": regressor.astype(np.float32),
        "lbs_weights": weights.astype(np.float32),
        "parents": np.array(PARENTS, np.int32),
        "num_betas": np.array(_check_num_betas(path, shapedirs.shape[2], num_betas), np.int32),
    }


def _read_regressor(path: Path, value: Any, shape: tuple[int, int]) -> np.ndarray:
    label = f"{path}: 'J_regressor'"
    if isinstance(value, np.ndarray):
        if value.shape != shape or value.dtype.kind != "f":
            raise HeadFileError(f"{label} is {value.dtype} {value.shape}, expected {shape}. Fetch it again.")
        dense = value
    else:
        dense = to_dense(value, label, shape)
    check_numbers(dense, label)
    return dense


def _check_num_betas(path: Path, components: int, given: int | None) -> int:
    num_betas = given if given is not None else NUM_BETAS if components == NUM_COMPONENTS else 0
    if not 0 < num_betas <= components:
        raise HeadFileError(
            f"{path}: {components} shape components, but FLAME has {NUM_COMPONENTS}, of which {NUM_BETAS} are identity."
            " Give their number: num_betas (--num-betas)."
        )
    return num_betas


def _describe_release(path: Path, version: str | None, model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns name, version and licence. Releases share file names, so the version contains a hash of the shapes."""
    names = f"{path.parent.name} {path.name}".lower()
    if version is None:
        years = re.findall(r"20(?:17|19|2\d)", path.name) or re.findall(r"20(?:17|19|2\d)", path.parent.name)
        version = years[0] if years else "unknown release"
        version += " open" if "open" in names else ""
        version += " without jaw" if "no_jaw" in names or "nojaw" in names else ""
    sex = next((word for word in ("female", "male", "generic", "neutral") if word in path.name.lower()), "generic")
    digest = hashlib.sha256()
    for name in ("v_template", "shapedirs"):
        digest.update(np.ascontiguousarray(model[name], "<f4").tobytes())
    licence = "CC-BY-4.0" if "open" in version else f"FLAME's model licence, research only ({HOME})"
    return {
        "name": np.array(FLAME_NAME),
        "version": np.array(f"{version} {sex.replace('neutral', 'generic')} {digest.hexdigest()[:12]}"),
        "licence": np.array(licence),
    }
