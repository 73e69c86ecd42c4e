"""Build and run the encoders that a network names, and identify image encoders by digests of their frozen layers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from models.encoders.arcface import ArcFace
from models.encoders.farl import FaRL
from models.encoders.files import TITLES, EncoderName, flat_weights, load_encoder
from models.encoders.interface import Encoder, ImageEncoder
from models.encoders.landmark import LandmarkEncoder, LandmarkEncoderConfig
from models.weight_files import path_name

IMAGE_ENCODERS: tuple[EncoderName, ...] = ("arcface", "farl")
"""Encoders that take the photo, and whose frozen layers are in their own files."""
NAMES = ("landmark", *IMAGE_ENCODERS)


def check_names(names: Sequence[str]) -> None:
    """Check the names of a network's encoders. Raises ValueError if there is none, an unknown or a repeated one."""
    if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise ValueError(f"encoders are one or more of {', '.join(NAMES)}, each once, not {tuple(names)}.")


def image_encoders(names: Iterable[str]) -> tuple[EncoderName, ...]:
    """Return those of the names that are image encoders."""
    return tuple(name for name in IMAGE_ENCODERS if name in names)


def load_image_encoders(
    names: Iterable[str], encoders: Mapping[str, Any] | None = None
) -> dict[EncoderName, ArcFace | FaRL]:
    """Load the image encoders among the names; other encoders need no file.

    Args:
      encoders: loaded encoders, or their files, by name; the default file is `encoder_path(name)`.

    Raises:
      FileNotFoundError, HeadFileError: as `load_encoder`; the message says which, and how to convert it.
    """
    loaded: dict[EncoderName, ArcFace | FaRL] = {}
    for name in image_encoders(names):
        source = (encoders or {}).get(name)
        loaded[name] = load_encoder(name, source) if source is None or isinstance(source, str | os.PathLike) else source
    return loaded


def make_encoders(
    names: Sequence[str], context: int, landmark: LandmarkEncoderConfig, reference: Array,
    images: Mapping[Any, ArcFace | FaRL], rngs: nnx.Rngs,
) -> nnx.List:  # fmt: skip
    """Make a network's encoders in the order of their names.

    Args:
      context: the sum of their widths. landmark, reference: of the landmark encoder.
      images: the image encoders. The network gets copies, because it trains their last layers.

    Raises:
      ValueError: an image encoder is missing, or the widths do not add up to `context`.
    """
    check_names(names)
    missing = [TITLES[name] for name in image_encoders(names) if name not in images]
    if missing:
        raise ValueError(f"this network looks at photos through {' and '.join(missing)}: give `encoders`.")
    encoders: list[Any] = [
        LandmarkEncoder(landmark, reference, rngs=rngs) if name == "landmark" else nnx.clone(images[name])
        for name in names
    ]
    width = sum(encoder.width for encoder in encoders)
    if width != context:
        raise ValueError(
            f"the encoders {', '.join(names)} give {width} numbers, but the network's context is {context}."
        )
    return nnx.List(encoders)


class Conditioned(nnx.Module):
    """A network conditioned on photos by its `encoders`, which `config.encoders` names."""

    config: Any
    encoders: nnx.List

    @property
    def needs_photo(self) -> bool:
        """Whether an encoder uses the pixels; if not, the photo may be None."""
        return any(encoder.needs_photo for encoder in self.encoders)

    def context(self, photo: Array | None, landmarks: Array, visibility: Array) -> Array:
        """Return the concatenated contexts of all encoders (*b, D); arguments as those of `Encoder`.

        Raises:
          ValueError: an encoder needs the photo, but it is None.
        """
        return self.context_of_features(self.features(photo, landmarks, visibility), landmarks, visibility)

    def features(self, photo: Array | None, landmarks: Array, visibility: Array) -> dict[str, Array]:
        """Return the image encoders' features by name: (*b, feature_width) each. No gradient passes.

        Raises:
          ValueError: as `context`.
        """
        features = {}
        for name, encoder in self._named_encoders():
            if name == "landmark":
                continue
            if photo is None:
                raise ValueError(f"the encoder {name} looks at the photo, which is None.")
            features[name] = cast(ImageEncoder, encoder).features(photo, landmarks, visibility)
        return features

    def context_of_features(self, features: Mapping[str, Array], landmarks: Array, visibility: Array) -> Array:
        """Return the `context` from `features`, running only the trained layers. `features` may have extra entries."""
        contexts = [
            encoder(None, landmarks, visibility) if name == "landmark" else encoder.head(features[name])
            for name, encoder in self._named_encoders()
        ]
        return jnp.concatenate(contexts, axis=-1)

    def _named_encoders(self) -> Iterable[tuple[str, Any]]:
        return zip(self.config.encoders, self.encoders, strict=True)


def base_digest(encoder: Encoder) -> str:
    """Return a digest (32 hex digits) of an image encoder's frozen layers, on which its features and its last layer
    depend."""
    digest = hashlib.sha256()
    for path, leaf in flat_weights(cast(nnx.Module, encoder)).items():
        if not isinstance(leaf, nnx.Param):
            digest.update(f"{path_name(path)} {leaf.shape}\n".encode())
            digest.update(np.ascontiguousarray(leaf[...], np.float32).data)
    return digest.hexdigest()[:32]


def base_digests(model: Conditioned) -> dict[str, str]:
    """Return the `base_digest` of a network's image encoders by name."""
    return {name: base_digest(encoder) for name, encoder in model._named_encoders() if name != "landmark"}
