"""Layers that the image encoders share, in inference mode, weights frozen or trained."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

EPSILON = 1e-5
"""Of batch and layer norm, as in torch."""


class Frozen(nnx.Variable):
    """Weights that are not trained: no `nnx.Param`, so that neither an optimiser nor its weight decay sees them."""


class Convolution(nnx.Module):
    """Square convolution: (N, H, W, in) -> (N, H', W', out)."""

    def __init__(
        self, before: int, after: int, size: int, stride: int = 1, *, padded: bool = True, rngs: nnx.Rngs
    ) -> None:
        """padded: zeros around, so that a stride of 1 keeps the size; otherwise none."""
        spread = (2.0 / (after * size * size)) ** 0.5
        self.kernel = Frozen(spread * jax.random.normal(rngs.params(), (size, size, before, after)))
        self.stride, self.padding = stride, (size - 1) // 2 if padded else 0

    def __call__(self, x: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x, self.kernel[...], (self.stride,) * 2, ((self.padding,) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=jax.lax.Precision.HIGHEST,
        )  # fmt: skip


class Linear(nnx.Module):
    """x @ kernel + bias: (*b, in) -> (*b, out)."""

    def __init__(
        self, before: int, after: int, *, bias: bool = True, kind: type[nnx.Variable] = Frozen, rngs: nnx.Rngs
    ) -> None:
        """kind: of the weights, `Frozen` or `nnx.Param`."""
        self.kernel = kind(before**-0.5 * jax.random.normal(rngs.params(), (before, after)))
        self.bias = kind(jnp.zeros(after)) if bias else None

    def __call__(self, x: Array) -> Array:
        y = jnp.matmul(x, self.kernel[...], precision="highest")
        return y if self.bias is None else y + along_last(self.bias[...], y)


class BatchNorm(nnx.Module):
    """Batch norm by running statistics, which never change here: (*b, C) -> (*b, C)."""

    def __init__(self, width: int, *, kind: type[nnx.Variable] = Frozen) -> None:
        """kind: of scale and bias, `Frozen` or `nnx.Param`."""
        self.scale, self.bias = kind(jnp.ones(width)), kind(jnp.zeros(width))
        self.mean, self.variance = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))

    def __call__(self, x: Array) -> Array:
        scale = self.scale[...] * jax.lax.rsqrt(self.variance[...] + EPSILON)
        return along_last(scale, x) * (x - along_last(self.mean[...], x)) + along_last(self.bias[...], x)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis: (*b, C) -> (*b, C)."""

    def __init__(self, width: int) -> None:
        self.scale, self.bias = Frozen(jnp.ones(width)), Frozen(jnp.zeros(width))

    def __call__(self, x: Array) -> Array:
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        x = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + EPSILON)
        return along_last(self.scale[...], x) * x + along_last(self.bias[...], x)


class PReLU(nnx.Module):
    """max(x, 0) + slope min(x, 0), a slope for each channel (He et al. 2015): (*b, C) -> (*b, C)."""

    def __init__(self, width: int) -> None:
        self.slope = Frozen(jnp.full(width, 0.25))

    def __call__(self, x: Array) -> Array:
        return jnp.maximum(x, 0) + along_last(self.slope[...], x) * jnp.minimum(x, 0)


def along_last(values: Array, like: Array) -> Array:
    """(C,) with as many axes as what it is combined with."""
    return values.reshape((1,) * (like.ndim - 1) + values.shape)
