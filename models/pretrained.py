"""Trained Mesh-VAEs: the one that ships, and files of one's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flamejax.head import HeadFileError, HeadModel
from models.linear_branch import Normalization
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for
from models.weight_files import ASSETS, fill, from_json, made_for, open_weights, write_weights

NETWORK = "Mesh-VAE"
HOW = (
    "train one for this with `python -m experiments.train --config mesh_vae --head FILE --scans DIR --output VAE`, and "
    "give it as `--mesh-vae VAE`, or load_mesh_vae(head, VAE)."
)
SHIPPED = "open_head_mesh_vae.npz"
KINDS = {nnx.Param: "parameter:", Normalization: "frame:"}
"""What is kept of a model."""


def mesh_vae_path() -> Path:
    """The open head's weights, which ship (models/assets/MODEL_CARD.md)."""
    return ASSETS / SHIPPED


def has_shipped_mesh_vae(head: HeadModel) -> bool:
    """Whether the Mesh-VAE that ships is of this head; without loading it."""
    return made_for(mesh_vae_path(), head)


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
    found, settings = open_weights(head, path, NETWORK, HOW)
    try:
        mean, spread = np.asarray(found["frame:mean"], np.float32), float(found["frame:spread"])
    except (KeyError, ValueError, TypeError) as error:
        raise HeadFileError(f"{path}: no Mesh-VAE of flamejax, or damaged ({error}).") from error
    try:
        model = build_mesh_vae(head, config_from(settings), mean, spread)
    except (TypeError, ValueError) as error:
        raise HeadFileError(f"{path}: damaged, or of another flamejax ({error}).") from error
    fill(model, KINDS, found, path)
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
    write_weights(path, head, model, model.config, NETWORK, KINDS, notes)


def config_from(settings: Mapping[str, Any]) -> MeshVAEConfig:
    """The architecture from what JSON makes of it. Raises: TypeError, ValueError."""
    return MeshVAEConfig(**from_json(settings))
