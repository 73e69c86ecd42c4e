"""The Mesh-VAE of Diverse3DFace (section 4.2, Tables 5 and 6), which maps the visible part of a head to a distribution
over complete heads.

Inputs and outputs are vertices in the head frame, in metres, with neck, jaw and eyes posed. Hidden vertices are set to
zero.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from flamejax._checks import check_shapes
from models.hierarchy import MeshHierarchy, mesh_hierarchy
from models.linear_branch import LinearBranch, Normalization, to_coefficients, to_latents
from models.mesh_conv import Connectivity, MeshBlock

RESIDUAL_GAIN = 30.0
"""Factor on the residuals of the linear branch before they enter the convolutions, because they are small."""
OUTPUT_INIT_SCALE = 0.05
"""Factor on the last layer's initial weights if there is a linear branch, so that training starts from its output."""

MAX_REACH = 16
"""Largest stride or radius, in edges: at 16, a ball is a tenth of a head."""


@dataclasses.dataclass(frozen=True)
class MeshVAEConfig:
    """Architecture of a `MeshVAE`. The decoder mirrors the encoder."""

    strides: tuple[int, ...] = (2, 1, 2, 1, 2, 1, 2)
    radii: tuple[int, ...] | None = None
    """Radii of the pooling neighbourhoods, in edges; the strides by default."""
    features: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Channels after each encoder layer except the last, which outputs the latents."""
    latent_features: int = 64
    """Channels of a latent vertex."""
    num_bases: int = 17
    """M, the number of kernel bases of each convolution."""
    residual_rate: float = 0.9
    """r, the weight of the residual branch in each block."""
    centred: bool = False
    """False: inputs are raw metres and a hidden vertex lies at the origin, as in the paper. True: inputs are deviations
    from the mean head divided by their RMS, and a fourth channel marks the visible vertices."""
    linear_rank: int = 0
    """Number of components of a `LinearBranch` parallel to the convolutions; 0: none, as in the paper. If there are
    fewer latents, only the leading components are used. The branch saves a small network from learning the PCA of the
    training heads, and makes the latents' distribution correlated."""
    linear_fine: int | None = None
    """Number of leading components stored at all vertices; the others are interpolated. All by default."""
    linear_noise: float = 0.03
    """Noise standard deviation that the branch assumes for each coordinate of a centre, in units of `spread`."""
    mean_scale: float = 0.1
    """Factor on the output layer of the mean, as in the authors' code."""
    log_variance_scale: float = 0.01
    """Factor on the output layer of the log variance."""
    log_variance_start: float = 0.0
    """Offset added to the log variance, about what an untrained network outputs."""

    def __post_init__(self) -> None:
        if not all(1 <= edges <= MAX_REACH for edges in (*self.strides, *(self.radii or ()))):
            raise ValueError(f"strides and radii are of 1 to {MAX_REACH} edges.")
        if len(self.features) != len(self.strides) - 1:
            raise ValueError(f"{len(self.strides)} layers need {len(self.strides) - 1} features between them.")
        if self.linear_rank < 0 or (self.linear_fine or 0) < 0 or (self.linear_rank and not self.centred):
            raise ValueError("a linear branch needs linear_rank >= 1, linear_fine >= 0 and centred=True.")


PAPER = MeshVAEConfig()
"""Tables 5 and 6."""
SMALL = MeshVAEConfig(
    strides=(2, 2, 2, 2),
    features=(16, 32, 64),
    num_bases=8,
    centred=True,
    linear_rank=512,
    linear_fine=48,
    mean_scale=0.01,
    log_variance_scale=0.01,
)
"""A small network for CPUs. Its weights for the open head ship with the package."""


