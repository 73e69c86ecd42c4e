"""Files of trained Mesh-VAEs: one `.npz`, versioned, without pickles, in half precision."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flamejax.head import HeadFileError, HeadModel
from flamejax.head.dense_landmarks import geometry_hash
from flamejax.head.npy_files import read_npz
from flamejax.io.files import write_bytes
from models.linear_branch import Frame
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for

FORMAT_VERSION = 1
EXACT_BELOW = 100_000
"""Statistics of fewer numbers are kept in single precision."""
SHIPPED = "open_head_mesh_vae.npz"
KINDS = {nnx.Param: "parameter:", Frame: "frame:"}
"""What is kept of a model."""


def mesh_vae_path() -> Path:
    """The open head's weights, which ship (models/assets/MODEL_CARD.md)."""
    return Path(__file__).parent / "assets" / SHIPPED


def has_shipped_mesh_vae(head: HeadModel) -> bool:
    """Whether the Mesh-VAE that ships is of this head; without loading it."""
    try:
        with np.load(mesh_vae_path(), allow_pickle=False) as file:
            return str(file["head_hash"]) == geometry_hash(head)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def load_mesh_vae(head: HeadModel, path: str | os.PathLike[str] | None = None) -> MeshVAE:
    """A trained Mesh-VAE of a head.

    Args:
      head: the head it was trained for.
      path: a file that `python -m experiments.train --config mesh_vae ...` wrote; `mesh_vae_path()` when left out.

    Raises:
      FileNotFoundError: there is no such file.
      HeadFileError: it is damaged, of another version, or was trained for another head; the message names it.
    """
    path = mesh_vae_path() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such Mesh-VAE. `python -m experiments.train --config mesh_vae_small --output FILE` trains one."
        )
    found = read_npz(path)
    try:
        if int(found["format_version"]) != FORMAT_VERSION:
            raise HeadFileError(f"{path}: format {int(found['format_version'])}, but this flamejax reads 1.")
        made_for = str(found["head_name"]), str(found["head_version"]), str(found["head_hash"])
        settings = json.loads(str(found["config"]))
        mean, spread = np.asarray(found["frame:mean"], np.float32), float(found["frame:spread"])
    except (KeyError, ValueError, TypeError) as error:
        raise HeadFileError(f"{path}: no Mesh-VAE of flamejax, or damaged ({error}).") from error
    if made_for != (head.name, head.version, geometry_hash(head)):
        raise HeadFileError(
            f"{path}: trained for the head '{made_for[0]} {made_for[1]}' (geometry {made_for[2][:12]}), not for this "
            f"'{head.name} {head.version}' (geometry {geometry_hash(head)[:12]}). Load that head, or train one "
            "for this with `python -m experiments.train --config mesh_vae --head FILE --scans DIR --output VAE`, and "
            "give it as `--mesh-vae VAE`, or load_mesh_vae(head, VAE)."
        )
    try:
        model = build_mesh_vae(head, config_from(settings), mean, spread)
    except (TypeError, ValueError) as error:
        raise HeadFileError(f"{path}: damaged, or of another flamejax ({error}).") from error
    for kind, prefix in KINDS.items():
        nnx.update(model, _filled(nnx.state(model, kind), prefix, found, path))
    return model


def build_mesh_vae(
    head: HeadModel, config: MeshVAEConfig, mean: np.ndarray | Array, spread: float,
    components: np.ndarray | None = None, seed: int = 0,
) -> MeshVAE:  # fmt: skip
    """An untrained Mesh-VAE of a head; arguments as those of `MeshVAE`."""
    hierarchy = hierarchy_for(config, np.asarray(head.faces), np.asarray(head.v_template))
    rows = None if components is None else jnp.asarray(components)
    return MeshVAE(hierarchy, config, rngs=nnx.Rngs(seed), mean=jnp.asarray(mean), spread=spread, components=rows)


def write_mesh_vae(
    path: str | os.PathLike[str], head: HeadModel, model: MeshVAE, notes: Mapping[str, str] | None = None
) -> None:
    """Write weights, whole or not at all. notes: provenance. Raises: OSError, the folder is missing or full."""
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "head_name": np.asarray(head.name),
        "head_version": np.asarray(head.version),
        "head_hash": np.asarray(geometry_hash(head)),
        "config": np.asarray(json.dumps(dataclasses.asdict(model.config))),
    }
    for name, value in (notes or {}).items():
        arrays[f"provenance_{name}"] = np.asarray(value)
    for kind, prefix in KINDS.items():
        for name, leaf in flat_state(model, kind).items():
            # Half precision is good to a tenth of a millimetre of the mean head: not enough.
            exact = kind is Frame and leaf.size < EXACT_BELOW
            arrays[prefix + name] = np.asarray(leaf, np.float32 if exact else np.float16)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def flat_state(model: MeshVAE, kind: type = nnx.Param) -> dict[str, Array]:
    """Arrays by their path, such as up/0/conv/bases."""
    return {_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}


def config_from(settings: Mapping[str, Any]) -> MeshVAEConfig:
    """The architecture from what JSON makes of it. Raises: TypeError, ValueError."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return MeshVAEConfig(**values)


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))


def _filled(state: nnx.State, prefix: str, found: Mapping[str, np.ndarray], path: Path) -> nnx.State:
    """The state with the file's arrays in it."""
    flat = []
    for place, leaf in nnx.to_flat_state(state):
        name = prefix + _name(place)
        if name not in found or found[name].shape != leaf.shape:
            raise HeadFileError(f"{path}: {_name(place)} is missing or has another shape: damaged. Fetch it again.")
        flat.append((place, leaf.replace(jnp.asarray(found[name], jnp.float32))))
    return nnx.from_flat_state(flat)
