"""The encoder that needs no licensed weights: a context from the visible landmarks.

Hidden landmarks are dropped, so the context knows what it does not see. Nothing of the photo but the landmarks enters,
so an encoder that was trained on heads of a model, without a picture, carries over to real photos.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array

from flamejax.head import HeadModel, HeadParams, landmarks
from models.encoders.alignment import similarity_2d


@dataclasses.dataclass(frozen=True)
class LandmarkEncoderConfig:
    """Sizes of a `LandmarkEncoder`."""

    width: int = 512
    """Of the context."""
    hidden: int = 1024
    blocks: int = 3
    spread: float = 0.06
    """Aligned landmarks leave their means by so much, in units of the mean face's RMS radius."""


class Reference(nnx.Variable):
    """Landmarks of the mean face: fixed, and kept with the weights."""


class LandmarkEncoder(nnx.Module):
    """Landmarks (68 of iBUG) and how visible each is -> context.

    The visible ones are moved onto the mean face by the best similarity, which takes the photo's size, place and roll
    away. A landmark enters as its offset from the mean, or as a learned token if it is hidden.
    """

    needs_photo = False

    def __init__(self, config: LandmarkEncoderConfig, reference: Array, *, rngs: nnx.Rngs):
        """reference: (L, 2) landmarks of the mean face from the front, any unit, y down (`reference_landmarks`)."""
        self.config, self.width = config, config.width
        centred = reference - reference.mean(axis=0, keepdims=True)
        self.reference = Reference(centred / jnp.sqrt(jnp.mean(jnp.sum(centred**2, axis=-1))))
        count, hidden = len(reference), config.hidden
        self.seen = nnx.Linear(2 * count, hidden, rngs=rngs)
        self.hidden_tokens = nnx.Linear(count, hidden, use_bias=False, rngs=rngs)
        self.blocks = nnx.List(_Block(hidden, rngs=rngs) for _ in range(config.blocks))
        self.out_norm = nnx.LayerNorm(hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, config.width, rngs=rngs)
        self.direct = nnx.Linear(2 * count, config.width, use_bias=False, rngs=rngs)

    def __call__(self, photo: Array | None, landmarks: Array, visibility: Array) -> Array:
        """The context of photos.

        Args:
          photo: not looked at.
          landmarks: (*b, 68, 2) pixels or any unit, x right, y down; what hidden ones hold does not matter.
          visibility: (*b, 68) in [0, 1]; 0 = hidden.

        Returns:
          (*b, width)
        """
        flat = rearrange(self.offsets(landmarks, visibility), "... l c -> ... (l c)")
        x = self.seen(flat) + self.hidden_tokens(1 - visibility)
        for block in self.blocks:
            x = block(x)
        # Straight beside the depth: much of what landmarks say of a head is linear.
        return self.out(self.out_norm(x)) + self.direct(flat)

    def offsets(self, landmarks: Array, visibility: Array) -> Array:
        """Aligned landmarks' offsets from the mean face, in `spread`s, times their visibility: (*b, 68, 2)."""
        reference = jnp.broadcast_to(self.reference[...], landmarks.shape)
        aligned = similarity_aligned(landmarks, reference, visibility)
        return (aligned - reference) * (visibility / self.config.spread)[..., None]


class _Block(nnx.Module):
    """Layer norm, two products with a SiLU between, residual."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.first = nnx.Linear(width, width, rngs=rngs)
        self.second = nnx.Linear(width, width, kernel_init=nnx.initializers.normal(0.1 * width**-0.5), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.second(jax.nn.silu(self.first(self.norm(x))))


def similarity_aligned(points: Array, target: Array, weights: Array) -> Array:
    """Points moved onto a target by the best similarity without reflection (`similarity_2d`).

    Args:
      points, target: (*b, L, 2). weights: (*b, L), 0 = does not count, nor does what the point holds.

    Returns:
      (*b, L, 2). Where fewer than two points count, or all lie in one place, all are put in the target's centre.
    """
    points = jnp.where(weights[..., None] > 0, points, 0.0)
    transform, _ = similarity_2d(points, target, weights)
    linear, offset = transform[..., None, :, :2], transform[..., None, :, 2]
    return jnp.sum(linear * points[..., None, :], axis=-1) + offset


def reference_landmarks(head: HeadModel) -> Array:
    """(68, 2) landmarks of a head's mean face from the front, metres, y down."""
    points = landmarks(head, HeadParams.zeros(head))
    return points[:, :2] * jnp.asarray([[1.0, -1.0]])
