"""Load and write trained IdGen, ExpGen and IdRank networks: those that ship, and the user's own files.

A file holds the trained layers only, including the last layers of ArcFace and FaRL. The licences of ArcFace and FaRL do
not allow us to distribute their frozen layers. These come from the encoders' own files, which must be the files that
the network was trained with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flax import nnx

from flamejax.head import HeadFileError, HeadModel
from models.encoders.conditioned import Conditioned, base_digests, load_image_encoders
from models.encoders.landmark import Reference, reference_landmarks
from models.generator import Generator, GeneratorConfig, Scale
from models.rank import IdRank, IdRankConfig, frontal_vertices
from models.weight_files import (
    ASSETS,
    Config,
    VariablePrefixes,
    assign_variables,
    config_from_json,
    largest_axis,
    read_weights,
    write_weights,
)

Network = TypeVar("Network", bound=Conditioned)
NETWORKS = {"identity": "IdGen", "expression": "ExpGen"}
FILES = {"IdGen": "open_head_idgen.npz", "ExpGen": "open_head_expgen.npz", "IdRank": "open_head_idrank.npz"}
BASE_PREFIX = "base_"
"""Prefix of the provenance notes that hold the digest of each image encoder used in training."""
VARIABLE_PREFIXES: VariablePrefixes = {nnx.Param: "parameter:", Scale: "scale:", Reference: "reference:"}


def ofer_path(network: str) -> Path:
    """Return the path of the open head's IdGen, ExpGen or IdRank weights (models/assets/MODEL_CARD.md)."""
    return ASSETS / FILES[network]


def encoder_names(head: HeadModel, network: str, path: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Return the names of the encoders of IdGen, ExpGen or IdRank in a file; raises as `load_generator`."""
    path, _, settings = _read_file(head, network, path)
    names = settings.get("encoders", [])
    if type(names) is not list or not all(type(name) is str for name in names):
        raise HeadFileError(f"{path}: damaged, or written by another version of flamejax (its encoders have no names).")
    return tuple(names)


def build_generator(
    head: HeadModel, config: GeneratorConfig, seed: int = 0, mean: Any = None, deviation: Any = None,
    encoders: Mapping[Any, Any] | None = None,
) -> Generator:  # fmt: skip
    """Build an untrained generator for a head.

    Args:
      mean, deviation: as those of `Generator`. encoders: as `load_generator`.

    Raises:
      FileNotFoundError, HeadFileError: as `load_image_encoders`. ValueError: as `Generator`.
    """
    images = load_image_encoders(config.encoders, encoders)
    rngs = nnx.Rngs(seed)
    return Generator(config, reference_landmarks(head), rngs=rngs, mean=mean, deviation=deviation, encoders=images)


def load_generator(
    head: HeadModel, kind: str, path: str | os.PathLike[str] | None = None,
    encoders: Mapping[Any, Any] | None = None,
) -> Generator:  # fmt: skip
    """Load a trained IdGen (kind `identity`) or ExpGen (`expression`) of a head.

    Args:
      path: a file that `flamejax train --config idgen|expgen` wrote; by default the one that ships.
      encoders: image encoders, or their files, by the names `arcface` and `farl`, for a network that takes photos;
        by default those at `encoder_path(name)`. Several networks can share loaded encoders.

    Raises:
      FileNotFoundError: there is no such file, or none of an image encoder; the message says how to convert one.
      HeadFileError: it is damaged, of another version or network, or was trained for another head or with another
        image encoder.
    """

    return _load(
        head, NETWORKS[kind], path, GeneratorConfig, lambda config: build_generator(head, config, encoders=encoders)
    )


def write_generator(
    path: str | os.PathLike[str], head: HeadModel, model: Generator, notes: Mapping[str, str] | None = None
) -> None:
    """Write a generator's weights atomically. notes: provenance. Raises OSError if the folder is missing or full."""
    _write(path, head, model, NETWORKS[model.config.kind], notes)


def build_rank(
    head: HeadModel, config: IdRankConfig, seed: int = 0, encoders: Mapping[Any, Any] | None = None
) -> IdRank:
    """Build an untrained IdRank for a head; arguments and errors as those of `build_generator`.

    Raises:
      ValueError: also as `frontal_vertices`.
    """
    images, count = load_image_encoders(config.encoders, encoders), int(frontal_vertices(head).sum())
    return IdRank(config, count, reference_landmarks(head), rngs=nnx.Rngs(seed), encoders=images)


def load_rank(
    head: HeadModel, path: str | os.PathLike[str] | None = None, encoders: Mapping[Any, Any] | None = None
) -> IdRank:
    """Load a trained IdRank of a head; arguments and errors as those of `load_generator`."""
    return _load(head, "IdRank", path, IdRankConfig, lambda config: build_rank(head, config, encoders=encoders))


def write_rank(
    path: str | os.PathLike[str], head: HeadModel, model: IdRank, notes: Mapping[str, str] | None = None
) -> None:
    """Write an IdRank's weights, as `write_generator`."""
    _write(path, head, model, "IdRank", notes)


def check_base_encoders(model: Conditioned, arrays: Mapping[str, Any], path: Path) -> None:
    """Check that a file's last layers were trained on the model's image encoders. Raises HeadFileError otherwise."""
    for name, digest in base_digests(model).items():
        trained = str(arrays.get(f"provenance_{BASE_PREFIX}{name}", "?"))
        if trained != digest:
            raise HeadFileError(
                f"{path}: trained with another {name} ({trained[:12]}) than the one given ({digest[:12]}). Give "
                f"that encoder's file: `flamejax convert FILE --to {name}`, docs/how-to/encoders.md."
            )


def _write(
    path: str | os.PathLike[str], head: HeadModel, model: Conditioned, network: str, notes: Mapping[str, str] | None
) -> None:
    bases = {BASE_PREFIX + name: digest for name, digest in base_digests(model).items()}
    write_weights(path, head, model, model.config, network, VARIABLE_PREFIXES, {**(notes or {}), **bases})


def _load(
    head: HeadModel, network: str, path: str | os.PathLike[str] | None, kind: type[Config],
    build: Callable[[Config], Network],
) -> Network:  # fmt: skip
    """Build the network from a file's settings with `build`, and assign the file's weights."""
    path, arrays, settings = _read_file(head, network, path)
    try:
        model = build(config_from_json(kind, settings, largest_axis(arrays)))
    except (HeadFileError, FileNotFoundError):  # about an image encoder's file
        raise
    except Exception as error:  # layers of impossible sizes raise nearly anything
        raise HeadFileError(f"{path}: damaged, or written by another version of flamejax ({error}).") from error
    check_base_encoders(model, arrays, path)
    assign_variables(model, VARIABLE_PREFIXES, arrays, path)
    return model


def _read_file(
    head: HeadModel, network: str, path: str | os.PathLike[str] | None
) -> tuple[Path, Mapping[str, Any], dict[str, Any]]:
    path = ofer_path(network) if path is None else Path(path)
    config = network.lower()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such {network}. `flamejax train --config {config}_small` trains one, which is "
            f"given as --{config} FILE."
        )
    remedy = (
        f"train one for this with `flamejax train --config {config} --head FILE --output WEIGHTS`, and "
        f"give it as `--{config} WEIGHTS`."
    )
    return path, *read_weights(head, path, network, remedy)
