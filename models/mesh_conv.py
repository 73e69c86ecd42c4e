"""Spatially varying convolution on meshes (Zhou et al. 2020, "Fully Convolutional Mesh Autoencoder using Efficient
Spatially Varying Kernels"), as Diverse3DFace uses it (Tables 5 and 6).

    y_p = sum_n sum_m a[p, m, n] W_m x_N(p, n) + b_p

Each target p has its own kernel over its neighbours N(p, n), in the span of M bases W_m that all targets share. The
kernels are never computed. The neighbours are first aggregated with the coefficients a and then multiplied with the
bases, or the other way round, whichever takes less work for the layer's shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx
from jax import Array

from models.gather import gather
from models.hierarchy import NeighbourLists

ELU_GAIN = 1.278
"""g with E[elu(g x)^2] = 1 for x ~ N(0, 1)."""
RESIDUAL_RATE = 0.9
NARROW_CHANNELS, ROW_SIZE = 8, 48
"""On a CPU, inputs with at most `NARROW_CHANNELS` channels are processed for several examples at once: as many as have
up to `ROW_SIZE` channels together."""
GATHER_COST = 5
"""Cost of gathering one number, in multiplications."""


class Connectivity(nnx.Variable):
    """Neighbour lists of a layer: neither trained nor saved."""


class MeshConv(nnx.Module):
    """Convolution from S sources to P targets."""

    def __init__(
        self, lists: NeighbourLists, in_features: int, out_features: int, num_bases: int, *, rngs: nnx.Rngs,
        gain: float = 1.0,
    ):  # fmt: skip
        """Args:
        lists: `pool` (down) or `unpool` (up) of a `MeshStep`.
        in_features, out_features, num_bases: channels and M.
        gain: initial standard deviation of the outputs for inputs from N(0, 1).

        Raises:
          ValueError: a number of channels or bases is below 1.
        """
        if min(in_features, out_features, num_bases) < 1:
            raise ValueError("features and bases must be at least 1.")
        self.lists = Connectivity(lists)
        self.in_features, self.out_features, self.num_bases = in_features, out_features, num_bases
        # Preserve the variance: the outputs sum over neighbours, bases and channels.
        mask = np.asarray(lists.mask)[:, None]
        draws = _normal(rngs, (lists.num_targets, num_bases, lists.width)) * mask
        self.coefficients = nnx.Param(_float32(draws / np.sqrt(mask.sum(-1, keepdims=True) * num_bases)))
        bases = gain * _normal(rngs, (num_bases, in_features, out_features)) / math.sqrt(in_features)
        self.bases = nnx.Param(_float32(bases))
        self.bias = nnx.Param(jnp.zeros((lists.num_targets, out_features)))

    def __call__(self, x: Array) -> Array:
        """x (*b, S, in) -> (*b, P, out)."""
        return map_batch(self.apply_single, x, ROW_SIZE if self.in_features <= NARROW_CHANNELS else 0)

    def apply_single(self, x: Array) -> Array:
        """Apply the layer to one example: (S, in) -> (P, out)."""
        if self.project_first:
            return self._project_then_aggregate(x)
        return self.from_neighbours(gather(self.lists.get_value(), x))

    def from_neighbours(self, neighbours: Array) -> Array:
        """Apply the layer to gathered neighbours: (P, N, in) -> (P, out)."""
        mixed = self.masked_coefficients() @ neighbours
        bases = rearrange(self.bases[...], "m i o -> (m i) o")
        return rearrange(mixed, "p m i -> p (m i)") @ bases + self.bias[...]

    def masked_coefficients(self) -> Array:
        """Return the coefficients (P, M, N) with zeros where lists are padded, whatever their trained values."""
        return jnp.where(self.lists.get_value().mask[:, None, :], self.coefficients[...], 0)

    @property
    def project_first(self) -> bool:
        """Whether the product with the bases comes before the aggregation.

        Then rows of M * out_features numbers are gathered instead of in_features numbers. This is faster if there are
        few output channels or many more targets than sources.
        """
        lists, bases = self.lists.get_value(), self.num_bases * self.out_features
        edges = lists.num_targets * lists.width
        product_cost = lists.num_targets * self.in_features * bases
        aggregate = edges * self.in_features * (self.num_bases + GATHER_COST) + product_cost
        project = edges * bases * (1 + GATHER_COST) + lists.num_sources * self.in_features * bases
        return project < aggregate

    def _project_then_aggregate(self, x: Array) -> Array:
        lists = self.lists.get_value()
        projected = x @ rearrange(self.bases[...], "m i o -> i (m o)")
        neighbours = rearrange(gather(lists, projected), "p n (m o) -> p (n m) o", o=self.out_features)
        weights = rearrange(self.masked_coefficients(), "p m n -> p 1 (n m)")
        return (weights @ neighbours)[:, 0] + self.bias[...]


class MeshResidual(nnx.Module):
    """The residual branch: if the vertices change, weighted means over neighbours, with a trained weight for each pair;
    if the channels change, a linear map shared by all vertices."""

    def __init__(self, lists: NeighbourLists | None, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        """lists: None if targets and sources are the same vertices (stride 1)."""
        self.in_features, self.out_features = in_features, out_features
        self.lists = None if lists is None else Connectivity(lists)
        self.weights = None if lists is None else nnx.Param(jnp.where(lists.mask, 1.0, 0.0))
        same, shape = in_features == out_features, (in_features, out_features)
        self.projection = None if same else nnx.Param(_float32(_normal(rngs, shape) / math.sqrt(in_features)))

    def __call__(self, x: Array) -> Array:
        """x (*b, S, in) -> (*b, P, out)."""
        return map_batch(self.apply_single, x, ROW_SIZE if self.in_features <= NARROW_CHANNELS else 0)

    def apply_single(self, x: Array) -> Array:
        """Apply the branch to one example: (S, in) -> (P, out)."""
        if self.lists is None:
            return self.project(x)
        # Both maps are linear, so that the signal with fewer channels can be the one that is gathered.
        if self.out_features < self.in_features:
            return self.from_neighbours(gather(self.lists.get_value(), self.project(x)))
        return self.project(self.from_neighbours(gather(self.lists.get_value(), x)))

    def from_neighbours(self, neighbours: Array) -> Array:
        """Average gathered neighbours: (P, N, C) -> (P, C)."""
        return (self.mean_weights()[:, None] @ neighbours)[:, 0]

    def mean_weights(self) -> Array:
        """Return weights (P, N) that sum to 1, zero where padded: |rho| / (sum |rho| + 1e-8) of `weights` rho."""
        if self.lists is None or self.weights is None:
            raise ValueError("a residual branch at stride 1 has no weights.")
        magnitudes = jnp.where(self.lists.get_value().mask, jnp.abs(self.weights[...]), 0)
        return magnitudes / (jnp.sum(magnitudes, axis=1, keepdims=True) + 1e-8)

    def project(self, x: Array) -> Array:
        """Apply the shared linear map, which is the identity if the number of channels stays the same."""
        return x if self.projection is None else x @ self.projection[...]


class MeshBlock(nnx.Module):
    """sqrt(1 - r) elu(convolution) + sqrt(r) residual: vcDownConv + vcDownRes, or vcUpConv + vcUpRes."""

    def __init__(
        self, lists: NeighbourLists, in_features: int, out_features: int, num_bases: int, *, resample: bool,
        rngs: nnx.Rngs, residual_rate: float = RESIDUAL_RATE, activate: bool = True,
    ):  # fmt: skip
        """Args:
        resample: whether targets and sources differ; False at stride 1, where the residual is per vertex.
        residual_rate: r in [0, 1].
        activate: apply an ELU after the convolution; False for the output layers of mean, variance and vertices.

        Raises:
          ValueError: the residual rate is out of range.
        """
        if not 0 <= residual_rate <= 1:
            raise ValueError(f"residual_rate lies in [0, 1], not {residual_rate}.")
        self.residual_rate, self.activate = residual_rate, activate
        gain = ELU_GAIN if activate else 1.0
        self.conv = MeshConv(lists, in_features, out_features, num_bases, rngs=rngs, gain=gain)
        self.residual = MeshResidual(lists if resample else None, in_features, out_features, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """x (*b, S, in) -> (*b, P, out)."""
        return map_batch(self.apply_single, x, ROW_SIZE if self.conv.in_features <= NARROW_CHANNELS else 0)

    def apply_single(self, x: Array) -> Array:
        """Apply the block to one example: (S, in) -> (P, out)."""
        if self.residual.lists is None or self.conv.project_first:
            conv, residual = self.conv.apply_single(x), self.residual.apply_single(x)
        else:
            neighbours = gather(self.conv.lists.get_value(), x)
            conv = self.conv.from_neighbours(neighbours)
            residual = self.residual.project(self.residual.from_neighbours(neighbours))
        if self.activate:
            conv = jax.nn.elu(conv)
        return math.sqrt(1 - self.residual_rate) * conv + math.sqrt(self.residual_rate) * residual


def map_batch(function: Callable[[Array], Array], x: Array, row_size: int = 0) -> Array:
    """Map a function of (S, C) over the leading axes of x (*b, S, C).

    Accelerators process the whole batch at once. CPUs process one example at a time and recompute its intermediate
    results for the gradient: these stay in the cache, which is two to eight times as fast. If `row_size` is larger
    than C, CPUs process up to row_size / C examples at a time.
    """
    if x.ndim == 2:
        return function(x)
    flat = x.reshape(-1, *x.shape[-2:])
    batch_size = _largest_divisor(len(flat), row_size // x.shape[-1])
    out = jax.lax.platform_dependent(
        flat,
        cpu=lambda examples: jax.lax.map(
            jax.checkpoint(function), examples, batch_size=batch_size if batch_size > 1 else None
        ),
        default=jax.vmap(function),
    )
    return out.reshape(*x.shape[:-2], *out.shape[1:])


def _largest_divisor(batch: int, limit: int) -> int:
    """Return the largest divisor of `batch` up to `limit`, or 1."""
    return next((k for k in range(min(batch, limit), 1, -1) if batch % k == 0), 1)


def _float32(array: np.ndarray) -> Array:
    return jnp.asarray(array, jnp.float32)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> np.ndarray:
    """Draw standard normal numbers by numpy, because JAX would compile a program for each of a network's shapes."""
    return np.random.default_rng(np.asarray(jax.random.key_data(rngs.params()))).standard_normal(shape)
