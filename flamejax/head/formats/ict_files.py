"""Reading of the ICT Face Model Light (Li et al. 2020; MIT licence) from its folder `FaceXModel`, into FLAME's form.

The folder contains meshes of one topology in centimetres: `generic_neutral_mesh.obj`, identity modes `identity000.obj`,
..., 53 expression shapes named after ARKit's, and `vertex_indices.json` with the expressions' names and 68 landmarks.
Face, head, neck and eyeballs are used; teeth, tongue, sockets and lashes are left out. The shape `jawOpen` becomes the
jaw's rotation and `eyeLook*` the eyes' (`formats.ict_joints`). Every other expression shape is a component.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head.formats.files import HeadFileError
from flamejax.head.formats.flame_companions import cylinder_uv
from flamejax.head.formats.flame_texture import read_texture
from flamejax.head.formats.ict_joints import IctNeutralHead, joints_and_skinning
from flamejax.head.formats.npy_files import read_bytes
from flamejax.head.formats.obj_files import ObjMesh, read_obj, read_obj_vertices
from flamejax.head.regions import guess_regions

ICT_HOME = "https://github.com/ICT-VGL/ICT-FaceKit"
METRES_PER_UNIT = 0.01
NUM_VERTICES = 26719
HEAD, EYEBALLS = range(11248), (range(21451, 23021), range(23021, 24591))
"""Vertices of the face, head and neck, and of the eyeballs, from the model's README. Its left eyeball is at -x."""
MIRROR = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),  # contour, brows, nose
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,  # eyes
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,  # outer and inner lips
])  # fmt: skip
"""(68,) index of each landmark's mirror image."""
ICT_NEUTRAL, INDICES = "generic_neutral_mesh.obj", "vertex_indices.json"
JAW_SHAPE = "jawOpen"
EYE_SHAPES = tuple(f"eyeLook{way}_{side}" for side in "LR" for way in ("Up", "Down", "In", "Out"))
MAX_MODES = 1000


def find_ict_folder(path: Path) -> Path:
    """Returns `FaceXModel`, given it or its parent. Raises HeadFileError if neither contains the neutral mesh."""
    for folder in (path, path / "FaceXModel"):
        if (folder / ICT_NEUTRAL).is_file():
            return folder
    raise HeadFileError(
        f"{path}: a folder, but not ICT-FaceKit's FaceXModel: {ICT_NEUTRAL} is not in it. It is published at {ICT_HOME}"
    )


def read_ict(folder: Path) -> dict[str, np.ndarray]:
    """Read an ICT-FaceKit folder.

    Args:
      folder: `FaceXModel`.

    Returns:
      The arrays of flamejax's head format. Identity components are the model's (standard deviations); an expression
      coefficient of 1 is the full shape. Expressions are in the order of `vertex_indices.json`, without jaw and eyes.

    Raises:
      HeadFileError: a file is missing or damaged, or has another topology.
    """
    mesh = read_obj(folder / ICT_NEUTRAL)
    if len(mesh.vertices) != NUM_VERTICES:
        raise HeadFileError(
            f"{folder / ICT_NEUTRAL}: {len(mesh.vertices)} vertices, but the ICT Face Model Light has {NUM_VERTICES}. "
            f"It is published at {ICT_HOME}"
        )
    expressions, landmarks = read_indices(folder / INDICES)
    identities = _list_identities(folder)
    selected = np.concatenate([np.asarray(part) for part in (HEAD, *EYEBALLS)])
    neutral = mesh.vertices[selected] * METRES_PER_UNIT

    def offsets(name: str) -> np.ndarray:
        return read_obj_vertices(folder / f"{name}.obj", NUM_VERTICES)[selected] * METRES_PER_UNIT - neutral

    betas = np.stack([offsets(name) for name in identities], -1)
    shapes = {name: offsets(name) for name in expressions}
    missing = [name for name in (JAW_SHAPE, *EYE_SHAPES) if name not in shapes]
    if missing:
        raise HeadFileError(f"{folder / INDICES}: the expression '{missing[0]}' is missing; a joint needs it.")
    triangles = np.asarray(np.isin(mesh.faces, selected).all(axis=1))
    new_index = np.full(NUM_VERTICES, -1, np.int32)
    new_index[selected] = np.arange(len(selected))
    faces = new_index[mesh.faces[triangles]]
    if mesh.vertices[landmarks[0], 0] > mesh.vertices[landmarks[16], 0]:
        landmarks = landmarks[MIRROR]  # iBUG begins at the subject's right, which is -x
    neutral_head = _split_eyeballs(folder, neutral, new_index[landmarks])
    components = [shapes[name] for name in expressions if name != JAW_SHAPE and name not in EYE_SHAPES]
    model = {
        "v_template": neutral.astype(np.float32),
        "faces": faces,
        "shapedirs": np.concatenate([betas, np.stack(components, -1)], -1).astype(np.float32),
        "num_betas": np.array(len(identities), np.int32),
        **joints_and_skinning(neutral_head, faces, shapes),
        **_landmark_embedding(folder, faces, new_index[landmarks]),
    }
    regions = guess_regions(model)
    model["region_names"] = np.array(sorted(regions))
    model["region_masks"] = np.stack([regions[name] for name in sorted(regions)])
    model |= read_texture(None, 0, 0) | _texture_coordinates(mesh, triangles, model)
    digest = hashlib.sha256()
    for name in ("v_template", "shapedirs"):
        digest.update(np.ascontiguousarray(model[name], "<f4").tobytes())
    return model | {
        "name": np.array("ICT-FaceKit"),
        "version": np.array(f"light {digest.hexdigest()[:12]}"),
        "licence": np.array("MIT"),
    }


