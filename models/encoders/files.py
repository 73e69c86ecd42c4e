"""Read and write image encoders in flamejax's own format: one versioned `.npz` without pickles.

Weights are stored in single precision, as in the source, because the last layer's training starts from them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flamejax.files import data_folder
from flamejax.head import HeadFileError
from flamejax.head.formats import read_npz, read_npz_members
from models.encoders.arcface import ArcFace, IResNetConfig
from models.encoders.farl import FaRL, ViTConfig
from models.encoders.identify import identify_file, refuse_file
from models.weight_files import config_from_json, parse_settings, path_name, write_arrays

FORMAT_VERSION = 1
LARGEST_SIZE = 10_000
"""Larger numbers in a file's architecture mean that the file is damaged."""
EncoderName = Literal["arcface", "farl"]
TITLES: dict[EncoderName, str] = {"arcface": "ArcFace", "farl": "FaRL"}
DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2): 18,
    (3, 4, 6, 3): 34,
    (3, 4, 14, 3): 50,
    (3, 13, 30, 3): 100,
    (6, 26, 60, 6): 200,
}
"""Depths of the published iResNets by the numbers of blocks of their stages."""


def encoder_path(name: EncoderName) -> Path:
    """Return the default path of a converted encoder: $FLAMEJAX_DATA/encoders/NAME.npz."""
    return data_folder() / "encoders" / f"{name}.npz"


def architecture(config: IResNetConfig | ViTConfig) -> str:
    """Return an architecture's name, such as iResNet-50 or ViT-B/16, or a description if it has none."""
    if isinstance(config, ViTConfig):
        return "ViT-B/16" if config == ViTConfig() else f"a ViT of {config.layers} layers of {config.hidden}"
    depth = DEPTHS.get(config.blocks)
    if depth is not None and config == IResNetConfig(blocks=config.blocks):
        return f"iResNet-{depth}"
    widths = "-".join(map(str, config.widths))
    return f"an iResNet of {'+'.join(map(str, config.blocks))} blocks, {widths} wide, for {config.image_size} pixels"


def flat_weights(encoder: nnx.Module) -> dict[tuple[Any, ...], nnx.Variable]:
    """Return an encoder's variables by path, such as ("stages", 0, 1, "conv1", "kernel"), sorted by path name."""
    return dict(sorted(nnx.to_flat_state(nnx.state(encoder)), key=lambda item: path_name(item[0])))


def abstract_encoder(config: IResNetConfig | ViTConfig) -> ArcFace | FaRL:
    """Return an encoder whose variables hold shapes and types (`jax.ShapeDtypeStruct`) instead of weights."""
    if isinstance(config, ViTConfig):
        return nnx.eval_shape(lambda: FaRL(config, rngs=nnx.Rngs(0)))
    return nnx.eval_shape(lambda: ArcFace(config, rngs=nnx.Rngs(0)))


def fill_encoder(config: IResNetConfig | ViTConfig, weights: Mapping[tuple[Any, ...], np.ndarray]) -> ArcFace | FaRL:
    """Build an encoder with these weights, by the paths of `flat_weights`; their shapes must match."""
    encoder = abstract_encoder(config)
    state = [
        (path, leaf.replace(jnp.asarray(weights[path], jnp.float32))) for path, leaf in flat_weights(encoder).items()
    ]
    nnx.update(encoder, nnx.from_flat_state(state))
    return encoder


def write_encoder(
    path: str | os.PathLike[str], encoder: ArcFace | FaRL, notes: Mapping[str, str] | None = None
) -> None:
    """Write an encoder atomically. notes: provenance. Raises OSError if the folder is missing or full."""
    weights = flat_weights(encoder)
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "encoder": np.asarray("farl" if isinstance(encoder, FaRL) else "arcface"),
        "config": np.asarray(json.dumps(dataclasses.asdict(encoder.config))),
        # One array, because an archive of a thousand arrays takes longer to open than to read.
        "weights": np.concatenate([np.asarray(leaf[...], np.float32).reshape(-1) for leaf in weights.values()]),
        "layout": np.asarray(_layout(weights)),
    }
    write_arrays(path, arrays, notes, compressed=False)  # weights hardly shrink


