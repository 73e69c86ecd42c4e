"""Load and write trained Mesh-VAEs: the one that ships, and the user's own files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flamejax.head import HeadFileError, HeadModel
from models.linear_branch import Normalization
from models.mesh_vae import MeshVAE, MeshVAEConfig, hierarchy_for
from models.weight_files import (
    ASSETS,
    assign_variables,
    config_from_json,
    is_trained_for,
    largest_axis,
    read_weights,
    write_weights,
)

NETWORK = "Mesh-VAE"
REMEDY = (
    "train one for this with `flamejax train --config mesh_vae --head FILE --scans DIR --output VAE`, and "
    "give it as `--mesh-vae VAE`, or load_mesh_vae(head, VAE)."
)
SHIPPED_FILE = "open_head_mesh_vae.npz"
VARIABLE_PREFIXES = {nnx.Param: "parameter:", Normalization: "frame:"}
"""The variable types that a file stores, with their name prefixes in it."""


def mesh_vae_path() -> Path:
    """Return the path of the open head's weights, which ship with the package (models/assets/MODEL_CARD.md)."""
    return ASSETS / SHIPPED_FILE


def has_shipped_mesh_vae(head: HeadModel) -> bool:
    """Return whether the shipped Mesh-VAE was trained for this head, without loading it."""
    return is_trained_for(mesh_vae_path(), head)


def load_mesh_vae(head: HeadModel, path: str | os.PathLike[str] | None = None) -> MeshVAE:
    """Load a trained Mesh-VAE of a head.

    Args:
      head: the head it was trained for.
      path: a file that `flamejax train --config mesh_vae ...` wrote; by default `mesh_vae_path()`.

    Raises:
      FileNotFoundError: there is no such file.
      HeadFileError: it is damaged, of another version, or was trained for another head, which the message names.
    """
    path = mesh_vae_path() if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such Mesh-VAE. `flamejax train --config mesh_vae_small --output FILE` trains one."
        )
    arrays, settings = read_weights(head, path, NETWORK, REMEDY)
    try:
        mean, spread = np.asarray(arrays["frame:mean"], np.float32), float(arrays["frame:spread"])
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise HeadFileError(f"{path}: not a Mesh-VAE file of flamejax, or damaged ({error}).") from error
    try:
        config = config_from_json(MeshVAEConfig, settings, largest_axis(arrays))
        _check_statistics(head, config, arrays, mean, spread)
        model = build_mesh_vae(head, config, mean, spread)
    except Exception as error:  # layers of impossible sizes raise nearly anything
        raise HeadFileError(f"{path}: damaged, or written by another version of flamejax ({error}).") from error
    assign_variables(model, VARIABLE_PREFIXES, arrays, path)
    return model


def build_mesh_vae(
    head: HeadModel, config: MeshVAEConfig, mean: np.ndarray | Array, spread: float,
    components: np.ndarray | None = None, seed: int = 0,
) -> MeshVAE:  # fmt: skip
    """Build an untrained Mesh-VAE for a head; arguments as those of `MeshVAE`."""
    hierarchy = hierarchy_for(config, np.asarray(head.faces), np.asarray(head.v_template))
    rows = None if components is None else jnp.asarray(components)
    return MeshVAE(hierarchy, config, rngs=nnx.Rngs(seed), mean=jnp.asarray(mean), spread=spread, components=rows)


def write_mesh_vae(
    path: str | os.PathLike[str], head: HeadModel, model: MeshVAE, notes: Mapping[str, str] | None = None
) -> None:
    """Write a Mesh-VAE's weights atomically. notes: provenance. Raises OSError if the folder is missing or full."""
    write_weights(path, head, model, model.config, NETWORK, VARIABLE_PREFIXES, notes)


def _check_statistics(
    head: HeadModel, config: MeshVAEConfig, arrays: Mapping[str, np.ndarray], mean: np.ndarray, spread: float
) -> None:
    """Check a file's statistics before a network is built from them. Raises ValueError."""
    if mean.shape != (head.num_vertices, 3) or not np.isfinite(mean).all():
        raise ValueError(f"a mean of shape {mean.shape}, or one that is not finite")
    if not (np.isfinite(spread) and spread > 0):
        raise ValueError(f"a spread of {spread}")
    if config.linear_rank:
        # A component takes a number per vertex, also if it is zero.
        hierarchy = hierarchy_for(config, np.asarray(head.faces), np.asarray(head.v_template))
        latents = hierarchy.num_vertices[-1] * config.latent_features
        stored = arrays["frame:linear/scales"].shape
        if stored != (latents,):
            raise ValueError(f"{latents} latents, but scales of shape {stored}")
