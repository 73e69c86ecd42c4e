"""The denoiser of OFER: a U-Net with attention over a vector of coefficients (supplement D, Fig. 12).

The coefficients are the channels of a sequence of length one, as in the released code, so its convolutions are
products with a matrix. Each level has two residual blocks, self-attention and a step to the next level's width. Time
and context enter every block as a scale and a shift.

The released code's projections of queries, keys and values were never trained (they sat in a plain list); ours are.
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
"""Longest wave of the time embedding, steps."""


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
    head_width: int = 32
    tokens: int = 16
    """A level's channels are attended to as so many pseudo-tokens."""

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or min(*self.widths, self.context, self.heads, self.head_width, self.tokens) < 1:
            raise ValueError("a U-Net has two levels or more, and widths of at least 1.")
        if self.time < 4 or self.time % 2:
            raise ValueError("the time embedding's width is even, and at least 4.")

    @property
    def size(self) -> int:
        """Coefficients."""
        return self.widths[0]


def time_embedding(time: Array, width: int) -> Array:
    """Sines and cosines of diffusion steps (Vaswani et al. 2017; Ho et al. 2020): (*b,) -> (*b, width)."""
    frequencies = np.exp(-np.log(PERIOD) * np.arange(width // 2) / max(width // 2 - 1, 1)).astype(np.float32)
    angle = time[..., None] * jnp.broadcast_to(frequencies, (*time.shape, width // 2))
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Conditioning(nnx.Module):
    """Scale and shift of a block's features from SiLU of [time | context].

    The product with the context stands apart from that with the time, so that a context that many samples share, or a
    time that all share, is multiplied once.
    """

    def __init__(self, config: UNet1DConfig, width: int, *, rngs: nnx.Rngs):
        self.of_time = nnx.Linear(config.time, 2 * width, rngs=rngs)
        self.of_context = nnx.Linear(config.context, 2 * width, use_bias=False, rngs=rngs)

    def __call__(self, x: Array, time: Array, context: Array) -> Array:
        """x (*b, C); time (*b', T) and context (*b'', D) activated, of at most as many axes -> (*b, C)."""
        found = added(self.of_time(time), self.of_context(context))
        scale, shift = jnp.split(found, 2, axis=-1)
        return added(multiplied(x, scale + 1), shift)


class ResidualBlock(nnx.Module):
    """Two convolutions with group norm (one group), conditioning and SiLU; a residual connection about them."""

    def __init__(self, config: UNet1DConfig, before: int, after: int, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(before, after, rngs=rngs)
        self.first_norm = nnx.LayerNorm(after, rngs=rngs)
        self.conditioning = Conditioning(config, after, rngs=rngs)
        self.second = nnx.Linear(after, after, rngs=rngs)
        self.second_norm = nnx.LayerNorm(after, rngs=rngs)
        self.residual = nnx.Linear(before, after, rngs=rngs) if before != after else None

    def __call__(self, x: Array, time: Array, context: Array) -> Array:
        """(*b, before) -> (*b, after)"""
        inner = self.conditioning(self.first_norm(self.first(x)), time, context)
        inner = jax.nn.silu(self.second_norm(self.second(jax.nn.silu(inner))))
        return inner + (x if self.residual is None else self.residual(x))


class SelfAttention(nnx.Module):
    """Self-attention over pseudo-tokens made of the channels; RMS norm before, residual connection about it."""

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
        found = jax.nn.dot_product_attention(queries, keys, values)
        return x + self.out(found.reshape(*x.shape[:-1], -1))


class Level(nnx.Module):
    """Two blocks and attention, of the way down or up."""

    def __init__(self, config: UNet1DConfig, width: int, skipped: int, *, rngs: nnx.Rngs):
        """width: the level's. skipped: channels joined to each block's input."""
        self.first = ResidualBlock(config, width + skipped, width, rngs=rngs)
        self.second = ResidualBlock(config, width + skipped, width, rngs=rngs)
        self.attention = SelfAttention(config, width, rngs=rngs)


class UNet1D(nnx.Module):
    """The denoiser: noisy coefficients, diffusion step and context -> the noise in them (Eqs. 2 and 6)."""

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
        """Activated embedding of diffusion steps: (*b,) -> (*b, T)."""
        waves = time_embedding(time, self.config.time // 4 * 2)
        return jax.nn.silu(self.time_out(jax.nn.silu(self.time_in(waves))))

    def __call__(self, x: Array, time: Array, context: Array) -> Array:
        """The noise in x.

        Args:
          x: (*b, S) noisy coefficients. time: steps (*b), or of fewer trailing axes, such as () for all.
          context: (*b, D), or of fewer trailing axes, such as (D,) for samples that share it.

        Returns:
          (*b, S)

        Raises:
          ValueError: x or context is of another width, or time or context has more axes than x has.
        """
        check_shapes(x=(x, (..., self.config.size)), context=(context, (..., self.config.context)))
        if max(jnp.ndim(time), context.ndim - 1) >= x.ndim:
            raise ValueError(f"`time` {jnp.shape(time)} or `context` {context.shape} has too many axes for {x.shape}.")
        emb, context = self.embed(jnp.asarray(time, x.dtype)), jax.nn.silu(context)
        start = x = self.start(x)
        kept = []
        for level, narrow in zip(self.down, self.narrow, strict=True):
            x = level.first(x, emb, context)
            kept.append(x)
            x = level.attention(level.second(x, emb, context))
            kept.append(x)
            x = narrow(x)
        x = self.middle.attention(self.middle.first(x, emb, context))
        x = self.middle.second(x, emb, context)
        for widen, level in zip(self.widen, self.up, strict=True):
            x = widen(x)
            x = level.first(jnp.concatenate([x, kept.pop()], axis=-1), emb, context)
            x = level.attention(level.second(jnp.concatenate([x, kept.pop()], axis=-1), emb, context))
        return self.noise(self.last(jnp.concatenate([x, start], axis=-1), emb, context))


def added(x: Array, y: Array) -> Array:
    """x + y, the shorter one's axes being the trailing ones (written out: rank promotion may be an error)."""
    x, y = _same_rank(x, y)
    return x + y


def multiplied(x: Array, y: Array) -> Array:
    """x * y, as `added`."""
    x, y = _same_rank(x, y)
    return x * y


def products(config: UNet1DConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of each matrix that a step multiplies with: what it costs at least."""
    state = nnx.state(nnx.eval_shape(lambda: UNet1D(config, rngs=nnx.Rngs(0))), nnx.Param)
    return [tuple(leaf.shape) for _, leaf in nnx.to_flat_state(state) if len(leaf.shape) == 2]


def _mlp(before: int, after: int, rngs: nnx.Rngs) -> nnx.Sequential:
    return nnx.Sequential(nnx.Linear(before, after, rngs=rngs), jax.nn.silu, nnx.Linear(after, after, rngs=rngs))


def _same_rank(x: Array, y: Array) -> tuple[Array, Array]:
    rank = max(x.ndim, y.ndim)
    return x.reshape((1,) * (rank - x.ndim) + x.shape), y.reshape((1,) * (rank - y.ndim) + y.shape)
