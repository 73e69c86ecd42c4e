"""Trained IdGen, ExpGen and IdRank: those that ship, and files of one's own.

A file holds what was trained, the last layers of ArcFace and FaRL included, and no frozen layer of these: their weights
may not be passed on. They come from the encoders' own files, which must be those that the network was trained with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from flax import nnx

from flamejax.head import HeadFileError, HeadModel
from models.encoders.landmark import LandmarkEncoderConfig, Reference, reference_landmarks
from models.encoders.parts import Conditioned, base_digests, load_image_encoders
from models.generator import Generator, GeneratorConfig, Scale
from models.rank import IdRank, IdRankConfig, frontal_vertices
from models.unet1d import UNet1DConfig
from models.weight_files import ASSETS, Kinds, fill, from_json, open_weights, write_weights

Network = TypeVar("Network", bound=Conditioned)
NETWORKS = {"identity": "IdGen", "expression": "ExpGen"}
FILES = {"IdGen": "open_head_idgen.npz", "ExpGen": "open_head_expgen.npz", "IdRank": "open_head_idrank.npz"}
BASE = "base_"
"""Before an image encoder's name: a note of which one the network was trained with."""
KINDS: Kinds = {nnx.Param: "parameter:", Scale: "scale:", Reference: "reference:"}


def ofer_path(network: str) -> Path:
    """The open head's weights of IdGen, ExpGen or IdRank, which ship (models/assets/MODEL_CARD.md)."""
    return ASSETS / FILES[network]


def encoders_of(head: HeadModel, network: str, path: str | os.PathLike[str] | None = None) -> tuple[str, ...]:
    """Names of the encoders of IdGen, ExpGen or IdRank in a file; errors as those of `load_generator`."""
    return tuple(_opened(head, network, path)[2].get("encoders", ()))


def build_generator(
    head: HeadModel, config: GeneratorConfig, seed: int = 0, mean: Any = None, deviation: Any = None,
    encoders: Mapping[Any, Any] | None = None,
) -> Generator:  # fmt: skip
    """An untrained generator of a head.

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
    """A trained IdGen (kind `identity`) or ExpGen (`expression`) of a head.

    Args:
      path: a file that `python -m experiments.train --config idgen|expgen` wrote; the one that ships when left out.
      encoders: image encoders, or their files, by the names `arcface` and `farl`, for a network that looks at photos;
        those at `encoder_path(name)` when left out. Several networks can share loaded ones.

    Raises:
      FileNotFoundError: there is no such file, or none of an image encoder; the message says how to convert one.
      HeadFileError: it is damaged, of another version or network, or was trained for another head or with another
        image encoder.
    """

    def build(settings: dict[str, Any]) -> Generator:
        unet, landmark = UNet1DConfig(**from_json(settings.pop("unet"))), _landmark(settings)
        config = GeneratorConfig(**from_json(settings), unet=unet, landmark=landmark)
        return build_generator(head, config, encoders=encoders)

    return _load(head, NETWORKS[kind], path, build)


def write_generator(
    path: str | os.PathLike[str], head: HeadModel, model: Generator, notes: Mapping[str, str] | None = None
) -> None:
    """Write weights, whole or not at all. notes: provenance. Raises: OSError, the folder is missing or full."""
    _write(path, head, model, NETWORKS[model.config.kind], notes)


def build_rank(
    head: HeadModel, config: IdRankConfig, seed: int = 0, encoders: Mapping[Any, Any] | None = None
) -> IdRank:
    """An untrained IdRank of a head; as `build_generator`."""
    images, count = load_image_encoders(config.encoders, encoders), int(frontal_vertices(head).sum())
    return IdRank(config, count, reference_landmarks(head), rngs=nnx.Rngs(seed), encoders=images)


def load_rank(
    head: HeadModel, path: str | os.PathLike[str] | None = None, encoders: Mapping[Any, Any] | None = None
) -> IdRank:
    """A trained IdRank of a head; arguments and errors as those of `load_generator`."""

    def build(settings: dict[str, Any]) -> IdRank:
        landmark = _landmark(settings)
        return build_rank(head, IdRankConfig(**from_json(settings), landmark=landmark), encoders=encoders)

    return _load(head, "IdRank", path, build)


def write_rank(
    path: str | os.PathLike[str], head: HeadModel, model: IdRank, notes: Mapping[str, str] | None = None
) -> None:
    """As `write_generator`."""
    _write(path, head, model, "IdRank", notes)


def check_bases(model: Conditioned, found: Mapping[str, Any], path: Path) -> None:
    """Raises: HeadFileError, the file's last layers were trained on another encoder than the model has."""
    for name, digest in base_digests(model).items():
        trained = str(found.get(f"provenance_{BASE}{name}", "?"))
        if trained != digest:
            raise HeadFileError(
                f"{path}: trained with another {name} ({trained[:12]}) than the one given ({digest[:12]}). Give that "
                f"one's file: `flamejax convert FILE --to {name}`, docs/how-to/encoders.md."
            )


def _write(
    path: str | os.PathLike[str], head: HeadModel, model: Conditioned, what: str, notes: Mapping[str, str] | None
) -> None:
    bases = {BASE + name: digest for name, digest in base_digests(model).items()}
    write_weights(path, head, model, model.config, what, KINDS, {**(notes or {}), **bases})


def _load(
    head: HeadModel, network: str, path: str | os.PathLike[str] | None, build: Callable[[dict[str, Any]], Network]
) -> Network:
    """The network that `build` makes of a file's settings, with the file's weights."""
    path, found, settings = _opened(head, network, path)
    try:
        model = build(settings)
    except HeadFileError:  # an image encoder's
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise HeadFileError(f"{path}: damaged, or of another flamejax ({error}).") from error
    check_bases(model, found, path)
    fill(model, KINDS, found, path)
    return model


def _landmark(settings: dict[str, Any]) -> LandmarkEncoderConfig:
    """The landmark encoder's settings, taken out of the network's."""
    return LandmarkEncoderConfig(**from_json(settings.pop("landmark")))


def _opened(
    head: HeadModel, network: str, path: str | os.PathLike[str] | None
) -> tuple[Path, Mapping[str, Any], dict[str, Any]]:
    path = ofer_path(network) if path is None else Path(path)
    config = network.lower()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such {network}. `python -m experiments.train --config {config}_small` trains one, which is "
            f"given as --{config} FILE."
        )
    how = (
        f"train one for this with `python -m experiments.train --config {config} --head FILE --output WEIGHTS`, and "
        f"give it as `--{config} WEIGHTS`."
    )
    return path, *open_weights(head, path, network, how)
