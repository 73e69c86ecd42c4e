"""The Mesh-VAE of Diverse3DFace (section 4.2, Tables 5 and 6): from the visible part of a head to a distribution over
whole heads.

Input and output are vertices in the head frame, metres, neck, jaw and eyes posed. Hidden vertices are set to zero.
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
"""What a linear branch leaves of the vertices is small: so many times of it go into the convolutions."""
OUTPUT_INIT_SCALE = 0.05
"""Size of the convolutions' output beside a linear branch, in the network's units, before training."""


@dataclasses.dataclass(frozen=True)
class MeshVAEConfig:
    """Architecture. The decoder mirrors the encoder."""

    strides: tuple[int, ...] = (2, 1, 2, 1, 2, 1, 2)
    radii: tuple[int, ...] | None = None
    """Edges; the strides when left out."""
    features: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    """Channels after each encoder layer but the last, which makes the latents."""
    latent_features: int = 64
    """Channels of a latent vertex."""
    num_bases: int = 17
    """M."""
    residual_rate: float = 0.9
    """r."""
    centred: bool = False
    """False: raw metres, as in the paper, where a hidden vertex lies at the origin. True: deviations from the mean head
    in units of their spread, and a fourth channel that says which vertices are seen."""
    linear_rank: int = 0
    """Components of a `LinearBranch` beside the convolutions; a mesh with fewer latents takes the leading ones. 0:
    none, as in the paper. It spares a small network from learning what a PCA of the training heads knows, and gives the
    latents' distribution its correlations."""
    linear_fine: int | None = None
    """Of these, how many are kept at all vertices, the others being interpolated; all when left out."""
    linear_noise: float = 0.03
    """What the branch takes for the standard deviation of a centre's coordinate about its components, in units of the
    spread."""
    mean_scale: float = 0.1
    """Factor on the head of the mean, as in the authors' code."""
    log_variance_scale: float = 0.01
    """Factor on the head of the log variance."""
    log_variance_start: float = 0.0
    """Added to it: what an untrained network gives."""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.strides) - 1:
            raise ValueError(f"{len(self.strides)} layers need {len(self.strides) - 1} features between them.")
        if self.linear_rank < 0 or (self.linear_fine or 0) < 0 or (self.linear_rank and not self.centred):
            raise ValueError("a linear branch has a rank of 1 or more, and inputs that are centred.")


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
"""For CPUs. Its weights ship for the open head."""


