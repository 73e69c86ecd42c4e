"""Files of trained networks: one `.npz`, versioned, of one head, without pickles, in half precision."""

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
EXACT_BELOW = 100_000
"""Statistics of fewer numbers are kept in single precision."""
ASSETS = Path(__file__).parent / "assets"
Kinds = Mapping[Any, str]
"""What is kept of a model: the type of its variables -> their prefix in the file."""


def made_for(path: Path, head: HeadModel) -> bool:
    """Whether a file's weights are of this head; without loading them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["head_hash"]) == geometry_hash(head)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def open_weights(head: HeadModel, path: Path, what: str, how: str) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    """A file's arrays and its settings, checked to be of this head.

    Args:
      what: what it should hold, such as Mesh-VAE. how: a sentence on how to come by one for another head.

    Raises:
      HeadFileError: it is damaged, of another version, of another network, or was trained for another head.
    """
    found = read_npz(path)
    try:
        if int(found["format_version"]) != FORMAT_VERSION:
            raise HeadFileError(f"{path}: format {int(found['format_version'])}, but this flamejax reads 1.")
        trained = str(found["head_name"]), str(found["head_version"]), str(found["head_hash"])
        settings = json.loads(str(found["config"]))
    except (KeyError, ValueError, TypeError) as error:
        raise HeadFileError(f"{path}: no {what} of flamejax, or damaged ({error}).") from error
    # Mesh-VAEs were the first kind, and do not say so.
    kind = str(found.get("network", "Mesh-VAE"))
    if kind != what:
        raise HeadFileError(f"{path}: no {what}, but weights of {kind}.")
    if trained != (head.name, head.version, geometry_hash(head)):
        raise HeadFileError(
            f"{path}: trained for the head '{trained[0]} {trained[1]}' (geometry {trained[2][:12]}), not for this "
            f"'{head.name} {head.version}' (geometry {geometry_hash(head)[:12]}). Load that head, or {how}"
        )
    return found, settings


def write_weights(
    path: str | os.PathLike[str], head: HeadModel, model: nnx.Module, config: Any, what: str, kinds: Kinds,
    notes: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write weights, whole or not at all. config: a dataclass; notes: provenance.

    Raises:
      OSError: the folder is missing or full.
    """
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "network": np.asarray(what),
        "head_name": np.asarray(head.name),
        "head_version": np.asarray(head.version),
        "head_hash": np.asarray(geometry_hash(head)),
        "config": np.asarray(json.dumps(dataclasses.asdict(config))),
    }
    for kind, prefix in kinds.items():
        for name, leaf in flat_state(model, kind).items():
            # Half precision is good to a tenth of a millimetre of the mean head: not enough.
            exact = kind is not nnx.Param and leaf.size < EXACT_BELOW
            arrays[prefix + name] = np.asarray(leaf, np.float32 if exact else np.float16)
    write_arrays(path, arrays, notes)


def write_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, Any], notes: Mapping[str, str] | None, compressed: bool = True
) -> None:
    """Write an `.npz`, whole or not at all. notes: provenance. Raises: OSError, the folder is missing or full."""
    provenance = {f"provenance_{name}": np.asarray(value) for name, value in (notes or {}).items()}
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, allow_pickle=False, **arrays, **provenance)
    write_bytes(path, buffer.getvalue())


def fill(model: nnx.Module, kinds: Kinds, found: Mapping[str, np.ndarray], path: Path) -> None:
    """Put a file's arrays into a model of its settings. Raises: HeadFileError, one is missing or of another shape."""
    for kind, prefix in kinds.items():
        flat = []
        for place, leaf in nnx.to_flat_state(nnx.state(model, kind)):
            name = prefix + path_name(place)
            if name not in found or found[name].shape != leaf.shape:
                raise HeadFileError(
                    f"{path}: {path_name(place)} is missing or has another shape: damaged. Fetch it again."
                )
            flat.append((place, leaf.replace(jnp.asarray(found[name], jnp.float32))))
        nnx.update(model, nnx.from_flat_state(flat))


def flat_state(model: nnx.Module, kind: type = nnx.Param) -> dict[str, Array]:
    """Arrays by their path, such as up/0/conv/bases."""
    return {path_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}


def digest_of_weights(network: nnx.Module) -> str:
    """SHA-256 (hex) of all that a network holds."""
    leaves = jax.tree.leaves(nnx.state(network))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def from_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A dataclass's fields from what JSON makes of them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}


def path_name(path: tuple[Any, ...]) -> str:
    """The name of a variable by its path in a network, such as up/0/conv/bases."""
    return "/".join(map(str, path))
