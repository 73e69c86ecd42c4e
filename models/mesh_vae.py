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

from models.linear_branch import Frame, LinearBranch
from models.mesh_conv import MeshBlock
from models.mesh_hierarchy import MeshHierarchy, mesh_hierarchy

LEFT = 10.0
"""What a linear branch leaves of the vertices is small: so many times of it go into the convolutions."""
START = 0.05
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
    """Components of a `LinearBranch` beside the convolutions; 0: none, as in the paper. It spares a small network from
    learning what a PCA of the training heads knows."""
    linear_noise: float = 0.05
    """What the branch takes for the standard deviation of a coordinate about its components, in units of the spread."""
    mean_scale: float = 0.1
    """Factor on the head of the mean, as in the authors' code."""
    log_variance_scale: float = 0.01
    """Factor on the head of the log variance."""
    log_variance_start: float = 0.0
    """Added to it: what an untrained network gives."""

    def __post_init__(self) -> None:
        if len(self.features) != len(self.strides) - 1:
            raise ValueError(f"{len(self.strides)} layers need {len(self.strides) - 1} features between them.")


PAPER = MeshVAEConfig()
"""Tables 5 and 6."""
SMALL = MeshVAEConfig(
    strides=(2, 2, 2, 2),
    features=(16, 32, 64),
    num_bases=8,
    centred=True,
    linear_rank=170,
    mean_scale=0.1,
    log_variance_scale=0.1,
    log_variance_start=-4.0,
)
"""For CPUs."""
CONFIGS = {"paper": PAPER, "small": SMALL}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """Normal distributions over latents, independent: (*b, L, C)."""

    mean: Array
    log_variance: Array
    """log sigma^2."""

    def sample(self, key: Array) -> Array:
        """One draw of each: (*b, L, C)."""
        noise = jax.random.normal(key, self.mean.shape, self.mean.dtype)
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Array:
        """Kullback-Leibler divergence from N(0, 1), nats, summed over the latent: (*b,)."""
        each = jnp.exp(self.log_variance) + self.mean**2 - 1 - self.log_variance
        return 0.5 * jnp.sum(each, axis=(-2, -1))


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
        self.num_vertices, self.latent_shape = (
            hierarchy.num_vertices[0],
            (hierarchy.num_vertices[-1], config.latent_features),
        )
        shape = (self.num_vertices, 3)
        self.mean = Frame(jnp.zeros(shape) if mean is None else jnp.asarray(mean, jnp.float32).reshape(shape))
        self.spread = Frame(jnp.asarray(spread if config.centred else 1.0, jnp.float32))
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
        up = (config.latent_features, *reversed(config.features), 3)
        self.up = nnx.List(
            self._block(hierarchy, last - k, "unpool", up[k], up[k + 1], rngs, activate=k < last)
            for k in range(len(config.strides))
        )
        self.linear = self._linear_branch(components, rngs) if config.linear_rank else None

    def _block(
        self, hierarchy: MeshHierarchy, step: int, way: str, before: int, after: int, rngs: nnx.Rngs,
        activate: bool = True,
    ) -> MeshBlock:  # fmt: skip
        lists = getattr(hierarchy.steps[step], way)
        return MeshBlock(
            lists, before, after, self.config.num_bases, resample=hierarchy.steps[step].stride > 1,
            residual_rate=self.config.residual_rate, activate=activate, rngs=rngs,
        )  # fmt: skip

    def _linear_branch(self, components: Array | None, rngs: nnx.Rngs) -> LinearBranch:
        rank, size = self.config.linear_rank, math.prod(self.latent_shape)
        if (components is not None and len(components) != rank) or rank > size:
            raise ValueError(f"a linear branch of {rank} components needs as many, and no fewer latents than that.")
        rows = np.zeros((rank, self.num_vertices, 3)) if components is None else np.asarray(components)
        # The convolutions start as a small correction.
        for weights in (self.up[-1].conv.bases, self.up[-1].residual.projection):
            if weights is not None:
                weights[...] = START * weights[...]
        return LinearBranch(rows / float(self.spread[...]), size, self.config.linear_noise, rngs=rngs)

    def encode(self, vertices: Array, visible: Array) -> Posterior:
        """vertices (*b, V, 3) metres, head frame; visible (*b, V) bool -> the latents' distribution.

        What hidden vertices hold does not matter.
        """
        x, coefficients = self._input(vertices, visible)
        for block in self.down:
            x = block(x)
        mean = self.config.mean_scale * self.to_mean(x)
        if self.linear is not None:
            mean = mean + self.linear.to_latents(coefficients).reshape(mean.shape)
        log_variance = self.config.log_variance_scale * self.to_log_variance(x) + self.config.log_variance_start
        return Posterior(mean, log_variance)

    def decode(self, latents: Array) -> Array:
        """latents (*b, L, C) -> vertices (*b, V, 3), metres, head frame."""
        x = latents
        for block in self.up:
            x = block(x)
        if self.linear is not None:
            x = x + self.linear.to_vertices(self.linear.to_coefficients(latents.reshape(*latents.shape[:-2], -1)))
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

    def _input(self, vertices: Array, visible: Array) -> tuple[Array, Array]:
        """The convolutions' input (*b, V, C), and the linear branch's coefficients (*b, K)."""
        seen = visible[..., None]
        x = jnp.where(seen, (vertices - self._mean(vertices.ndim)) / self.spread[...], 0)
        if not self.config.centred:
            return x, jnp.zeros((*x.shape[:-2], 0))
        marked = jnp.concatenate([x, seen.astype(x.dtype)], axis=-1)
        if self.linear is None:
            return marked, jnp.zeros((*x.shape[:-2], 0))
        coefficients = self.linear.fitted(x, visible)
        left = jnp.where(seen, x - self.linear.to_vertices(coefficients), 0)
        return jnp.concatenate([marked, LEFT * left], axis=-1), coefficients

    def _mean(self, ndim: int) -> Array:
        """With as many axes as what it is added to."""
        mean = self.mean[...] if self.config.centred else jnp.zeros_like(self.mean[...])
        return mean.reshape((1,) * (ndim - 2) + mean.shape)

    def activation_scales(self, vertices: Array, visible: Array, latents: Array) -> dict[str, float]:
        """RMS of each layer's output, encoder for heads, decoder for latents: does an initialisation keep it?"""
        found, (x, _) = {}, self._input(vertices, visible)
        for k, block in enumerate(self.down):
            x = block(x)
            found[f"down {k}"] = _rms(x)
        found["mean"], x = _rms(self.to_mean(x)), latents
        for k, block in enumerate(self.up):
            x = block(x)
            found[f"up {k}"] = _rms(x)
        return found


def hierarchy_for(config: MeshVAEConfig, faces: np.ndarray, positions: np.ndarray) -> MeshHierarchy:
    """The hierarchy that a configuration needs."""
    return mesh_hierarchy(faces, positions, config.strides, config.radii)


def num_parameters(model: nnx.Module) -> int:
    """Numbers of the network, trained or, as the linear branch's, taken from the training heads."""
    leaves = jax.tree.leaves(nnx.state(model, (nnx.Param, Frame)))
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _rms(x: Array) -> float:
    return float(jnp.sqrt(jnp.mean(x**2)))
