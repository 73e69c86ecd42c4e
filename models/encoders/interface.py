"""The interface of encoders, which map a photo and its landmarks to the context of a diffusion model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeGuard, runtime_checkable

import jax.numpy as jnp
from flax import nnx
from jax import Array


@runtime_checkable
class Encoder(Protocol):
    """A callable that computes a context."""

    width: int
    """Width of the context."""
    needs_photo: bool
    """Whether the photo's pixels are used. If not, any photo will do, such as zeros (*b, 1, 1, 3)."""

    def __call__(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Compute the context.

        Args:
          photo: (*b, H, W, 3) RGB in [0, 1].
          landmarks: (*b, 68, 2) iBUG-68, pixels of that photo, pixel centres at +0.5.
          visibility: (*b, 68) in [0, 1]. Where it is 0, the landmark's position has no effect.

        Returns:
          (*b, width).
        """


@runtime_checkable
class ImageEncoder(Encoder, Protocol):
    """An encoder of which only the last layer is trained, so that the layers before it run once per photo."""

    feature_width: int
    """Width of the last layer's input."""

    def features(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Return the frozen layers' output (*b, feature_width); arguments as of `__call__`. No gradient passes."""

    def head(self, features: Array) -> Array:
        """Apply the last layer to features (*b, feature_width): context (*b, width)."""


class ConcatenatedEncoder(nnx.Module):
    """Several encoders whose contexts are concatenated."""

    encoders: nnx.List

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = nnx.List(encoders)
        self.width = sum(encoder.width for encoder in encoders)
        self.needs_photo = any(encoder.needs_photo for encoder in encoders)

    def __call__(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """As `Encoder`."""
        return jnp.concatenate([encoder(photo, landmarks, visibility) for encoder in self.encoders], axis=-1)


class ConcatenatedImageEncoder(ConcatenatedEncoder):
    """A `ConcatenatedEncoder` of image encoders, whose features are concatenated as well."""

    encoders: nnx.List[ImageEncoder]

    def __init__(self, encoders: Sequence[ImageEncoder]) -> None:
        super().__init__(encoders)
        self.feature_width = sum(encoder.feature_width for encoder in encoders)

    def features(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """As `ImageEncoder`."""
        features = [encoder.features(photo, landmarks, visibility) for encoder in self.encoders]
        return jnp.concatenate(features, axis=-1)

    def head(self, features: Array) -> Array:
        """As `ImageEncoder`."""
        contexts, start = [], 0
        for encoder in self.encoders:
            contexts.append(encoder.head(features[..., start : start + encoder.feature_width]))
            start += encoder.feature_width
        return jnp.concatenate(contexts, axis=-1)


def concatenate_encoders(encoders: Sequence[Encoder]) -> ConcatenatedEncoder:
    """Combine encoders into one, in this order (OFER's ExpGen and IdRank: ArcFace, then FaRL: width 1024).

    It has `features` and `head` if all of them have.

    Raises:
      ValueError: no encoders are given.
    """
    if not encoders:
        raise ValueError("there must be one encoder or more to concatenate.")
    return ConcatenatedImageEncoder(encoders) if _are_image_encoders(encoders) else ConcatenatedEncoder(encoders)


def _are_image_encoders(encoders: Sequence[Encoder]) -> TypeGuard[Sequence[ImageEncoder]]:
    return all(isinstance(encoder, ImageEncoder) for encoder in encoders)
