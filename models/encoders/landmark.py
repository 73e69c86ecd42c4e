"""The landmark encoder, which needs no licensed weights: it computes the context from the visible landmarks.

Hidden landmarks are replaced by tokens, so that the context says which ones are hidden. The landmarks are the only
input from the photo, so that an encoder trained on sampled heads, without images, works on real photos.
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
    """Width of the context."""
    hidden: int = 1024
    """Width of the hidden layers."""
    blocks: int = 3
    """Number of residual blocks."""
    spread: float = 0.06
    """Typical deviation of aligned landmarks from their means, in units of the mean face's RMS radius."""

    def __post_init__(self) -> None:
        if min(self.width, self.hidden) < 1 or not 0 <= self.blocks <= 100 or not self.spread > 0:
            raise ValueError("a landmark encoder has widths of at least 1, at most 100 blocks, and a positive spread.")


class Reference(nnx.Variable):
    """Landmarks of the mean face: saved with the weights, but not trained."""


class LandmarkEncoder(nnx.Module):
    """Maps landmarks (68 of iBUG) and their visibility to the context.

    The visible landmarks are aligned to the mean face by a similarity, which removes scale, position and roll in the
    photo. The input is each landmark's offset from the mean, or a learned token if it is hidden.
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
        self.blocks = nnx.List(LandmarkBlock(hidden, rngs=rngs) for _ in range(config.blocks))
        self.out_norm = nnx.LayerNorm(hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, config.width, rngs=rngs)
        self.direct = nnx.Linear(2 * count, config.width, use_bias=False, rngs=rngs)

    def __call__(self, photo: Array | None, landmarks: Array, visibility: Array) -> Array:
        """Compute the context of photos.

        Args:
          photo: not used.
          landmarks: (*b, 68, 2) pixels or any unit, x right, y down; the positions of hidden ones have no effect.
          visibility: (*b, 68) in [0, 1]; 0 = hidden.

        Returns:
          (*b, width)
        """
        flat = rearrange(self.offsets(landmarks, visibility), "... l c -> ... (l c)")
        x = self.seen(flat) + self.hidden_tokens(1 - visibility)
        for block in self.blocks:
            x = block(x)
        # A linear shortcut, because much of the relation between landmarks and heads is linear.
        return self.out(self.out_norm(x)) + self.direct(flat)

    def offsets(self, landmarks: Array, visibility: Array) -> Array:
        """Return aligned landmarks' offsets from the mean face, in units of `spread`, times visibility: (*b, 68, 2)."""
        reference = jnp.broadcast_to(self.reference[...], landmarks.shape)
        aligned = align_by_similarity(landmarks, reference, visibility)
        return (aligned - reference) * (visibility / self.config.spread)[..., None]


class LandmarkBlock(nnx.Module):
    """Layer norm, two linear layers with a SiLU between them, and a residual connection."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.first = nnx.Linear(width, width, rngs=rngs)
        self.second = nnx.Linear(width, width, kernel_init=nnx.initializers.normal(0.1 * width**-0.5), rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.second(jax.nn.silu(self.first(self.norm(x))))


def align_by_similarity(points: Array, target: Array, weights: Array) -> Array:
    """Align points to a target by the least-squares similarity without reflection (`similarity_2d`).

    Args:
      points, target: (*b, L, 2). weights: (*b, L); points of weight 0 have no effect, even if not finite.

    Returns:
      (*b, L, 2). If fewer than two points have weight, or all coincide, all lie at the weighted mean of the target.
    """
    points = jnp.where(weights[..., None] > 0, points, 0.0)
    transform, _ = similarity_2d(points, target, weights)
    linear, offset = transform[..., None, :, :2], transform[..., None, :, 2]
    return jnp.sum(linear * points[..., None, :], axis=-1) + offset


def reference_landmarks(head: HeadModel) -> Array:
    """Return the landmarks (68, 2) of a head's mean face from the front, metres, y down."""
    points = landmarks(head, HeadParams.zeros(head))
    return points[:, :2] * jnp.asarray([[1.0, -1.0]])
