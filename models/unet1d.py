"""The denoiser of OFER: a U-Net with attention over a vector of coefficients (supplement D, Fig. 12).

The coefficients are the channels of a sequence of length one, as in the released code, so that its convolutions are
linear layers. Each level has two residual blocks, self-attention and a layer that changes to the next level's width.
Time and context modulate every block by a scale and a shift.

The released code never trained its projections of queries, keys and values, because they were in a plain list. Ours are
trained.
"""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array

from flamejax._checks import check_shapes

PERIOD = 10_000.0
"""Longest wavelength of the time embedding divided by 2 pi, in steps."""


@dataclasses.dataclass(frozen=True)
class UNet1DConfig:
    """Sizes of a `UNet1D`. The defaults are those of IdGen for FLAME."""

    widths: tuple[int, ...] = (300, 50, 10)
    """Channels of the levels; the first is the number of coefficients. ExpGen for FLAME: (53, 25, 10)."""
    context: int = 512
    """Width of the conditioning vector; ExpGen: 1024 with ArcFace and FaRL."""
    time: int = 512
    """Width of the time embedding."""
    heads: int = 4
    """Number of attention heads."""
    head_width: int = 32
    """Channels of an attention head."""
    tokens: int = 16
    """Number of pseudo-tokens to which each level's channels are projected for self-attention."""

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(*self.widths, self.context, self.heads, self.head_width, self.tokens) < 1:
            raise ValueError("a U-Net has two levels or more, and widths of at least 1.")
        if self.time < 4 or self.time % 2:
            raise ValueError("the time embedding's width is even, and at least 4.")

    @property
    def size(self) -> int:
        """Number of coefficients."""
        return self.widths[0]


