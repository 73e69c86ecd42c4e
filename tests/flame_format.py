"""Writing of files in the format of FLAME's releases, from the models of `experiments.datasets.synthetic_flame`."""

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np

import flamejax
from experiments.datasets.synthetic_flame import TRUE_SIZE, smplx_landmarks, synthetic_flame, synthetic_landmarks
from flamejax.head import REGION_NAMES, FlameFiles
from tests import python2_pickle

__all__ = ["SMALL", "TRUE_SIZE", "synthetic_flame", "synthetic_landmarks"]

SMALL = {"vertices": 50, "triangles": 90, "betas": 4, "expressions": 3}
SMALL_FLAME = FlameFiles(num_betas=SMALL["betas"])


def write_model(path: Path, model: dict, protocol: int = 2, chumpy: bool = True) -> None:
    """Write a pickle as Python 2 did: `shapedirs` and `v_template` are chumpy arrays, the regressor is sparse."""
    if chumpy:
        wrapped = {name: python2_pickle.Chumpy(model[name]) for name in ("shapedirs", "v_template")}
        model = {**model, **wrapped}
    path.write_bytes(python2_pickle.dumps(model, protocol))


def write_landmarks(folder: Path, landmarks: dict, both: bool = True) -> None:
    """Write `landmark_embedding.npy`, or smplx's pair of files."""
    if both:
        np.save(folder / "landmark_embedding.npy", np.array(landmarks, dtype=object), allow_pickle=True)
        return
    static, dynamic = smplx_landmarks(landmarks)
    (folder / "flame_static_embedding.pkl").write_bytes(python2_pickle.dumps(static, 0))
    np.save(folder / "flame_dynamic_embedding.npy", np.array(dynamic, dtype=object), allow_pickle=True)


def write_masks(folder: Path, vertices: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Write `FLAME_masks.pkl` with random regions, and return them."""
    rng = np.random.Generator(np.random.PCG64([seed, 2]))
    masks = {name: np.sort(rng.choice(vertices, vertices // 3, replace=False)) for name in REGION_NAMES}
    (folder / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))
    return masks


def write_face_masks(folder: Path, vertices: int) -> None:
    """Write `FLAME_masks.pkl` with a face of three quarters of the vertices, since random regions have almost none."""
    face = np.arange(3 * vertices // 4)
    masks = dict.fromkeys(REGION_NAMES, np.arange(len(face), vertices)) | {"face": face}
    (folder / "FLAME_masks.pkl").write_bytes(pickle.dumps(masks, 2))


def write_texture(folder: Path, size: int, components: int, triangles: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Write `FLAME_texture.npz` with random BGR colours, and return its arrays."""
    rng = np.random.Generator(np.random.PCG64([seed, 3]))
    arrays = {
        "mean": rng.uniform(40, 200, (size, size, 3)),
        "tex_dir": rng.normal(0, 4, (size, size, 3, components)),
        "vt": rng.random((60, 2)),
        "ft": rng.integers(0, 60, (triangles, 3)),
    }
    np.savez(folder / "FLAME_texture.npz", **arrays)
    return arrays


def write_template(folder: Path, model: dict, seed: int = 0) -> np.ndarray:
    """Write `head_template.obj` with random texture coordinates, one per vertex, and return them."""
    count = len(model["v_template"])
    uv = np.random.Generator(np.random.PCG64([seed, 4])).random((count, 2))
    lines = [f"v {x} {y} {z}" for x, y, z in model["v_template"]] + [f"vt {u} {v}" for u, v in uv]
    lines += ["f " + " ".join(f"{a + 1}/{a + 1}" for a in face) for face in model["f"]]
    (folder / "head_template.obj").write_text("\n".join(lines))
    return uv


def write_albedo(folder: Path, size: int, components: int, flat: bool = True, seed: int = 0) -> dict[str, np.ndarray]:
    """Write `FLAME_albedo_from_BFM.npz` with random BGR colours in 0..1, and return its arrays as images."""
    rng = np.random.Generator(np.random.PCG64([seed, 5]))
    arrays = {"MU": rng.uniform(0.2, 0.8, (size, size, 3)), "PC": rng.normal(0, 0.02, (size, size, 3, components))}
    stored = {"MU": arrays["MU"].reshape(-1), "PC": arrays["PC"].reshape(-1, components)} if flat else arrays
    np.savez(folder / "FLAME_albedo_from_BFM.npz", **stored)
    return arrays


def write_folder(folder: Path, size: dict = SMALL, seed: int = 0, name: str = "generic_model.pkl") -> Path:
    """Write a model and its landmarks, and return the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / name, synthetic_flame(seed, **size))
    write_landmarks(folder, synthetic_landmarks(seed, size["triangles"]))
    return folder / name


def load_small(path: Path, **changes: Any) -> flamejax.HeadModel:
    """Load a model of the size `SMALL`. changes: fields of `FlameFiles`."""
    return flamejax.load_head(path, flame=dataclasses.replace(SMALL_FLAME, **changes))
