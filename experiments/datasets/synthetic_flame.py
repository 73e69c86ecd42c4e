"""A synthetic model with FLAME's sizes and file formats.

It replaces FLAME, which must not be redistributed, where sizes and formats matter but the shape does not. It has no
data of FLAME."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from scipy import sparse

TRUE_SIZE = {"vertices": 5023, "triangles": 9976, "betas": 300, "expressions": 100}


def synthetic_flame(seed: int = 0, *, vertices: int, triangles: int, betas: int, expressions: int) -> dict:
    """Make arrays under FLAME's names: a head-sized ellipsoid, smooth random bases and correctives, five joints."""
    rng = np.random.Generator(np.random.PCG64(seed))
    azimuth = np.arange(vertices) * np.pi * (3 - np.sqrt(5))
    height = 1 - 2 * (np.arange(vertices) + 0.5) / vertices
    ring = np.sqrt(1 - height**2)
    unit = np.stack([ring * np.cos(azimuth), height, ring * np.sin(azimuth)], 1)
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
    affinity = np.exp(-((template[None] - joints[:, None]) ** 2).sum(-1) / (2 * 0.04**2))
    nearest = np.where(affinity >= np.sort(affinity, 1)[:, -min(20, vertices), None], affinity, 0)
    return {
        "v_template": template,
        "f": faces.astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": rng.standard_normal((vertices, 3, 36)) * 1e-3,
        "J_regressor": sparse.csc_matrix(nearest / nearest.sum(1, keepdims=True)),
        "weights": (affinity**2 / (affinity**2).sum(0)).T,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "J": joints,
        "bs_style": "lbs",
        "bs_type": "lrotmin",
    }


def synthetic_landmarks(seed: int, triangles: int) -> dict[str, np.ndarray]:
    """Make landmarks under the names of DECA's `landmark_embedding.npy`."""
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


def smplx_landmarks(landmarks: dict[str, np.ndarray]) -> tuple[dict, dict]:
    """Convert `synthetic_landmarks` to smplx's two files: the inner points, and the contour per yaw."""
    static = {"lmk_face_idx": landmarks["static_lmk_faces_idx"], "lmk_b_coords": landmarks["static_lmk_bary_coords"]}
    # smplx has lists of 79 arrays.
    dynamic = {
        "lmk_face_idx": [*landmarks["dynamic_lmk_faces_idx"]],
        "lmk_b_coords": [*landmarks["dynamic_lmk_bary_coords"]],
    }
    return static, dynamic


def write_flame_folder(folder: Path, seed: int = 0) -> Path:
    """Write a model of FLAME's size as a plain pickle, and smplx's landmark files; returns the model's path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    static, dynamic = smplx_landmarks(synthetic_landmarks(seed, TRUE_SIZE["triangles"]))
    (folder / "flame_static_embedding.pkl").write_bytes(pickle.dumps(static, 2))
    np.save(folder / "flame_dynamic_embedding.npy", np.array(dynamic, dtype=object), allow_pickle=True)
    model = folder / "FLAME_NEUTRAL.pkl"
    model.write_bytes(pickle.dumps(synthetic_flame(seed, **TRUE_SIZE), 2))
    return model
