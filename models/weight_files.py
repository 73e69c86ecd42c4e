"""Read and write files of trained networks: one versioned `.npz` for one head, without pickles, in half precision."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flamejax.files import write_bytes
from flamejax.head import HeadFileError, HeadModel, geometry_hash
from flamejax.head.formats import read_npz, read_npz_members
from flamejax.io.records import parse_json

FORMAT_VERSION = 1
FLOAT32_BELOW = 100_000
"""Statistics arrays with fewer elements than this are stored in single precision."""
ASSETS = Path(__file__).parent / "assets"
MAX_SETTINGS, MAX_LIST, MAX_NUMBER = 100_000, 32, 1e6
LEAST_LIMIT = 1024
"""Sizes up to this need not occur in a file's arrays."""
Config = TypeVar("Config")
VariablePrefixes = Mapping[Any, str]
"""The variable types that a file stores, each with the prefix of its variables' names in the file."""


def is_trained_for(path: Path, head: HeadModel) -> bool:
    """Return whether a file's weights were trained for this head, without loading them."""
    try:
        return str(read_npz_members(path, ("head_hash",)).get("head_hash")) == geometry_hash(head)
    except HeadFileError:
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
        settings = parse_settings(str(arrays["config"]))
    except HeadFileError:
        raise
    except (KeyError, ValueError, TypeError, OverflowError) as error:
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
    """Set a model's variables to a file's arrays.

    Raises:
      HeadFileError: one is missing, has another shape, or is not of finite numbers; or the file has others.
    """
    for kind, prefix in prefixes.items():
        flat = []
        for variable_path, leaf in nnx.to_flat_state(nnx.state(model, kind)):
            name = prefix + path_name(variable_path)
            if name not in arrays or arrays[name].shape != leaf.shape:
                raise HeadFileError(
                    f"{path}: {path_name(variable_path)} is missing or has another shape: damaged. Fetch it again."
                )
            if arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
                raise HeadFileError(f"{path}: {path_name(variable_path)} is not of finite numbers. Fetch it again.")
            flat.append((variable_path, leaf.replace(jnp.asarray(arrays[name], jnp.float32))))
        unused = {name for name in arrays if name.startswith(prefix)} - {prefix + path_name(key) for key, _ in flat}
        if unused:
            raise HeadFileError(f"{path}: {min(unused)[:100]} does not belong to its architecture: damaged.")
        nnx.update(model, nnx.from_flat_state(flat))


def flat_state(model: nnx.Module, kind: type = nnx.Param) -> dict[str, Array]:
    """Return a network's variables of one type by the names of their paths, such as up/0/conv/bases."""
    return {path_name(path): leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(model, kind))}


def digest_of_weights(network: nnx.Module) -> str:
    """Return the SHA-256 (hex) of all variables of a network."""
    leaves = jax.tree.leaves(nnx.state(network))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()


def parse_settings(text: str) -> dict[str, Any]:
    """Parse a file's settings. Raises ValueError if they are no JSON object, or one that no network has."""
    if len(text) > MAX_SETTINGS:
        raise ValueError(f"settings of {len(text)} characters")
    settings = parse_json(text, check_numbers=False)  # `config_from_json` checks them with their names
    if type(settings) is not dict:
        raise ValueError("settings that are no JSON object")
    return settings


def largest_axis(arrays: Mapping[str, np.ndarray]) -> int:
    """Return the largest size that settings may have, since larger ones do not fit the file's arrays."""
    return max([LEAST_LIMIT, *(max(array.shape, default=0) for array in arrays.values())])


def config_from_json(kind: type[Config], settings: Mapping[str, Any], largest: int) -> Config:
    """Build a dataclass of an architecture from parsed JSON, also its inner dataclasses; lists become tuples.

    Args:
      largest: limit of all integers. Numbers are finite, and lists have at most `MAX_LIST` items.

    Raises:
      ValueError: a setting is missing, unknown, of another type, beyond the limit, or refused by the class.
    """
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    missing = [name for name, field in fields.items() if name not in settings and _is_required(field)]
    unknown = [name[:40] for name in settings if name not in fields]
    if missing or unknown:
        raise ValueError(f"settings that are missing: {missing}; unknown: {unknown[:4]}")
    return kind(**{name: _setting(name, hints[name], value, largest) for name, value in settings.items()})


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _setting(name: str, kind: Any, value: Any, largest: int) -> Any:
    """Convert one setting to its annotated type. Raises ValueError if it is of another."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and type(value) is dict:
        return config_from_json(typing.cast(type, kind), value, largest)
    if origin is types.UnionType and type(None) in options:
        return None if value is None else _setting(name, options[0], value, largest)
    if origin is typing.Literal and type(value) is str and value in options:
        return value
    if origin is tuple and type(value) is list and len(value) <= MAX_LIST:
        return tuple(_setting(name, options[0], item, largest) for item in value)
    if kind is int and type(value) is int and 0 <= value <= largest:
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= MAX_NUMBER:  # not of NaN
        return float(value)
    if kind in (bool, str) and type(value) is kind:
        return value
    raise ValueError(f"impossible sizes or types: the setting '{name}'")


def path_name(path: tuple[Any, ...]) -> str:
    """Return the name of a variable's path in a network, such as up/0/conv/bases."""
    return "/".join(map(str, path))
