"""The encoders of a network by their names: put together, run, and told apart from others of their kind."""

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
"""Those that look at the photo, and whose base is in a file of its own."""
NAMES = ("landmark", *IMAGE_ENCODERS)


def check_names(names: Sequence[str]) -> None:
    """Raises: ValueError, none, an unknown one, or one twice."""
    if not names or len(set(names)) < len(names) or not set(names) <= set(NAMES):
        raise ValueError(f"encoders are one or more of {', '.join(NAMES)}, each once, not {tuple(names)}.")


def image_encoders(names: Iterable[str]) -> tuple[EncoderName, ...]:
    """Those of the names that look at the photo."""
    return tuple(name for name in IMAGE_ENCODERS if name in names)


def load_image_encoders(
    names: Iterable[str], given: Mapping[str, Any] | None = None
) -> dict[EncoderName, ArcFace | FaRL]:
    """The image encoders among the names; the others need no file.

    Args:
      given: encoders, or their files, by name; the others come from `encoder_path(name)`.

    Raises:
      FileNotFoundError, HeadFileError: as `load_encoder`; the message says which, and how to convert it.
    """
    given = given or {}
    found: dict[EncoderName, ArcFace | FaRL] = {}
    for name in image_encoders(names):
        part = given.get(name)
        found[name] = load_encoder(name, part) if part is None or isinstance(part, str | os.PathLike) else part
    return found


def make_encoders(
    names: Sequence[str], context: int, landmark: LandmarkEncoderConfig, reference: Array,
    images: Mapping[Any, ArcFace | FaRL], rngs: nnx.Rngs,
) -> nnx.List:  # fmt: skip
    """The encoders of a network in the order of their names.

    Args:
      context: numbers that they must give together. landmark, reference: of the landmark encoder.
      images: the image encoders, of which the network gets copies: it trains their last layers.

    Raises:
      ValueError: an image encoder is missing, or they give another number.
    """
    check_names(names)
    missing = [TITLES[name] for name in image_encoders(names) if name not in images]
    if missing:
        raise ValueError(f"this network looks at photos through {' and '.join(missing)}: give `encoders`.")
    parts: list[Any] = [
        LandmarkEncoder(landmark, reference, rngs=rngs) if name == "landmark" else nnx.clone(images[name])
        for name in names
    ]
    width = sum(part.width for part in parts)
    if width != context:
        raise ValueError(
            f"the encoders {', '.join(names)} give {width} numbers, but the network's context is {context}."
        )
    return nnx.List(parts)


class Conditioned(nnx.Module):
    """A network with `encoders`, whose names its `config` has: how photos become the condition."""

    config: Any
    encoders: nnx.List

    @property
    def needs_photo(self) -> bool:
        """Whether the pixels count; where they do not, a photo may be None."""
        return any(encoder.needs_photo for encoder in self.encoders)

    def context(self, photo: Array | None, landmarks: Array, visibility: Array) -> Array:
        """The condition of photos (*b, D): all encoders' contexts, joined; arguments as those of `Encoder`.

        Raises:
          ValueError: an encoder needs the photo, and it is None.
        """
        return self.context_of_features(self.features(photo, landmarks, visibility), landmarks, visibility)

    def features(self, photo: Array | None, landmarks: Array, visibility: Array) -> dict[str, Array]:
        """What the image encoders' frozen layers give, by name: (*b, feature_width) each. No gradient passes.

        Raises:
          ValueError: as `context`.
        """
        found = {}
        for name, encoder in self._named():
            if name == "landmark":
                continue
            if photo is None:
                raise ValueError(f"the encoder {name} looks at the photo, which is None.")
            found[name] = cast(ImageEncoder, encoder).features(photo, landmarks, visibility)
        return found

    def context_of_features(self, features: Mapping[str, Array], landmarks: Array, visibility: Array) -> Array:
        """`context` from `features`, which may hold those of other encoders as well: what is trained alone is run."""
        parts = [
            encoder(None, landmarks, visibility) if name == "landmark" else encoder.head(features[name])
            for name, encoder in self._named()
        ]
        return jnp.concatenate(parts, axis=-1)

    def _named(self) -> Iterable[tuple[str, Any]]:
        return zip(self.config.encoders, self.encoders, strict=True)


def base_digest(encoder: Encoder) -> str:
    """A name of an image encoder's frozen layers: what its features, and its trained last layer, depend on."""
    state = hashlib.sha256()
    for place, leaf in flat_weights(cast(nnx.Module, encoder)).items():
        if not isinstance(leaf, nnx.Param):
            state.update(f"{path_name(place)} {leaf.shape}\n".encode())
            state.update(np.ascontiguousarray(leaf[...], np.float32).data)
    return state.hexdigest()[:32]


def base_digests(model: Conditioned) -> dict[str, str]:
    """`base_digest` of a network's image encoders, by name."""
    return {name: base_digest(encoder) for name, encoder in model._named() if name != "landmark"}
