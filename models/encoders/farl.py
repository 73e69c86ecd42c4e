"""FaRL's image tower: the ViT-B/16 of CLIP (Radford et al. 2021; Dosovitskiy et al. 2021), trained on faces by Zheng et
al., "General Facial Representation Learning in a Visual-Linguistic Manner" (CVPR 2022)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array

from models.encoders.alignment import FARL_SIZE, square_transform, warp
from models.encoders.layers import Convolution, Frozen, LayerNorm, Linear

CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
CLIP_DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
"""Mean and standard deviation of RGB in [0, 1] over CLIP's training images."""


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Architecture of a vision transformer."""

    image_size: int = FARL_SIZE
    """Side of the input, pixels."""
    patch_size: int = 16
    hidden: int = 768
    """Width of the tokens; the MLPs are four times as wide."""
    layers: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Number of attention heads."""
    width: int = 512
    """Width of the projection."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size or self.hidden % self.heads:
            raise ValueError(f"image_size must be a multiple of patch_size, and hidden a multiple of heads: {self}")

    @property
    def tokens(self) -> int:
        """Number of tokens: the patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


VIT_B16 = ViTConfig()


class TransformerBlock(nnx.Module):
    """Layer norm and self-attention, then layer norm and an MLP with QuickGELU, each with a residual connection:
    (N, T, C) -> (N, T, C)."""

    def __init__(self, hidden: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.ln_1, self.ln_2 = LayerNorm(hidden), LayerNorm(hidden)
        self.qkv, self.attention_out = Linear(hidden, 3 * hidden, rngs=rngs), Linear(hidden, hidden, rngs=rngs)
        self.mlp_in, self.mlp_out = Linear(hidden, 4 * hidden, rngs=rngs), Linear(4 * hidden, hidden, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x + self._attention(self.ln_1(x))
        return x + self.mlp_out(quick_gelu(self.mlp_in(self.ln_2(x))))

    def _attention(self, x: Array) -> Array:
        query, key, value = rearrange(self.qkv(x), "n t (part h c) -> part n t h c", part=3, h=self.heads)
        scores = jnp.einsum("nqhc,nkhc->nhqk", query, key, precision="highest") * query.shape[-1] ** -0.5
        mixed = jnp.einsum("nhqk,nkhc->nqhc", jax.nn.softmax(scores, axis=-1), value, precision="highest")
        return self.attention_out(rearrange(mixed, "n t h c -> n t (h c)"))


class FaRL(nnx.Module):
    """An `ImageEncoder`: FaRL's embedding of a face and its surroundings, not normalised. All layers are frozen except
    the last, the projection."""

    needs_photo: bool = True

    def __init__(self, config: ViTConfig = VIT_B16, *, rngs: nnx.Rngs) -> None:
        """Initialise random weights; `models.encoders.load_farl` loads trained ones."""
        self.config = config
        self.width, self.feature_width = config.width, config.hidden
        self.patches = Convolution(3, config.hidden, config.patch_size, config.patch_size, padded=False, rngs=rngs)
        scale = config.hidden**-0.5
        self.class_token = Frozen(scale * jax.random.normal(rngs.params(), (config.hidden,)))
        self.positions = Frozen(scale * jax.random.normal(rngs.params(), (config.tokens, config.hidden)))
        self.ln_pre, self.ln_post = LayerNorm(config.hidden), LayerNorm(config.hidden)
        self.blocks = nnx.List(TransformerBlock(config.hidden, config.heads, rngs=rngs) for _ in range(config.layers))
        self.projection = Linear(config.hidden, config.width, bias=False, kind=nnx.Param, rngs=rngs)

    def __call__(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Return the embedding (*b, width); arguments as `Encoder`."""
        return self.head(self.features(photo, landmarks, visibility))

    def features(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Return the class token after the last block and a layer norm: (*b, feature_width); arguments as `Encoder`. No
        gradient passes."""
        return self.features_from_crops(self.crop(photo, landmarks, visibility))

    def crop(self, photo: Array, landmarks: Array, visibility: Array) -> Array:
        """Crop the square around the face: (*b, S, S, 3) with S = `image_size`, RGB in [0, 1], black outside of the
        photo."""
        size = self.config.image_size
        return warp(photo, square_transform(landmarks, visibility, photo.shape, size), size)

    def features_from_crops(self, crops: Array) -> Array:
        """Return `features` of crops (*b, S, S, 3), RGB in [0, 1]."""
        x = crops.reshape(-1, *crops.shape[-3:])
        x = (x - CLIP_MEAN.reshape(1, 1, 1, 3)) / CLIP_DEVIATION.reshape(1, 1, 1, 3)
        x = rearrange(self.patches(x), "n h w c -> n (h w) c")
        class_token = jnp.broadcast_to(self.class_token[...], (x.shape[0], 1, self.config.hidden))
        x = jnp.concatenate([class_token, x], axis=1) + self.positions[...][None]
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        x = self.ln_post(x[:, 0])
        return jax.lax.stop_gradient(x.reshape(*crops.shape[:-3], self.feature_width))

    def head(self, features: Array) -> Array:
        """Apply the projection: (*b, feature_width) -> (*b, width)."""
        return self.projection(features)


def quick_gelu(x: Array) -> Array:
    """Return x sigmoid(1.702 x), CLIP's approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)
