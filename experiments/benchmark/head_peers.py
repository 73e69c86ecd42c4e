"""Other head-model libraries for `benchmark head --peers`: the vertices of FLAME models, and their gradient.

Each loader takes a FLAME pickle with smplx's landmark files beside it, parameters under smplx's names, and weights
(B, V, 3). It returns the program of the vertices (B, V, 3) in metres, and that of the gradient of their weighted sum in
all parameters. It raises PeerMissing where the library is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.timing import CompiledCall, PeerMissing, TimedCall

Peer = tuple[TimedCall, TimedCall] | tuple[CompiledCall, CompiledCall]


def load_smplx(model: Path, params: dict[str, np.ndarray], weights: jax.Array) -> Peer:
    """Load smplx's FLAME, which also computes the 51 inner landmarks, a small part of its work."""
    with _needed("smplx", "pip install smplx==0.1.28 and torch==2.13.0 (a CPU build)"):
        import smplx
        import torch
    sizes = {"num_betas": params["betas"].shape[1], "num_expression_coeffs": params["expression"].shape[1]}
    with contextlib.redirect_stdout(io.StringIO()):
        layer = smplx.FLAME(str(model.parent), batch_size=len(params["betas"]), **sizes)
    tensors = {name: torch.as_tensor(value).requires_grad_() for name, value in params.items()}
    return _torch_peer(lambda: layer(**tensors).vertices, [*tensors.values()], weights)


def load_flame_pytorch(model: Path, params: dict[str, np.ndarray], weights: jax.Array) -> Peer:
    """Load flame-pytorch, which also computes the 51 inner landmarks."""
    with _needed("flame-pytorch", "pip install --no-deps flame-pytorch==0.0.1, with smplx and torch"):
        import torch
        from flame_pytorch import FLAME
    config = argparse.Namespace(
        flame_model_path=os.fspath(model),
        static_landmark_embedding_path=os.fspath(model.parent / "flame_static_embedding.pkl"),
        dynamic_landmark_embedding_path=os.fspath(model.parent / "flame_dynamic_embedding.npy"),
        shape_params=params["betas"].shape[1],
        expression_params=params["expression"].shape[1],
        batch_size=len(params["betas"]),
        use_face_contour=False,
        use_3D_translation=True,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        layer = FLAME(config)
    parts = [
        params["betas"],
        params["expression"],
        np.concatenate([params["global_orient"], params["jaw_pose"]], 1),
        params["neck_pose"],
        np.concatenate([params["leye_pose"], params["reye_pose"]], 1),
        params["transl"],
    ]
    tensors = [torch.as_tensor(part).requires_grad_() for part in parts]
    return _torch_peer(lambda: layer(*tensors)[0], tensors, weights)


def load_body_models(model: Path, params: dict[str, np.ndarray], weights: jax.Array) -> Peer:
    """Load body-models' JAX backend under jit; it computes no landmarks."""
    with _needed("body-models", "pip install body-models==0.26.2"):
        from body_models.flame.jax import FLAME
    layer = FLAME(model_path=model)
    pose = np.stack([params[name] for name in ("neck_pose", "jaw_pose", "leye_pose", "reye_pose")], 1)
    names = {"head_rotation": "global_orient", "shape": "betas", "expression": "expression"}
    given = {name: jnp.asarray(params[ours]) for name, ours in names.items()}
    given |= {"global_translation": jnp.asarray(params["transl"]), "head_pose": jnp.asarray(pose)}

    def draw(given):  # noqa: ANN001, ANN202
        return layer.forward_vertices(given["head_pose"], **{k: v for k, v in given.items() if k != "head_pose"})

    loss = jax.value_and_grad(lambda given, weights: jnp.sum(weights * draw(given)))
    return CompiledCall(draw, given), CompiledCall(loss, given, weights)


PEERS: dict[str, Callable[[Path, dict[str, np.ndarray], jax.Array], Peer]] = {
    "smplx 0.1.28": load_smplx,
    "flame-pytorch 0.0.1": load_flame_pytorch,
    "body-models 0.26.2, JAX jit": load_body_models,
}


@contextlib.contextmanager
def _needed(name: str, remedy: str):  # noqa: ANN202
    try:
        yield
    except ImportError as missing:
        raise PeerMissing(f"no rows against {name} ({missing}): {remedy} (docs/results/benchmark.md)") from missing


def _torch_peer(draw: Callable, tensors: list, weights: jax.Array) -> Peer:
    import torch

    factors = torch.as_tensor(np.array(weights))

    def forward() -> object:
        with torch.no_grad():
            return draw()

    def gradient() -> object:
        return torch.autograd.grad((factors * draw()).sum(), tensors)

    return TimedCall(forward), TimedCall(gradient)
