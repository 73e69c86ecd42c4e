"""Layers that the image encoders share, in inference mode, with frozen or trained weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

EPSILON = 1e-5
"""Epsilon of batch and layer norm, as in torch."""


class Frozen(nnx.Variable):
    """Weights that are not trained. They are no `nnx.Param`, so that optimisers and weight decay ignore them."""


class Convolution(nnx.Module):
    """Square convolution: (N, H, W, in) -> (N, H', W', out)."""

    def __init__(
        self, in_features: int, out_features: int, size: int, stride: int = 1, *, padded: bool = True, rngs: nnx.Rngs
    ) -> None:
        """padded: pad with zeros, so that a stride of 1 keeps the size."""
        spread = (2.0 / (out_features * size * size)) ** 0.5
        self.kernel = Frozen(spread * jax.random.normal(rngs.params(), (size, size, in_features, out_features)))
        self.stride, self.padding = stride, (size - 1) // 2 if padded else 0

    def __call__(self, x: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x, self.kernel[...], (self.stride,) * 2, ((self.padding,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip


class Linear(nnx.Module):
    """x @ kernel + bias: (*b, in) -> (*b, out)."""

    def __init__(
        self, in_features: int, out_features: int, *, bias: bool = True, kind: type[nnx.Variable] = Frozen,
        rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        """kind: the weights' type, `Frozen` or `nnx.Param`."""
        self.kernel = kind(in_features**-0.5 * jax.random.normal(rngs.params(), (in_features, out_features)))
        self.bias = kind(jnp.zeros(out_features)) if bias else None

    def __call__(self, x: Array) -> Array:
        y = jnp.matmul(x, self.kernel[...], precision="highest")
        return y if self.bias is None else y + match_rank(self.bias[...], y)


class BatchNorm(nnx.Module):
    """Batch norm by fixed running statistics: (*b, C) -> (*b, C)."""

    def __init__(self, width: int, *, kind: type[nnx.Variable] = Frozen) -> None:
        """kind: the type of scale and bias, `Frozen` or `nnx.Param`."""
        self.scale, self.bias = kind(jnp.ones(width)), kind(jnp.zeros(width))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: Array) -> Array:
        scale = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
        return match_rank(scale, x) * (x - match_rank(self.mean[...], x)) + match_rank(self.bias[...], x)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis: (*b, C) -> (*b, C)."""

    def __init__(self, width: int) -> None:
        self.scale, self.bias = Frozen(jnp.ones(width)), Frozen(jnp.zeros(width))

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
        return match_rank(self.scale[...], x) * x + match_rank(self.bias[...], x)


class PReLU(nnx.Module):
    """max(x, 0) + slope min(x, 0), with a slope for each channel (He et al. 2015): (*b, C) -> (*b, C)."""

    def __init__(self, width: int) -> None:
        self.slope = Frozen(jnp.full(width, 0.25))

    def __call__(self, x: Array) -> Array:
        return jnp.maximum(x, 0) + match_rank(self.slope[...], x) * jnp.minimum(x, 0)


def match_rank(values: Array, like: Array) -> Array:
    """Return values (C,) with leading axes of size 1, as many axes as `like` has."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
