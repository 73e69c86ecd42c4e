"""Encoders: from a photo and its landmarks to the context of a diffusion model (OFER, CVPR 2025).

`interface.Encoder` says what they have in common; docs/encoders.md where the weights come from.
"""

from __future__ import annotations

import os
from pathlib import Path

from models.encoders.arcface import ArcFace, IResNetConfig
from models.encoders.convert import check_depth
from models.encoders.farl import FaRL, ViTConfig
from models.encoders.files import encoder_path, load_encoder
from models.encoders.interface import Encoder, ImageEncoder, concatenated

__all__ = [
    "ArcFace",
    "Encoder",
    "FaRL",
    "IResNetConfig",
    "ImageEncoder",
    "ViTConfig",
    "concatenated",
    "encoder_path",
    "load_arcface",
    "load_farl",
]


def load_arcface(path: str | os.PathLike[str] | None = None, depth: int | None = None) -> ArcFace:
    """ArcFace as `flamejax convert FILE --to arcface` wrote it.

    Args:
      path: `encoder_path("arcface")` when left out.
      depth: 50 or 100, to refuse another iResNet.

    Raises:
      FileNotFoundError: there is no such file.
      HeadFileError: it is damaged, of another version or depth, or something else; the message says what.
    """
    encoder = load_encoder("arcface", path)
    assert isinstance(encoder, ArcFace)
    check_depth(encoder.config, depth, encoder_path("arcface") if path is None else Path(path))
    return encoder


def load_farl(path: str | os.PathLike[str] | None = None) -> FaRL:
    """FaRL as `flamejax convert FILE --to farl` wrote it; `encoder_path("farl")` when left out.

    Raises:
      FileNotFoundError, HeadFileError: as `load_arcface`.
    """
    encoder = load_encoder("farl", path)
    assert isinstance(encoder, FaRL)
    return encoder
