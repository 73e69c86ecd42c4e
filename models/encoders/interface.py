"""What an encoder is: from a photo and its landmarks to the context that a diffusion model is conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeGuard, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax import Array


@runtime_checkable
class Encoder(Protocol):
    """A callable that makes a context."""

    width: int
    """Numbers of the context."""
    needs_photo: bool
    """Whether the photo's pixels count. Where they do not, any photo will do, such as zeros (*b, 1, 1, 3)."""

    def __call__(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """The context.

        Args:
          photo: (*b, H, W, 3) RGB in [0, 1].
          landmarks: (*b, 68, 2) iBUG-68, pixels of that photo, pixel centres at +0.5.
          visibility: (*b, 68) in [0, 1]. Where it is 0 the landmark's place does not matter.

        Returns:
          (*b, width).
        """


@runtime_checkable
class ImageEncoder(Encoder, Protocol):
    """An encoder whose last layer alone is trained: the layers before it run once per photo."""

    feature_width: int
    """Numbers that the last layer starts from."""

    def features(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """What the frozen layers give, arguments as of a call: (*b, feature_width). No gradient passes."""

    def head(self, features: Array) -> Array:
        """The last layer: features (*b, feature_width) -> context (*b, width)."""


class ConcatenatedEncoder(nnx.Module):
    """Several encoders; the context is theirs, one after the other."""

    encoders: nnx.List

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = nnx.List(encoders)
        self.width = sum(encoder.width for encoder in encoders)
        self.needs_photo = any(encoder.needs_photo for encoder in encoders)

    def __call__(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """As `Encoder`."""
        return jnp.concatenate([encoder(photo, landmarks, visibility) for encoder in self.encoders], axis=-1)


class ConcatenatedImageEncoder(ConcatenatedEncoder):
    """`ConcatenatedEncoder` of image encoders: their features are concatenated as well."""

    encoders: nnx.List[ImageEncoder]

    def __init__(self, encoders: Sequence[ImageEncoder]) -> None:
        super().__init__(encoders)
        self.feature_width = sum(encoder.feature_width for encoder in encoders)

    def features(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """As `ImageEncoder`."""
        found = [encoder.features(photo, landmarks, visibility) for encoder in self.encoders]
        return jnp.concatenate(found, axis=-1)

    def head(self, features: Array) -> Array:
        """As `ImageEncoder`."""
        found, start = [], 0
        for encoder in self.encoders:
            found.append(encoder.head(features[..., start : start + encoder.feature_width]))
            start += encoder.feature_width
        return jnp.concatenate(found, axis=-1)


def concatenated(encoders: Sequence[Encoder]) -> ConcatenatedEncoder:
    """One encoder of several, in this order (OFER's ExpGen and IdRank: ArcFace, then FaRL: width 1024).

    It has `features` and `head` if all of them have.

    Raises:
      ValueError: there are none.
    """
    if not encoders:
        raise ValueError("there must be one encoder or more to concatenate.")
    return ConcatenatedImageEncoder(encoders) if _are_image_encoders(encoders) else ConcatenatedEncoder(encoders)


def _are_image_encoders(encoders: Sequence[Encoder]) -> TypeGuard[Sequence[ImageEncoder]]:
    return all(isinstance(encoder, ImageEncoder) for encoder in encoders)