def time_embedding(time: Array, width: int) -> Array:
    """Embed diffusion steps as sines and cosines (Vaswani et al. 2017; Ho et al. 2020): (*b,) -> (*b, width)."""
    frequencies = np.exp(-np.log(PERIOD) * np.arange(width // 2) / max(width // 2 - 1, 1)).astype(np.float32)
    angle = time[..., None] * jnp.broadcast_to(frequencies, (*time.shape, width // 2))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Conditioning(nnx.Module):
    """Scales and shifts a block's features by a linear map of SiLU([time | context]).

    Time and context have separate matrices, so that a shared context or time is multiplied only once.
    """

    def __init__(self, config: UNet1DConfig, width: int, *, rngs: nnx.Rngs):
        self.of_time = nnx.Linear(config.time, 2 * width, rngs=rngs)
        self.of_context = nnx.Linear(config.context, 2 * width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array, time: Array, context: Array) -> Array:
        """Map x (*b, C), activated time (*b', T) and context (*b'', D), which have at most as many axes, to (*b, C)."""
        scale, shift = jnp.split(broadcast_add(self.of_time(time), self.of_context(context)), 2, axis=-1)
        return broadcast_add(broadcast_multiply(x, scale + 1), shift)


class ResidualBlock(nnx.Module):
    """Two convolutions with group norm (one group), conditioning and SiLU, and a residual connection around them."""

    def __init__(self, config: UNet1DConfig, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(in_features, out_features, rngs=rngs)
        self.first_norm = nnx.LayerNorm(out_features, rngs=rngs)
        self.conditioning = Conditioning(config, out_features, rngs=rngs)
        self.second = nnx.Linear(out_features, out_features, rngs=rngs)
        self.second_norm = nnx.LayerNorm(out_features, rngs=rngs)
        self.residual = nnx.Linear(in_features, out_features, rngs=rngs) if in_features != out_features else None

    def __call__(self, x: Array, time: Array, context: Array) -> Array:
        """(*b, in) -> (*b, out)"""
        inner = self.conditioning(self.first_norm(self.first(x)), time, context)
        inner = jax.nn.silu(self.second_norm(self.second(jax.nn.silu(inner))))
        return inner + (x if self.residual is None else self.residual(x))


class SelfAttention(nnx.Module):
    """Self-attention over pseudo-tokens made of the channels, after an RMS norm, with a residual connection."""

    def __init__(self, config: UNet1DConfig, width: int, *, rngs: nnx.Rngs):
        self.tokens, self.heads = config.tokens, config.heads
        inner = config.tokens * config.heads * config.head_width
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.to_qkv = nnx.Linear(width, 3 * inner, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(inner, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """(*b, C) -> (*b, C)"""
        packed, sizes = self.to_qkv(self.norm(x)), {"t": self.tokens, "h": self.heads}
        queries, keys, values = rearrange(packed, "... (part t h c) -> part (...) t h c", part=3, **sizes)
        attended = jax.nn.dot_product_attention(queries, keys, values)
        return x + self.out(attended.reshape(*x.shape[:-1], -1))


class Level(nnx.Module):
    """Two residual blocks and self-attention, of the contracting or the expanding path."""

    def __init__(self, config: UNet1DConfig, width: int, skip_width: int, *, rngs: nnx.Rngs):
        """width: channels of the level. skip_width: channels of the skip connection into each block."""
        self.first = ResidualBlock(config, width + skip_width, width, rngs=rngs)
        self.second = ResidualBlock(config, width + skip_width, width, rngs=rngs)
        self.attention = SelfAttention(config, width, rngs=rngs)


class UNet1D(nnx.Module):
    """The denoiser, which predicts the noise in noisy coefficients at a diffusion step (Eqs. 2 and 6)."""

    def __init__(self, config: UNet1DConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths, size = config.widths, config.size
        self.time_in = nnx.Linear(config.time // 4 * 2, config.time, rngs=rngs)
        self.time_out = nnx.Linear(config.time, config.time, rngs=rngs)
        self.start = nnx.Linear(size, size, rngs=rngs)
        pairs = list(itertools.pairwise(widths))
        self.down = nnx.List(Level(config, wide, 0, rngs=rngs) for wide, _ in pairs)
        self.narrow = nnx.List(_mlp(wide, narrow, rngs) for wide, narrow in pairs)
        self.middle = Level(config, widths[-1], 0, rngs=rngs)
        self.widen = nnx.List(_mlp(narrow, wide, rngs) for wide, narrow in reversed(pairs))
        self.up = nnx.List(Level(config, wide, wide, rngs=rngs) for wide, _ in reversed(pairs))
        self.last = ResidualBlock(config, 2 * size, size, rngs=rngs)
        zero = nnx.initializers.zeros_init()
        self.noise = nnx.Linear(size, size, kernel_init=zero, rngs=rngs)

    def embed(self, time: Array) -> Array:
        """Return activated embeddings of diffusion steps: (*b,) -> (*b, T)."""
        waves = time_embedding(time, self.config.time // 4 * 2)
        return jax.nn.silu(self.time_out(jax.nn.silu(self.time_in(waves))))

    def __call__(self, x: Array, time: Array, context: Array) -> Array:
        """Predict the noise in x.

        Args:
          x: (*b, S) noisy coefficients.
          time: (*b,) steps, or with fewer leading axes, such as () for a shared step.
          context: (*b, D), or with fewer leading axes, such as (D,) for a shared context.

        Returns:
          (*b, S)

        Raises:
          ValueError: x or context has another width, or time or context has more batch axes than x.
        """
        check_shapes(x=(x, (..., self.config.size)), context=(context, (..., self.config.context)))
        if max(jnp.ndim(time), context.ndim - 1) >= x.ndim:
            raise ValueError(f"`time` {jnp.shape(time)} or `context` {context.shape} has too many axes for {x.shape}.")
        emb, context = self.embed(jnp.asarray(time, x.dtype)), jax.nn.silu(context)
        start = x = self.start(x)
        skips = []
        for level, narrow in zip(self.down, self.narrow, strict=True):
            x = level.first(x, emb, context)
            skips.append(x)
            x = level.attention(level.second(x, emb, context))
            skips.append(x)
            x = narrow(x)
        x = self.middle.attention(self.middle.first(x, emb, context))
        x = self.middle.second(x, emb, context)
        for widen, level in zip(self.widen, self.up, strict=True):
            x = widen(x)
            x = level.first(jnp.concatenate([x, skips.pop()], axis=-1), emb, context)
            x = level.attention(level.second(jnp.concatenate([x, skips.pop()], axis=-1), emb, context))
        return self.noise(self.last(jnp.concatenate([x, start], axis=-1), emb, context))


def broadcast_add(x: Array, y: Array) -> Array:
    """Return x + y, aligned at the trailing axes; explicit, because JAX may be set to refuse rank promotion."""
    x, y = _same_rank(x, y)
    return x + y


def broadcast_multiply(x: Array, y: Array) -> Array:
    """Return x * y, aligned as in `broadcast_add`."""
    x, y = _same_rank(x, y)
    return x * y


def matrix_shapes(config: UNet1DConfig) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of each matrix that a step multiplies with, which bounds its cost from below."""
    state = nnx.state(nnx.eval_shape(lambda: UNet1D(config, rngs=nnx.Rngs(0))), nnx.Param)
    return [tuple(leaf.shape) for _, leaf in nnx.to_flat_state(state) if len(leaf.shape) == 2]


def _mlp(in_features: int, out_features: int, rngs: nnx.Rngs) -> nnx.Sequential:
    first, second = nnx.Linear(in_features, out_features, rngs=rngs), nnx.Linear(out_features, out_features, rngs=rngs)
    return nnx.Sequential(first, jax.nn.silu, second)


def _same_rank(x: Array, y: Array) -> tuple[Array, Array]:
    rank = max(x.ndim, y.ndim)
    return x.reshape((1,) * (rank - x.ndim) + x.shape), y.reshape((1,) * (rank - y.ndim) + y.shape)
