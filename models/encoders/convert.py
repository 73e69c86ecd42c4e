"""Convert the files that the authors of ArcFace and FaRL publish to encoders.

Formats: arcface_torch's and MICA's PyTorch checkpoints, insightface's ONNX models, FaRL's and CLIP's PyTorch
checkpoints.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flamejax.head import HeadFileError
from models.encoders.arcface import ArcFace, IResNetConfig
from models.encoders.farl import FaRL, ViTConfig
from models.encoders.files import (
    DEPTHS,
    TITLES,
    EncoderName,
    abstract_encoder,
    architecture,
    check_depth,
    fill_encoder,
    flat_weights,
)
from models.encoders.identify import identify_file, refuse_file
from models.encoders.onnx_iresnet import read_onnx
from models.encoders.torch_checkpoints import Tensor, read_checkpoint

SIGNATURES: dict[EncoderName, str] = {"arcface": "layer1.0.prelu.weight", "farl": "class_embedding"}
"""A name that occurs, after a prefix, only in the state dictionary of that network."""
WANTED: dict[EncoderName, str] = {
    "arcface": "an iResNet of arcface_torch (backbone.pth), MICA (mica.tar) or insightface (w600k_r50.onnx)",
    "farl": "FaRL-Base-Patch16-LAIONFace20M-ep16.pth or -ep64.pth",
}
CLIP_HEAD_WIDTH = 64
"""Width of an attention head in all of CLIP's towers, which the files do not contain."""
_PARTS = {
    "kernel": "weight", "scale": "weight", "slope": "weight", "mean": "running_mean", "variance": "running_var",
}  # fmt: skip
_ARCFACE_MODULES = {"shortcut_conv": "downsample.0", "shortcut_bn": "downsample.1", "fc_bn": "features"}
_FARL_MODULES = {
    "patches": "conv1", "attention_out": "attn.out_proj", "mlp_in": "mlp.c_fc", "mlp_out": "mlp.c_proj",
}  # fmt: skip
_FARL_TENSORS = {
    "class_token": "class_embedding", "positions": "positional_embedding", "projection.weight": "proj",
    "qkv.weight": "attn.in_proj_weight", "qkv.bias": "attn.in_proj_bias",
}  # fmt: skip


def read_arcface(path: Path, depth: int | None = None, published: bool = True) -> ArcFace:
    """Read ArcFace from a `.pth`, a checkpoint that contains it, or an `.onnx`.

    Args:
      depth: the required depth, 18, 34, 50, 100 or 200; None: any.
      published: refuse networks of unpublished sizes, which mostly are incomplete files.

    Raises:
      ImportError: the file is an ONNX model, and the package onnx is not installed.
      HeadFileError: the file is damaged, incomplete or something else; the message says what.
    """
    if (kind := identify_file(path)) == "onnx":
        arrays = read_onnx(path)
        tensors = {name: Tensor(array.shape, lambda array=array: array) for name, array in arrays.items()}  # type: ignore[misc]
    else:
        tensors = _state_dict(path, kind, "arcface")
    config = _iresnet_config(tensors, path)
    if published and (config.blocks not in DEPTHS or config != IResNetConfig(blocks=config.blocks)):
        known = ", ".join(map(str, sorted(DEPTHS.values())))
        raise HeadFileError(
            f"{path}: {architecture(config)}: incomplete, or another network. Wanted: depth {known}, 64-128-256-512 "
            "wide, for 112 pixels."
        )
    check_depth(config, depth, path)
    encoder = _convert(config, tensors, path)
    assert isinstance(encoder, ArcFace)
    return encoder


def read_farl(path: Path, heads: int | None = None, published: bool = True) -> FaRL:
    """Read FaRL's image tower from its `.pth`; the text tower is ignored.

    Args:
      heads: number of attention heads; by default as many as make each `CLIP_HEAD_WIDTH` wide.
      published, raises: as `read_arcface`.
    """
    kind = identify_file(path)
    tensors = _state_dict(path, kind, "farl")
    config = _vit_config(tensors, path, heads)
    if published and config != ViTConfig():
        raise HeadFileError(
            f"{path}: {architecture(config)} with {config.tokens} tokens: incomplete, or another network. "
            "Wanted: the ViT-B/16 at 224 pixels, 12 layers of 768, 197 tokens."
        )
    encoder = _convert(config, tensors, path)
    assert isinstance(encoder, FaRL)
    return encoder


def provenance(path: Path) -> dict[str, str]:
    """Return notes on the source of a converted file. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"source": path.name, "sha256": digest.hexdigest(), "licence": "that of the source"}


def _state_dict(path: Path, kind: Any, name: EncoderName) -> dict[str, Tensor]:
    """Return a network's tensors by their names without a prefix."""
    if kind != "torch":
        refuse_file(path, kind, WANTED[name])
    dictionaries = read_checkpoint(path)
    for tensors in dictionaries.values():
        prefix = _prefix(tensors, SIGNATURES[name])
        if prefix is not None:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    for other, signature in SIGNATURES.items():
        if any(_prefix(tensors, signature) is not None for tensors in dictionaries.values()):
            raise HeadFileError(f"{path}: holds {TITLES[other]}, not {TITLES[name]}: convert it with --to {other}.")
    names = [key for tensors in dictionaries.values() for key in tensors]
    content = f"{len(names)} tensors of another network, such as {', '.join(names[:3])}" if names else "no tensors"
    raise HeadFileError(f"{path}: holds {content}; '{SIGNATURES[name]}' is missing. Wanted: {WANTED[name]}.")


