"""Makes tests/golden/flame_parity.npz and deca_landmark_embedding.npy: `python -m tests.golden.make_flame_parity`.

Runs smplx 0.1.28, body-models 0.26.2 and flame-pytorch 0.0.1 (from PyPI, with torch 2.13.0; not needed otherwise) on
the synthetic FLAME-format model of `tests.flame_format` and stores their results at 300 of its vertices. flame-pytorch
requires an old NumPy: install it with `pip install --no-deps flame-pytorch==0.0.1`.
"""

import argparse
import os
import pickle
import tempfile
from pathlib import Path

import numpy as np

from tests import flame_format

SEED, SAMPLED, EXAMPLES = 20170, 300, 8
HERE = Path(__file__).parent


def parity_params() -> dict[str, np.ndarray]:
    """Eight parameter sets, float32 (8, n) under smplx's names: rest, moderate, and large rotations of neck and jaw."""
    rng = np.random.Generator(np.random.PCG64([SEED, 9]))
    sizes = {"betas": 300, "expression": 100}
    names = ("betas", "expression", "global_orient", "neck_pose", "jaw_pose", "leye_pose", "reye_pose", "transl")
    spread = {"betas": 1.0, "expression": 1.0, "global_orient": 0.4, "neck_pose": 0.4, "jaw_pose": 0.15, "transl": 0.1}
    params = {n: rng.standard_normal((EXAMPLES, sizes.get(n, 3))) * spread.get(n, 0.2) for n in names}
    for value in params.values():
        value[0] = 0
    params["neck_pose"][1] = [0.1, 1.2, -0.1]  # a neck turned by 69 degrees
    params["neck_pose"][2] = [-0.9, -0.8, 0.7]
    params["jaw_pose"][2] = [0.6, 0.1, 0.0]
    params["jaw_pose"][3] = [1.3, 0.2, -0.2]  # a jaw opened by 75 degrees
    params["global_orient"][4] = [0.2, -1.4, 0.3]
    params["global_orient"][5] = [0.3, 2.8, -0.2]  # seen from behind
    params["neck_pose"][6] = 0.0  # where smplx and flame-pytorch agree on the contour
    params["global_orient"][6] = [0.05, -0.44, 0.1]
    params["global_orient"][7], params["neck_pose"][7] = [0.0, 0.3, 0.0], [0.0, 0.25, 0.0]
    return {name: value.astype(np.float32) for name, value in params.items()}


def parity_model() -> tuple[dict, dict[str, np.ndarray]]:
    """The model under FLAME's names, and its landmarks under DECA's."""
    landmarks = flame_format.synthetic_landmarks(SEED, flame_format.TRUE_SIZE["triangles"])
    # DECA's file stores the contour's weights in single precision.
    landmarks["dynamic_lmk_bary_coords"] = landmarks["dynamic_lmk_bary_coords"].astype(np.float32)
    return flame_format.synthetic_flame(SEED, **flame_format.TRUE_SIZE), landmarks


def main() -> None:
    """Run the references and write the files."""
    import torch

    model, landmarks = parity_model()
    sampled = np.sort(np.random.Generator(np.random.PCG64([SEED, 8])).choice(5023, SAMPLED, replace=False))
    params = parity_params()
    arrays = {"sampled": sampled.astype(np.int32)}
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        (folder / "FLAME_NEUTRAL.pkl").write_bytes(pickle.dumps(model, 2))
        flame_format.write_landmarks(folder, landmarks, both=False)
        tensors = {key: torch.as_tensor(value) for key, value in params.items()}
        arrays |= run_smplx(folder, tensors, sampled)
        arrays |= run_body_models(folder, params, sampled)
        arrays |= run_flame_pytorch(folder, tensors, sampled)
    np.savez_compressed(HERE / "flame_parity.npz", **arrays)
    as_deca = {key: torch.as_tensor(v) if key.startswith("dynamic") else v for key, v in landmarks.items()}
    np.save(HERE / "deca_landmark_embedding.npy", np.array(as_deca, dtype=object), allow_pickle=True)


def run_smplx(folder: Path, tensors: dict, sampled: np.ndarray) -> dict[str, np.ndarray]:
    """Run smplx as published (its contour ignores the neck), and with the neck in the contour's chain."""
    import smplx

    class WithNeck(smplx.FLAME):
        NECK_IDX = 1

    contours = {}
    for name, kind in (("smplx", smplx.FLAME), ("smplx_with_neck", WithNeck)):
        layer = kind(str(folder), num_betas=300, num_expression_coeffs=100, use_face_contour=True, batch_size=EXAMPLES)
        result = layer(**tensors)
        points = result.joints.numpy()
        contours[f"{name}_contour"] = points[:, 56:73]
    return contours | {
        "smplx_vertices": result.vertices.numpy()[:, sampled],
        "smplx_joints": points[:, :5],
        "smplx_inner": points[:, 5:56],
    }


def run_body_models(folder: Path, params: dict[str, np.ndarray], sampled: np.ndarray) -> dict[str, np.ndarray]:
    """Run body-models, which has no landmarks."""
    from body_models.flame.numpy import FLAME

    layer = FLAME(model_path=folder / "FLAME_NEUTRAL.pkl")
    pose = np.stack([params[name] for name in ("neck_pose", "jaw_pose", "leye_pose", "reye_pose")], 1)
    arguments = {"head_rotation": params["global_orient"], "shape": params["betas"], "expression": params["expression"]}
    arguments["global_translation"] = params["transl"]
    vertices = layer.forward_vertices(pose, **arguments)
    skeleton = layer.forward_skeleton(pose, **arguments)
    return {"body_models_vertices": np.asarray(vertices)[:, sampled], "body_models_joints": skeleton[..., :3, 3]}


def run_flame_pytorch(folder: Path, tensors: dict, sampled: np.ndarray) -> dict[str, np.ndarray]:
    """Run flame-pytorch: landmarks in iBUG order, with the neck in the contour's chain."""
    from flame_pytorch import FLAME

    config = argparse.Namespace(
        flame_model_path=os.fspath(folder / "FLAME_NEUTRAL.pkl"),
        static_landmark_embedding_path=os.fspath(folder / "flame_static_embedding.pkl"),
        dynamic_landmark_embedding_path=os.fspath(folder / "flame_dynamic_embedding.npy"),
        shape_params=300,
        expression_params=100,
        batch_size=EXAMPLES,
        use_face_contour=True,
        use_3D_translation=True,
    )
    import torch

    pose = torch.cat([tensors["global_orient"], tensors["jaw_pose"]], 1)
    eyes = torch.cat([tensors["leye_pose"], tensors["reye_pose"]], 1)
    vertices, landmarks = FLAME(config)(
        tensors["betas"], tensors["expression"], pose, tensors["neck_pose"], eyes, tensors["transl"]
    )
    return {
        "flame_pytorch_vertices": vertices.numpy()[:, sampled],
        "flame_pytorch_landmarks": landmarks.numpy(),
    }


if __name__ == "__main__":
    main()
