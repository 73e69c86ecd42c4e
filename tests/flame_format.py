"""Synthetic models in FLAME's form, and files as FLAME's releases have them. Nothing of FLAME itself is in here."""

import pickle
from pathlib import Path

import numpy as np
from scipy import sparse

from flamejax.head.load import REGION_NAMES
from tests import python2_pickle

TRUE_SIZE = {"vertices": 5023, "triangles": 9976, "betas": 300, "expressions": 100}
SMALL = {"vertices": 50, "triangles": 90, "betas": 4, "expressions": 3}


def synthetic_flame(seed: int = 0, *, vertices: int, triangles: int, betas: int, expressions: int) -> dict:
    """Arrays under FLAME's names: a head-sized ellipsoid, smooth random bases, random correctives, five joints."""
    rng = np.random.Generator(np.random.PCG64(seed))
    turn = np.arange(vertices) * np.pi * (3 - np.sqrt(5))
    height = 1 - 2 * (np.arange(vertices) + 0.5) / vertices
    ring = np.sqrt(1 - height**2)
    unit = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], 1)
    template = unit * [0.075, 0.12, 0.1]
    start = np.arange(triangles) // 2
    step = max(2, int(np.sqrt(vertices)))
    flip = (np.arange(triangles) % 2)[:, None]
    corners = np.where(flip, np.array([[1, step + 1, step]]), np.array([[0, 1, step]]))
    faces = (start[:, None] + corners) % vertices
    components = betas + expressions
    modes = rng.standard_normal((components, 3, 3)) * 0.004 / (1 + np.arange(components)[:, None, None]) ** 0.5
    shapedirs = np.einsum("cij,vj->vic", modes, unit) + rng.standard_normal((vertices, 3, components)) * 1e-4
    joints = np.array([[0, -0.08, 0], [0, -0.02, -0.01], [0, -0.02, 0.02], [0.03, 0.03, 0.07], [-0.03, 0.03, 0.07]])
    near = np.exp(-((template[None] - joints[:, None]) ** 2).sum(-1) / (2 * 0.04**2))
    close = np.where(near >= np.sort(near, 1)[:, -min(20, vertices), None], near, 0)
    return {
        "v_template": template,
        "f": faces.astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": rng.standard_normal((vertices, 3, 36)) * 1e-3,
        "J_regressor": sparse.csc_matrix(close / close.sum(1, keepdims=True)),
        "weights": (near**2 / (near**2).sum(0)).T,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "J": joints,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def synthetic_landmarks(seed: int, triangles: int) -> dict[str, np.ndarray]:
    """Landmarks under the names of DECA's `landmark_embedding.npy`."""
    rng = np.random.Generator(np.random.PCG64([seed, 1]))

    def barycentric(*shape: int) -> np.ndarray:
        weights = rng.random((*shape, 3)) + 0.05
        return weights / weights.sum(-1, keepdims=True)

    return {
        "static_lmk_faces_idx": rng.integers(0, triangles, 51),
        "static_lmk_bary_coords": barycentric(51),
        "dynamic_lmk_faces_idx": rng.integers(0, triangles, (79, 17)),
        "dynamic_lmk_bary_coords": barycentric(79, 17),
    }


def write_model(path: Path, model: dict, protocol: int = 2, chumpy: bool = True) -> None:
    """A pickle as Python 2 wrote it: `shapedirs` and `v_template` are chumpy's, the regressor is sparse."""
    if chumpy:
        wrapped = {name: python2_pickle.Chumpy(model[name]) for name in ("shapedirs", "v_template")}
        model = {**model, **wrapped}
    path.write_bytes(python2_pickle.dumps(model, protocol))


def write_landmarks(folder: Path, landmarks: dict, both: bool = True) -> None:
    """`landmark_embedding.npy`, or smplx's pair of files."""
    if both:
        np.save(folder / "landmark_embedding.npy", np.array(landmarks, dtype=object), allow_pickle=True)
        return
    static = {"lmk_face_idx": landmarks["static_lmk_faces_idx"], "lmk_b_coords": landmarks["static_lmk_bary_coords"]}
    # Lists of 79 arrays.
    moving = {
        "lmk_face_idx": [*landmarks["dynamic_lmk_faces_idx"]],
        "lmk_b_coords": [*landmarks["dynamic_lmk_bary_coords"]],
    }
    (folder / "flame_static_embedding.pkl").write_bytes(python2_pickle.dumps(static, 0))
    np.save(folder / "flame_dynamic_embedding.npy", np.array(moving, dtype=object), allow_pickle=True)


def write_masks(folder: Path, vertices: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`FLAME_masks.pkl` with random regions; returns them."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    masks = {name: np.sort(rng.choice(vertices, vertices // 3, replace=False)) for name in REGION_NAMES}
    (folder / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))
    return masks


def write_texture(folder: Path, size: int, components: int, triangles: int, seed: int = 0) -> dict[str, np.ndarray]:
    """`FLAME_texture.npz` with random colours, blue first; returns its arrays."""
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    arrays = {
        "mean": rng.uniform(40, 200, (size, size, 3)),
        "tex_dir": rng.normal(0, 4, (size, size, 3, components)),
        "vt": rng.random((60, 2)),
        "ft": rng.integers(0, 60, (triangles, 3)),
    }
    np.savez(folder / "FLAME_texture.npz", **arrays)
    return arrays


def write_folder(folder: Path, size: dict = SMALL, seed: int = 0, name: str = "generic_model.pkl") -> Path:
    """A model with landmarks beside it; returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / name, synthetic_flame(seed, **size))
    write_landmarks(folder, synthetic_landmarks(seed, size["triangles"]))
    return folder / name
