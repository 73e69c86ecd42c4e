"""Settings of the samplers: frozen dataclasses, hashable, so that compiled programs can be cached by them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from fitting.config import FitConfig

SamplerName = Literal["dpm", "ddim", "ancestral"]


@dataclasses.dataclass(frozen=True)
class SingleStageConfig:
    """Settings of the single-stage baselines, chosen for the least closest-sample error (docs/results/diversity.md)."""

    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    """Weights and noise levels of Eq. 11, by default those of `fitting.fit`."""
    spread: float = 0.1
    """Standard deviation of the initial copies about the fit's coefficients."""
    dpp_weight: float = 30.0
    """lambda_3, for Eq. 11 in nats."""
    learning_rate: float = 0.1
    """Learning rate of the coefficients, in standard deviations."""


@dataclasses.dataclass(frozen=True)
class DiversifyConfig:
    """Settings of Algorithm 2. Losses are sums over hypotheses of means over visible coordinates (metres) or pixels."""

    k: float = 0.5
    """Scale of distances in the similarity (Eq. 8). Near 0 all heads are equally similar, above about 10 not at all."""
    n_sigma: float = 3.0
    """Bound on how implausible heads may be (Eq. 9): larger is more diverse and less realistic. Below about 0.5 nearly
    all samples violate it. There qualities and thus the DPP's gradient vanish, and heads stay as sampled."""
    iterations: int = 60
    """Number of iterations; 0: return the initial samples, as `complete`."""
    space: Literal["directions", "latents"] = "directions"
    """The variables. latents: all of z, as in the paper. directions: the coordinates of each sample along the leading
    `directions` of the Mesh-VAE's posterior that move hidden vertices. Visible vertices hardly move along them, so that
    a few long steps suffice, and n_sigma bounds the plausibility of a head given its visible part."""
    directions: int = 64
    """Number of directions, for `space` directions."""
    width: float = 1.6
    """For `space` directions: standard deviation of real heads along them, in units of the standard deviation of the
    Mesh-VAE's posterior, which is overconfident about hidden parts (docs/results/diversity.md)."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """sgd is plain gradient descent."""
    learning_rate: float = 0.3
    """Initial learning rate of the variables, in standard deviations, with cosine decay."""
    shape_weight: float = 1000.0
    """lambda_1, on the mean l1 distance of visible vertices from the fit, metres."""
    photometric_weight: float = 5.0
    """lambda_2, on the mean colour difference over visible skin, colours in [0, 1]."""
    dpp_weight: float = 1.0
    """lambda_3."""
    photometric_interval: int = 4
    """Number of iterations between evaluations of the photometric loss's gradient, which is constant in between."""
    photometric_scale: float | None = 0.15
    """Colour difference at which the photometric loss saturates; None: it does not (Eq. 12)."""
    render_size: int = 128
    """Side of the compared images, pixels."""
    settled: float = 2e-5
    """Convergence tolerance, metres: a photo's heads are final when iterations move hidden vertices by less (root mean
    square), and the loop ends when the heads of all photos are final."""
    single_stage: SingleStageConfig = dataclasses.field(default_factory=SingleStageConfig)
    """Settings of the single-stage baselines, some of which replace those above."""

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.photometric_interval < 1 or self.iterations % self.photometric_interval:
            raise ValueError(
                f"iterations ({self.iterations}) must be a multiple of photometric_interval "
                f"({self.photometric_interval})."
            )
        scale = 1.0 if self.photometric_scale is None else self.photometric_scale
        if min(self.k, self.n_sigma) < 0 or min(self.width, scale, self.learning_rate) <= 0:
            raise ValueError("k and n_sigma must be 0 or more; width, photometric_scale, learning_rate above 0.")
        if self.render_size < 16 or self.directions < 1:
            raise ValueError("render_size must be at least 16, and directions at least 1.")


DIVERSIFY_PRESETS: dict[str, DiversifyConfig] = {
    "fast": DiversifyConfig(),
    "paper": DiversifyConfig(
        iterations=300,
        space="latents",
        learning_rate=1e-2,
        photometric_interval=1,
        photometric_scale=None,
        settled=0.0,
    ),
}
"""fast: ours. paper: 300 iterations on all latents, each with a new photometric gradient, by Adam with the learning
rate of the released code, because the SGD of the paper's appendix hardly moves standard normal latents."""


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """Settings of the diffusion samplers."""

    method: SamplerName = "dpm"
    """dpm: DPM-Solver++(2M) (Lu et al. 2022). ddim: Song et al. 2021. ancestral: all T steps, as in the paper."""
    steps: int = 20
    """Number of steps of dpm and ddim; ancestral always takes all T."""
    eta: float = 0.0
    """ddim: scale of the new noise in each step; 0: deterministic, 1: as ancestral."""
    guidance: float = 1.0
    """Weight of classifier-free guidance (Ho & Salimans 2022); 1: none."""

    def __post_init__(self) -> None:
        if self.method not in ("dpm", "ddim", "ancestral"):
            raise ValueError(f"method is dpm, ddim or ancestral, not {self.method!r}.")
        if self.steps < 1 or not 0 <= self.eta <= 1:
            raise ValueError("steps must be at least 1, and eta from 0 to 1.")


@dataclasses.dataclass(frozen=True)
class OferConfig:
    """Settings of `ofer`."""

    candidates: int = 100
    """Number of identities that are ranked (N = 100 in the paper)."""
    sampler: SamplerConfig = dataclasses.field(default_factory=SamplerConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    """Noise levels of the landmarks in the alignment of heads."""

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError("candidates must be at least 1.")


@dataclasses.dataclass(frozen=True)
class OferDppConfig:
    """Settings of `ofer_dpp`."""

    ofer: OferConfig = dataclasses.field(default_factory=OferConfig)
    pool: int = 128
    """Number of sampled heads."""
    identities: int = 32
    """Number of best-ranked candidates that are used."""
    kept: int = 32
    """Number of heads of the pool that are refined, and then selected from: those that match the photo best. If this is
    below twice `num_samples`, twice `num_samples` are."""
    k: float = 0.5
    """Scale of distances in the similarity (Diverse3DFace, Eq. 8)."""
    temperature: float = 60.0
    """Divisor, nats, of refined heads' costs in the k-DPP's qualities: larger gives more diverse, less likely heads."""
    photometric_weight: float = 600.0
    photometric_scale: float = 0.15
    """Weight and scale of the photometric energy, as in `FitConfig`."""
    render_size: int = 96
    """Side of the compared images, pixels."""
    refine_steps: int = 4
    """Number of Gauss-Newton steps that align a head to the visible vertices; 0: none."""
    sigma: float = 1e-3
    """Metres: standard deviation of a fit's visible vertices about the best head of the global components."""

    def __post_init__(self) -> None:
        if self.pool < 1 or self.identities < 1 or self.refine_steps < 0 or self.render_size < 16:
            raise ValueError("pool and identities must be at least 1, refine_steps 0, render_size 16.")
        if min(self.k, self.temperature, self.photometric_scale, self.sigma) <= 0:
            raise ValueError("k, temperature, photometric_scale and sigma must be positive.")