def without_linear_branch(config: MeshVAEConfig) -> MeshVAEConfig:
    """Return the architecture without the linear branch, and with output scales that suit the convolutions alone."""
    return dataclasses.replace(
        config, linear_rank=0, linear_fine=None, mean_scale=0.1, log_variance_scale=0.1, log_variance_start=-4.0
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A normal distribution over latents (*b, L, C): correlated if there is a linear branch, else independent."""

    mean: Array
    log_variance: Array
    """log sigma^2 of each latent; with `factor`: log of the ratio of its variance to the linear branch's."""
    factor: Array | None = None
    """(*b, D, D) lower triangular Cholesky factor for the D = L C coefficients, see `LinearBranch.posterior`."""
    scale: Array | None = None
    """(*b, D) scale of the coefficients: their deviations from the mean are scale * factor^-T e with e ~ N(0, I)."""

    def sample(self, key: Array) -> Array:
        """Draw one sample from each distribution: (*b, L, C)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.unwhiten(to_coefficients(noise))

    def unwhiten(self, white: Array) -> Array:
        """Map standard normal variables (*b, D) linearly to deviations of the latents from their mean (*b, L, C)."""
        if self.factor is not None and self.scale is not None:
            solved = jax.scipy.linalg.solve_triangular(self.factor, white[..., None], lower=True, trans="T")
            white = self.scale * solved[..., 0]
        return jnp.exp(0.5 * self.log_variance) * to_latents(white, (self.mean.shape[-2], self.mean.shape[-1]))

    def whiten(self, latents: Array) -> Array:
        """Map latents (*b, L, C) to variables (*b, D) that are standard normal for samples; inverse of `unwhiten`."""
        white = to_coefficients((latents - self.mean) * jnp.exp(-0.5 * self.log_variance))
        if self.factor is None or self.scale is None:
            return white
        return jnp.matmul((white / self.scale)[..., None, :], self.factor, precision="highest")[..., 0, :]

    def kl(self) -> Array:
        """Return the Kullback-Leibler divergence from N(0, 1) in nats, summed over latents: (*b,)."""
        variance, log_determinant = jnp.ones_like(self.mean), jnp.zeros(())
        if self.factor is not None and self.scale is not None:
            size = self.factor.shape[-1]
            unit = jnp.broadcast_to(jnp.eye(size), self.factor.shape)
            inverse = jax.scipy.linalg.solve_triangular(self.factor, unit, lower=True)
            variances = self.scale**2 * jnp.sum(inverse**2, axis=-2)
            variance = to_latents(variances, (self.mean.shape[-2], self.mean.shape[-1]))
            diagonal = jnp.diagonal(self.factor, axis1=-2, axis2=-1)
            log_determinant = 2 * jnp.sum(jnp.log(self.scale) - jnp.log(diagonal), axis=-1)
        terms = jnp.exp(self.log_variance) * variance + self.mean**2 - 1 - self.log_variance
        return 0.5 * (jnp.sum(terms, axis=(-2, -1)) - log_determinant)


class MeshVAE(nnx.Module):
    """Variational autoencoder with convolutions on a mesh hierarchy."""

    def __init__(
        self, hierarchy: MeshHierarchy, config: MeshVAEConfig = PAPER, *, rngs: nnx.Rngs,
        mean: Array | None = None, spread: float = 1.0, components: Array | None = None,
    ):  # fmt: skip
        """Args:
        hierarchy: `mesh_hierarchy(faces, positions, config.strides, config.radii)`.
        mean, spread: the training heads' mean (V, 3) and their RMS deviation from it per coordinate, metres; used only
          if `config.centred`.
        components: (K, V, 3) their leading principal components, metres per standard deviation, for `linear_rank` = K;
          zero by default.

        Raises:
          ValueError: the hierarchy's strides differ from the config's, or there are not `linear_rank` components.
        """
        if tuple(step.stride for step in hierarchy.steps) != tuple(config.strides):
            raise ValueError(f"the hierarchy was built with strides other than {config.strides}.")
        self.config = config
        self.num_vertices = hierarchy.num_vertices[0]
        self.latent_shape = hierarchy.num_vertices[-1], config.latent_features
        shape = (self.num_vertices, 3)
        self.mean = Normalization(jnp.zeros(shape) if mean is None else jnp.asarray(mean, jnp.float32).reshape(shape))
        self.spread = Normalization(jnp.asarray(spread if config.centred else 1.0, jnp.float32))
        channels = 3 if not config.centred else 7 if config.linear_rank else 4
        down = (channels, *config.features)
        self.down = nnx.List(
            self._block(hierarchy, k, "pool", down[k], down[k + 1], rngs) for k in range(len(config.features))
        )
        last, bottom = len(config.strides) - 1, down[-1]
        self.to_mean = self._block(hierarchy, last, "pool", bottom, config.latent_features, rngs, activate=False)
        self.to_log_variance = self._block(
            hierarchy, last, "pool", bottom, config.latent_features, rngs, activate=False
        )
        up, extra = (config.latent_features, *reversed(config.features), 3), 6 if config.linear_rank else 0
        self.up = nnx.List(
            self._block(hierarchy, last - k, "unpool", up[k] + extra, up[k + 1], rngs, activate=k < last)
            for k in range(len(config.strides))
        )
        # Indices of each level's vertices among the first centres, ordered from the coarsest level.
        picks = [np.arange(hierarchy.num_vertices[1])]
        for step in hierarchy.steps[1:]:
            picks.append(picks[-1][step.centres])
        self.picks = nnx.List(Connectivity(jnp.asarray(pick, jnp.int32)) for pick in reversed(picks))
        self.linear = self._linear_branch(hierarchy, components) if config.linear_rank else None

    def _block(
        self, hierarchy: MeshHierarchy, step: int, direction: str, in_features: int, out_features: int, rngs: nnx.Rngs,
        activate: bool = True,
    ) -> MeshBlock:  # fmt: skip
        lists = getattr(hierarchy.steps[step], direction)
        return MeshBlock(
            lists, in_features, out_features, self.config.num_bases, resample=hierarchy.steps[step].stride > 1,
            residual_rate=self.config.residual_rate, activate=activate, rngs=rngs,
        )  # fmt: skip

    def _linear_branch(self, hierarchy: MeshHierarchy, components: Array | None) -> LinearBranch:
        rank, size = self.config.linear_rank, math.prod(self.latent_shape)
        if components is not None and len(components) != rank:
            raise ValueError(f"linear_rank is {rank}, but {len(components)} components were given.")
        # Latents beyond the rank get components of zero, which the branch leaves at N(0, 1).
        rows = np.zeros((size, self.num_vertices, 3), np.float32)
        if components is not None:
            rows[:rank] = components[:size]
        # The convolutions start as a small correction of the linear branch.
        for weights in (self.up[-1].conv.bases, self.up[-1].residual.projection):
            if weights is not None:
                weights[...] = OUTPUT_INIT_SCALE * weights[...]
        fine = size if self.config.linear_fine is None else min(self.config.linear_fine, size)
        return LinearBranch(hierarchy, rows / float(self.spread[...]), fine, self.config.linear_noise)

    def encode(self, vertices: Array, visible: Array) -> Posterior:
        """Return the latents' distribution given vertices (*b, V, 3), metres, head frame, and `visible` (*b, V) bool.

        The values of hidden vertices have no effect.

        Raises:
          ValueError: the vertices do not match the network's mesh, or `visible` has other batch axes.
        """
        check_shapes(
            vertices=(vertices, (..., self.num_vertices, 3)),
            visible=(visible, (*vertices.shape[:-2], self.num_vertices)),
        )
        x, linear = self._encoder_input(vertices, visible)
        for block in self.down:
            x = block(x)
        mean = self.config.mean_scale * self.to_mean(x)
        log_variance = self.config.log_variance_scale * self.to_log_variance(x) + self.config.log_variance_start
        if linear is None:
            return Posterior(mean, log_variance)
        coefficients, factor, scale = linear
        return Posterior(mean + to_latents(coefficients, self.latent_shape), log_variance, factor, scale)

    def decode(self, latents: Array) -> Array:
        """Decode latents (*b, L, C) to vertices (*b, V, 3), metres, head frame. Raises ValueError for other shapes."""
        check_shapes(latents=(latents, (..., *self.latent_shape)))
        x = self._decoder_outputs(latents)[-1]
        if self.linear is not None:
            x = x + self.linear.to_vertices(to_coefficients(latents))
        return self._broadcast_mean(x.ndim) + self.spread[...] * x

    def complete(self, vertices: Array, visible: Array) -> Array:
        """Complete partly visible heads by decoding the latents' mean: (*b, V, 3)."""
        return self.decode(self.encode(vertices, visible).mean)

    def sample(self, vertices: Array, visible: Array, key: Array, count: int) -> Array:
        """Draw complete heads given the visible vertices: (*b, count, V, 3)."""
        posterior = self.encode(vertices, visible)
        draws = jax.vmap(posterior.sample, out_axes=-3)(jax.random.split(key, count))
        return self.decode(draws)

    def interpolate(self, first: Array, second: Array, count: int) -> Array:
        """Decode evenly spaced points between two latents (*b, L, C) (appendix A.6), with ends: (*b, count, V, 3)."""
        weight = jnp.linspace(0.0, 1.0, count).reshape(*(1,) * (first.ndim - 2), count, 1, 1)
        first, second = first[..., None, :, :], second[..., None, :, :]
        return self.decode((1 - weight) * first + weight * second)

    def __call__(self, vertices: Array, visible: Array, key: Array) -> tuple[Array, Posterior]:
        """Return a decoded sample (*b, V, 3) and the distribution that it was drawn from."""
        posterior = self.encode(vertices, visible)
        return self.decode(posterior.sample(key)), posterior

    def _encoder_input(self, vertices: Array, visible: Array) -> tuple[Array, tuple[Array, Array, Array] | None]:
        """Return the convolutions' input (*b, V, C) and the linear branch's posterior."""
        mask = visible[..., None]
        x = jnp.where(mask, (vertices - self._broadcast_mean(vertices.ndim)) / self.spread[...], 0)
        if not self.config.centred:
            return x, None
        masked = jnp.concatenate([x, mask.astype(x.dtype)], axis=-1)
        if self.linear is None:
            return masked, None
        posterior = self.linear.posterior(x, visible)
        residuals = jnp.where(mask, x - self.linear.to_vertices(posterior[0]), 0)
        return jnp.concatenate([masked, RESIDUAL_GAIN * residuals], axis=-1), posterior

    def _decoder_outputs(self, latents: Array) -> list[Array]:
        """Return the outputs of the decoder's layers. Each layer also gets the linear branch's head as input."""
        outputs = [latents]
        head = None if self.linear is None else self.linear.at_centres(to_coefficients(latents))
        for pick, block in zip(self.picks, self.up, strict=True):
            x = outputs[-1]
            if head is not None:
                x = jnp.concatenate([x, head[..., pick.get_value(), :]], axis=-1)
            outputs.append(block(x))
        return outputs[1:]

    def _broadcast_mean(self, ndim: int) -> Array:
        """Return the mean (V, 3) with leading axes of size 1, `ndim` axes in all."""
        mean = self.mean[...] if self.config.centred else jnp.zeros_like(self.mean[...])
        return mean.reshape((1,) * (ndim - 2) + mean.shape)


def hierarchy_for(config: MeshVAEConfig, faces: np.ndarray, positions: np.ndarray) -> MeshHierarchy:
    """Build the hierarchy that a configuration needs."""
    return mesh_hierarchy(faces, positions, config.strides, config.radii)


def num_parameters(model: nnx.Module) -> int:
    """Count a network's stored numbers: trained parameters and statistics of the training heads."""
    leaves = jax.tree.leaves(nnx.state(model, (nnx.Param, Normalization)))
    return sum(math.prod(leaf.shape) for leaf in leaves)