def _prefix(tensors: Mapping[str, Tensor], signature: str) -> str | None:
    """Return the prefix of a network's names, such as `module.` or `visual.`; None if the network is not there."""
    matches = [key for key in tensors if f".{key}".endswith(f".{signature}")]
    return min(matches, key=len).removesuffix(signature) if matches else None


def _iresnet_config(tensors: Mapping[str, Tensor], path: Path) -> IResNetConfig:
    """Derive the architecture from names and shapes."""
    indices: dict[int, set[int]] = {}
    for name in tensors:
        if match := re.fullmatch(r"layer(\d{1,2})\.(\d{1,3})\..*", name):
            indices.setdefault(int(match[1]), set()).add(int(match[2]))
    blocks = tuple(len(indices.get(stage, ())) for stage in range(1, max(indices, default=0) + 1))
    for stage, count in enumerate(blocks, start=1):
        missing = set(range(max(indices.get(stage, {0})) + 1)) - indices.get(stage, set())
        if missing or not count:
            raise HeadFileError(f"{path}: incomplete: 'layer{stage}.{min(missing)}' is missing. Fetch it again.")
    widths = tuple(_shape(tensors, f"layer{stage}.0.conv2.weight", 4, path)[0] for stage in range(1, len(blocks) + 1))
    width, features = _shape(tensors, "fc.weight", 2, path)
    side = math.isqrt(features // widths[-1])
    if side < 1 or side**2 * widths[-1] != features:
        raise HeadFileError(f"{path}: 'fc.weight' takes {features} numbers, no square map of {widths[-1]} channels.")
    stem = _shape(tensors, "conv1.weight", 4, path)[0]
    return IResNetConfig(blocks, widths, stem, width, side * 2 ** len(blocks))


def _vit_config(tensors: Mapping[str, Tensor], path: Path, heads: int | None) -> ViTConfig:
    hidden, _, patch, _ = _shape(tensors, "conv1.weight", 4, path)
    tokens, _ = _shape(tensors, "positional_embedding", 2, path)
    side = math.isqrt(max(tokens - 1, 0))
    if side < 1 or side**2 + 1 != tokens:
        raise HeadFileError(f"{path}: 'positional_embedding' has {tokens} tokens: no square image and a class token.")
    pattern = re.compile(r"transformer\.resblocks\.(\d{1,3})\..*")
    layers = len({match[1] for name in tensors if (match := pattern.fullmatch(name))})
    try:
        width = _shape(tensors, "proj", 2, path)[1]
        return ViTConfig(side * patch, patch, hidden, layers, heads or max(hidden // CLIP_HEAD_WIDTH, 1), width)
    except ValueError as error:
        raise HeadFileError(f"{path}: no ViT of CLIP ({error}).") from error


def _shape(tensors: Mapping[str, Tensor], name: str, axes: int, path: Path) -> tuple[int, ...]:
    if name not in tensors:
        raise HeadFileError(f"{path}: incomplete, or another network: '{name}' is missing.")
    shape = tensors[name].shape
    if len(shape) != axes or min(shape) < 1:
        raise HeadFileError(f"{path}: '{name}' has the shape {shape}, expected {axes} axes: another network.")
    return shape


def _convert(config: IResNetConfig | ViTConfig, tensors: Mapping[str, Tensor], path: Path) -> ArcFace | FaRL:
    """Build an encoder from tensors, all of which must be present with the right shapes."""
    to_name = farl_name if isinstance(config, ViTConfig) else arcface_name
    weights, used = {}, set[str]()
    for variable_path, leaf in flat_weights(abstract_encoder(config)).items():
        name = to_name(variable_path)
        used.add(name)
        shape = _shape(tensors, name, len(leaf.shape), path)
        order = _axis_order(name, len(leaf.shape))
        if tuple(shape[axis] for axis in order) != leaf.shape:
            expected = tuple(leaf.shape[order.index(axis)] for axis in range(len(shape)))
            raise HeadFileError(f"{path}: '{name}' has the shape {shape}, expected {expected}: another network.")
        array = np.asarray(tensors[name].read().transpose(order), np.float32)
        if not np.isfinite(array).all():
            raise HeadFileError(f"{path}: '{name}' holds numbers that are not finite. Fetch the file again.")
        weights[variable_path] = array
    layers = re.compile(r"layer\d.*|transformer\..*")
    extra = [n for n in tensors if n not in used and layers.fullmatch(n) and not n.endswith("num_batches_tracked")]
    if extra:
        raise HeadFileError(f"{path}: '{extra[0]}' is not a tensor of {architecture(config)}: another network.")
    return fill_encoder(config, weights)


def arcface_name(path: tuple[Any, ...]) -> str:
    """Return the name in arcface_torch's state dictionary of a variable of `ArcFace`."""
    if path[0] == "stages":
        path = (f"layer{path[1] + 1}", *path[2:])
    *modules, part = map(str, path)
    return ".".join([*(_ARCFACE_MODULES.get(name, name) for name in modules), _PARTS.get(part, part)])


def farl_name(path: tuple[Any, ...]) -> str:
    """Return the name in CLIP's image tower of a variable of `FaRL`."""
    *modules, part = map(str, path)
    block = []
    if modules and modules[0] == "blocks":
        block, modules = ["transformer.resblocks", modules[1]], modules[2:]
    name = ".".join([*modules, _PARTS.get(part, part)])
    return ".".join([*block, _FARL_TENSORS.get(name) or ".".join(_FARL_MODULES.get(n, n) for n in name.split("."))])


def _axis_order(name: str, axes: int) -> tuple[int, ...]:
    """Return the permutation from torch's axes to ours: its convolutions are OIHW, its linear layers (out, in)."""
    if axes == 4:
        return 2, 3, 1, 0
    return (1, 0) if axes == 2 and name.endswith("weight") else tuple(range(axes))