def describe_ict(folder: Path) -> str:
    """Describe a folder's content from its file names and index list; meshes are not read.

    Raises:
      HeadFileError: the list is damaged, or a mesh that it names is missing.
    """
    expressions, _ = read_indices(folder / INDICES)
    for name in (*expressions, "generic_neutral_mesh"):
        if not (folder / f"{name}.obj").is_file():
            raise HeadFileError(f"{folder}: {name}.obj is missing. Fetch the whole FaceXModel from {ICT_HOME}")
    return f"ICT Face Model Light; {len(_list_identities(folder))} identity and {len(expressions)} expression shapes"


def read_indices(path: Path) -> tuple[list[str], np.ndarray]:
    """Read `vertex_indices.json`: the names of the expressions, and the vertices of the landmarks (68,).

    Raises:
      HeadFileError: the file is missing, damaged or incomplete.
    """
    try:
        content: Any = json.loads(read_bytes(path).decode())
        names, landmarks = content["expressions"], content["idx_to_landmark_verts"]
        if not (isinstance(names, list) and all(isinstance(n, str) and n.replace("_", "").isalnum() for n in names)):
            raise ValueError("expressions are no names")
        if not (isinstance(landmarks, list) and all(type(i) is int and i in HEAD for i in landmarks)):
            raise ValueError("landmarks are no vertices of the head")
        if len(landmarks) != 68 or not 0 < len(names) <= MAX_MODES or len(set(names)) < len(names):
            raise ValueError(f"{len(landmarks)} landmarks, {len(names)} expressions")
    except HeadFileError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"{path}: not ICT-FaceKit's list of indices ({type(error).__name__}: {str(error)[:100]})."
        raise HeadFileError(f"{message} Fetch it again from {ICT_HOME}") from error
    return names, np.asarray(landmarks)


def _list_identities(folder: Path) -> list[str]:
    names: list[str] = []
    while len(names) < MAX_MODES and (folder / f"identity{len(names):03d}.obj").is_file():
        names.append(f"identity{len(names):03d}")
    if not names:
        raise HeadFileError(f"{folder}: identity000.obj is missing. Fetch the whole FaceXModel from {ICT_HOME}")
    return names


def _split_eyeballs(folder: Path, neutral: np.ndarray, landmarks: np.ndarray) -> IctNeutralHead:
    """Label the vertices of the eyeballs: the one at +x is the subject's left."""
    first = np.zeros(len(neutral), bool)
    first[len(HEAD) : len(HEAD) + len(EYEBALLS[0])] = True
    second = np.zeros(len(neutral), bool)
    second[len(HEAD) + len(EYEBALLS[0]) :] = True
    if neutral[first, 0].mean() < neutral[second, 0].mean():
        first, second = second, first
    points = neutral[landmarks]
    unit = np.linalg.norm(points[36] - points[45])
    for ball, corners in ((first, slice(42, 48)), (second, slice(36, 42))):
        if not np.linalg.norm(neutral[ball].mean(0) - points[corners].mean(0)) < 0.5 * unit:
            raise HeadFileError(
                f"{folder}: its eyeballs are not at the eye landmarks, so mesh and {INDICES} are of "
                f"different versions. Fetch both from {ICT_HOME}"
            )
    return IctNeutralHead(neutral, first, second, points)


def _landmark_embedding(folder: Path, faces: np.ndarray, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Convert landmark vertices to corners of triangles. The contour is the same at every yaw."""
    face, barycentric = np.zeros(68, np.int32), np.zeros((68, 3), np.float32)
    for number, vertex in enumerate(landmarks):
        corners = np.argwhere(faces == vertex)
        if not len(corners):
            raise HeadFileError(f"{folder / INDICES}: landmark {number} is on no polygon. Fetch it from {ICT_HOME}")
        face[number], barycentric[number, corners[0, 1]] = corners[0, 0], 1
    return {
        "landmark_face": face[17:],
        "landmark_barycentric": barycentric[17:],
        "contour_face": np.tile(face[:17], (79, 1)),
        "contour_barycentric": np.tile(barycentric[:17], (79, 1, 1)),
    }


def _texture_coordinates(mesh: ObjMesh, triangles: np.ndarray, model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not len(mesh.uv_faces):
        return cylinder_uv(model["v_template"], model["faces"])
    used, uv_faces = np.unique(mesh.uv_faces[triangles], return_inverse=True)
    return {"uv": mesh.uv[used].astype(np.float32), "uv_faces": uv_faces.reshape(-1, 3).astype(np.int32)}