def load_encoder(name: EncoderName, path: str | os.PathLike[str] | None = None) -> ArcFace | FaRL:
    """Load an encoder from a file that `flamejax convert FILE --to NAME` wrote, by default `encoder_path(name)`.

    Raises:
      FileNotFoundError: there is no such file.
      HeadFileError: it is damaged, of another version, or something else; the message says what.
    """
    path = encoder_path(name) if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no {TITLES[name]} weights. Their licence does not allow us to ship them. Get them as "
            f"docs/how-to/encoders.md says, then run `flamejax convert FILE --to {name}`."
        )
    if (kind := identify_file(path)) != "npz":
        refuse_file(path, kind, f"what `flamejax convert {path} --to {name}` writes")
    arrays = read_npz(path)
    config = _read_config(name, arrays, path)
    leaves = flat_weights(abstract_encoder(config))
    weights, sizes = arrays.get("weights"), [math.prod(leaf.shape) for leaf in leaves.values()]
    if str(arrays.get("layout")) != _layout(leaves) or weights is None or weights.shape != (sum(sizes),):
        raise HeadFileError(f"{path}: its weights do not fit its architecture: damaged. Convert it again.")
    if weights.dtype.kind != "f" or not np.isfinite(weights).all():
        raise HeadFileError(f"{path}: its weights are not finite numbers: damaged. Convert it again.")
    parts = np.split(weights, np.cumsum(sizes)[:-1])
    return fill_encoder(
        config, {key: part.reshape(leaf.shape) for (key, leaf), part in zip(leaves.items(), parts, strict=True)}
    )


def load_arcface(path: str | os.PathLike[str] | None = None, depth: int | None = None) -> ArcFace:
    """Load ArcFace from a file that `flamejax convert FILE --to arcface` wrote.

    Args:
      path: by default `encoder_path("arcface")`.
      depth: the required depth, such as 50 or 100; None: any.

    Raises:
      FileNotFoundError, HeadFileError: as `load_encoder`; HeadFileError also if it has another depth.
    """
    encoder = load_encoder("arcface", path)
    assert isinstance(encoder, ArcFace)
    check_depth(encoder.config, depth, encoder_path("arcface") if path is None else Path(path))
    return encoder


def load_farl(path: str | os.PathLike[str] | None = None) -> FaRL:
    """Load FaRL from a file that `flamejax convert FILE --to farl` wrote; arguments and errors as `load_encoder`."""
    encoder = load_encoder("farl", path)
    assert isinstance(encoder, FaRL)
    return encoder


def check_depth(config: IResNetConfig, depth: int | None, path: Path) -> None:
    """Check a network's depth. Raises HeadFileError if it is not the required one (None: any)."""
    if depth is not None and DEPTHS.get(config.blocks) != depth:
        raise HeadFileError(f"{path}: holds {architecture(config)}, not iResNet-{depth}.")


def describe_encoder(name: EncoderName, path: Path) -> str:
    """Return a converted file's architecture and source in words, without reading its weights. Raises HeadFileError, as
    `load_encoder`."""
    if (kind := identify_file(path)) != "npz":
        refuse_file(path, kind, f"what `flamejax convert FILE --to {name}` writes")
    header = ("format_version", "encoder", "config", "provenance_source", "provenance_sha256")
    arrays = read_npz_members(path, header)
    config = _read_config(name, arrays, path)
    source, digest = (str(arrays.get(f"provenance_{note}", "?")) for note in ("source", "sha256"))
    return f"{architecture(config)} of {source}, sha256 {digest[:16]}"


def _layout(leaves: Mapping[tuple[Any, ...], Any]) -> str:
    """Return names and shapes in the order of the weights, as JSON."""
    return json.dumps([[path_name(path), list(leaf.shape)] for path, leaf in leaves.items()])


def _read_config(name: EncoderName, arrays: Mapping[str, Any], path: Path) -> IResNetConfig | ViTConfig:
    """Return the architecture stored in a file."""
    try:
        version, stored_name = int(arrays["format_version"]), str(arrays["encoder"])
        settings = parse_settings(str(arrays["config"]))
        if version != FORMAT_VERSION:
            raise HeadFileError(f"{path}: format {version}, not {FORMAT_VERSION}. Convert it again.")
        if stored_name != name:
            raise HeadFileError(f"{path}: holds the encoder '{stored_name[:20]}', not {TITLES[name]}.")
        kind: type[IResNetConfig | ViTConfig] = ViTConfig if name == "farl" else IResNetConfig
        config = config_from_json(kind, settings, LARGEST_SIZE)
        values = dataclasses.asdict(config).values()
        if not all(min(value) > 0 if isinstance(value, tuple) else value > 0 for value in values):
            raise ValueError("impossible sizes")
        if sum(config.blocks if isinstance(config, IResNetConfig) else (config.layers,)) > 1000:
            raise ValueError("too many layers")
        return config
    except HeadFileError:
        raise
    except (KeyError, ValueError, TypeError, ArithmeticError) as error:
        raise HeadFileError(f"{path}: no encoder of flamejax, or damaged ({error}).") from error
