"""Files of image encoders in flamejax's own format: one `.npz`, versioned, without pickles.

Weights are kept in single precision: that loses nothing of the source, whose size the file has anyway, and the trained
last layer starts from them.
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
from models.encoders.identify import identify, refuse
from models.weight_files import from_json, path_name, write_arrays

FORMAT_VERSION = 1
LARGEST_SIZE = 10_000
"""No number of an architecture is larger."""
EncoderName = Literal["arcface", "farl"]
TITLES: dict[EncoderName, str] = {"arcface": "ArcFace", "farl": "FaRL"}
DEPTHS: dict[tuple[int, ...], int] = {
    (2, 2, 2, 2): 18,
    (3, 4, 6, 3): 34,
    (3, 4, 14, 3): 50,
    (3, 13, 30, 3): 100,
    (6, 26, 60, 6): 200,
}
"""Published iResNets, by the blocks of their stages."""


def encoder_path(name: EncoderName) -> Path:
    """Where a converted encoder lies unless another place is given: $FLAMEJAX_DATA/encoders/NAME.npz."""
    return data_folder() / "encoders" / f"{name}.npz"


def architecture(config: IResNetConfig | ViTConfig) -> str:
    """Such as iResNet-50 or ViT-B/16, in words where it has no name."""
    if isinstance(config, ViTConfig):
        return "ViT-B/16" if config == ViTConfig() else f"a ViT of {config.layers} layers of {config.hidden}"
    depth = DEPTHS.get(config.blocks)
    if depth is not None and config == IResNetConfig(blocks=config.blocks):
        return f"iResNet-{depth}"
    widths = "-".join(map(str, config.widths))
    return f"an iResNet of {'+'.join(map(str, config.blocks))} blocks, {widths} wide, for {config.image_size} pixels"


def flat_weights(encoder: nnx.Module) -> dict[tuple[Any, ...], nnx.Variable]:
    """All variables of an encoder by their path, such as ("stages", 0, 1, "conv1", "kernel"); always in one order."""
    return dict(sorted(nnx.to_flat_state(nnx.state(encoder)), key=lambda item: path_name(item[0])))


def empty_encoder(config: IResNetConfig | ViTConfig) -> ArcFace | FaRL:
    """An encoder of shapes, without weights."""
    if isinstance(config, ViTConfig):
        return nnx.eval_shape(lambda: FaRL(config, rngs=nnx.Rngs(0)))
    return nnx.eval_shape(lambda: ArcFace(config, rngs=nnx.Rngs(0)))


def filled_encoder(config: IResNetConfig | ViTConfig, weights: Mapping[tuple[Any, ...], np.ndarray]) -> ArcFace | FaRL:
    """An encoder with these weights, by the paths of `flat_weights`; their shapes must be right."""
    encoder = empty_encoder(config)
    state = [
        (path, leaf.replace(jnp.asarray(weights[path], jnp.float32))) for path, leaf in flat_weights(encoder).items()
    ]
    nnx.update(encoder, nnx.from_flat_state(state))
    return encoder


def write_encoder(
    path: str | os.PathLike[str], encoder: ArcFace | FaRL, notes: Mapping[str, str] | None = None
) -> None:
    """Write an encoder, whole or not at all. notes: provenance. Raises: OSError, the folder is missing or full."""
    weights = flat_weights(encoder)
    arrays: dict[str, Any] = {
        "format_version": np.int32(FORMAT_VERSION),
        "encoder": np.asarray("farl" if isinstance(encoder, FaRL) else "arcface"),
        "config": np.asarray(json.dumps(dataclasses.asdict(encoder.config))),
        # One array: an archive of a thousand takes longer to open than to read.
        "weights": np.concatenate([np.asarray(leaf[...], np.float32).reshape(-1) for leaf in weights.values()]),
        "layout": np.asarray(_layout(weights)),
    }
    write_arrays(path, arrays, notes, compressed=False)  # weights hardly shrink


def load_encoder(name: EncoderName, path: str | os.PathLike[str] | None = None) -> ArcFace | FaRL:
    """An encoder from a file that `flamejax convert FILE --to NAME` wrote; `encoder_path(name)` when left out.

    Raises:
      FileNotFoundError: there is no such file.
      HeadFileError: it is damaged, of another version, or something else; the message says what.
    """
    path = encoder_path(name) if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no {TITLES[name]} weights. They may not be passed on. Sources: docs/how-to/encoders.md; "
            f"then `flamejax convert FILE --to {name}`."
        )
    if (kind := identify(path)) != "npz":
        refuse(path, kind, f"what `flamejax convert {path} --to {name}` writes")
    found = read_npz(path)
    config = _config(name, found, path)
    encoder = empty_encoder(config)
    leaves = flat_weights(encoder)
    weights, sizes = found.get("weights"), [math.prod(leaf.shape) for leaf in leaves.values()]
    if str(found.get("layout")) != _layout(leaves) or weights is None or weights.shape != (sum(sizes),):
        raise HeadFileError(f"{path}: its weights do not fit its architecture: damaged. Convert it again.")
    if weights.dtype.kind != "f" or not np.isfinite(weights).all():
        raise HeadFileError(f"{path}: its weights are not finite numbers: damaged. Convert it again.")
    parts = np.split(weights, np.cumsum(sizes)[:-1])
    return filled_encoder(
        config, {place: part.reshape(leaf.shape) for (place, leaf), part in zip(leaves.items(), parts, strict=True)}
    )


def load_arcface(path: str | os.PathLike[str] | None = None, depth: int | None = None) -> ArcFace:
    """ArcFace as `flamejax convert FILE --to arcface` wrote it.

    Args:
      path: `encoder_path("arcface")` when left out.
      depth: 50 or 100, to refuse another iResNet.

    Raises:
      FileNotFoundError, HeadFileError: as `load_encoder`; HeadFileError also when it is of another depth.
    """
    encoder = load_encoder("arcface", path)
    assert isinstance(encoder, ArcFace)
    check_depth(encoder.config, depth, encoder_path("arcface") if path is None else Path(path))
    return encoder


def load_farl(path: str | os.PathLike[str] | None = None) -> FaRL:
    """FaRL as `flamejax convert FILE --to farl` wrote it; arguments and errors as those of `load_encoder`."""
    encoder = load_encoder("farl", path)
    assert isinstance(encoder, FaRL)
    return encoder


def check_depth(config: IResNetConfig, depth: int | None, path: Path) -> None:
    """Raises: HeadFileError, the network has another depth than the wanted one (None: any)."""
    if depth is not None and DEPTHS.get(config.blocks) != depth:
        raise HeadFileError(f"{path}: holds {architecture(config)}, not iResNet-{depth}.")


def describe_encoder(name: EncoderName, path: Path) -> str:
    """What a converted file holds, without reading its weights. Raises: HeadFileError, as `load_encoder`."""
    if (kind := identify(path)) != "npz":
        refuse(path, kind, f"what `flamejax convert FILE --to {name}` writes")
    header = ("format_version", "encoder", "config", "provenance_source", "provenance_sha256")
    found = read_npz_members(path, header)
    config = _config(name, found, path)
    source, digest = (str(found.get(f"provenance_{note}", "?")) for note in ("source", "sha256"))
    return f"{architecture(config)} of {source}, sha256 {digest[:16]}"


def _layout(leaves: Mapping[tuple[Any, ...], Any]) -> str:
    """Names and shapes in the order of the weights."""
    return json.dumps([[path_name(path), list(leaf.shape)] for path, leaf in leaves.items()])


def _config(name: EncoderName, found: Mapping[str, Any], path: Path) -> IResNetConfig | ViTConfig:
    """The architecture that a file announces."""
    try:
        version, holds = int(found["format_version"]), str(found["encoder"])
        settings = json.loads(str(found["config"]))
        if version != FORMAT_VERSION:
            raise HeadFileError(f"{path}: format {version}, not {FORMAT_VERSION}. Convert it again.")
        if holds != name:
            raise HeadFileError(f"{path}: holds the encoder '{holds[:20]}', not {TITLES[name]}.")
        values = from_json(settings)
        sizes = [n for value in values.values() for n in (value if isinstance(value, tuple) else (value,))]
        if not all(type(n) is int and 0 < n <= LARGEST_SIZE for n in sizes) or sum(values.get("blocks", ())) > 1000:
            raise ValueError("impossible sizes")
        return ViTConfig(**values) if name == "farl" else IResNetConfig(**values)
    except HeadFileError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise HeadFileError(f"{path}: no encoder of flamejax, or damaged ({error}).") from error
