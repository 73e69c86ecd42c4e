"""Read and write files of trained networks: one versioned `.npz` for one head, without pickles, in half precision."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flamejax.files import write_bytes
from flamejax.head import HeadFileError, HeadModel, geometry_hash
from flamejax.head.formats import read_npz

FORMAT_VERSION = 1
FLOAT32_BELOW = 100_000
"""Statistics arrays with fewer elements than this are stored in single precision."""
ASSETS = Path(__file__).parent / "assets"
VariablePrefixes = Mapping[Any, str]
"""The variable types that a file stores, each with the prefix of its variables' names in the file."""


def is_trained_for(path: Path, head: HeadModel) -> bool:
    """Return whether a file's weights were trained for this head, without loading them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["head_hash"]) == geometry_hash(head)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def read_weights(
    head: HeadModel, path: Path, network: str, remedy: str
) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """Return a file's arrays and its settings, after checking that it was written for this head.

    Args:
      network: the network that the file should hold, such as Mesh-VAE.
      remedy: the end of an error message that says how to get such a file for another head.

    Raises:
      HeadFileError: it is damaged, of another version, of another network, or was trained for another head.
    """
    arrays = read_npz(path)
    try:
        if int(arrays["format_version"]) != FORMAT_VERSION:
            raise HeadFileError(f"{path}: format {int(arrays['format_version'])}, but this flamejax reads 1.")
        trained = str(arrays["head_name"]), str(arrays["head_version"]), str(arrays["head_hash"])
        settings = json.loads(str(arrays["config"]))
    except (KeyError, ValueError, TypeError) as error:
        raise HeadFileError(f"{path}: not a flamejax file of {network} weights, or damaged ({error}).") from error
    # Mesh-VAE files are older than the field "network" and lack it.
    kind = str(arrays.get("network", "Mesh-VAE"))
    if kind != network:
        raise HeadFileError(f"{path}: no {network}, but weights of {kind}.")
    if trained != (head.name, head.version, geometry_hash(head)):
        raise HeadFileError(
            f"{path}: trained for the head '{trained[0]} {trained[1]}' (geometry {trained[2][:12]}), not for this "
            f"'{head.name} {head.version}' (geometry {geometry_hash(head)[:12]}). Load that head, or {remedy}"
        )
    return arrays, settings


def write_weights(
    path: str | os.PathLike[str], head: HeadModel, model: nnx.Module, config: Any, network: str,
    prefixes: VariablePrefixes, notes: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write a network's weights atomically.

    Args:
      config: the network's settings, a dataclass, stored as JSON.
      prefixes: the variable types to store. notes: provenance.

    Raises:
      OSError: the folder is missing or full.
    """
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "network": np.asarray(network),
        "head_name": np.asarray(head.name),
        "head_version": np.asarray(head.version),
        "head_hash": np.asarray(geometry_hash(head)),
        "config": np.asarray(json.dumps(dataclasses.asdict(config))),
    }
    for kind, prefix in prefixes.items():
        for name, leaf in flat_state(model, kind).items():
            # Half precision would round the mean head by up to a tenth of a millimetre, which is too much.
            single = kind is not nnx.Param and leaf.size < FLOAT32_BELOW
            arrays[prefix + name] = np.asarray(leaf, np.float32 if single else np.float16)
    write_arrays(path, arrays, notes)


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], notes: Mapping[str, str] | None, compressed: bool = True
) -> None:
    """Write an `.npz` atomically. notes: provenance. Raises OSError if the folder is missing or full."""
    provenance = {f"provenance_{name}": np.asarray(value) for name, value in (notes or {}).items()}
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays, **provenance)
    write_bytes(path, buffer.getvalue())


def assign_variables(
    model: nnx.Module, prefixes: VariablePrefixes, arrays: Mapping[str, np.ndarray], path: Path
) -> None:
    """Set a model's variables to a file's arrays. Raises HeadFileError if one is missing or has another shape."""
    for kind, prefix in prefixes.items():
        flat = []
        for variable_path, leaf in nnx.to_flat_state(nnx.state(model, kind)):
            name = prefix + path_name(variable_path)
            if name not in arrays or arrays[name].shape != leaf.shape:
                raise HeadFileError(
                    f"{path}: {path_name(variable_path)} is missing or has another shape: damaged. Fetch it again."
                )
            flat.append((variable_path, leaf.replace(jnp.asarray(arrays[name], jnp.float32))))
        nnx.update(model, nnx.from_flat_state(flat))


def flat_state(model: nnx.Module, kind: type = nnx.Param) -> dict[str, Array]:
    """Return a network's variables of one type by the names of their paths, such as up/0/conv/bases."""
    return {path_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}


def digest_of_weights(network: nnx.Module) -> str:
    """Return the SHA-256 (hex) of all variables of a network."""
    leaves = jax.tree.leaves(nnx.state(network))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def fields_from_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass from parsed JSON, with lists turned into tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def path_name(path: tuple[Any, ...]) -> str:
    """Return the name of a variable's path in a network, such as up/0/conv/bases."""
    return "/".join(map(str, path))