def without_linear_branch(config: MeshVAEConfig) -> MeshVAEConfig:
    """The same convolutions, which then have all to do."""
    return dataclasses.replace(
        config, linear_rank=0, linear_fine=None, mean_scale=0.1, log_variance_scale=0.1, log_variance_start=-4.0
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A normal distribution over latents (*b, L, C): independent ones, or, beside a linear branch, correlated as what
    is visible leaves them."""

    mean: Array
    log_variance: Array
    """log sigma^2 of each; with a factor: log of the variance's ratio to the linear branch's."""
    factor: Array | None = None
    """(*b, D, D) L, of the D = L C coefficients, as `LinearBranch.fitted` gives it."""
    scale: Array | None = None
    """(*b, D) what deviations of the coefficients, L^-T e, are multiplied by."""

    def sample(self, key: Array) -> Array:
        """One draw of each: (*b, L, C)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + self.deviation(to_coefficients(noise))

    def deviation(self, white: Array) -> Array:
        """Standard normal numbers (*b, D) as a deviation of the latents from their mean (*b, L, C); linear."""
        if self.factor is not None and self.scale is not None:
            solved = jax.scipy.linalg.solve_triangular(self.factor, white[..., None], lower=True, trans="T")
            white = self.scale * solved[..., 0]
        return jnp.exp(0.5 * self.log_variance) * to_latents(white, (self.mean.shape[-2], self.mean.shape[-1]))

    def whitened(self, latents: Array) -> Array:
        """The way back: latents (*b, L, C) as numbers (*b, D) that are standard normal if they are draws."""
        white = to_coefficients((latents - self.mean) * jnp.exp(-0.5 * self.log_variance))
        if self.factor is None or self.scale is None:
            return white
        return jnp.matmul((white / self.scale)[..., None, :], self.factor, precision="highest")[..., 0, :]

    def kl(self) -> Array:
        """Kullback-Leibler divergence from N(0, 1), nats, summed over the latent: (*b,)."""
        variance, log_determinant = jnp.ones_like(self.mean), jnp.zeros(())
        if self.factor is not None and self.scale is not None:
            size = self.factor.shape[-1]
            unit = jnp.broadcast_to(jnp.eye(size), self.factor.shape)
            inverse = jax.scipy.linalg.solve_triangular(self.factor, unit, lower=True)
            found = self.scale**2 * jnp.sum(inverse**2, axis=-2)
            variance = to_latents(found, (self.mean.shape[-2], self.mean.shape[-1]))
            diagonal = jnp.diagonal(self.factor, axis1=-2, axis2=-1)
            log_determinant = 2 * jnp.sum(jnp.log(self.scale) - jnp.log(diagonal), axis=-1)
        each = jnp.exp(self.log_variance) * variance + self.mean**2 - 1 - self.log_variance
        return 0.5 * (jnp.sum(each, axis=(-2, -1)) - log_determinant)


class MeshVAE(nnx.Module):
    """Encoder and decoder on a mesh's hierarchy."""

    def __init__(
        self, hierarchy: MeshHierarchy, config: MeshVAEConfig = PAPER, *, rngs: nnx.Rngs,
        mean: Array | None = None, spread: float = 1.0, components: Array | None = None,
    ):  # fmt: skip
        """Args:
        hierarchy: `mesh_hierarchy(faces, positions, config.strides, config.radii)`.
        mean, spread: the training heads' mean (V, 3) and their RMS distance from it per coordinate, metres; they count
          where `config.centred` only.
        components: (K, V, 3) their leading principal components, metres a standard deviation, for `linear_rank` = K;
          zero when left out.

        Raises:
          ValueError: the hierarchy has other steps than the config, or there are not `linear_rank` components.
        """
        if tuple(step.stride for step in hierarchy.steps) != tuple(config.strides):
            raise ValueError(f"the hierarchy was built with other strides than {config.strides}.")
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
        up, beside = (config.latent_features, *reversed(config.features), 3), 6 if config.linear_rank else 0
        self.up = nnx.List(
            self._block(hierarchy, last - k, "unpool", up[k] + beside, up[k + 1], rngs, activate=k < last)
            for k in range(len(config.strides))
        )
        # Of the first centres those that make a level, from the coarsest one upwards.
        picks = [np.arange(hierarchy.num_vertices[1])]
        for step in hierarchy.steps[1:]:
            picks.append(picks[-1][step.centres])
        self.picks = nnx.List(Connectivity(jnp.asarray(pick, jnp.int32)) for pick in reversed(picks))
        self.linear = self._linear_branch(hierarchy, components) if config.linear_rank else None

    def _block(
        self, hierarchy: MeshHierarchy, step: int, way: str, before: int, after: int, rngs: nnx.Rngs,
        activate: bool = True,
    ) -> MeshBlock:  # fmt: skip
        lists = getattr(hierarchy.steps[step], way)
        return MeshBlock(
            lists, before, after, self.config.num_bases, resample=hierarchy.steps[step].stride > 1,
            residual_rate=self.config.residual_rate, activate=activate, rngs=rngs,
        )  # fmt: skip

    def _linear_branch(self, hierarchy: MeshHierarchy, components: Array | None) -> LinearBranch:
        rank, size = self.config.linear_rank, math.prod(self.latent_shape)
        if components is not None and len(components) != rank:
            raise ValueError(f"a linear branch of {rank} components needs as many, not {len(components)}.")
        # Latents beyond the rank are components of nothing: the branch leaves them at N(0, 1).
        rows = np.zeros((size, self.num_vertices, 3), np.float32)
        if components is not None:
            rows[:rank] = components[:size]
        # The convolutions start as a small correction.
        for weights in (self.up[-1].conv.bases, self.up[-1].residual.projection):
            if weights is not None:
                weights[...] = OUTPUT_INIT_SCALE * weights[...]
        fine = size if self.config.linear_fine is None else min(self.config.linear_fine, size)
        return LinearBranch(hierarchy, rows / float(self.spread[...]), fine, self.config.linear_noise)

    def encode(self, vertices: Array, visible: Array) -> Posterior:
        """vertices (*b, V, 3) metres, head frame; visible (*b, V) bool -> the latents' distribution.

        What hidden vertices hold does not matter.

        Raises:
          ValueError: the vertices are not those of the network's mesh, or `visible` is of another batch.
        """
        check_shapes(
            vertices=(vertices, (..., self.num_vertices, 3)),
            visible=(visible, (*vertices.shape[:-2], self.num_vertices)),
        )
        x, linear = self._input(vertices, visible)
        for block in self.down:
            x = block(x)
        mean = self.config.mean_scale * self.to_mean(x)
        log_variance = self.config.log_variance_scale * self.to_log_variance(x) + self.config.log_variance_start
        if linear is None:
            return Posterior(mean, log_variance)
        coefficients, factor, scale = linear
        return Posterior(mean + to_latents(coefficients, self.latent_shape), log_variance, factor, scale)

    def decode(self, latents: Array) -> Array:
        """latents (*b, L, C) -> vertices (*b, V, 3), metres, head frame. Raises: ValueError, another shape."""
        check_shapes(latents=(latents, (..., *self.latent_shape)))
        x = self._up(latents)[-1]
        if self.linear is not None:
            x = x + self.linear.to_vertices(to_coefficients(latents))
        return self._mean(x.ndim) + self.spread[...] * x

    def complete(self, vertices: Array, visible: Array) -> Array:
        """The decoding of the latents' mean: (*b, V, 3)."""
        return self.decode(self.encode(vertices, visible).mean)

    def sample(self, vertices: Array, visible: Array, key: Array, count: int) -> Array:
        """Draws from the distribution of whole heads: (*b, count, V, 3)."""
        posterior = self.encode(vertices, visible)
        draws = jax.vmap(posterior.sample, out_axes=-3)(jax.random.split(key, count))
        return self.decode(draws)

    def interpolate(self, first: Array, second: Array, count: int) -> Array:
        """Heads on the way between two latents (*b, L, C), both ends included (appendix A.6): (*b, count, V, 3)."""
        weight = jnp.linspace(0.0, 1.0, count).reshape(*(1,) * (first.ndim - 2), count, 1, 1)
        first, second = first[..., None, :, :], second[..., None, :, :]
        return self.decode((1 - weight) * first + weight * second)

    def __call__(self, vertices: Array, visible: Array, key: Array) -> tuple[Array, Posterior]:
        """A decoded draw (*b, V, 3), and the distribution it was drawn from."""
        posterior = self.encode(vertices, visible)
        return self.decode(posterior.sample(key)), posterior

    def _input(self, vertices: Array, visible: Array) -> tuple[Array, tuple[Array, Array, Array] | None]:
        """The convolutions' input (*b, V, C), and what the linear branch has found."""
        seen = visible[..., None]
        x = jnp.where(seen, (vertices - self._mean(vertices.ndim)) / self.spread[...], 0)
        if not self.config.centred:
            return x, None
        marked = jnp.concatenate([x, seen.astype(x.dtype)], axis=-1)
        if self.linear is None:
            return marked, None
        found = self.linear.fitted(x, visible)
        left = jnp.where(seen, x - self.linear.to_vertices(found[0]), 0)
        return jnp.concatenate([marked, RESIDUAL_GAIN * left], axis=-1), found

    def _up(self, latents: Array) -> list[Array]:
        """What the layers of the decoder give. Each sees the linear branch's head beside the last one's output."""
        found = [latents]
        head = None if self.linear is None else self.linear.at_centres(to_coefficients(latents))
        for pick, block in zip(self.picks, self.up, strict=True):
            x = found[-1]
            if head is not None:
                x = jnp.concatenate([x, head[..., pick.get_value(), :]], axis=-1)
            found.append(block(x))
        return found[1:]

    def _mean(self, ndim: int) -> Array:
        """With as many axes as what it is added to."""
        mean = self.mean[...] if self.config.centred else jnp.zeros_like(self.mean[...])
        return mean.reshape((1,) * (ndim - 2) + mean.shape)


def hierarchy_for(config: MeshVAEConfig, faces: np.ndarray, positions: np.ndarray) -> MeshHierarchy:
    """The hierarchy that a configuration needs."""
    return mesh_hierarchy(faces, positions, config.strides, config.radii)


def num_parameters(model: nnx.Module) -> int:
    """Numbers of the network, trained or, as the linear branch's, taken from the training heads."""
    leaves = jax.tree.leaves(nnx.state(model, (nnx.Param, Normalization)))
    return sum(math.prod(leaf.shape) for leaf in leaves)
